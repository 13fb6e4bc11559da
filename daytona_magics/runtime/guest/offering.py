"""A large container on its way to whoever opens a pipe for it, right after the cell that gave it.

A file would have to be written whole before the first byte of it can be read; out of a pipe the notebook
reads while the values are still being written, and nothing of them is ever on the disk. The pipe is one with
a name, in the private folder. Between the cell's end and the next one the worker's own thread fills it, so
nothing changes the values meanwhile. That somebody reads shows by more going in than the pipe holds. When
nobody does within :data:`PATIENCE` seconds, or the next cell waits already, the container becomes an ordinary
file under the same name: then the file API has it as it has any other. A notebook that does not want it any
more removes the pipe.
"""

from __future__ import annotations

import os

from .packing import CannotCarry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    from .packing import Package

#: Bytes from which on a container is offered so; fewer fit into the pipe, or nearly.
LEAST = 4 << 20
#: Seconds for a reader to come; the same when another command waits; for a reader who takes nothing.
PATIENCE, HURRY, STALL = 3.0, 0.5, 60.0
_F_SETPIPE_SZ, _F_GETPIPE_SZ, _CAPACITY = 1031, 1032, 1 << 20
#: What can be handed over when the running cell has ended.
_pending: list[Offer] = []


class Offer:
    """A container that can be read once, from a pipe with a name.

    Args:
        path: the pipe's name, which is still free.
        write: writes the container to a file; called with the package and a path, where it leaves nothing
            when it raises.

    Raises OSError where no pipe can be made.
    """

    def __init__(self, package: Package, path: str, write: Callable[[Package, str], None]) -> None:
        self._package, self._path, self._write = package, path, write
        self._ends: list[int] = []
        self._room = 0  # bytes that go in before somebody must have read some
        os.mkfifo(path, 0o600)
        try:
            # With an end to read from there is one to write to, before anybody else comes.
            for flags in (os.O_RDONLY, os.O_WRONLY):
                self._ends.append(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC))
            self._room = _widened(self._ends[1])
        except OSError:
            self.drop()
            raise

    def drop(self) -> None:
        """Let go of it; whoever reads it finds its end. Idempotent."""
        self._close()
        self._forget(self._path)

    def hand_over(self, command: int) -> None:
        """Write it to whoever reads, or to a file when nobody comes.

        Args:
            command: a descriptor that can be read when the next cell waits.
        """
        try:
            for view in _views(self._package):
                if not self._put(view, command):
                    return
            # All of it was more than the pipe holds: somebody reads. What is in it stays in it.
            self.drop()
        except (OSError, CannotCarry, MemoryError):
            # The reader left, or finds less than was announced, and says so.
            self.drop()

    def _put(self, view: memoryview, command: int) -> bool:
        """Write some of it to the pipe; False when it became a file instead. Raises OSError."""
        while view:
            try:
                count = os.write(self._ends[-1], view)
                view = view[count:]
                self._room -= count
            except BlockingIOError:
                if len(self._ends) == 1:
                    if not self._has_room(STALL):
                        raise TimeoutError("nobody reads") from None
                elif not self._has_room(PATIENCE, command) and not self._has_room(HURRY) and self._keep():
                    return False
                else:
                    self._room = -1
            if self._room < 0 and len(self._ends) == 2:
                # Without this process's own end the pipe breaks when the reader leaves.
                os.close(self._ends.pop(0))
        return True

    def _has_room(self, seconds: float, command: int = -1) -> bool:
        """Wait until the pipe takes something; False after so many seconds, or when there is a command."""
        import select

        poll = select.poll()
        poll.register(self._ends[-1], select.POLLOUT)
        if command >= 0:
            poll.register(command, select.POLLIN)
        return any(fd == self._ends[-1] for fd, _ in poll.poll(seconds * 1000))

    def _keep(self) -> bool:
        """Have a file take the pipe's place, if that is still there; False when somebody came after all."""
        whole = self._path + ".whole"
        if os.path.exists(self._path):
            self._write(self._package, whole)
            if self._has_room(0) or not os.path.exists(self._path):
                self._forget(whole)
            else:
                os.replace(whole, self._path)
        if self._has_room(0):
            return False
        self._close()
        return True

    def _close(self) -> None:
        while self._ends:
            os.close(self._ends.pop())

    @staticmethod
    def _forget(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return  # the notebook was quicker


def _views(package: Package) -> Iterator[memoryview]:
    for piece in package.pieces():
        yield memoryview(piece).cast("B")


def _widened(fd: int) -> int:
    """Have a pipe hold more; returns how much it holds."""
    import fcntl

    try:
        return fcntl.fcntl(fd, _F_SETPIPE_SZ, _CAPACITY)
    except OSError:
        return fcntl.fcntl(fd, _F_GETPIPE_SZ)  # it is only smaller then


def offer(package: Package, path: str, write: Callable[[Package, str], None]) -> bool:
    """Have a package handed over when the running cell has ended well; False where that is impossible."""
    if package.size < LEAST:
        return False
    try:
        _pending.append(Offer(package, path, write))
    except OSError:
        return False
    return True


def settle(command: int, well: bool) -> None:
    """Hand over what the cell that has just ended offered; or when it did not end well, let go of it."""
    if not _pending:
        return
    import signal

    # The cell may have chosen to die of a pipe that breaks.
    before: Any = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        while _pending:
            made = _pending.pop(0)
            if well:
                made.hand_over(command)
            else:
                made.drop()
    finally:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL if before is None else before)
