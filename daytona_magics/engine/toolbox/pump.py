"""Moving the bytes of a file from one descriptor to another without looking at them.

The kernel moves them: ``splice`` takes what a socket has into a pipe and gives it on to a socket or a file,
as references to the same memory, so that a gigabyte costs a process hardly any time and no memory. Where the
kernel refuses (gVisor does), or somebody wants to see the bytes, they pass through a buffer of this process
instead; both ways take and give the same pieces. Standard library only: the toolbox uses this too.
"""

import contextlib
import errno
import fcntl
import os

from . import wire

#: Most bytes of one piece: the size of the pipe that is asked for, and of a frame.
PIECE = wire.MAX_FRAME
#: Bytes of the buffer that is used instead of a pipe.
_BUFFER = 256 << 10
_F_SETPIPE_SZ = 1031
_SPLICE_MOVE, _SPLICE_NONBLOCK = 1, 2
_REFUSED = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)


class Pump:
    """Takes a piece from one descriptor, and gives it to another, in turns. Use as a context manager.

    Args:
        seen: the bytes pass through memory, where `view` shows them.

        with Pump() as pump:
            while count := await pump.take(source, pump.PIECE):
                await pump.give(target, count)
    """

    def __init__(self, seen: bool = False) -> None:
        self._buffer: memoryview | None = None
        self._read = self._write = -1
        if seen or not hasattr(os, "splice"):
            self._buffer = memoryview(bytearray(_BUFFER))
        else:
            self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # It is only smaller then.
                fcntl.fcntl(self._write, _F_SETPIPE_SZ, PIECE)

    def __enter__(self) -> "Pump":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the pipe, and of what may be in it. Idempotent."""
        wire.close_fds([fd for fd in (self._read, self._write) if fd >= 0])
        self._read = self._write = -1

    def view(self, count: int) -> memoryview:
        """The last `count` bytes that were taken, where they are `seen`."""
        assert self._buffer is not None
        return self._buffer[:count]

    async def take(self, fd: int, most: int, within: float | None = None) -> int:
        """Wait until the socket `fd` has something, and take up to `most` bytes of it; 0 at its end.

        Raises asyncio.TimeoutError when there is nothing for `within` seconds.
        """
        while True:
            try:
                if self._buffer is not None:
                    return os.readv(fd, [self._buffer[:most]])
                flags = _SPLICE_MOVE | _SPLICE_NONBLOCK
                return os.splice(fd, self._write, min(most, PIECE), flags=flags)
            except BlockingIOError:
                await wire.ready(fd, within=within)
            except OSError as error:
                if self._buffer is not None or error.errno not in _REFUSED:
                    raise
                self._buffer = memoryview(bytearray(_BUFFER))

    async def give(self, fd: int, count: int, within: float | None = None) -> None:
        """Give the `count` bytes that were taken last to the non-blocking socket `fd`.

        Raises asyncio.TimeoutError when it takes nothing for `within` seconds.
        """
        left = count
        while left:
            try:
                left -= self._pass(fd, count - left, left)
            except BlockingIOError:
                await wire.ready(fd, write=True, within=within)

    def store(self, fd: int, count: int) -> None:
        """Write the `count` bytes that were taken last to the file `fd`, where it stands.

        On OSError those that could not be written are gone.
        """
        left = count
        try:
            while left:
                left -= self._pass(fd, count - left, left)
        except OSError:
            self.drop(left)
            raise

    def drop(self, count: int) -> None:
        """Throw away `count` bytes that were taken and not given."""
        while count and self._buffer is None:
            count -= len(os.read(self._read, min(count, _BUFFER)))

    def _pass(self, fd: int, start: int, count: int) -> int:
        if self._buffer is not None:
            return os.write(fd, self._buffer[start : start + count])
        return os.splice(self._read, fd, count, flags=_SPLICE_MOVE)
