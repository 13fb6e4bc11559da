"""A terminal that several WebSockets may share.

The engine owns the master side. A reader on the event loop takes what is there, up to 32 KiB at a time and a
bounded number of reads per wakeup, and appends each read to the queue of every client; queued reads are
joined into frames of at most 32 KiB. A client that takes what it is sent gets them at once; one that does not
has a writer that waits for it. A client 256 reads behind is closed as a slow consumer; the terminal and its
program live on. Input that the terminal does not take at once waits in a buffer, and a
client whose input waits is not read further (back-pressure).

The end comes from the program: when it has exited, what is left in the terminal is read, every client gets
it, then the control message (if it asked for one) and a close frame whose reason carries the exit code.
"""

from __future__ import annotations

import asyncio
import errno
import json
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import WSCloseCode, web

from daytona_magics.engine.api.models import rfc3339
from daytona_magics.engine.log import log
from daytona_magics.engine.toolbox.client import PtyExit, PtyProcess, ToolboxError

READ_SIZE = 32 << 10
READS_PER_WAKEUP = 16
#: A read of fewer bytes most likely took all there was.
SHORT_READ = 1024
MAX_BEHIND = 256
MAX_INPUT = 1 << 20
PING_SECONDS = 20.0
MAX_REASON = 123


def control(status: str, **more: object) -> str:
    """A control message of a terminal WebSocket."""
    return json.dumps({"type": "control", "status": status, **more})


