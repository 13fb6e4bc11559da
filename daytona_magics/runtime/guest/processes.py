"""Processes of a sandbox: who descends from whom, and how they are ended.

A cell may start children, grandchildren, and daemons that leave session and parent behind. The supervisor is
their subreaper, so an orphan becomes its child; which context it came from is told by its session, or by a
mark in its environment.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Every worker and bash carries this variable; what they start inherits it.
MARK = "DAYTONA_MAGICS_WORKER"

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


def _prctl(option: int, argument: object) -> bool:
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False  # a Python without ctypes: orphans go to pid 1, everything else works


def become_subreaper() -> bool:
    """Orphaned descendants become children of this process; False when the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """SIGKILL for this process when its parent ends."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_name(name: str) -> bool:
    """Name shown by ``ps``; at most 15 bytes."""
    return _prctl(_PR_SET_NAME, name.encode()[:15])


def now_ticks() -> int:
    """The current time in the unit of a process's start time."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


class Process:
    """One line of /proc: pid, parent, session, start (ticks since boot), state (a letter)."""

    __slots__ = ("parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, state: str, parent: int, session: int, start: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session
        self.start = start

    @property
    def alive(self) -> bool:
        """Neither a zombie nor dead."""
        return self.state not in "ZX"


def read(pid: int) -> Process | None:
    """What /proc says about a process; None when there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name is in parentheses and may contain anything, so count from the last one.
    fields = line[line.rfind(b")") + 2 :].split()
    try:
        return Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))
    except (IndexError, ValueError):
        return None


def children(pid: int) -> list[int]:
    """Direct children of a process: the kernel's own list where it keeps one, else out of all of /proc."""
    found: list[int] = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task), "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        listed = os.path.exists("/proc/self/task/%d/children" % os.getpid())
        if not listed and os.path.exists("/proc/%d" % pid):
            every = map(read, map(int, filter(str.isdigit, os.listdir("/proc"))))
            return [p.pid for p in every if p is not None and p.parent == pid]
    except ProcessLookupError:
        return found
    return found


def missed_sigint(pid: int) -> bool:
    """Whether SIGINT would end this process: alive some time after one, it was forked too early to get it."""
    try:
        with open("/proc/%d/status" % pid, "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        handled = int(fields[b"SigCgt"], 16) | int(fields[b"SigIgn"], 16)
    except (OSError, KeyError, ValueError):
        return False
    return not handled & (1 << (signal.SIGINT - 1))


def _mark_of(pid: int) -> str:
    """Value of MARK in the environment a process was started with; "" without one."""
    prefix = MARK.encode() + b"="
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            found = [v for v in file.read(1 << 20).split(b"\0") if v.startswith(prefix)]
    except OSError:
        return ""
    return found[0][len(prefix) :].decode("utf-8", "replace") if found else ""


def started_by(worker: int, mark: str, since: int, own: Iterable[int] = (), alone: bool = False) -> list[int]:
    """Living processes that a worker's cell started, without the worker.

    Args:
        worker: pid of the worker (its session id too).
        mark: value of MARK in its environment.
        since: only processes started at or after this tick.
        own: pids that are the daemon's own (other workers): these and their descendants are never meant.
        alone: no other context is busy: an orphan without any mark (forked, never executed) is this one's.

    Returns:
        pids, children before grandchildren.
    """
    foreign = set(own) - {worker}
    queue = children(worker)
    for pid in children(os.getpid()):
        if pid != worker and pid not in foreign:
            orphan = read(pid)
            if orphan is None:
                continue
            origin = _mark_of(pid)
            if orphan.session == worker or origin == mark or (alone and not origin):
                queue.append(pid)
    found = []
    while queue:
        pid = queue.pop(0)
        if pid in foreign or pid in found:
            continue
        queue += children(pid)
        process = read(pid)
        if process is not None and process.alive and process.start >= since:
            found.append(pid)
    return found


def send(pids: Iterable[int], number: int) -> int:
    """Signal every process that still exists; returns how many did."""
    count = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            count += 1
        except (ProcessLookupError, PermissionError):
            continue
    return count


def send_group(pgid: int, number: int) -> bool:
    """Signal a process group; False when it is gone."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
