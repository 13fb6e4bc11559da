"""One operation in a sandbox as the engine sees it, and those that last: transfers and terminals."""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import wire
from .answers import PtyExit, ToolboxError, integer, protocol_errors, remote_error, text
from .pump import Pump
from .wire import CHUNK, DATA, END, JSON, Frame, Wire, WireError

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

#: Seconds a toolbox may be silent where it has nothing to wait for.
ANSWER_TIMEOUT = 60.0
#: ioctl that only the master side of a pseudo-terminal answers (its number).
_TIOCGPTN = 0x80045430
#: After this many frames the loop gets its turn, even if more are there already.
_FRAMES_PER_TURN = 64


class Operation:
    """One running operation: a wire plus the rules for reading answers from it. Use as a context manager."""

    def __init__(self, connection: Wire, broken_off: Callable[[], Awaitable[ToolboxError]]) -> None:
        self._broken_off = broken_off
        self._frames = 0
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
        frame = await self.within(self.wire.receive(), timeout)
        if frame is None:
            raise await self._broken_off()
        try:
            self._check(frame)
            self._frames += 1
            if self._frames % _FRAMES_PER_TURN == 0:
                # Frames that are buffered come without waiting; a flood of tiny ones must not own the loop.
                await asyncio.sleep(0)
        except BaseException:
            wire.close_fds(frame.fds)
            raise
        return frame

    def _check(self, frame: Frame) -> None:
        """Raise what an error answer says, and WireError for frames that carry nothing."""
        if frame.type == DATA and not frame.payload:
            raise WireError("a piece of data is empty")
        if frame.type == JSON:
            answer = wire.parse_json(frame.payload)
            if "error" in answer:
                raise remote_error(answer["error"])

    async def within(self, work: Awaitable[T], timeout: float | None = ANSWER_TIMEOUT) -> T:
        """Wait for the toolbox to do something. Raises ToolboxError 504 after `timeout` seconds."""
        with _patience(timeout):
            return await asyncio.wait_for(work, timeout)

    async def head_of_data(self) -> int:
        """The size of the next piece of data, which is still to be read; 0 for the end of data.

        Raises as `frame` does.
        """
        # There are thousands of them: none gets a task of its own.
        with _patience(ANSWER_TIMEOUT):
            head = await self.wire.receive_head(ANSWER_TIMEOUT)
        if head is None:
            raise await self._broken_off()
        kind, size = head
        if kind == DATA and size:
            return size
        payload = await self.within(self.wire.payload(size))
        self._check(Frame(kind, payload))
        if kind != END:
            raise WireError("data was expected and something else came")
        return 0

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


@contextlib.contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    """Say in a ToolboxError that the toolbox was silent for too long."""
    try:
        yield
    except asyncio.TimeoutError:
        message = f"the sandbox did not answer in {seconds:g} s"
        raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None


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


class Transfer:
    """A file on its way into or out of a sandbox. Close it (``async with``)."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop. A file that was being written is not there then."""
        self._operation.wire.close()


