"""Cells in several sandboxes at once, in a real kernel with real sandboxes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel_client import ANSI, Cell, Kernel, environment


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel bound to a sandbox of its own, with a, b and c beside it."""
    with Kernel() as made:
        for name in ("a", "b", "c"):
            ran = made.run(f"%sandbox create -n 1 --name {name}")
            assert ran.status == "ok", ran
        assert made.run("%%sandbox\nwhere = 'own'").status == "ok"
        yield made


def value(kernel: Kernel, code: str) -> Any:
    cell = kernel.run(code)
    assert cell.result is not None, cell
    return ast.literal_eval(cell.result)


def heads(cell: Cell) -> list[str]:
    """The headings of the sections, in the order they were shown."""
    return re.findall(r"^── (\S+) [✓✗]", cell.notes, re.MULTILINE)


def test_one_other_sandbox_is_an_ordinary_cell_and_the_notebook_stays_where_it_is(kernel: Kernel) -> None:
    assert kernel.run("%%sandbox -s a\nwhere = 'a'; where").result == "'a'"
    assert kernel.run("%%sandbox -s a\nwhere").result == "'a'"
    assert kernel.run("%%sandbox\nwhere").result == "'own'"
    other = kernel.run("%%sandbox -s b\nwhere")
    assert other.ename == "NameError", other
    # The notebook's own by name is the same sandbox with the same variables.
    name = value(kernel, "import daytona_magics.sandboxes as s\ns.current().bound().name")
    assert kernel.run(f"%%sandbox -s {name}\nwhere").result == "'own'"


def test_sections_in_the_order_of_the_names_with_everything_in_them(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox -s c,a,b\n"
        "import os, sys\n"
        "print('out', os.environ['DAYTONA_SANDBOX_ID'])\nprint('err', file=sys.stderr)\n"
        "from IPython.display import HTML, display\ndisplay(HTML('<b>bold</b>'))\n6 * 7"
    )
    assert cell.status == "ok" and heads(cell) == ["c", "a", "b"], cell
    ids = re.findall(r"out (\S+)", cell.stdout)
    assert len(set(ids)) == 3 and cell.stderr == "err\n" * 3
    kinds = [c["data"].get("text/html", "") for k, c, _ in cell.messages if k == "display_data"]
    assert kinds.count("<b>bold</b>") == 3
    assert cell.notes.count("42") == 3 and cell.result is None
    assert value(kernel, "[r.result.data['text/plain'] for r in _.values()]") == ["42"] * 3


def test_they_run_side_by_side_and_progress_takes_one_line_each(kernel: Kernel) -> None:
    """Each waits until all have begun: one after the other would never end."""
    code = (
        "%%sandbox -s a,b,c --timeout 60\n"
        "import os, pathlib, time\n"
        "for i in range(30):\n    print(f'\\rstep {i}', end='', flush=True); time.sleep(0.04)\n"
        "print()\n"
    )
    cell = kernel.run(code)
    assert cell.status == "ok", cell
    views = [
        c["data"]["text/plain"]
        for k, c, _ in cell.messages
        if k.endswith("display_data") and "ended" in c["data"]["text/plain"]
    ]
    # Three rows and a sum, whatever was printed; and not a view for each step.
    assert views and all(len(view.splitlines()) == 4 for view in views), cell
    assert any(len(re.findall(r"step \d+", view)) == 3 for view in views), views
    last = [c["data"] for k, c, _ in cell.messages if k == "update_display_data"][-1]
    assert last == {"text/plain": "", "text/html": ""}, "the view goes away"
    assert cell.stdout.count("\rstep 29") == 3


