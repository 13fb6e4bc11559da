"""The interrupt ladder in a real kernel: what each press does, and that nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.kernel_client import Cell, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\nkept = 7").status == "ok"
        yield made


@pytest.fixture(autouse=True)
def variables(kernel: Kernel) -> Iterator[None]:
    assert kernel.run("%%sandbox\nkept = 7").status == "ok"
    yield
    assert kernel.run("%%sandbox bash\nfalse || echo next cell fine").stdout == "next cell fine\n"


def sleepers(kernel: Kernel) -> str:
    """Processes named like those the cells start; a zombie that its parent has not read is no process."""
    cell = kernel.run("%%sandbox bash\nps -eo stat=,args= | grep -v '^Z' | grep '[s]leep 6[0-9]' || true")
    assert cell.status == "ok", cell
    return cell.stdout


def press(kernel: Kernel, body: str, *, times: int = 1, language: str = "") -> Cell:
    head = "print('go', flush=True)\n" if not language else "echo go\n"
    first = kernel.send(f"%%sandbox {language}\n{head}{body}")
    queued = kernel.send("print('must not run')")
    cell = kernel.finish(first, on=kernel.interrupt_when("go", times))
    after = kernel.finish(queued)
    assert (cell.status, cell.ename) == ("error", "KeyboardInterrupt"), cell
    assert after.status == "aborted" and after.stdout == ""
    assert "daytona_magics" not in cell.traceback
    return cell


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "import os; os.system('sleep 61')",
        "import subprocess as s, time; s.Popen(['sh', '-c', 'sleep 62 & sleep 63 & wait']); time.sleep(60)",
        "import subprocess; subprocess.run(['setsid', 'sleep', '64'])",
        "import asyncio; await asyncio.sleep(60)",
        "import threading; threading.Event().wait(60)",
    ],
    ids=["loop", "sleep", "child", "system", "grandchildren", "setsid", "await", "lock"],
)
def test_the_first_press_ends_the_cell_and_what_it_started(kernel: Kernel, body: str) -> None:
    cell = press(kernel, body)
    assert "variables are alive" in cell.error["evalue"]
    assert kernel.run("%%sandbox\nkept").result == "7"
    assert sleepers(kernel) == ""


def test_bash(kernel: Kernel) -> None:
    kernel.run("%%sandbox bash\nkept=yes")
    press(kernel, "sleep 60", language="bash")
    assert sleepers(kernel) == ""
    assert kernel.run("%%sandbox bash\necho $kept").stdout == "yes\n"


@pytest.mark.parametrize(
    "body",
    [
        "import subprocess; subprocess.run(['sh', '-c', 'trap \"\" INT; sleep 60; sleep 61'])",
        "import subprocess; subprocess.run(['setsid', 'sh', '-c', 'trap \"\" INT TERM; sleep 62; sleep 63'])",
    ],
    ids=["ignores INT", "ignores INT and TERM in a session of its own"],
)
def test_by_the_second_press_stubborn_children_are_gone(kernel: Kernel, body: str) -> None:
    press(kernel, body, times=2)
    assert kernel.run("%%sandbox\nkept").result == "7"
    assert sleepers(kernel) == ""


def test_the_third_press_ends_the_worker_and_says_so(kernel: Kernel) -> None:
    body = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    cell = press(kernel, body, times=3)
    assert "Interrupt 1" in cell.notes and "Interrupt 2" in cell.notes
    assert "variables were lost, files kept" in cell.error["evalue"]
    assert kernel.run("%%sandbox\nkept").ename == "NameError"


def test_the_traceback_names_the_line_that_was_interrupted(kernel: Kernel) -> None:
    cell = press(kernel, "def wait():\n    while True: pass\nwait()")
    assert "line 5" in cell.traceback and "wait()" in cell.traceback


def test_a_cell_that_handles_the_interrupt_itself_still_stops_the_queue_and_keeps_its_output(
    kernel: Kernel,
) -> None:
    cell = press(kernel, "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('handled')")
    assert "handled" in cell.stdout


def test_an_interrupt_is_quick(kernel: Kernel) -> None:
    times = []
    for _ in range(5):
        pressed: list[float] = []

        def on(kind: str, content: dict, cell: Cell, pressed: list[float] = pressed) -> None:
            if not pressed and "go" in cell.stdout:
                pressed.append(time.monotonic())
                kernel.interrupt()

        kernel.run("%%sandbox\nprint('go', flush=True)\nimport time; time.sleep(60)", on=on)
        kernel.run("%%sandbox\nkept")
        times.append(time.monotonic() - pressed[0])
    assert sorted(times)[2] < 2.0, times


def test_presses_during_a_status_wait_leave_nothing_half_done(kernel: Kernel) -> None:
    """A sandbox whose creation is interrupted does not exist afterwards, and the notebook goes on."""
    before = kernel.run("len(get_ipython().run_line_magic('sandbox', 'list'))").result
    kernel.run(
        "from daytona_magics import sandboxes\nimport asyncio, functools\nb = sandboxes.current()\n"
        "slow = b.client.create\n"
        "async def create(*a, **k):\n    made = await slow(*a, **k)\n    print('made', flush=True)\n"
        "    await asyncio.sleep(1)\n    return made\nb.client.create = create"
    )
    cell = kernel.run("%sandbox create --name half-done", on=kernel.interrupt_when("made"))
    kernel.run("b.client.create = slow")
    assert cell.ename == "KeyboardInterrupt" and "nothing was left behind" in cell.traceback, cell
    assert kernel.run("len(get_ipython().run_line_magic('sandbox', 'list'))").result == before
    assert kernel.run("%%sandbox\nkept").result == "7"
