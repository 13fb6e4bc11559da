"""What every worker has: two raw pipes for fds 1 and 2, a session of its own, and a place its output goes to.

``Worker`` is the supervisor's view of a process; ``python_worker`` and ``bash_worker`` are the two kinds.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from . import frames, processes, ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop, Timer

#: Output that comes in small pieces is collected for so long (seconds) after a piece was passed on.
COALESCE = 0.005
#: A read of this size means a writer in a hurry: it is read again at once.
BIG_READ = 32768
_READ = 1 << 18
_F_SETPIPE_SZ = 1031
_PIPE_SIZE = 1 << 20


def make_pipe() -> tuple[int, int]:
    """A close-on-exec pipe whose read end does not block, as large as the system allows up to 1 MiB."""
    import fcntl

    read, write = os.pipe()
    os.set_blocking(read, False)
    try:
        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        return read, write  # the user's pipe quota is used up: the default size works too
    return read, write


def isolate_child(keep: dict[int, int], directory: str) -> str:
    """Run in a forked child: own session, stdin from /dev/null, the wanted descriptors, nothing else open.

    Args:
        keep: from descriptor of the parent to descriptor in the child.
        directory: working directory; when it is gone the home is used.

    Returns:
        the directory it is in.
    """
    os.setsid()
    # Copies above everything wanted first, so that no dup2 overwrites a source.
    top = max([*keep, *keep.values(), 2]) + 1
    import fcntl

    null = os.open(os.devnull, os.O_RDONLY)
    copies = {target: fcntl.fcntl(source, fcntl.F_DUPFD, top) for source, target in keep.items()}
    os.dup2(null, 0)
    for target, copy in copies.items():
        os.dup2(copy, target, inheritable=target <= 2)
    wanted = sorted({0, *keep.values()})
    for number, low in enumerate(wanted):
        os.closerange(low + 1, wanted[number + 1] if number + 1 < len(wanted) else _open_limit())
    # Python's own choice, SIGPIPE ignored, stays: a Python worker expects it, a shell undoes it.
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for place in (directory, os.environ.get("HOME", ""), "/"):
        try:
            os.chdir(place)
        except OSError:
            continue
        return place
    return "/"


def _open_limit() -> int:
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    except OSError:
        return 65536


class Worker:
    """A supervised process.

    Attributes:
        pid: its process id, group and session.
        mark: value of processes.MARK in its environment.
        sink: where raw output goes: ``sink(kind, data)``, kind as in frames; set by the context.
    """

    def __init__(self, loop: Loop, mark: str, sink: Callable[[int, bytes], Any]) -> None:
        self.loop = loop
        self.mark = mark
        self.sink = sink
        self.pid = 0
        self.raw: dict[int, int] = {}  # descriptor -> kind
        self._taken: dict[int, int] = {}  # kind -> bytes read so far
        self._resume: dict[int, Timer] = {}

    @property
    def group(self) -> int:
        """The process group that Ctrl-C goes to."""
        return self.pid

    def answer(self, message: dict[str, Any]) -> None:
        """Hand over the answer to a question of the cell's."""

    def terminate(self) -> None:
        """SIGTERM to the cell's own process."""
        processes.send_child(self.pid, signal.SIGTERM)

    def watch_raw(self, out: int, err: int) -> None:
        """Start reading the raw pipes."""
        self.raw = {out: frames.STDOUT, err: frames.STDERR}
        self._taken = dict.fromkeys(self.raw.values(), 0)
        for fd in self.raw:
            self.loop.add(fd, lambda events, fd=fd: self._raw_ready(fd))  # type: ignore[misc]

    def before_raw(self) -> None:
        """Called before raw output is passed on, so that what was printed earlier goes first."""

    def raw_taken(self, number: int, total: int) -> None:
        """Called with 0 or 1 (fd 1 or 2) and how many bytes have been read from its pipe."""

    def _raw_ready(self, fd: int) -> None:
        kind = self.raw[fd]
        # What comes after this look may come after something that is printed meanwhile.
        taken, there = self._taken[kind], ring.waiting(fd)
        self.before_raw()
        left = taken + there - self._taken[kind]
        got = self._read_one(fd, left) if fd in self.raw and (left > 0 or not there) else 0
        if fd in self.raw and max(got, there) < BIG_READ:
            self.loop.remove(fd)
            self._resume[fd] = self.loop.later(COALESCE, lambda: self._resume_raw(fd))

    def _resume_raw(self, fd: int) -> None:
        if self._resume.pop(fd, None) is not None and fd in self.raw:
            self.loop.add(fd, lambda events: self._raw_ready(fd))

    def _read_one(self, fd: int, most: int = _READ) -> int:
        try:
            data = os.read(fd, min(most, _READ) or 1)
        except BlockingIOError:
            return 0
        if data:
            kind = self.raw[fd]
            self._taken[kind] += len(data)
            self.raw_taken(list(self._taken).index(kind), self._taken[kind])
            self.sink(kind, data)
        else:
            self._close_raw(fd)
        return len(data)

    def read_raw(self, totals: tuple[int, ...] | None = None, seconds: float = 0.02) -> None:
        """Read the raw pipes until they are empty, or for so long when somebody keeps writing.

        ``totals``: stop when so many bytes have come from fd 1 and from fd 2 since the beginning.
        """
        deadline = time.monotonic() + seconds
        for number, (fd, kind) in enumerate(list(self.raw.items())):
            while fd in self.raw:
                left = _READ if totals is None else totals[number] - self._taken[kind]
                if left <= 0 or not self._read_one(fd, left) or time.monotonic() >= deadline:
                    break

    def _close_raw(self, fd: int) -> None:
        del self.raw[fd]
        timer = self._resume.pop(fd, None)
        if timer is not None:
            timer.cancel()
        self.loop.remove(fd)
        os.close(fd)

    def close(self) -> None:
        """Close everything; the process is gone or about to be killed."""
        for fd in list(self.raw):
            self._close_raw(fd)

    def kill(self) -> None:
        """SIGKILL the process (its exit is reported through the loop)."""
        processes.send_child(self.pid, signal.SIGKILL)


def fork(child: Callable[[], Any]) -> int:
    """Fork; the child runs ``child()`` and never returns from here."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 127
    try:
        child()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
