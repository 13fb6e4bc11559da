"""Whole-notebook mode in a real kernel and without a person: every cell is where it says it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests import forked_kernels
from tests.kernel_client import Cell, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%sandbox create --name whole -q").status == "ok"
        yield made


@pytest.fixture(autouse=True)
def off(kernel: Kernel) -> Iterator[None]:
    yield
    assert kernel.run("%sandbox off").status == "ok"


def tagged(kernel: Kernel, code: str, metadata: dict[str, object]) -> Cell:
    """Run a cell as a front end that sends this metadata of it."""
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    message = kernel.client.session.msg("execute_request", content, metadata=metadata)
    kernel.client.shell_channel.send(message)
    return kernel.finish(Cell(message["header"]["msg_id"]))


def marks(cell: Cell) -> list[str]:
    return [line for line in cell.notes.splitlines() if line.startswith("▸")]


def in_sandbox(kernel: Kernel) -> str:
    """What nothing but this sandbox has: a file of a name that cannot be guessed here."""
    return kernel.run("%%sandbox -q\nopen('only-here', 'w').close()").status


HERE = "__import__('os').path.exists('only-here')"


def test_on_sends_cells_and_local_keeps_them(kernel: Kernel) -> None:
    assert in_sandbox(kernel) == "ok"
    assert kernel.run(HERE).result == "False"
    assert "every cell runs in the sandbox whole" in kernel.run("%sandbox on").notes
    cell = kernel.run(HERE)
    assert cell.result == "True" and marks(cell) == ["▸ sandbox whole"]
    cell = kernel.run("%%local\n" + HERE)
    assert cell.result == "False" and marks(cell) == ["▸ this machine"]
    assert kernel.run("%local " + HERE).result == "False"
    assert kernel.run("!ls only-here").stdout == "only-here\n"
    assert kernel.run("%%bash\nls only-here").stdout == "only-here\n"
    assert "only-here" in str(kernel.run("%sandbox ls").result)
    kernel.run("%sandbox off")
    cell = kernel.run(HERE)
    assert cell.result == "False" and not marks(cell)


def test_errors_keep_the_mark_and_the_line_numbers(kernel: Kernel) -> None:
    kernel.run("%sandbox on")
    cell = kernel.run("# first\nx = 1\n1/0")
    kinds = [kind for kind, _, _ in cell.messages if kind in ("display_data", "error")]
    assert kinds == ["display_data", "error"] and marks(cell) == ["▸ sandbox whole"]
    assert "line 3" in cell.traceback and cell.ename == "ZeroDivisionError"
    cell = kernel.run("%sandbox info\nx")
    assert cell.status == "error" and "nothing was run" in cell.traceback and not marks(cell)


def test_history_has_what_was_typed_and_quiet_has_no_mark(kernel: Kernel) -> None:
    kernel.run("%sandbox on -q --timeout 30")
    cell = kernel.run("marker = 40 + 2\nmarker")
    assert cell.result == "42" and not cell.bundles()
    assert "marker = 40 + 2" in str(kernel.run("%local %history -n -l 2").stdout)


def test_a_cell_that_clears_its_output_is_marked_at_its_end(kernel: Kernel) -> None:
    kernel.run("%sandbox on")
    cell = kernel.run(
        "from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('kept')"
    )
    kinds = [kind for kind, _, _ in cell.messages if kind in ("display_data", "stream", "clear_output")]
    assert kinds[-1] == "display_data" and kinds.index("clear_output") < len(kinds) - 1
    assert marks(cell) == ["▸ sandbox whole"] * 2


def test_a_second_pass_of_the_transformers_runs_nothing_twice(kernel: Kernel) -> None:
    kernel.run("%sandbox on")
    kernel.run("count = 0")
    kernel.run("count += 1")
    assert kernel.run("count").result == "1"


def test_another_sandbox_is_used_from_the_next_cell_on(kernel: Kernel) -> None:
    first = kernel.run("%sandbox create --name whole-two")
    assert first.status == "ok"
    kernel.run("%sandbox on")
    assert marks(kernel.run("open('two', 'w').close()")) == ["▸ sandbox whole-two"]
    kernel.run("%sandbox use whole")
    cell = kernel.run("__import__('os').path.exists('two')")
    assert cell.result == "False" and marks(cell) == ["▸ sandbox whole"]
    kernel.run("%sandbox use whole-two")
    assert kernel.run("__import__('os').path.exists('two')").result == "True"
    kernel.run("%sandbox use whole")
    kernel.run("%sandbox delete --yes whole-two")


def test_the_comment_form(kernel: Kernel) -> None:
    assert in_sandbox(kernel) == "ok"
    assert kernel.run("# note\n# %%sandbox\n" + HERE).result == "True"
    assert kernel.run("#%%sandbox bash -e A=1\necho $A").stdout == "1\n"
    assert kernel.run("# %%sandbox\n\n1/0").traceback.count("line 3")


def test_tags_decide_and_are_asked_for_first(kernel: Kernel) -> None:
    assert in_sandbox(kernel) == "ok"
    refused = kernel.run("%sandbox on --tagged")
    assert refused.status == "error" and "needs the tag sandbox itself" in refused.traceback
    assert kernel.run(HERE).result == "False"
    assert tagged(kernel, "%sandbox on --tagged", {"cellId": "0", "tags": ["sandbox"]}).status == "ok"
    cell = tagged(kernel, HERE, {"cellId": "1", "tags": ["a", "sandbox"]})
    assert cell.result == "True" and marks(cell) == ["▸ sandbox whole"]
    cell = tagged(kernel, HERE, {"cellId": "2"})
    assert cell.result == "False" and not marks(cell)
    unseen = kernel.run("leaked = True")
    assert unseen.status == "error" and "does not say which tags" in unseen.traceback
    assert kernel.run("%%local\n'leaked' in globals()").result == "False"


def test_a_restarted_kernel_runs_cells_here_until_the_line_is_run_again(kernel: Kernel) -> None:
    with Kernel(kernel.home) as other:
        other.run("%sandbox on")
        assert marks(other.run("x = 1"))
        other.restart()
        cell = other.run("x")
        assert cell.ename == "NameError" and not marks(cell)
        said = "this kernel was restarted"
        assert said in other.run("%reload_ext daytona_magics").stdout
        assert said not in other.run("%reload_ext daytona_magics\n%sandbox on").stdout
        other.run("%sandbox off")
        assert said not in other.run("%reload_ext daytona_magics").stdout
        other.run("%sandbox on")
        assert other.run("x").result == "1"
        other.run("%sandbox delete")


RUNNERS = {
    "nbclient": ("jupyter", "execute", "--inplace", "{path}"),
    "papermill": ("papermill", "--no-progress-bar", "{path}", "{path}", "-p", "level", "7"),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_without_a_person(kernel: Kernel, tmp_path: Path, runner: str) -> None:
    """The cells share this module's engine; nothing of them runs on this machine but what says so."""
    kernels = Path(kernel.env["JUPYTER_DATA_DIR"]) / "kernels" / "python3"
    kernels.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "t", "language": "python"})
    )
    cells = [
        "%load_ext daytona_magics\n%sandbox on",
        "level = 1",
        "from pathlib import Path\nPath('out.txt').write_text(str(level))\nprint('there', level)",
        "%%local\nfrom pathlib import Path\nprint(Path('out.txt').exists())",
        "%sandbox delete\n%sandbox off",
    ]
    # What fails is not stored by the first of the two.
    fails = runner == "papermill"
    cells += ["1/0"] if fails else []
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "t", "language": "python"}},
    )
    made.cells[1].metadata["tags"] = ["parameters"]
    path = tmp_path / "whole.ipynb"
    nbformat.write(made, path)
    command = [part.format(path=path) for part in RUNNERS[runner]]
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        env={**kernel.env, **forked_kernels.variables()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (ran.returncode != 0) is fails and ("ZeroDivisionError" in ran.stderr) is fails, ran.stderr
    assert not (tmp_path / "out.txt").exists()
    texts = {
        cell.source.split("\n")[-1]: "".join(
            output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
        )
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
    }
    level = 7 if fails else 1
    assert (
        f"there {level}\n" in texts["print('there', level)"] and "▸ sandbox" in texts["print('there', level)"]
    )
    assert "False\n" in texts["print(Path('out.txt').exists())"]
    assert "▸ this machine" in texts["print(Path('out.txt').exists())"]


def test_tagged_mode_stops_at_once_where_no_tags_are_sent(kernel: Kernel) -> None:
    cell = tagged(kernel, "%sandbox on --tagged", {})
    assert cell.status == "error" and cell.ename == "SandboxUsageError"