def exit_reason(end: PtyExit) -> bytes:
    """The close reason: JSON of at most 123 bytes, the most a close frame holds.

    Example:
        >>> exit_reason(PtyExit(0, ""))
        b'{"exitCode": 0}'
    """
    reason = end.reason
    while True:
        value: dict[str, Any] = {"exitCode": end.exit_code}
        if reason:
            value["exitReason"] = reason
        data = json.dumps(value, ensure_ascii=False).encode()
        if len(data) <= MAX_REASON:
            return data
        reason = reason[: len(reason) - max(1, (len(data) - MAX_REASON) // 4)]


def binary_frame(data: bytes) -> bytes:
    """A server's WebSocket message of bytes (RFC 6455: final, binary, not masked).

    Example:
        >>> binary_frame(b"ok")
        b'\\x82\\x02ok'
    """
    size = len(data)
    if size < 126:
        return bytes((0x82, size)) + data
    if size < 1 << 16:
        return struct.pack(">BBH", 0x82, 126, size) + data
    return struct.pack(">BBQ", 0x82, 127, size) + data


class Watcher(Protocol):
    """Somebody who is told what a terminal prints, and its end."""

    def push(self, reads: Sequence[bytes]) -> None: ...

    def finish(self, end: PtyExit) -> None: ...


class PtyClient:
    """One WebSocket on a terminal.

    Args:
        transport: what carries ``ws``, which does not compress.
        wants_exit: the client asked for the control message at the end.
    """

    def __init__(
        self, ws: web.WebSocketResponse, transport: asyncio.WriteTransport | None, wants_exit: bool
    ) -> None:
        self.ws = ws
        self._transport = transport
        self._greeted = False
        self._wants_exit = wants_exit
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._end: PtyExit | None = None
        self._slow = False
        self._task: asyncio.Task[None] | None = None

    def push(self, reads: Sequence[bytes]) -> None:
        """Queue reads and send what is taken at once; too many and the client is given up."""
        if self._slow:
            return
        self._queue.extend(reads)
        self._send_now()
        if not self._queue:
            return
        self._wake.set()
        if len(self._queue) > MAX_BEHIND:
            self._slow = True
            self._queue.clear()
            # The sender is most likely waiting for this client to take bytes.
            if self._task is not None:
                self._task.cancel()

    def _send_now(self) -> None:
        """Send frames as long as the connection takes them whole, without a switch to another task."""
        transport = self._transport
        if transport is None or not self._greeted or self.ws.closed:
            return
        while self._queue and not transport.is_closing() and not transport.get_write_buffer_size():
            transport.write(binary_frame(self._next_frame()))

    def finish(self, end: PtyExit) -> None:
        """The program ended: send what is queued, then close."""
        self._end = end
        self._wake.set()

    @property
    def is_closing(self) -> bool:
        """Whether the close frame comes from this side."""
        return self._slow or self._end is not None

    async def run(self) -> None:
        """Send until the terminal ends or the client is too slow; then close the WebSocket."""
        self._task = asyncio.current_task()
        try:
            await self._send_all()
        except asyncio.CancelledError:
            if not self._slow:
                raise
            if self._task is not None and sys.version_info >= (3, 11):
                self._task.uncancel()
        if self._slow:
            log.warning("a terminal client was more than %d reads behind and was closed", MAX_BEHIND)
            await self.ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"slow consumer", drain=False)
        elif self._end is not None:
            await self._say_goodbye(self._end)

    async def _send_all(self) -> None:
        await self.ws.send_str(control("connected"))
        self._greeted = True
        while not self._slow:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self.ws.send_bytes(self._next_frame())
            if self._end is not None:
                return

    def _next_frame(self) -> bytes:
        first = self._queue.popleft()
        if not self._queue or len(first) + len(self._queue[0]) > READ_SIZE:
            return first
        parts, size = [first], len(first)
        while self._queue and size + len(self._queue[0]) <= READ_SIZE:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    async def _say_goodbye(self, end: PtyExit) -> None:
        if self._wants_exit:
            more = {"exitReason": end.reason} if end.reason else {}
            await self.ws.send_str(control("exited", exitCode=end.exit_code, **more))
        code = WSCloseCode.OK if end.exit_code == 0 else WSCloseCode.INTERNAL_ERROR
        await self.ws.close(code=code, message=exit_reason(end))


class PtySession:
    """A terminal: its size, its program, its clients.

    Args:
        session_id: the client's name for it.
        start: coroutine function that opens the terminal with (cols, rows).
        on_end: called once, when it ended.

    Attributes:
        handed: the offer by which it went to a program that was running, "" when its program is a shell.
    """

    def __init__(
        self,
        session_id: str,
        *,
        cwd: str,
        envs: dict[str, str],
        cols: int,
        rows: int,
        lazy: bool,
        start: Callable[[int, int], Any],
        on_end: Callable[[], None],
    ) -> None:
        self.id = session_id
        self._cwd, self._envs, self._cols, self._rows, self._lazy = cwd, envs, cols, rows, lazy
        self._start, self._on_end = start, on_end
        self._created = time.time()
        self._process: PtyProcess | None = None
        self._clients: set[Watcher] = set()
        self._input = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._start_lock = asyncio.Lock()
        self._reading = self._held = self._writing = False
        self._watcher: asyncio.Task[None] | None = None
        self.end: PtyExit | None = None
        self.handed = ""

    def as_json(self) -> dict[str, Any]:
        """The SDK's ``PtySessionInfo``."""
        return {
            "id": self.id,
            "cwd": self._cwd,
            "envs": self._envs,
            "cols": self._cols,
            "rows": self._rows,
            "createdAt": rfc3339(self._created),
            "active": self._process is not None and self.end is None,
            "lazyStart": self._lazy,
        }

    async def start(self) -> None:
        """Start the program if it does not run yet.

        Raises:
            ToolboxError: it cannot be started.
        """
        async with self._start_lock:
            if self._process is not None or self._is_over():
                return
            process: PtyProcess = await self._start(self._cols, self._rows)
            if self._is_over():
                # Killed or closed meanwhile; nobody else knows of the program that has just come.
                process.close()
                return
            self._process = process
            # The size may have been changed meanwhile.
            process.resize(self._cols, self._rows)
            asyncio.get_running_loop().add_reader(self._process.master, self._read)
            self._reading = True
            self._watcher = asyncio.create_task(self._watch(self._process))

    def hold(self, held: bool) -> None:
        """Read no further what the program prints, so that it waits; or go on."""
        if self._process is None or self.end is not None or self._held == held:
            return
        self._held = held
        if held:
            self._stop_reading()
        else:
            asyncio.get_running_loop().add_reader(self._process.master, self._read)
            self._reading = True

    def _is_over(self) -> bool:
        return self.end is not None

    def attach(self, client: Watcher) -> None:
        """From now on ``client`` gets what the terminal prints."""
        self._clients.add(client)
        if self.end is not None:
            client.finish(self.end)

    def detach(self, client: Watcher) -> None:
        """``client`` went away; the program lives on."""
        self._clients.discard(client)

    def resize(self, cols: int, rows: int) -> None:
        """Change the size; the program gets SIGWINCH."""
        self._cols, self._rows = cols, rows
        if self._process is not None and self.end is None:
            self._process.resize(cols, rows)

    async def write(self, data: bytes) -> None:
        """Type ``data``; waits while more than 1 MiB has not been taken by the terminal."""
        await self._room.wait()
        if self._process is None or self.end is not None:
            return
        self._input += data
        self._flush()

    def _flush(self) -> None:
        if self._process is None or self.end is not None:
            return
        loop, master = asyncio.get_running_loop(), self._process.master
        try:
            while self._input:
                written = self._process.write(self._input[:READ_SIZE])
                del self._input[:written]
        except BlockingIOError:
            loop.add_writer(master, self._flush)
            self._writing = True
            if len(self._input) >= MAX_INPUT:
                self._room.clear()
            else:
                self._room.set()
            return
        except OSError:
            self._input.clear()
        if self._writing:
            self._writing = False
            loop.remove_writer(master)
        self._room.set()

    def _read(self) -> None:
        if not self._read_some(READS_PER_WAKEUP, SHORT_READ):
            self._stop_reading()

    def _read_some(self, times: int, enough: int = 0) -> bool:
        """Pass on up to ``times`` reads; False when the terminal has been closed by everybody inside.

        ``enough``: a read of fewer bytes is the last one; what there still is wakes the reader again.
        """
        if self._process is None:
            return False
        reads: list[bytes] = []
        there = True
        while len(reads) < times and not (reads and len(reads[-1]) < enough):
            try:
                data = self._process.read(READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                # EIO is a terminal's end of file.
                if error.errno != errno.EIO:
                    log.warning("reading a terminal failed: %s", error)
                there = False
                break
            if not data:
                there = False
                break
            reads.append(data)
        for client in self._clients if reads else ():
            client.push(reads)
        return there

    def _stop_reading(self) -> None:
        if self._reading and self._process is not None:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._process.master)

    async def _watch(self, process: PtyProcess) -> None:
        try:
            end = await process.wait()
        except ToolboxError:
            # The sandbox was stopped: its processes were killed.
            end = PtyExit(137, "the sandbox was stopped")
        self._stop_reading()
        # What the program printed last; a child that keeps printing does not keep the terminal open.
        self._read_some(64)
        self._finish(end)

    def _finish(self, end: PtyExit) -> None:
        if self.end is not None:
            return
        self.end = end
        self._room.set()
        if self._process is not None:
            self._stop_reading()
            asyncio.get_running_loop().remove_writer(self._process.master)
            self._process.close()
        for client in self._clients:
            client.finish(end)
        self._on_end()

    async def kill(self) -> None:
        """Kill the program; clients see exit code 137."""
        if self._process is None:
            self._finish(PtyExit(137, "killed before it was started"))
            return
        await self._process.kill()
        if self._watcher is not None:
            await self._watcher

    async def close(self) -> None:
        """The sandbox is gone: tell the clients and let go."""
        if self._watcher is not None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._watcher), 2.0)
        self._finish(PtyExit(137, "the sandbox was stopped"))