def test_a_failure_names_where_and_the_others_are_whole(kernel: Kernel) -> None:
    kernel.run("%%sandbox -s a,b,c\nn = 1")
    kernel.run("%%sandbox -s b\nn = 0")
    cell = kernel.run("%%sandbox -s a,b,c\nprint('before')\n1 / n")
    assert cell.ename == "SeveralFailed" and "failed in 1 of 3 sandboxes: b" in cell.traceback, cell
    assert "in sandbox b" in cell.traceback and re.search(r"Cell In\[\d+\], line 3", cell.traceback)
    assert "ZeroDivisionError: division by zero" in cell.traceback
    assert heads(cell) == ["a", "b", "c"] and cell.stdout == "before\n" * 3 and cell.notes.count("1.0") == 2
    kernel.run("%%sandbox -s c\ndel n")
    both = kernel.run("%%sandbox -s a,b,c\n1 / n")
    assert "2 of 3 sandboxes: b, c" in both.traceback and "in sandbox c: NameError" in both.traceback
    queued = [kernel.send("%%sandbox -s a,b\n1 / n"), kernel.send("print('not reached')")]
    ended = [kernel.finish(cell) for cell in queued]
    assert ended[1].status == "aborted"


def test_out_no_raise_and_quiet(kernel: Kernel) -> None:
    silent = kernel.run("%%sandbox -q -s a,b --out r\nimport os\nprint(os.getpid())\n'v'")
    assert {kind for kind, _, _ in silent.messages} == {"execute_input"}, silent
    assert value(kernel, "list(r), [x.stdout.strip().isdigit() for x in r.values()]") == (
        ["a", "b"],
        [True] * 2,
    )
    assert value(kernel, "{k: v.data['text/plain'] for k, v in r.results.items()}") == {
        "a": "'v'",
        "b": "'v'",
    }
    failed = kernel.run("%%sandbox bash -s a,b --no-raise\ntest $HOME = x || exit 3")
    assert failed.status == "ok" and "in sandbox a" in ANSI.sub("", failed.stderr)
    assert value(kernel, "r = _\nr.failed, r['a'].exit_code, r.ok, type(r.errors['b']).__name__") == (
        ["a", "b"],
        3,
        False,
        "ExitCodeError",
    )
    shown = kernel.run("r")
    assert "failed" in shown.notes and "<table" in str(shown.bundles()[0]["text/html"])


def test_bad_names_run_nowhere(kernel: Kernel) -> None:
    kernel.run("%%sandbox -s a,b\nran = False")
    for names, words in (
        ("a,nope-1", "there is no sandbox 'nope-1'"),
        ("a,,b", "write names with commas between"),
        ("zzz-*", "no sandbox made here matches"),
        ("team=none", "no sandbox made here matches"),
    ):
        cell = kernel.run(f"%%sandbox -s {names}\nran = True")
        assert cell.status == "error" and words in cell.traceback, cell
    near = kernel.run("%sandbox create -n 1 --name worker-one")
    assert near.status == "ok"
    assert "did you mean worker-one" in kernel.run("%%sandbox -s worker-on\n1").traceback
    assert kernel.run("%%sandbox -s a\nran").result == "False"
    kernel.run("%sandbox delete --yes worker-one")


def test_variables_go_to_all_and_come_from_each(kernel: Kernel) -> None:
    kernel.run("small, large = 2, bytes(range(256)) * 1000")
    cell = kernel.run(
        "%%sandbox -s a,b -i small,large -o where=here,bulk\nimport os\n"
        "here, bulk = os.environ['DAYTONA_SANDBOX_ID'], large * small"
    )
    assert cell.status == "ok", cell
    assert value(kernel, "list(where), list(bulk), len(set(where.values()))") == (["a", "b"], ["a", "b"], 2)
    assert value(kernel, "all(one == large * 2 for one in bulk.values())") is True
    left = kernel.run("%%sandbox bash -s a,b\nls ~/.daytona-magics/run/variables | wc -l")
    assert left.stdout == "0\n0\n", left
    kernel.run("%%sandbox -s b\nn = 0")
    kernel.run("%%sandbox -s a\nn = 1")
    failed = kernel.run("%%sandbox -s a,b -o half\nhalf = 1 // n")
    assert failed.ename == "SeveralFailed" and value(kernel, "'half' in globals()") is False
    kernel.run("%%sandbox -s a,b -o half --no-raise\nhalf = 1 // n")
    assert value(kernel, "half") == {"a": 1}


