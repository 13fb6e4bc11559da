"""Notebooks without a person: nbclient, jupyter execute and papermill stop where a cell fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.kernel_client import environment, stop_engine

FAILING = {
    "error": "%%sandbox\n1/0",
    "bash": "%%sandbox bash\nexit 3",
    "usage": "%%sandbox --no-such-option\n1",
    "line": "%sandbox no-such-verb",
    "timeout": "%%sandbox --timeout 0.3\nwhile True: pass",
    "died": "%%sandbox\nimport os; os._exit(3)",
}


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    home = Path(tempfile.mkdtemp(prefix="dm-"))
    made = environment(home)
    kernels = home / "jupyter-data" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "t", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    yield made
    stop_engine(made)
    shutil.rmtree(home, ignore_errors=True)


def notebook(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "t", "language": "python"}},
    )
    nbformat.write(made, path)
    return path


def run(env: dict[str, str], *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_good_notebook_runs_and_its_sandbox_is_kept_for_an_hour_only(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = notebook(
        tmp_path / "good.ipynb",
        "%load_ext daytona_magics",
        "%%sandbox\nprint('out')\n40 + 2",
        "from daytona_magics import sandboxes\nprint(sandboxes.current().sandbox.auto_delete_interval)",
        "%sandbox delete",
    )
    ran = run(env, "jupyter", "execute", "--inplace", str(path), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    cells = nbformat.read(path, 4).cells
    assert [o["data"]["text/plain"] for o in cells[1].outputs if o.output_type == "execute_result"] == ["42"]
    assert cells[2].outputs[0]["text"] == "60\n"


@pytest.mark.parametrize("kind", FAILING)
def test_nbclient_stops_with_a_failing_exit_code(env: dict[str, str], tmp_path: Path, kind: str) -> None:
    path = notebook(tmp_path / "bad.ipynb", "%load_ext daytona_magics", FAILING[kind], "print('after')")
    ran = run(env, "jupyter", "execute", "--inplace", str(path), cwd=tmp_path)
    assert ran.returncode != 0 and "after" not in path.read_text().replace("print('after')", "")


@pytest.mark.parametrize("kind", ["error", "bash", "usage"])
def test_papermill_stops_with_a_failing_exit_code(env: dict[str, str], tmp_path: Path, kind: str) -> None:
    path = notebook(tmp_path / "bad.ipynb", "%load_ext daytona_magics", FAILING[kind], "print('after')")
    out = tmp_path / "out.ipynb"
    ran = run(env, "papermill", "--no-progress-bar", str(path), str(out), cwd=tmp_path)
    assert ran.returncode != 0
    outputs = [output for cell in nbformat.read(out, 4).cells for output in cell.get("outputs", [])]
    assert any(output.output_type == "error" for output in outputs)
    assert not any(output.get("text") == "after\n" for output in outputs)
