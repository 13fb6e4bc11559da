"""The engine's side of a toolbox: asks the program inside a sandbox and checks every answer.

What comes back was made inside the sandbox, so it is data to be doubted: frames are bounded by the wire,
types are checked here, text is made valid Unicode, descriptors must be what they claim to be, and a toolbox
that stops answering or breaks the protocol becomes a `ToolboxError`, never a hang of the engine.

    In : result = await sandbox.toolbox.execute("echo hello")
    Out: ExecuteResult(exit_code=0, output=b"hello\\n")
"""

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import stat
import struct
import termios
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import wire
from .wire import CHUNK, DATA, END, JSON, Frame, Wire, WireError

#: Seconds a toolbox may be silent where it has nothing to wait for.
ANSWER_TIMEOUT = 60.0
#: Most bytes of output kept of one command; the toolbox stops the command at the same limit.
MAX_OUTPUT = 32 << 20
#: Most entries believed of one listing.
MAX_ENTRIES = 200_000

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: ioctl that only the master side of a pseudo-terminal answers (its number).
_TIOCGPTN = 0x80045430
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")


class ToolboxError(Exception):
    """An operation inside a sandbox failed.

    Attributes: ``status`` (HTTP status), ``code`` (Daytona's error code) and ``message`` (one sentence); they
    become the HTTP error body with source DAYTONA_DAEMON.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ToolboxGone(ToolboxError):
    """The sandbox ended before or while the operation ran."""

    def __init__(self, message: str = "the sandbox ended while this operation was running") -> None:
        super().__init__(410, "GONE", message)


@dataclass(frozen=True)
class ExecuteResult:
    """How a command ended: its exit code (128 + n after signal n, -1 if it could not start) and output."""

    exit_code: int
    output: bytes


@dataclass(frozen=True)
class FileInfo:
    """One file as the platform describes it.

    ``mode`` is like ``-rw-r--r--``, ``permissions`` like ``0644``; ``mod_time`` is RFC 3339 in UTC, ``size`` in
    bytes.
    """

    name: str
    path: str
    is_dir: bool
    size: int
    mode: str
    permissions: str
    mod_time: str
    owner: str
    group: str


@dataclass(frozen=True)
class PtyExit:
    """How a terminal's program ended; ``reason`` is empty or says which signal ended it."""

    exit_code: int
    reason: str


def printable(text: str) -> str:
    """`text` with undecodable bytes shown as ``\\xff``, so that it can be written as UTF-8 anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(message: Mapping[str, Any], key: str, limit: int = 65536) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > limit:
        raise WireError(f"{key!r} is missing or not a text")
    try:
        return printable(value)
    except UnicodeEncodeError as error:
        raise WireError(f"{key!r} is not valid text") from error


def _int(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = message.get(key)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{key!r} is missing or out of range")
    return value


def _check_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment as a dict. Raises ToolboxError 400 for a name no shell would accept."""
    for name, value in (env or {}).items():
        if not _ENV_NAME.match(name) or "\0" in value:
            raise ToolboxError(400, "BAD_REQUEST", f"{name!r} is not a valid environment variable")
    return dict(env or {})


def _check_path(path: str) -> str:
    if "\0" in path:
        raise ToolboxError(400, "INVALID_FILE_PATH", "a path cannot contain a NUL character")
    if not path:
        raise ToolboxError(400, "INVALID_FILE_PATH", "a path is required")
    return path


class Operation:
    """One running operation: a wire plus the rules for reading answers from it. Use as a context manager."""

    def __init__(self, toolbox: "Toolbox", connection: Wire) -> None:
        self._toolbox = toolbox
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
            raise await self._toolbox.broken_off()
        if frame.type == JSON:
            answer = wire.parse_json(frame.payload)
            if "error" in answer:
                wire.close_fds(frame.fds)
                raise _remote_error(answer["error"])
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


