"""Background jobs in a real kernel: beside its cells, after its death, and to their end."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.test_kills import below, kill_when_it_runs
from tests.kernel_client import Cell, Kernel

#: Prints, shows something rich, then waits until a file is there.
WAITING = (
    "import os, time\nfrom IPython.display import HTML, display\nprint('begun', flush=True)\n"
    "display(HTML('<b>rich</b>'))\nwhile not os.path.exists({0!r}): time.sleep(0.02)\n"
    "os.unlink({0!r})\nprint('ended')\n40 + 2"
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        first = made.run("%%sandbox\n0")
        assert first.status == "ok", first
        yield made


def let_go(kernel: Kernel, name: str) -> None:
    assert kernel.run(f"%%sandbox\nopen({name!r}, 'w').close()").status == "ok"


def job(kernel: Kernel, name: str, expression: str) -> str:
    """The text of an expression about the handle ``name``."""
    got = kernel.run(f"print({name}.{expression})")
    assert got.status == "ok", got
    return got.stdout.strip()


def until(kernel: Kernel, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_job_keeps_its_sandbox_awake_and_no_longer_than_it_runs(kernel: Kernel) -> None:
    kernel.run("%sandbox config heartbeat=0.2\nimport daytona_magics as dm")
    kernel.run("%%sandbox --bg --out awake\n" + WAITING.format("/tmp/go-awake"))
    last = "box = dm.current()\nbox.wait(box.sandbox.refresh_data())\nbox.sandbox.last_activity_at"
    seen = [kernel.run(last).result]

    def beats() -> bool:
        seen.append(kernel.run(last).result)
        return len(set(seen)) >= 4

    try:
        until(kernel, beats)
    finally:
        let_go(kernel, "/tmp/go-awake")
    assert job(kernel, "awake", "wait(60).state") == "ok"

    # The control: looking is no activity, so that it comes to rest when nothing runs.
    def rests() -> bool:
        before = kernel.run(last).result
        time.sleep(1.5)
        return kernel.run(last).result == before

    until(kernel, rests)
    kernel.run("%sandbox config heartbeat=60")


def test_a_job_runs_beside_the_notebooks_cells(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nimport os; os.makedirs('inside', exist_ok=True); os.chdir('inside'); mine = 1")
    begun = kernel.run(
        "%%sandbox --bg --out beside\nimport os\nprint(os.getcwd())\n" + WAITING.format("/tmp/go1")
    )
    assert begun.status == "ok" and "Cell In[" in begun.notes and "[running]" in begun.notes, begun
    assert "It survives without this kernel until" in begun.notes
    assert job(kernel, "beside", "done()") == "False"
    assert kernel.run("%%sandbox\nmine").result == "1", "the notebook's own cells go on"
    let_go(kernel, "/tmp/go1")
    assert job(kernel, "beside", "wait(60).result()") == "42"
    assert job(kernel, "beside", "output") == "/home/daytona/inside\nbegun\nended"
    assert job(kernel, "beside", "done()") == "True"
    assert kernel.run("await beside").result == "42"
    assert kernel.run("%%sandbox\nmine, os.getcwd()").result == "(1, '/home/daytona/inside')"


def test_a_job_does_not_see_the_notebooks_variables_and_its_own_end_with_it(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nseen = 1")
    kernel.run("%%sandbox --bg --out blind\nleft = 'seen' in globals()\nleft")
    assert job(kernel, "blind", "result()") == "False"
    assert kernel.run("%%sandbox\nleft").ename == "NameError"


def test_a_bash_job_starts_from_the_notebooks_state_and_leaves_it(kernel: Kernel) -> None:
    kernel.run("%%sandbox bash\nshared=before; cd /tmp; say() { echo said $1; }")
    kernel.run("%%sandbox bash --bg --out shell\necho $shared $PWD; say it; shared=after; cd /")
    assert job(kernel, "shell", "wait(60).output") == "before /tmp\nsaid it"
    assert kernel.run("%%sandbox bash\necho $shared $PWD").stdout == "before /tmp\n"


def test_what_a_job_left_running_ends_with_it_and_that_is_said(kernel: Kernel) -> None:
    kernel.run("%%sandbox bash --bg --out left\nsleep 3141 & echo done; exit 3")
    failed = kernel.run("left.result()")
    assert (failed.ename, failed.error["evalue"]) == ("ExitCodeError", "the cell ended with exit code 3")
    shown = kernel.run(f"%sandbox logs --plain {job(kernel, 'left', 'id')}")
    assert "1 process that the job left running ended with it" in shown.notes and "done\n" in shown.stdout
    assert "exit code 3" in shown.stderr, "a replay shows how it ended, and does not fail for it"
    assert shown.status == "ok"
    alive = "import subprocess; subprocess.run(['pgrep', '-f', 'sleep 3141'], capture_output=True).returncode"
    assert kernel.run(f"%%sandbox\n{alive}").result == "1"
    kernel.run("%%sandbox bash\nsleep 3141 &")
    assert kernel.run(f"%%sandbox\n{alive}").result == "0", "the notebook's own cells may leave something"
    kernel.run("%%sandbox bash\npkill -f 'sleep 3141'")


def test_a_job_cannot_ask(kernel: Kernel) -> None:
    kernel.run("%%sandbox --bg --out asking\ninput('name? ')")
    asked = kernel.run("asking.result()")
    assert asked.ename == "StdinNotImplementedError" and "no keyboard" in asked.error["evalue"], asked


def test_a_stubborn_job_is_cancelled_and_others_live(kernel: Kernel) -> None:
    stubborn = (
        "import time\nprint('on', flush=True)\nwhile True:\n"
        "    try: time.sleep(100)\n    except KeyboardInterrupt: print('no', flush=True)"
    )
    kernel.run("%%sandbox --bg --out stubborn\n" + stubborn)
    kernel.run("%%sandbox --bg --out other\n" + WAITING.format("/tmp/go2"))
    until(kernel, lambda: job(kernel, "stubborn", "output") == "on")
    cancelled = kernel.run(f"%sandbox cancel {job(kernel, 'stubborn', 'id')}", timeout=60)
    assert cancelled.status == "ok" and "killed the worker" in cancelled.notes, cancelled
    assert job(kernel, "stubborn", "refresh().state") == "stopped"
    assert kernel.run("stubborn.result()").ename == "KeyboardInterrupt"
    again = kernel.run(f"%sandbox cancel {job(kernel, 'stubborn', 'id')}")
    assert "has ended already: stopped" in again.notes
    assert job(kernel, "other", "done()") == "False"
    let_go(kernel, "/tmp/go2")
    assert kernel.run(f"%sandbox wait {job(kernel, 'other', 'id')}").result == "42"


def test_waiting_has_a_limit_and_can_be_interrupted_and_neither_ends_the_job(kernel: Kernel) -> None:
    kernel.run("%%sandbox --bg --out long\n" + WAITING.format("/tmp/go3"))
    limited = kernel.run("long.wait(0.3)")
    assert limited.ename == "TimeoutError" and "it runs on" in limited.error["evalue"]

    def press(kind: str, content: dict[str, Any], cell: Cell) -> None:
        if "waiting for job" in str(content) and not cell.status:
            kernel.interrupt()

    pressed = kernel.run("long.wait()", on=press)
    assert pressed.ename == "KeyboardInterrupt" and "runs on in the sandbox" in pressed.error["evalue"], (
        pressed
    )
    followed = kernel.run("%sandbox logs --follow", on=kernel.interrupt_when("begun"))
    assert followed.ename == "KeyboardInterrupt" and "is not touched by that" in followed.error["evalue"]
    assert followed.bundles()[0]["text/html"] == "<b>rich</b>"
    assert job(kernel, "long", "done()") == "False"
    let_go(kernel, "/tmp/go3")
    assert job(kernel, "long", "result(60)") == "42"


def test_the_card_lives_between_cells(kernel: Kernel) -> None:
    cell = kernel.send("%%sandbox --bg\nimport time\nprint('so far', flush=True)\ntime.sleep(1)")
    kernel.finish(cell)
    name = next(c["transient"]["display_id"] for kind, c, _ in cell.messages if kind == "display_data")
    deadline, text = time.monotonic() + 60, ""
    while "[ok]" not in text:
        assert time.monotonic() < deadline, text
        message = kernel.client.get_iopub_msg(timeout=60)
        content = message["content"]
        if message["msg_type"] == "update_display_data" and content["transient"]["display_id"] == name:
            text = content["data"]["text/plain"]
            assert "<script" not in content["data"]["text/html"]
    assert "| so far" in text


def test_a_card_shows_hostile_output_as_text(kernel: Kernel) -> None:
    kernel.run("%%sandbox --bg --out hostile\nprint('<script>alert(1)</script>\\x1b]52;c;aGk=\\x07')")
    kernel.run("hostile.wait()")
    data = kernel.run("hostile").bundles()[0]
    assert "&lt;script&gt;" in data["text/html"] and "<script" not in data["text/html"]
    assert "\x1b]52" not in data["text/plain"] + data["text/html"]


def test_a_job_that_has_ended_already_is_waited_for_without_its_id(kernel: Kernel) -> None:
    kernel.run("%%sandbox --bg --out swift\n6 * 7")
    kernel.run("swift.wait()")
    assert kernel.run("%sandbox wait").result == "42"
    kernel.run("%%sandbox --bg --out slow --timeout 0.2\nimport time; time.sleep(60)")
    kernel.run("slow.wait()")
    cell = kernel.run("%sandbox wait")
    assert cell.ename == "CellTimeout" and "timeout of 0.2 s" in cell.traceback


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%%sandbox --keep 2h\n1", "--keep is for jobs"),
        ("%%sandbox --bg -o x\nx = 1", "-o needs the cell's end"),
        ("%%sandbox --bg --keep never\n1", "is not a time"),
        ("%sandbox cancel", "id"),
        ("%sandbox cancel nothere", "knows no job 'nothere'"),
        ("%sandbox wait nothere", "%sandbox jobs"),
        ("%sandbox logs --to x", "of which job or cell?"),
        ("%sandbox logs -n 0", "at least one line"),
        ("%sandbox interrupt", "nothing of this notebook is running"),
    ],
)
def test_bad_usage_is_one_sentence(kernel: Kernel, line: str, words: str) -> None:
    cell = kernel.run(line)
    assert cell.status == "error" and words in cell.traceback, cell


def test_keep_raises_auto_stop_as_long_as_a_job_runs(kernel: Kernel) -> None:
    minutes = (
        "from daytona_magics.runtime.loop import loop_thread\nfrom daytona_magics import sandboxes\n"
        "box = sandboxes.current().sandbox\nloop_thread().run(box.refresh_data())\n"
        "print(box.auto_stop_interval)"
    )
    assert kernel.run(minutes).stdout == "15\n"
    kernel.run("%%sandbox --bg --keep 2h --out kept\n" + WAITING.format("/tmp/go4"))
    assert kernel.run(minutes).stdout == "120\n"
    kernel.run("%%sandbox --bg --keep 30m --out less\n1")
    kernel.run("less.wait()")
    assert kernel.run(minutes).stdout == "120\n", "the longest counts, and one still runs"
    let_go(kernel, "/tmp/go4")
    kernel.run("kept.wait()")
    until(kernel, lambda: kernel.run(minutes).stdout == "15\n")


def test_jobs_and_cells_outlive_the_kernel(kernel: Kernel) -> None:
    kernel.run("%%sandbox --bg --keep 2h --out outliving\n" + WAITING.format("/tmp/go5"))
    name = job(kernel, "outliving", "id")
    kernel.send("%%sandbox\nprint('in a cell', flush=True)\n" + WAITING.format("/home/daytona/go6"))
    while "rich" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("data", "")):
        pass
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.restart(now=True)
    listed = kernel.run("%sandbox jobs")
    assert "a job of the earlier kernel, is still running" in listed.notes, listed
    assert "a cell of the earlier kernel" in listed.notes and "a new cell waits behind it" in listed.notes
    rows = listed.result or ""
    assert re.search(rf"{name}  Cell In\[\d+\] +job +running", rows), rows
    followed = kernel.run("%sandbox logs --follow", on=kernel.interrupt_when("begun"))
    assert followed.stdout.startswith("in a cell\nbegun\n"), "the running cell comes before jobs"
    assert followed.bundles()[0]["text/html"] == "<b>rich</b>"

    behind = kernel.send("%%sandbox\n'behind'")
    kernel.finish(behind, on=lambda kind, content, cell: _let_go_of_the_cell(kernel, content))
    assert behind.result == "'behind'" and "waiting behind Cell In[" in behind.notes
    let_go(kernel, "/tmp/go5")
    waited = kernel.run(f"%sandbox wait {name}")
    assert waited.result == "42", waited
    whole = kernel.run(f"%sandbox logs --plain {name}")
    assert whole.stdout == "begun\nended\n" and whole.result == "42"
    assert whole.bundles()[0]["text/html"] == "<b>rich</b>"
    assert kernel.run(f"%sandbox logs {name} -n 1").stdout == "ended\n"
    gone = kernel.run(f"%sandbox logs {name} --forget")
    assert "is deleted" in gone.notes and name not in (kernel.run("%sandbox jobs").result or "")


def _let_go_of_the_cell(kernel: Kernel, content: dict[str, Any]) -> None:
    if "waiting behind" in str(content.get("data", "")):
        for home in (kernel.home / "state/sandboxes").glob("*/home"):
            (home / "go6").touch()


def test_a_kernel_that_is_shut_down_leaves_its_sandbox_to_its_job(kernel: Kernel) -> None:
    names = {}
    for job_runs in (True, False):
        with Kernel(home=kernel.home) as other:
            if job_runs:
                other.run("%%sandbox --bg\n" + WAITING.format("/tmp/never"))
            other.run("%%sandbox\n0")
            text = other.run("from daytona_magics import sandboxes\nprint(sandboxes.current().sandbox.name)")
            names[job_runs] = text.stdout.strip()

    def state(name: str) -> str:
        rows = kernel.run("%sandbox list").result or ""
        return next((line for line in rows.splitlines() if name in line), "")

    until(kernel, lambda: "stopped" in state(names[False]))
    assert "started" in state(names[True]), "auto-stop ends it"
    for name in names.values():
        kernel.run(f"%sandbox delete --yes {name}")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["python-cell", "daytona-guest", "toolbox", "engine"])
def test_killed_under_a_job(kernel: Kernel, name: str) -> None:
    """What a job needs is killed: whoever follows it, waits for it or asks for it hears one clear error."""
    before = kernel.run("%%sandbox bash\necho file > ~/kept; rm -f ~/runs", timeout=90)
    assert before.status == "ok" and kernel.run("%%sandbox\n1", timeout=90).status == "ok", before
    # The newest process of this name is the job's worker.
    kernel.run(
        "%%sandbox --bg --out doomed\nimport os, time\nopen(os.path.expanduser('~/runs'), 'a').write('x')\n"
        "for i in range(10**9): print(i); time.sleep(0 if i % 1000 else 0.01)"
    )
    until(kernel, lambda: "999" in job(kernel, "doomed", "refresh()._look.tail"))
    pid = victims(kernel, name)[-1]
    followed = kernel.run("%sandbox logs --follow", on=kill_when_it_runs(pid), timeout=120)
    *numbers, _ = followed.stdout.split("\n")
    assert numbers == [str(i) for i in range(len(numbers))], "a true beginning of what was printed"
    if name == "python-cell":
        assert followed.status == "ok" and "WorkerDied" in followed.stderr, followed
    else:
        assert followed.ename in {"SandboxUnreachable", "SandboxGone", "SandboxError"}, followed
    result = kernel.run("doomed.result(60)", timeout=120)
    assert result.ename in {"WorkerDied", "SandboxUnreachable", "SandboxGone", "SandboxError"}, result
    left = kernel.run("%%sandbox bash\ncat ~/kept; cat ~/runs", timeout=120)
    assert left.stdout == "file\nx", "files are intact, and it did not run again"


def victims(kernel: Kernel, name: str) -> list[int]:
    engine = int(str(kernel.run("from daytona_magics.engine import address\naddress.find().pid").result))
    return [engine] if name == "engine" else [pid for found, pid in below(engine) if found == name]


def test_whoever_waits_for_a_job_redraws_its_card(kernel: Kernel) -> None:
    """Where one cell follows the other, nothing is drawn between them."""
    cells = [kernel.send(code) for code in ("%%sandbox --bg\nimport time; time.sleep(1)", "%sandbox wait")]
    begun, waited = (kernel.finish(cell) for cell in cells)
    name = next(c["transient"]["display_id"] for kind, c, _ in begun.messages if kind == "display_data")
    drawn = [c for kind, c, _ in waited.messages if kind == "update_display_data"]
    texts = [c["data"]["text/plain"] for c in drawn if c["transient"]["display_id"] == name]
    assert "[running]" in begun.bundles()[0]["text/plain"], begun
    assert texts and "[ok]" in texts[-1], waited
