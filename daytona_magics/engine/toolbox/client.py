"""The engine's side of a toolbox: asks the program inside a sandbox and checks every answer.

What comes back was made inside the sandbox, so it is data to be doubted: frames are bounded by the wire,
types are checked here, text is made valid Unicode, descriptors must be what they claim to be, and a toolbox
that stops answering or breaks the protocol becomes a `ToolboxError`, never a hang of the engine.

    In : result = await sandbox.toolbox.execute("echo hello")
    Out: ExecuteResult(exit_code=0, output=b"hello\\n")
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterable, Mapping
from typing import Any

from . import answers, wire
from .answers import (
    ExecuteResult,
    FileInfo,
    PtyExit,
    ToolboxError,
    ToolboxGone,
    check_env,
    check_path,
    integer,
    protocol_errors,
    text,
)
from .operation import ANSWER_TIMEOUT, Download, Operation, PtyProcess, Upload, side
from .pty_client import give_terminal, started
from .wire import CHUNK, JSON, Wire, WireError

__all__ = [
    "Download",
    "ExecuteResult",
    "FileInfo",
    "PtyExit",
    "PtyProcess",
    "Toolbox",
    "ToolboxError",
    "ToolboxGone",
    "Upload",
]

#: Most bytes of output kept of one command; the toolbox stops the command at the same limit.
MAX_OUTPUT = 32 << 20
#: Operations that carry much.
_WIDE = ("upload", "download")
#: Most entries of one listing.
MAX_ENTRIES = 200_000
#: Most bytes of one listing, as the toolbox sends it.
MAX_LISTING = 32 << 20
#: Seconds one listing may take altogether.
LISTING_TIMEOUT = 120.0


def _too_large(path: str) -> ToolboxError:
    """The refusal of a listing that is larger than anything a client could use."""
    limits = f"{MAX_ENTRIES:,} entries or {MAX_LISTING >> 20} MiB"
    message = f"{path}: the listing has more than {limits}; list its folders one by one"
    return ToolboxError(413, "PAYLOAD_TOO_LARGE", message)


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
        self._held: asyncio.Future[Any] | None = None
        self.version = ""
        self.home = ""
        self.work_dir = ""
        self.shell = ""

    async def handshake(self, timeout: float) -> None:
        """Wait until the program inside says that it is ready.

        Raises ToolboxError (502 or 504) when it says something else or nothing, ToolboxGone when it ended.
        """
        with protocol_errors():
            try:
                packet = await asyncio.wait_for(wire.recv_packet(self._control), timeout)
            except asyncio.TimeoutError:
                message = f"the sandbox was not ready after {timeout:g} s"
                raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None
            if packet is None:
                raise ToolboxGone("the sandbox ended before it was ready")
            message_, fds = packet
            wire.close_fds(fds)
            if fds or integer(message_, "v", 0, 1 << 16) != wire.VERSION or message_.get("ready") is not True:
                raise WireError("the toolbox did not introduce itself")
            self.version = text(message_, "version", 64)
            self.home = text(message_, "home", 4096)
            self.work_dir = text(message_, "work_dir", 4096)
            self.shell = text(message_, "shell", 4096)

    def hold(self, until: "asyncio.Future[Any]") -> None:
        """Have operations wait for `until`; when that fails, none is ever begun."""
        self._held = until

    def mark_gone(self) -> None:
        """Called by the launcher when the sandbox has ended: nothing more can be asked."""
        if not self._gone.is_set():
            self._gone.set()
            # Hanging up wakes whoever waits on the socket; only then may its number be used again.
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            asyncio.get_running_loop().call_later(0.2, self._control.close)

    async def broken_off(self) -> ToolboxError:
        """The error for an operation whose stream just ended: did the sandbox end, or only the operation?"""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._gone.wait(), 1.0)
        if self._gone.is_set():
            return ToolboxGone()
        return ToolboxError(502, "INTERNAL_SERVER_ERROR", "the sandbox broke the operation off")

    async def begin(self, op: str, **arguments: Any) -> Operation:
        """Start operation `op`: a fresh stream whose first frame is the request."""
        if self._held is not None:
            try:
                await asyncio.shield(self._held)
            except Exception as error:
                message = f"the sandbox could not be kept to its limits: {error}"
                raise ToolboxError(503, "INTERNAL_SERVER_ERROR", message) from error
        if self._gone.is_set():
            raise ToolboxGone("the sandbox is not running")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        if op in _WIDE:
            wire.widen(near, far)
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
        return Operation(connection, self.broken_off)

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
        operation = await self.begin("execute", **what, cwd=cwd, env=check_env(env), timeout=timeout)
        with operation, protocol_errors():
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
                        answer = wire.parse_json(frame.payload)
                        code = integer(answer, "exit_code", -1, 255)
                        pid = integer(answer, "pid", 1, 1 << 31) if "pid" in answer else 0
                        return ExecuteResult(code, bytes(output), pid)
                    output += frame.payload
                    if len(output) > MAX_OUTPUT + CHUNK:
                        raise WireError("more output than was agreed")
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)

    # -- files

    async def list_files(self, path: str, depth: int = 1) -> list[FileInfo]:
        """What is in folder `path`, names sorted, `depth` levels deep (1: the folder itself only).

        Raises ToolboxError 404 FILE_NOT_FOUND, 403 FILE_ACCESS_DENIED, 400 INVALID_FILE_PATH (not a folder),
        413 PAYLOAD_TOO_LARGE above 200,000 entries or 32 MiB of descriptions, 504 REQUEST_TIMEOUT after two
        minutes.
        """
        listing = self._list_files(check_path(path), depth)
        try:
            return await asyncio.wait_for(listing, LISTING_TIMEOUT)
        except asyncio.TimeoutError:
            message = f"{path}: listing it takes more than {LISTING_TIMEOUT:g} s"
            raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None

    async def _list_files(self, path: str, depth: int) -> list[FileInfo]:
        found: list[FileInfo] = []
        size = 0
        with await self.begin("list", path=path, depth=depth) as operation, protocol_errors():
            while True:
                frame = await operation.frame()
                wire.close_fds(frame.fds)
                if frame.fds or frame.type != JSON:
                    raise WireError("a message was expected and something else came")
                size += len(frame.payload)
                entries = wire.parse_json(frame.payload).get("files")
                if entries is None:
                    return found
                if not isinstance(entries, list) or not entries:
                    raise WireError("a part of a listing holds no files")
                if size > MAX_LISTING or len(found) + len(entries) > MAX_ENTRIES:
                    raise _too_large(path)
                found += [answers.file_info(entry) for entry in entries]

    async def file_info(self, path: str) -> FileInfo:
        """The file or folder `path` (a symbolic link is followed). Raises ToolboxError 404, 403."""
        with await self.begin("info", path=check_path(path)) as operation, protocol_errors():
            return answers.file_info((await operation.answer()).get("file"))

    async def create_folder(self, path: str, mode: str = "755") -> None:
        """Make folder `path` and its parents; an existing folder is fine.

        `mode` is octal text. Raises ToolboxError 400 for a bad mode or when a file is in the way.
        """
        if not re.fullmatch(r"(0o?)?[0-7]{1,4}", mode):
            raise ToolboxError(400, "BAD_REQUEST", f"{mode!r} is not an octal mode such as 755")
        with (
            await self.begin("mkdir", path=check_path(path), mode=int(mode.removeprefix("0o"), 8)) as op,
            protocol_errors(),
        ):
            await op.answer()

    async def delete_file(self, path: str, recursive: bool = False) -> None:
        """Delete the file or (with `recursive`) the folder `path`; a link is deleted, never its target.

        Raises ToolboxError 404, 403, and 400 for a folder without `recursive`.
        """
        with (
            await self.begin("delete", path=check_path(path), recursive=bool(recursive)) as operation,
            protocol_errors(),
        ):
            await operation.answer(timeout=600.0)

    async def upload(self, path: str, chunks: AsyncIterable[bytes | memoryview]) -> int:
        """Write `chunks` to file `path`; returns its size in bytes.

        Parents are made. The file appears whole (temporary file, then rename) or not at all; an existing
        file keeps its mode. Raises ToolboxError 507 DISK_FULL, 403 FILE_ACCESS_DENIED, 400.
        """
        async with await self.begin_upload(path) as file:
            with protocol_errors():
                async for chunk in chunks:
                    await file.write(chunk)
                return await file.finish()

    async def begin_upload(self, path: str) -> Upload:
        """Open file `path` for writing, in the way and with the errors of `upload`.

        In : async with await toolbox.begin_upload("data.csv") as file:
                 await file.write(b"a,b")
                 await file.finish()
        """
        operation = await self.begin("upload", path=check_path(path))
        try:
            with protocol_errors():
                await operation.answer()  # The destination can be written.
            return Upload(operation)
        except BaseException:
            operation.wire.close()
            raise

    async def download(self, path: str, pipe: int | None = None) -> "Download":
        """Open the regular file `path` for reading; with `pipe` it may be a pipe that gives so many bytes.

            In : async with await toolbox.download("data.csv") as file:
                     data = b"".join([chunk async for chunk in file])

        Raises ToolboxError 404, 403, and 400 INVALID_FILE_PATH for folders, FIFOs and devices.
        """
        more = {"pipe": pipe} if pipe else {}
        operation = await self.begin("download", path=check_path(path), **more)
        try:
            with protocol_errors():
                return Download(operation, integer(await operation.answer(), "size", 0, 1 << 62))
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
        size = {"cols": side(cols), "rows": side(rows)}
        return await self._terminal(
            await self.begin("pty", cwd=cwd, env=check_env(env), argv=command, **size)
        )

    async def hand_over(self, socket: str, patience: float, *, cols: int, rows: int) -> "PtyProcess":
        """Give a new terminal to the program that takes terminals at the path `socket` (see `handing`).

        Raises ToolboxError when nobody does; when somebody still may within `patience` seconds, and does not,
        the terminal ends with exit code 1.
        """
        size = {"cols": side(cols), "rows": side(rows)}
        return await self._terminal(
            await self.begin("hand_over", socket=check_path(socket), patience=patience, **size)
        )

    @staticmethod
    async def _terminal(operation: Operation) -> "PtyProcess":
        """The terminal that an operation makes."""
        master = -1
        try:
            with protocol_errors():
                frame = await operation.frame()
                if frame.type == JSON and not frame.fds and "terminal" in wire.parse_json(frame.payload):
                    master = await give_terminal(operation)
                    frame = await operation.frame()
                elif len(frame.fds) == 1:
                    master = frame.fds[0]
                pid = started(frame, master)
            os.set_blocking(master, False)
            return PtyProcess(operation, master, pid)
        except BaseException:
            wire.close_fds((master,))
            operation.wire.close()
            raise