def _remote_error(error: Any) -> ToolboxError:
    """The ToolboxError described by an ``error`` answer, as far as the answer can be believed."""
    if not isinstance(error, dict):
        raise WireError("an error answer has no description")
    code = _text(error, "code", 64)
    if not _CODE.match(code):
        raise WireError("an error answer has an impossible code")
    return ToolboxError(_int(error, "status", 400, 599), code, _text(error, "message"))


@contextlib.contextmanager
def _protocol_errors() -> Any:
    """Turn a broken protocol into an error that can be shown to a client."""
    try:
        yield
    except WireError as error:
        message = f"the sandbox gave an answer that makes no sense: {error}"
        raise ToolboxError(502, "INTERNAL_SERVER_ERROR", message) from error


class Toolbox:
    """Everything the engine can ask of one running sandbox. Operations may run concurrently.

    All methods raise `ToolboxError`; `ToolboxGone` when the sandbox has ended. Relative paths start at
    ``work_dir``; ``~`` is not expanded.

    Attributes: ``version`` of the toolbox, ``home`` and ``work_dir`` as seen inside, ``shell`` its path.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._gone = asyncio.Event()
        self._send_lock = asyncio.Lock()
        self.version = ""
        self.home = ""
        self.work_dir = ""
        self.shell = ""

    async def handshake(self, timeout: float) -> None:
        """Wait until the program inside says that it is ready.

        Raises ToolboxError (502 or 504) when it says something else or nothing, ToolboxGone when it ended.
        """
        with _protocol_errors():
            try:
                packet = await asyncio.wait_for(wire.recv_packet(self._control), timeout)
            except asyncio.TimeoutError:
                message = f"the sandbox was not ready after {timeout:g} s"
                raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None
            if packet is None:
                raise ToolboxGone("the sandbox ended before it was ready")
            message_, fds = packet
            wire.close_fds(fds)
            if fds or _int(message_, "v", 0, 1 << 16) != wire.VERSION or message_.get("ready") is not True:
                raise WireError("the toolbox did not introduce itself")
            self.version = _text(message_, "version", 64)
            self.home = _text(message_, "home", 4096)
            self.work_dir = _text(message_, "work_dir", 4096)
            self.shell = _text(message_, "shell", 4096)

    def mark_gone(self) -> None:
        """Called by the launcher when the sandbox has ended: nothing more can be asked."""
        if not self._gone.is_set():
            self._gone.set()
            self._control.close()

    async def broken_off(self) -> ToolboxError:
        """The error for an operation whose stream just ended: did the sandbox end, or only the operation?"""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._gone.wait(), 1.0)
        if self._gone.is_set():
            return ToolboxGone()
        return ToolboxError(502, "INTERNAL_SERVER_ERROR", "the sandbox broke the operation off")

    async def begin(self, op: str, **arguments: Any) -> Operation:
        """Start operation `op`: a fresh stream whose first frame is the request."""
        if self._gone.is_set():
            raise ToolboxGone("the sandbox is not running")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = Wire(near)
        try:
            with far:
                async with self._send_lock:
                    await asyncio.wait_for(
                        wire.send_packet(self._control, {"v": wire.VERSION, "op": "open"}, [far.fileno()]),
                        ANSWER_TIMEOUT,
                    )
            request = wire.pack_json({"v": wire.VERSION, "op": op, **arguments})
            if len(request) > wire.MAX_FRAME:
                raise ToolboxError(413, "BAD_REQUEST", "the request is larger than 1 MiB")
            await asyncio.wait_for(connection.send(JSON, request), ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            connection.close()
            raise ToolboxError(504, "REQUEST_TIMEOUT", "the sandbox takes no more requests") from None
        except OSError:
            connection.close()
            raise await self.broken_off() from None
        except BaseException:
            connection.close()
            raise
        return Operation(self, connection)

    # -- commands

    async def execute(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecuteResult:
        """Feed `command` to the sandbox's shell and wait until the shell exits.

        stderr is merged into the output. The shell has a process group of its own; after `timeout` seconds
        (None: no limit) the group is killed and ToolboxError 408 PROCESS_EXECUTION_TIMEOUT raised; above 32
        MiB of output likewise with 413 OUTPUT_TOO_LARGE. Cancelling kills the group as well. A background
        child that keeps the output open does not delay the answer. A blank command is ToolboxError 400.

            In : await toolbox.execute("cd /tmp; pwd; exit 3")
            Out: ExecuteResult(exit_code=3, output=b"/tmp\\n")
        """
        if not command.strip():
            raise ToolboxError(400, "BAD_REQUEST", "the command is empty")
        return await self._run({"shell": True}, command.encode("utf-8", "surrogateescape"), cwd, env, timeout)

    async def run_program(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecuteResult:
        """Run `argv` without a shell, `stdin` as its input; otherwise like `execute`.

        In : await toolbox.run_program(["python3", "-c", "print(6 * 7)"])
        Out: ExecuteResult(exit_code=0, output=b"42\\n")
        """
        if not argv or any("\0" in word for word in argv):
            raise ToolboxError(400, "BAD_REQUEST", "a program needs a name, and no NUL in its arguments")
        return await self._run({"argv": argv}, stdin, cwd, env, timeout)

    async def _run(
        self,
        what: dict[str, Any],
        stdin: bytes,
        cwd: str | None,
        env: Mapping[str, str] | None,
        timeout: float | None,
    ) -> ExecuteResult:
        if timeout is not None and timeout <= 0:
            timeout = None
        # The toolbox keeps the time; the engine's own limit is for a toolbox that does not.
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout + ANSWER_TIMEOUT
        operation = await self.begin("execute", **what, cwd=cwd, env=_check_env(env), timeout=timeout)
        with operation, _protocol_errors():
            feeder = asyncio.ensure_future(operation.send_bytes(stdin))
            try:
                output = bytearray()
                while True:
                    left = (
                        None if deadline is None else max(0.1, deadline - asyncio.get_running_loop().time())
                    )
                    frame = await operation.frame(left)
                    wire.close_fds(frame.fds)
                    if frame.type == JSON:
                        code = _int(wire.parse_json(frame.payload), "exit_code", -1, 255)
                        return ExecuteResult(code, bytes(output))
                    output += frame.payload
                    if len(output) > MAX_OUTPUT + CHUNK:
                        raise WireError("more output than was agreed")
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)

    # -- files

    async def list_files(self, path: str, depth: int = 1) -> list[FileInfo]:
        """What is in folder `path`, names sorted, `depth` levels deep (1: the folder itself only).

        Raises ToolboxError 404 FILE_NOT_FOUND, 403 FILE_ACCESS_DENIED, 400 INVALID_FILE_PATH (not a folder)
        or 413 above 200,000 entries.
        """
        with await self.begin("list", path=_check_path(path), depth=depth) as operation, _protocol_errors():
            found: list[FileInfo] = []
            while True:
                answer = await operation.answer()
                entries = answer.get("files")
                if not isinstance(entries, list):
                    return found
                found += [_file_info(entry) for entry in entries]
                if len(found) > MAX_ENTRIES:
                    raise WireError("more files than were agreed")

    async def file_info(self, path: str) -> FileInfo:
        """The file or folder `path` (a symbolic link is followed). Raises ToolboxError 404, 403."""
        with await self.begin("info", path=_check_path(path)) as operation, _protocol_errors():
            return _file_info((await operation.answer()).get("file"))

    async def create_folder(self, path: str, mode: str = "755") -> None:
        """Make folder `path` and its parents; an existing folder is fine.

        `mode` is octal text. Raises ToolboxError 400 for a bad mode or when a file is in the way.
        """
        if not re.fullmatch(r"(0o?)?[0-7]{1,4}", mode):
            raise ToolboxError(400, "BAD_REQUEST", f"{mode!r} is not an octal mode such as 755")
        with (
            await self.begin("mkdir", path=_check_path(path), mode=int(mode.removeprefix("0o"), 8)) as op,
            _protocol_errors(),
        ):
            await op.answer()

    async def delete_file(self, path: str, recursive: bool = False) -> None:
        """Delete the file or (with `recursive`) the folder `path`; a link is deleted, never its target.

        Raises ToolboxError 404, 403, and 400 for a folder without `recursive`.
        """
        with (
            await self.begin("delete", path=_check_path(path), recursive=bool(recursive)) as operation,
            _protocol_errors(),
        ):
            await operation.answer(timeout=600.0)

    async def upload(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Write `chunks` to file `path`; returns its size in bytes.

        Parents are made. The file appears whole (temporary file, then rename) or not at all; an existing
        file keeps its mode. Raises ToolboxError 507 DISK_FULL, 403 FILE_ACCESS_DENIED, 400.
        """
        with await self.begin("upload", path=_check_path(path)) as operation, _protocol_errors():
            await operation.answer()  # The destination can be written.
            async for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), CHUNK):
                    await operation.send(DATA, view[start : start + CHUNK])
            await operation.send(END, b"")
            return _int(await operation.answer(), "size", 0, 1 << 62)

    async def download(self, path: str) -> "Download":
        """Open the regular file `path` for reading.

            In : async with await toolbox.download("data.csv") as file:
                     data = b"".join([chunk async for chunk in file])

        Raises ToolboxError 404, 403, and 400 INVALID_FILE_PATH for folders, FIFOs and devices.
        """
        operation = await self.begin("download", path=_check_path(path))
        try:
            with _protocol_errors():
                return Download(operation, _int(await operation.answer(), "size", 0, 1 << 62))
        except BaseException:
            operation.wire.close()
            raise

    # -- terminals

    async def open_pty(
        self,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        cols: int = 80,
        rows: int = 24,
        command: list[str] | None = None,
    ) -> "PtyProcess":
        """Start `command` (default: the shell) on a new terminal of the sandbox.

        Raises ToolboxError 400 when it cannot start.
        """
        operation = await self.begin(
            "pty", cwd=cwd, env=_check_env(env), cols=_side(cols), rows=_side(rows), argv=command
        )
        fds: tuple[int, ...] = ()
        try:
            with _protocol_errors():
                frame = await operation.frame()
                fds = frame.fds
                if frame.type != JSON or len(fds) != 1 or not _is_pty_master(fds[0]):
                    raise WireError("a terminal was expected and something else came")
                pid = _int(wire.parse_json(frame.payload), "pid", 1, 1 << 31)
            os.set_blocking(fds[0], False)
            return PtyProcess(operation, fds[0], pid)
        except BaseException:
            wire.close_fds(fds)
            operation.wire.close()
            raise


def _side(value: int) -> int:
    """A terminal's width or height as the kernel can store it."""
    return min(max(int(value), 1), 65535)


def _file_info(entry: Any) -> FileInfo:
    if not isinstance(entry, dict) or type(entry.get("is_dir")) is not bool:
        raise WireError("a file's description is incomplete")
    return FileInfo(
        name=_text(entry, "name"),
        path=_text(entry, "path"),
        is_dir=entry["is_dir"],
        size=_int(entry, "size", 0, 1 << 63),
        mode=_text(entry, "mode", 32),
        permissions=_text(entry, "permissions", 8),
        mod_time=_text(entry, "mod_time", 40),
        owner=_text(entry, "owner", 256),
        group=_text(entry, "group", 256),
    )


def _is_pty_master(fd: int) -> bool:
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
        with _protocol_errors():
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
        with _protocol_errors():
            answer = await self._operation.answer(None)
            return PtyExit(_int(answer, "exit_code", -1, 255), _text(answer, "reason", 1000))

    def resize(self, cols: int, rows: int) -> None:
        """Set the terminal's size; its foreground program gets SIGWINCH."""
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", _side(rows), _side(cols), 0, 0))

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
