"""The interrupt ladder in a real kernel: what each press does, and that nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


#: Does not end by itself, and neither do its two children, one of them in a session of its own. ``ends`` is
#: what it does at an interrupt.
STUBBORN = """%%sandbox
import subprocess, time
caught = 0
for head in [], ["setsid"]:
    subprocess.Popen([*head, "sh", "-c", "trap '' INT; exec sleep {mark}"])
print("go", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        caught += 1
        print(f"caught {{caught}}, kept is {{kept}}", flush=True)
        {ends}
"""


def on_this_machine(mark: str) -> list[str]:
    """The state of every process called ``sleep MARK``, seen from outside: a busy kernel cannot be asked."""
    states = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                states.append((folder / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:  # it ended meanwhile
            continue
    return states


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def climb(kernel: Kernel, code: str, mark: str, presses: int) -> tuple[Cell, list[int]]:
    """Press, and each time the cell has caught it press again.

    Returns:
        The cell, and how many of its children lived before the first press and after each that was caught.
    """
    alive: list[int] = []

    def on(kind: str, content: dict[str, Any], cell: Cell) -> None:
        words = ["go", *(f"caught {number}" for number in range(1, presses))]
        if len(alive) < presses and words[len(alive)] in cell.stdout:
            if not alive:
                wait_for(lambda: len(on_this_machine(mark)) == 2)
            elif len(alive) == 1:
                time.sleep(0.7)  # longer than whatever ends processes would give them
            else:
                wait_for(lambda: not on_this_machine(mark))
            alive.append(len(on_this_machine(mark)))
            kernel.interrupt()

    return kernel.run(code, on=on), alive


def test_the_second_press_ends_the_children_of_a_cell_that_goes_on_and_the_third_its_worker(
    kernel: Kernel,
) -> None:
    """The cell never ends by itself, so nothing but the second press can have ended its children."""
    code = STUBBORN.format(mark="66.3", ends="pass")
    cell, alive = climb(kernel, code, "66.3", presses=3)
    assert alive == [2, 2, 0]
    assert cell.stdout == "go\ncaught 1, kept is 7\ncaught 2, kept is 7\n"
    assert cell.ename == "KeyboardInterrupt" and "variables were lost" in cell.error["evalue"], cell
    assert "Interrupt 2: ended 2 processes" in cell.notes
    assert kernel.run("%%sandbox\nkept").ename == "NameError"


def test_the_second_press_keeps_the_worker(kernel: Kernel) -> None:
    """The cell gives up at the second interrupt: its children are gone, its variables are there."""
    pid = kernel.run("%%sandbox\nimport os; os.getpid()").result
    code = STUBBORN.format(mark="66.2", ends="if caught == 2: raise")
    cell, alive = climb(kernel, code, "66.2", presses=2)
    assert alive == [2, 2]
    assert cell.stdout == "go\ncaught 1, kept is 7\ncaught 2, kept is 7\n"
    assert cell.ename == "KeyboardInterrupt" and "variables are alive" in cell.error["evalue"], cell
    assert on_this_machine("66.2") == []
    assert kernel.run("%%sandbox\nkept, caught, os.getpid()").result == f"(7, 2, {pid})"


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
