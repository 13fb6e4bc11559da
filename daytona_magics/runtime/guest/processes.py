"""Processes of a sandbox: who descends from whom, and how they are ended.

A cell may start children, grandchildren, and daemons that leave session and parent behind. The supervisor is
their subreaper, so an orphan becomes its child; which context it came from is told by its session, or by a
mark in its environment.

/proc may show more than the sandbox, and under other numbers: at isolation level L1 it is the machine's, at
L2 too, while the sandbox has process ids of its own. So everything is found by walking down from this
process, which reaches its descendants and nobody else; a process has two numbers, one for signals and one in
/proc; and it is looked at once more, with a handle on it, before it is signalled, because its number may
have become another process's meanwhile.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Every worker and bash carries this variable; what they start inherits it.
MARK = "DAYTONA_MAGICS_WORKER"
#: Looks at a tree of processes, at most, until it held still during one.
LOOKS = 10

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
    """What /proc says about a process.

    Attributes: pid and session as this process's namespace counts, shown (its number in /proc), parent (that
    one's number in /proc), start (ticks since boot), state (a letter).
    """

    __slots__ = ("parent", "pid", "session", "shown", "start", "state")

    def __init__(self, shown: int, pid: int, state: str, parent: int, session: int, start: int) -> None:
        self.shown = shown
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session
        self.start = start

    @property
    def alive(self) -> bool:
        """Neither a zombie nor dead."""
        return self.state not in "ZX"

    def lives(self) -> bool:
        """Whether it is still there and alive, now."""
        now = read(self.shown)
        return now is not None and now.alive and (now.start, now.pid) == (self.start, self.pid)


def own_number() -> int:
    """This process's number in /proc; another one than its pid where /proc shows another namespace."""
    try:
        return int(os.readlink("/proc/self"))
    except OSError:
        return os.getpid()


def read(shown: int) -> Process | None:
    """What /proc says about the process with this number there; None when there is none."""
    try:
        with open("/proc/%d/stat" % shown, "rb") as file:
            line = file.read()
        # The name is in parentheses and may contain anything, so count from the last one.
        fields = line[line.rfind(b")") + 2 :].split()
        pid, session = shown, int(fields[3])
        if own_number() != os.getpid():
            status = _status(shown)
            pid, session = (int(status[key].split()[-1]) for key in (b"NSpid", b"NSsid"))
        return Process(shown, pid, fields[0].decode(), int(fields[1]), session, int(fields[19]))
    except (OSError, IndexError, KeyError, ValueError):
        return None


def _status(shown: int) -> dict[bytes, bytes]:
    with open("/proc/%d/status" % shown, "rb") as file:
        return dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)


def children(shown: int) -> list[int]:
    """Direct children, by numbers in /proc: the kernel's own list, or out of all of /proc without one."""
    found: list[int] = []
    try:
        for task in os.listdir("/proc/%d/task" % shown):
            with open("/proc/%d/task/%s/children" % (shown, task), "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        listed = os.path.exists("/proc/self/task/%d/children" % own_number())
        if not listed and os.path.exists("/proc/%d" % shown):
            every = map(read, map(int, filter(str.isdigit, os.listdir("/proc"))))
            return [p.shown for p in every if p is not None and p.parent == shown]
    except ProcessLookupError:
        return found
    return found


def missed_sigint(process: Process) -> bool:
    """Whether SIGINT would end this process: alive some time after one, it was forked too early to get it.

    One that has it and has not come to its end yet, on a busy machine, has not missed it.
    """
    try:
        fields = _status(process.shown)
        handled = int(fields[b"SigCgt"], 16) | int(fields[b"SigIgn"], 16)
        handled |= int(fields[b"SigPnd"], 16) | int(fields[b"ShdPnd"], 16)
    except (OSError, KeyError, ValueError):
        return False
    return not handled & (1 << (signal.SIGINT - 1))


def _mark_of(shown: int) -> str:
    """Value of MARK in the environment a process was started with; "" without one."""
    prefix = MARK.encode() + b"="
    try:
        with open("/proc/%d/environ" % shown, "rb") as file:
            found = [v for v in file.read(1 << 20).split(b"\0") if v.startswith(prefix)]
    except OSError:
        return ""
    return found[0][len(prefix) :].decode("utf-8", "replace") if found else ""


def started_by(
    worker: int,
    mark: str,
    since: int,
    own: Iterable[int] = (),
    alone: bool = False,
    earlier: Iterable[tuple[int, str]] = (),
) -> list[Process]:
    """Living processes that a worker's cell started, without the worker.

    Args:
        worker: pid of the worker (its session id too).
        mark: value of MARK in its environment.
        since: only processes started at or after this tick.
        own: pids that are the daemon's own (other workers): these and their descendants are never meant.
        earlier: pid and mark of workers whose processes are meant as well.
        alone: no other context is busy: an orphan without any mark (forked, never executed) is this one's.

    Returns:
        children before grandchildren.
    """
    foreign = set(own) - {worker}
    sessions, marks = {worker}, {mark}
    for pid, name in earlier:
        sessions.add(pid)
        marks.add(name)
    found: list[Process] = []
    for _ in range(LOOKS):
        # Whoever loses its parent during the look becomes a child of this process, and may be seen nowhere.
        roots = children(own_number())
        found = _below(
            roots, worker, foreign, since, lambda process: _is_meant(process, sessions, marks, alone)
        )
        if children(own_number()) == roots:
            break
    return found


def _is_meant(process: Process, sessions: set[int], marks: set[str], alone: bool) -> bool:
    """Whether an orphan was started by one of these."""
    origin = _mark_of(process.shown)
    return process.session in sessions or origin in marks or (alone and not origin)


def _below(
    roots: list[int], worker: int, foreign: set[int], since: int, meant: Callable[[Process], bool]
) -> list[Process]:
    queue: list[Process] = []
    orphans: list[Process] = []
    for process in filter(None, map(read, roots)):
        if process.pid == worker:
            queue += filter(None, map(read, children(process.shown)))
        elif process.pid not in foreign and meant(process):
            orphans.append(process)
    queue += orphans
    found: list[Process] = []
    seen = set(foreign)
    while queue:
        process = queue.pop(0)
        if process.pid in seen:
            continue
        seen.add(process.pid)
        queue += filter(None, map(read, children(process.shown)))
        if process.alive and process.start >= since:
            found.append(process)
    return found


def send(found: Iterable[Process], number: int) -> int:
    """Signal every process that still exists, and nobody who has got its number; returns how many did."""
    return sum(_send(process, number) for process in found)


def _send(process: Process, number: int) -> bool:
    handle = -1
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):
        handle = -1  # Python 3.8, or refused: the check below is all there is.
    try:
        # The same before and after the handle was made, so the handle is on it.
        if not process.lives():
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if handle >= 0:
            os.close(handle)


def send_child(pid: int, number: int) -> None:
    """Signal a child that has not been waited for: its number is its own until then."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def send_group(pgid: int, number: int) -> bool:
    """Signal a process group; False when it is gone."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
