"""SIGKILL of everything a cell depends on, in several phases: exact output or one clear error, never a hang.

Whatever was killed, what the cell printed before is a true beginning of its output, the cell fails with an
error that says what is known, the next one runs, and files are intact. The terminal, and below L3 the relay
between it and the guest, is the one thing a cell does not depend on: the line is made anew, and nothing is
missing.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.kernel_client import Cell, Kernel

pytestmark = pytest.mark.timeout(240)

VICTIMS = ("python-cell", "daytona-guest", "toolbox", "zygote", "engine")
#: Errors that say what became of the cell.
CLEAR = {"SandboxUnreachable", "WorkerDied", "SandboxGone"}
#: Cells that go on for a while after their first output: so many seconds, or so many lines.
PHASES = {
    "silent": "import time\nprint('go', flush=True)\ntime.sleep({seconds})",
    "printing": "import time\nfor i in range({lines}): print(i); time.sleep(0 if i % 1000 else 0.005)",
    "displaying": "print('go', flush=True)\nfor i in range({lines} // 50): display(i)",
    "in a child": "import subprocess\nprint('go', flush=True)\nsubprocess.run(['sleep', '{seconds}'])",
}


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        yield made


def named(pid: int) -> str:
    """What a process is to us."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    line = Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"zygote.py" in line and name != "toolbox":
        return "zygote"
    return "relay" if b"-ISc\0" in line else name


def below(pid: int) -> Iterator[tuple[str, int]]:
    """The processes of an engine, the oldest first: the zygote itself comes before the sandboxes' keepers."""
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield named(child), child
        yield from below(child)


def victim(kernel: Kernel, name: str) -> int:
    engine = int(str(kernel.run("from daytona_magics.engine import address\naddress.find().pid").result))
    return engine if name == "engine" else next(pid for found, pid in below(engine) if found == name)


def kill_when_it_runs(pid: int) -> Callable[..., None]:
    """An ``on`` callback that kills at the cell's first output."""
    left = [pid]

    def on(kind: str, content: dict[str, object], cell: Cell) -> None:
        if left and kind == "stream" and cell.stdout:
            os.kill(left.pop(), signal.SIGKILL)

    return on


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", VICTIMS)
def test_killed_under_a_cell(kernel: Kernel, name: str, phase: str) -> None:
    before = kernel.run("%%sandbox\nwith open('kept', 'w') as file: file.write('file')", timeout=90)
    assert before.status == "ok", before
    body = PHASES[phase].format(seconds=90, lines=10**9)
    cell = kernel.run("%%sandbox\n" + body, on=kill_when_it_runs(victim(kernel, name)), timeout=120)
    assert cell.status == "error" and cell.ename in CLEAR, cell
    assert cell.seconds < 80, "it ended by itself"
    if phase == "printing":
        *numbers, _ = cell.stdout.split("\n")
        assert numbers == [str(i) for i in range(len(numbers))]
    again = kernel.run("%%sandbox\nopen('kept').read()", timeout=120)
    assert again.result == "'file'", (cell, again)


def killer_of_terminals(kernel: Kernel) -> Callable[[], None]:
    """Ends all terminals of the kernel's sandbox, the one that carries its cells among them."""
    box = str(kernel.run("from daytona_magics import sandboxes\nsandboxes.current().sandbox.id").result)
    record = json.loads((Path(kernel.env["DAYTONA_MAGICS_HOME"]) / "engine.json").read_text())
    base = f"http://127.0.0.1:{record['port']}/toolbox/{box.strip(chr(39))}/process/pty"

    def ask(method: str, url: str) -> Any:
        bearer = {"Authorization": f"Bearer {record['api_key']}"}
        with urlopen(Request(url, headers=bearer, method=method)) as answer:
            return json.load(answer)

    def kill() -> None:
        sessions = ask("GET", base)["sessions"]
        assert sessions
        for session in sessions:
            ask("DELETE", f"{base}/{session['id']}")

    return kill


def check_nothing_is_missing(kernel: Kernel, phase: str, kill: Callable[[], None]) -> None:
    body = PHASES[phase].format(seconds=3, lines=100_000) + "\nprint('end', kept)"
    left = [kill]

    def on(kind: str, content: dict[str, object], cell: Cell) -> None:
        if left and kind == "stream" and cell.stdout:
            left.pop()()

    cell = kernel.run("%%sandbox\n" + body, on=on, timeout=120)
    assert not left and cell.status == "ok" and cell.stdout.endswith("end 3\n"), cell
    if phase == "printing":
        assert cell.stdout.split("\n")[:-2] == [str(i) for i in range(100_000)]
    if phase == "displaying":
        shown = [bundle["text/plain"] for bundle in cell.bundles() if "text/html" not in bundle]
        assert shown == [str(i) for i in range(2000)]


@pytest.mark.parametrize("phase", PHASES)
def test_the_terminal_is_killed_and_nothing_is_missing(kernel: Kernel, phase: str) -> None:
    assert kernel.run("%%sandbox\nkept = 3", timeout=90).status == "ok"
    check_nothing_is_missing(kernel, phase, killer_of_terminals(kernel))


def test_the_relay_is_killed_where_there_is_one_and_nothing_is_missing() -> None:
    with Kernel(env={"DAYTONA_MAGICS_ISOLATION": "L1"}) as kernel:
        assert kernel.run("%%sandbox\nkept = 3", timeout=90).status == "ok"
        relay = victim(kernel, "relay")
        check_nothing_is_missing(kernel, "printing", lambda: os.kill(relay, signal.SIGKILL))