def test_a_job_in_each(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox --bg -s a,b --out jobs\nimport os\nos.environ['DAYTONA_SANDBOX_ID']")
    assert cell.status == "ok", cell
    ids = value(kernel, "[job.wait(60).result().data['text/plain'] for job in jobs]")
    assert len(set(ids)) == 2
    shown = kernel.run("%%sandbox --bg -s a,b\nprint('told', flush=True)")
    assert shown.result is not None and re.search(r"^b +\w{8} ", shown.result, re.MULTILINE), shown
    second = value(kernel, "jobs = list(_)\njobs[1].wait(60).id")
    # By its id a job is found although its sandbox is not the notebook's own.
    assert kernel.run(f"%sandbox logs --plain {second}").stdout == "told\n"
    assert kernel.run(f"%sandbox wait {second}").status == "ok"


def test_patterns_and_labels(kernel: Kernel) -> None:
    made = kernel.run("%sandbox create -n 11 --name many-{i} --label job=x")
    assert made.status == "ok" and "11 of 11 created" in made.notes, made
    cell = kernel.run("%%sandbox -s many-*\n1")
    assert heads(cell) == [f"many-{i}" for i in range(1, 12)], "in the order people count in"
    assert heads(kernel.run("%%sandbox -s job=x\n1")) == heads(cell)
    assert heads(kernel.run("%%sandbox -s a,many-1*\n1")) == ["a", "many-1", "many-10", "many-11"]
    gone = kernel.run("%sandbox delete --yes many-*")
    assert gone.status == "ok" and "many-11" in gone.notes
    assert "many" not in str(kernel.run("%sandbox list").result)


def test_an_interrupt_reaches_all(kernel: Kernel) -> None:
    seen: set[str] = set()

    def on(kind: str, content: dict[str, Any], cell: Cell) -> None:
        view = str(content.get("data", {}).get("text/plain", ""))
        if len(re.findall("going", view)) == 3 and not seen:
            seen.add(view)
            kernel.interrupt()

    cell = kernel.run(
        "%%sandbox -s a,b,c\nimport time\nkept = 5\nprint('going', flush=True)\ntime.sleep(600)", on=on
    )
    assert cell.ename == "KeyboardInterrupt" and "a, b, c" in cell.traceback, cell
    assert "variables are alive" in cell.traceback
    cell = kernel.run("%%sandbox -s a,b,c\nkept")
    assert cell.status == "ok" and cell.notes.count("5") >= 3


def test_a_timeout_stops_the_slow_one_only(kernel: Kernel) -> None:
    kernel.run("%%sandbox -s a,b\nslow = False")
    kernel.run("%%sandbox -s b\nslow = True")
    cell = kernel.run("%%sandbox -s a,b --timeout 2\nimport time\nwhile slow: time.sleep(0.1)\n'ended'")
    assert cell.ename == "SeveralFailed" and "1 of 2 sandboxes: b" in cell.traceback
    assert "timeout of 2 s" in cell.traceback and "'ended'" in cell.notes


def test_a_question_says_who_asks(kernel: Kernel) -> None:
    cell = kernel.send("%%sandbox -s a,b\nprint('got', input('name? '))")
    asked = []
    for _ in range(2):
        message = kernel.client.get_stdin_msg(timeout=60)
        asked.append(message["content"]["prompt"])
        kernel.client.input(message["content"]["prompt"][1])
    ended = kernel.finish(cell)
    assert sorted(asked) == ["[a] name? ", "[b] name? "]
    assert ended.status == "ok" and "got a" in ended.stdout and "got b" in ended.stdout, ended


def test_one_that_is_deleted_while_it_runs_is_its_own_error(kernel: Kernel) -> None:
    kernel.run("%sandbox create -n 1 --name victim")
    kernel.run("%%sandbox -s a\nstays = False")
    kernel.run("%%sandbox -s victim\nstays = True")
    with Kernel(kernel.home) as other:
        done: list[bool] = []

        def on(kind: str, content: dict[str, Any], cell: Cell) -> None:
            view = str(content.get("data", {}).get("text/plain", ""))
            if len(re.findall("going", view)) == 2 and not done:
                done.append(True)
                assert other.run("%sandbox delete --yes victim").status == "ok"

        cell = kernel.run(
            "%%sandbox -s a,victim\nimport time\nprint('going', flush=True)\n"
            "time.sleep(1)\nwhile stays: time.sleep(0.05)\n'whole'",
            on=on,
            timeout=120,
        )
    assert cell.ename == "SeveralFailed" and "1 of 2 sandboxes: victim" in cell.traceback, cell
    assert "'whole'" in cell.notes
    assert "victim" in kernel.run("%%sandbox -s victim\n1").traceback


def test_variables_of_a_sandbox_beside_are_found_after_a_restart(kernel: Kernel) -> None:
    with Kernel(kernel.home) as restarted:
        restarted.run("%sandbox create -n 2 --name lab-{i}")
        restarted.run("%%sandbox\nown = 1")
        restarted.run("%%sandbox -s lab-*\nx = 7")
        restarted.restart()
        again = restarted.run("%%sandbox -s lab-1,lab-2\nx")
        assert again.status == "ok" and again.notes.count("7") >= 2, again
        # What is beside never becomes the kernel's own.
        assert restarted.run("%%sandbox\nown").result == "1"
        # Another kernel has variables of its own there.
        assert kernel.run("%%sandbox -s lab-1\nx").ename == "NameError"
    kernel.run("%sandbox delete --yes lab-*")


def test_a_creation_that_fails_does_not_lose_the_others(kernel: Kernel) -> None:
    kernel.run("%sandbox create -n 1 --name team-2")
    cell = kernel.run("%sandbox create -n 3 --name team-{i}")
    assert cell.ename == "SandboxError" and "1 of 3 sandboxes could not be created: team-2" in cell.traceback
    assert "team-1, team-3 exist" in cell.traceback and "-n 1 --name team-2" in cell.traceback, cell
    assert heads(kernel.run("%%sandbox -s team-1,team-3\n1")) == ["team-1", "team-3"]
    handles = kernel.run("made = %sandbox create -q -n 2 --name pair\n[h.name for h in made]")
    assert handles.result == "['pair-1', 'pair-2']"
    kernel.run("%sandbox delete --yes team-* pair-*")


def test_a_cancelled_creation_of_several_leaves_nothing(kernel: Kernel) -> None:
    # Before a cell has begun, an interrupt would hit the kernel itself, which then never replies.
    code = "print('go', flush=True)\n%sandbox create -n 40 --name cut-{i}"
    cell = kernel.run(code, on=kernel.interrupt_when("go"))
    assert cell.status == "error", cell
    left = str(kernel.run("import time\ntime.sleep(3)\n%sandbox list").result)
    until = 20
    while "cut-" in left and until:
        until -= 1
        left = str(kernel.run("time.sleep(0.5)\n%sandbox list").result)
    assert "cut-" not in left, left


def test_a_terminal_prefixes_lines(tmp_path: Path) -> None:
    script = tmp_path / "s.ipy"
    script.write_text(
        "%load_ext daytona_magics\nr = %sandbox create -q -n 2 --name t-{i}\n"
        "get_ipython().run_cell('%%sandbox -s t-1,t-2\\nprint(6 * 7)\\nprint(\"\\\\r1\\\\r2\")')\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    with Kernel(home, load=False) as kernel:
        ran = subprocess.run(
            [sys.executable, "-m", "IPython", "--no-banner", str(script)],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        kernel.owns_home = True
    assert "t-1 │ 42\n" in ran.stdout and "t-2 │ 42\n" in ran.stdout and "t-1 │ 2\n" in ran.stdout, ran
    assert "── t-1 ✓ ok" in ran.stdout
