"""Notebooks without a person: nbclient, jupyter execute and papermill stop where a cell fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests import forked_kernels
from tests.kernel_client import Kernel, environment, stop_engine

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
    made = {**environment(home), **forked_kernels.variables()}
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


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a saved cell shows: its streams and the text of its displays and errors, in order."""
    found: list[str] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if found and found[-1].startswith(f"{output.name}: "):
                found[-1] += output.text
            else:
                found.append(f"{output.name}: {output.text}")
        elif output.output_type == "error":
            found.append(f"error: {output.ename}")
        else:
            found.append(f"{output.output_type}: {output.data['text/plain']}")
    return found


CELLS = (
    "%load_ext daytona_magics",
    "%%sandbox -q\nimport sys\nprint('one')\nprint('to stderr', file=sys.stderr)\ndisplay('shown')\n'value'",
    "%%sandbox -q bash\necho from bash; cd /tmp; echo late >&2",
    "%%sandbox -q\nhandle = display('first', display_id=True)\nprint('between')\nhandle.update('second')",
    "'the kernel itself'",
    "%%sandbox -q\nprint('last')",
)


@pytest.mark.parametrize("program", ["nbclient", "papermill"])
def test_outputs_are_stored_in_their_cells(env: dict[str, str], tmp_path: Path, program: str) -> None:
    path = notebook(tmp_path / "good.ipynb", *CELLS, "%sandbox delete")
    if program == "nbclient":
        ran = run(env, "jupyter", "execute", "--inplace", str(path), cwd=tmp_path)
    else:
        ran = run(env, "papermill", "--no-progress-bar", str(path), str(path), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    cells = nbformat.read(path, 4).cells
    assert texts(cells[1]) in (
        ["stdout: one\n", "stderr: to stderr\n", "display_data: 'shown'", "execute_result: 'value'"],
        ["stderr: to stderr\n", "stdout: one\n", "display_data: 'shown'", "execute_result: 'value'"],
    )
    assert sorted(texts(cells[2])) == ["stderr: late\n", "stdout: from bash\n"]
    assert texts(cells[3]) == ["display_data: 'second'", "stdout: between\n"]
    assert texts(cells[4]) == ["execute_result: 'the kernel itself'"]
    assert texts(cells[5]) == ["stdout: last\n"]


INTERRUPTED = """
import sys, nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
book = nbformat.read(sys.argv[1], 4)
client = NotebookClient(book, timeout=6, interrupt_on_timeout=True, kernel_name="python3")
try:
    client.execute()
except CellExecutionError as error:
    print("stopped:", error.ename)
finally:
    nbformat.write(book, sys.argv[1])
"""


def test_a_cell_that_nbclient_interrupts_stops_the_run(env: dict[str, str], tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "long.ipynb",
        "%load_ext daytona_magics",
        "%%sandbox -q\nkept = 1\nprint('ready', flush=True)\nimport time; time.sleep(600)",
        "print('after')",
    )
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert "stopped: KeyboardInterrupt" in ran.stdout, ran
    cells = nbformat.read(path, 4).cells
    assert texts(cells[1]) == ["stdout: ready\n", "error: KeyboardInterrupt"]
    assert "variables are alive" in "".join(cells[1].outputs[-1].traceback)
    assert not cells[2].outputs


def test_an_interrupt_aborts_the_cells_that_wait(env: dict[str, str]) -> None:
    kernel = Kernel(Path(env["XDG_RUNTIME_DIR"]).parent, load=True)
    with kernel:
        assert kernel.run("%%sandbox -q --timeout 0\n0").status == "ok"
        first = kernel.send("%%sandbox -q\nprint('ready', flush=True)\nimport time; time.sleep(600)")
        second, third = kernel.send("%%sandbox -q\nprint('second')"), kernel.send("print('third')")
        kernel.finish(first, on=kernel.interrupt_when("ready"))
        assert (first.status, first.ename) == ("error", "KeyboardInterrupt")
        for waiting in (second, third):
            reply = kernel._reply(waiting.msg_id, time.monotonic() + 60)
            assert reply["status"] == "aborted"
        assert kernel.run("%%sandbox -q\n'alive'").result == "'alive'"


def test_papermill_s_parameters_reach_the_notebook_and_its_errors_name_the_cell(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = notebook(
        tmp_path / "with.ipynb",
        "count = 1",
        "%load_ext daytona_magics",
        "get_ipython().run_cell_magic('sandbox', '-q', f'print(\"n\" * {count})')",
        "%%sandbox -q\n{}['missing']",
        "print('after')",
    )
    book = nbformat.read(path, 4)
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    out = tmp_path / "out.ipynb"
    ran = run(env, "papermill", "--no-progress-bar", "-p", "count", "3", str(path), str(out), cwd=tmp_path)
    assert ran.returncode != 0 and "KeyError" in ran.stderr and "missing" in ran.stderr
    cells = [cell for cell in nbformat.read(out, 4).cells if cell.cell_type == "code"]
    shown = [texts(cell) for cell in cells]
    assert ["stdout: nnn\n"] in shown and ["error: KeyError"] in shown and ["stdout: after\n"] not in shown
