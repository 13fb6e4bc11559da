"""Signals to everything in a sandbox, from outside: stopping it where it stands, going on, a last chance.

A pause is SIGSTOP to every process, which works at every isolation level and needs no cgroup. Parents are
stopped before their children and go on after them, so that a shell never sees a child of its own stopped and
takes it for a suspended job. New processes are looked for until there are none. Memory stays where it is: it
can be swapped out, and it is lost when the engine ends.

A process is signalled by a descriptor that was opened before it was seen, again, to be one of the sandbox's:
so no other process that got its number meanwhile is meant.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from daytona_magics.engine.limits import processes

#: Seconds in which everything must have stopped.
FREEZE_SECONDS = 10.0
_STOPPED = frozenset("TtDZX")


class FreezeError(Exception):
    """Not everything in the sandbox could be stopped; all of it goes on."""


def members(first: int) -> list[int]:
    """Pids of everything in the sandbox whose first process is ``first``, parents before children."""
    # Where there is no pid namespace, orphans are children of the process above the first.
    above = processes.parent_of(first)
    others = processes.below(above) if above else processes.below(first)
    return [first, *(pid for pid in others if pid != first)]


def send(first: int, pids: Iterable[int], number: int) -> list[int]:
    """Send a signal to those of ``pids`` that are in the sandbox; returns them."""
    handles: list[tuple[int, int]] = []
    try:
        for pid in pids:
            with suppress(OSError):
                handles.append((pid, os.pidfd_open(pid)))
        inside = set(members(first))
        sent = []
        for pid, handle in handles:
            if pid in inside:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
                    sent.append(pid)
        return sent
    finally:
        for _, handle in handles:
            os.close(handle)


@dataclass
class Frozen:
    """A sandbox that stands still.

    Attributes:
        first: its first process.
        stopped: what was stopped, with when it was started, in the order in which it was.
    """

    first: int
    stopped: dict[int, int] = field(default_factory=dict)

    def thaw(self) -> None:
        """Let everything go on, children first; what had been stopped before stays so."""
        alive = [pid for pid, started in reversed(self.stopped.items()) if _look(pid)[1] == started]
        send(self.first, alive, signal.SIGCONT)
        self.stopped.clear()

    def _stop_others(self) -> bool:
        """Stop what is not stopped yet; whether there was any."""
        moving = []
        for pid in members(self.first):
            state, started = _look(pid)
            if state and state not in _STOPPED and self.stopped.get(pid) != started:
                moving.append(pid)
                self.stopped[pid] = started
        send(self.first, moving, signal.SIGSTOP)
        return bool(moving)

    def _stands_still(self) -> bool:
        return all(_look(pid)[0] in _STOPPED for pid in members(self.first) if _look(pid)[0])


def freeze(first: int) -> Frozen:
    """Stop everything in a sandbox; returns when nothing runs. To be called in a thread.

    Raises:
        FreezeError: processes come faster than they can be stopped.
    """
    frozen = Frozen(first)
    deadline = time.monotonic() + FREEZE_SECONDS
    try:
        while frozen._stop_others() or not frozen._stands_still():
            if time.monotonic() > deadline:
                raise FreezeError(f"not all of its processes could be stopped in {FREEZE_SECONDS:g} s")
            time.sleep(0.002)
    except BaseException:
        frozen.thaw()
        raise
    return frozen


def end_kindly(first: int, seconds: float) -> None:
    """Ask programs to end (SIGTERM), and wait until they have, or ``seconds`` are over; for a thread.

    The first process and the shells of terminals are not asked: they end with the sandbox, and whoever looks
    at a terminal is told that.
    """
    asked = send(first, [pid for pid in members(first)[1:] if not _leads_terminal(pid)], signal.SIGTERM)
    # One that was stopped can only end when it goes on.
    send(first, asked, signal.SIGCONT)
    deadline = time.monotonic() + seconds
    while any(_look(pid)[0] not in ("", "Z", "X") for pid in asked) and time.monotonic() < deadline:
        time.sleep(0.005)


def _leads_terminal(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and int(fields[3]) == pid and int(fields[4]) != 0


def _look(pid: int) -> tuple[str, int]:
    """State and start of a process; an empty state when there is none."""
    fields = stat_fields(pid)
    return (fields[0].decode(), int(fields[19])) if fields else ("", 0)


def stat_fields(pid: int) -> list[bytes]:
    """What ``/proc/PID/stat`` says after the name; empty when there is no such process."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return data[data.rfind(b")") + 2 :].split(None, 22)