class Upload(Transfer):
    """A file being written: give it bytes, then `finish`; it appears whole then, or not at all."""

    _interrupted = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send some bytes."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            await self._operation.send(DATA, view[start : start + CHUNK])

    async def pass_on(self, pump: Pump, count: int) -> None:
        """Send the `count` bytes that `pump` has taken, at most `pump.PIECE`.

        Raises ToolboxError with the sandbox's reason when it has stopped reading.
        """
        connection = self._operation.wire
        try:
            await asyncio.wait_for(connection.send_head(count), ANSWER_TIMEOUT)
            await asyncio.wait_for(pump.give(connection.fileno(), count), ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            message = f"the sandbox took nothing for {ANSWER_TIMEOUT:g} s"
            raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None
        except ConnectionError:
            with protocol_errors():
                await self._operation.answer()
                raise WireError("it stopped reading") from None

    @contextlib.contextmanager
    def watched(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Inside, `interrupt` is called once when the sandbox ends, or says something before it has it all.

        Whoever waits for more of the file then need not; `check` tells why.
        """
        loop, fd = asyncio.get_running_loop(), self._operation.wire.fileno()

        def once() -> None:
            loop.remove_reader(fd)
            self._interrupted = True
            interrupt()

        loop.add_reader(fd, once)
        try:
            yield
        finally:
            loop.remove_reader(fd)

    async def check(self) -> None:
        """Raise why the sandbox takes no more; nothing when it does."""
        if self._interrupted:
            with protocol_errors():
                await self._operation.answer()
                raise WireError("it stopped reading")

    async def finish(self) -> int:
        """Have the file appear; returns its size in bytes. Raises ToolboxError 507, 403, 400."""
        await self._operation.send(END, b"")
        with protocol_errors():
            return integer(await self._operation.answer(), "size", 0, 1 << 62)


class Download(Transfer):
    """A file being read: ``size`` in bytes, then its bytes by ``async for`` or `pieces`."""

    def __init__(self, operation: Operation, size: int) -> None:
        super().__init__(operation)
        self.size = size

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

    async def pieces(self, pump: Pump) -> AsyncIterator[tuple[bytes, int]]:
        """Some bytes, or the number of bytes that `pump` has taken; together exactly ``size`` bytes.

        Raises as ``async for`` does.
        """
        connection, left = self._operation.wire, self.size
        with protocol_errors():
            while True:
                count = await self._operation.head_of_data()
                if not count and not left:
                    return
                if not 0 < count <= left:
                    raise WireError("a file's bytes do not match its size")
                left -= count
                while count:
                    data = connection.buffered(count)
                    with _patience(ANSWER_TIMEOUT):
                        taken = len(data) or await pump.take(connection.fileno(), count, ANSWER_TIMEOUT)
                    if not taken:
                        raise WireError("the stream ended in the middle of a frame")
                    count -= taken
                    yield data, taken
                # Others have their turn, also while both ends are always ready.
                await asyncio.sleep(0)


class PtyProcess:
    """A program on a terminal.

    Attributes: ``master`` (descriptor to wait on; close it with `close`), ``pid_inside``. At the end of the
    program `read` raises OSError EIO.

    Read and write with `read` and `write` only: non-blocking is a flag of the open file, which a toolbox that
    kept its descriptor shares and could clear to have the engine wait for it. (The master cannot be opened a
    second time: that makes another terminal.)
    """

    def __init__(self, operation: Operation, master: int, pid_inside: int) -> None:
        self._operation = operation
        self.master = master
        self.pid_inside = pid_inside
        self._poller = select.poll()
        self._tampered = False
        self._exit = asyncio.ensure_future(self._watch())
        # An exit nobody asks about is no error.
        self._exit.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _watch(self) -> PtyExit:
        with protocol_errors():
            answer = await self._operation.answer(None)
            return PtyExit(integer(answer, "exit_code", -1, 255), text(answer, "reason", 1000))

    def read(self, size: int) -> bytes:
        """What the terminal shows, up to `size` bytes, without waiting.

        Raises BlockingIOError when there is nothing now, and OSError EIO at the end of the terminal and when
        the sandbox has meddled with it.
        """
        self._ready(select.POLLIN)
        return os.read(self.master, size)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Type `data` without waiting; returns how many bytes were taken.

        Raises BlockingIOError when nothing can be taken now, and OSError EIO as `read` does.
        """
        self._ready(select.POLLOUT)
        return os.write(self.master, data)

    def _ready(self, event: int) -> None:
        """Raise unless `event` is there now and the terminal is as the engine set it up."""
        if self._tampered or self.master < 0:
            raise OSError(errno.EIO, "the terminal is closed")
        self._poller.register(self.master, event)
        if not self._poller.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if os.get_blocking(self.master):
            # The toolbox never does this by itself; a second chance would be a second try.
            self._tampered = True
            raise OSError(errno.EIO, "the sandbox has changed its terminal's mode")

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
