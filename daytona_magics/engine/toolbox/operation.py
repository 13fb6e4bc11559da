"""One operation in a sandbox as the engine sees it, and the two that last: downloads and terminals."""

import asyncio
import contextlib
import fcntl
import os
import stat
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

from . import wire
from .answers import PtyExit, ToolboxError, integer, protocol_errors, remote_error, text
from .wire import CHUNK, DATA, END, JSON, Frame, Wire, WireError

#: Seconds a toolbox may be silent where it has nothing to wait for.
ANSWER_TIMEOUT = 60.0
#: ioctl that only the master side of a pseudo-terminal answers (its number).
_TIOCGPTN = 0x80045430


class Operation:
    """One running operation: a wire plus the rules for reading answers from it. Use as a context manager."""

    def __init__(self, connection: Wire, broken_off: Callable[[], Awaitable[ToolboxError]]) -> None:
        self._broken_off = broken_off
        self.wire = connection

    def __enter__(self) -> "Operation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()

    async def frame(self, timeout: float | None = ANSWER_TIMEOUT) -> Frame:
        """The next frame; error answers are raised as ToolboxError.

        Raises ToolboxGone when the sandbox ends, ToolboxError 504 after `timeout` seconds of silence and
        ToolboxError 502 when the toolbox breaks the protocol.
        """
        try:
            frame = await asyncio.wait_for(self.wire.receive(), timeout)
        except asyncio.TimeoutError:
            raise ToolboxError(
                504, "REQUEST_TIMEOUT", f"the sandbox did not answer in {timeout:g} s"
            ) from None
        if frame is None:
            raise await self._broken_off()
        if frame.type == JSON:
            answer = wire.parse_json(frame.payload)
            if "error" in answer:
                wire.close_fds(frame.fds)
                raise remote_error(answer["error"])
        return frame

    async def answer(self, timeout: float | None = ANSWER_TIMEOUT) -> dict[str, Any]:
        """The next frame, which must be a message."""
        frame = await self.frame(timeout)
        if frame.fds or frame.type != JSON:
            wire.close_fds(frame.fds)
            raise WireError("a message was expected and something else came")
        return wire.parse_json(frame.payload)

    async def send(self, kind: bytes, payload: bytes | memoryview) -> None:
        """Send a frame. A peer that stopped reading early is no error here: its answer says why."""
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(self.wire.send(kind, payload), ANSWER_TIMEOUT)

    async def send_bytes(self, data: bytes) -> None:
        """Send `data` as D frames and then an E frame."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            await self.send(DATA, view[start : start + CHUNK])
        await self.send(END, b"")


def side(value: int) -> int:
    """A terminal's width or height as the kernel can store it."""
    return min(max(int(value), 1), 65535)


def is_pty_master(fd: int) -> bool:
    """Is `fd` the master side of a pseudo-terminal, and nothing a sandbox could put in its place?"""
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(5, 2):
        return False
    try:
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True


class Download:
    """A file being read: ``size`` in bytes, then its bytes by ``async for``. Close it (``async with``)."""

    def __init__(self, operation: Operation, size: int) -> None:
        self._operation = operation
        self.size = size

    async def __aenter__(self) -> "Download":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._operation.wire.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks, together exactly ``size`` bytes.

        Raises ToolboxError 500 FILE_READ_FAILED when the file shrank meanwhile.
        """
        left = self.size
        with protocol_errors():
            while True:
                frame = await self._operation.frame()
                wire.close_fds(frame.fds)
                if frame.type == END and not left:
                    return
                if frame.type != DATA or not 0 < len(frame.payload) <= left:
                    raise WireError("a file's bytes do not match its size")
                left -= len(frame.payload)
                yield frame.payload


class PtyProcess:
    """A program on a terminal.

    Attributes: ``master`` (non-blocking descriptor; close it with `close`), ``pid_inside``. At the end of the
    program reading ``master`` gives EIO.
    """

    def __init__(self, operation: Operation, master: int, pid_inside: int) -> None:
        self._operation = operation
        self.master = master
        self.pid_inside = pid_inside
        self._exit = asyncio.ensure_future(self._watch())
        # An exit nobody asks about is no error.
        self._exit.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _watch(self) -> PtyExit:
        with protocol_errors():
            answer = await self._operation.answer(None)
            return PtyExit(integer(answer, "exit_code", -1, 255), text(answer, "reason", 1000))

    def resize(self, cols: int, rows: int) -> None:
        """Set the terminal's size; its foreground program gets SIGWINCH."""
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", side(rows), side(cols), 0, 0))

    async def wait(self) -> PtyExit:
        """Return when the program ended. Raises ToolboxGone if the sandbox ended first."""
        return await asyncio.shield(self._exit)

    async def kill(self) -> None:
        """Kill the program's process group (SIGKILL) and wait for its end. Idempotent."""
        if not self._exit.done():
            with contextlib.suppress(OSError):
                await self._operation.wire.send_json({"kill": True})
            with contextlib.suppress(ToolboxError):
                await self.wait()

    def close(self) -> None:
        """Hang up: close the terminal and let go of the program, which is killed. Idempotent."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
        if self._exit.done():
            self._operation.wire.close()
        else:
            self._exit.add_done_callback(lambda _: self._operation.wire.close())
            self._exit.cancel()
