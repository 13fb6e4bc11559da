"""Large files straight through: from the client's socket to the sandbox's and back, past the HTTP library.

The library reads a body into objects of this process, piece by piece, and writes one in the same way; for a
gigabyte that takes seconds. Here it reads the head of the request and writes the head of the answer only. The
body is moved by a :class:`~daytona_magics.engine.toolbox.pump.Pump`, on a second descriptor of the same
socket, while the library's own is at rest. For that the size must be known, and nothing of the body may have
been read: who uploads says ``Expect: 100-continue``, and is told to begin when the sandbox has opened the
file. So a refusal costs nothing either. Such a connection is closed after an upload.

A client that names its own end of the connection (``X-Daytona-Magics-From``) learns whether something
between it and the engine relays the bytes. Then they carry a checksum, as TCP's own ends at the relay: four
more bytes at the end of the body. Clients that do not ask, the SDK among them, get what the platform sends.

Such a client may also read a pipe of the sandbox, where it was told how much comes out of it
(``X-Daytona-Magics-Pipe``): what is being written there need not be in a file first.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import zlib
from contextlib import suppress
from types import TracebackType

from aiohttp import web

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.toolbox import wire
from daytona_magics.engine.toolbox.client import Download, Toolbox
from daytona_magics.engine.toolbox.pump import PIECE, Pump

#: The client's end of its connection, as ``address:port``; who sends it speaks as described above.
FROM = "X-Daytona-Magics-From"
#: ``crc32``: the last four bytes of the body are the checksum of those before them, big-endian.
CHECKSUM = "X-Daytona-Magics-Checksum"
TAIL = 4
#: A number of bytes: what is downloaded may be a pipe, from which so many come.
PIPE = "X-Daytona-Magics-Pipe"
#: Files that are smaller go through the library.
LEAST = 128 << 10
#: Seconds without a byte after which a transfer is given up.
STALL = 300.0


def wanted(request: web.BaseRequest) -> bool:
    """Whether the client waits to be told when to send a file of a size it has said."""
    return (
        FROM in request.headers
        and request.headers.get("Expect", "").lower() == "100-continue"
        and request.headers.get("Transfer-Encoding") is None
        and request.content_length is not None
        and request.path.endswith("/files/upload-v2")
    )


def pipe_size(request: web.BaseRequest) -> int | None:
    """How much the client says comes out of a pipe; None when it does not. Raises ApiError 400."""
    said = request.headers.get(PIPE)
    if said is None or FROM not in request.headers:
        return None
    if not re.fullmatch("[1-9][0-9]{0,17}", said):
        raise ApiError(400, f"{PIPE} must be a number of bytes")
    return int(said)


def is_relayed(request: web.BaseRequest) -> bool:
    """Whether the client's end of the connection is not the one that the engine sees."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer is None or request.headers.get(FROM) != f"{peer[0]}:{peer[1]}"


class _Line:
    """A second descriptor of a request's connection, to read and write past the library."""

    def __init__(self, request: web.Request) -> None:
        transport = request.transport
        sock = transport.get_extra_info("socket") if transport is not None else None
        if transport is None or sock is None:
            raise ConnectionResetError("the client left")
        self._transport = transport
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        self.fd = self._sock.fileno()

    def hang_up(self) -> None:
        """Read no more: whoever waits for something from the client finds its end."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def __enter__(self) -> _Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()
        if isinstance(error, asyncio.TimeoutError):
            # A client that is gone without a word must not keep half a file, and the sandbox awake, for ever.
            raise ConnectionResetError("nothing moved any more") from None

    async def flushed(self) -> None:
        """Wait until all that the library has written is on its way."""
        while not self._transport.is_closing() and self._transport.get_write_buffer_size():
            await wire.ready(self.fd, write=True, within=STALL)
        if self._transport.is_closing():
            raise ConnectionResetError("the client left")

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                await wire.ready(self.fd, write=True, within=STALL)

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = os.read(self.fd, size - len(data))
            except BlockingIOError:
                await wire.ready(self.fd, within=STALL)
                continue
            if not piece:
                raise ConnectionResetError("the client left")
            data += piece
        return data


async def upload(request: web.Request, sandbox_id: str, toolbox: Toolbox, limiter: Limiter, path: str) -> int:
    """Write the body of a request that is `wanted` to the file ``path``; returns its size.

    Raises:
        ApiError: 412 when something relays the bytes and they bring no checksum, 422 when it is not theirs.
        ToolboxError: the sandbox's refusal. In each case nothing is at ``path`` that was not there before.
    """
    checked = request.headers.get(CHECKSUM) == "crc32"
    size = (request.content_length or 0) - (TAIL if checked else 0)
    if size < 0 or (is_relayed(request) and not checked):
        raise ApiError(412, "a relay is between this client and the engine: send a checksum along")
    count = await limiter.room_for(sandbox_id)
    async with await toolbox.begin_upload(path) as file:
        assert request.transport is not None and request.protocol is not None
        # The library knows nothing of the body, so it must not wait for it, nor for another request.
        request.content.feed_eof()
        request.protocol.close()
        request.transport.pause_reading()
        with _Line(request) as line, Pump(seen=checked) as pump, file.watched(line.hang_up):
            await line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            left, checksum = size, 0
            while left:
                taken = await pump.take(line.fd, min(left, PIECE), STALL)
                if not taken:
                    await file.check()
                    raise ConnectionResetError("the client left")
                if checked:
                    checksum = zlib.crc32(pump.view(taken), checksum)
                count(taken)
                await file.pass_on(pump, taken)
                left -= taken
            if checked and await line.read(TAIL) != checksum.to_bytes(TAIL, "big"):
                raise ApiError(422, f"{path}: the bytes were changed on their way to the engine")
        return await file.finish()


async def send(request: web.Request, response: web.StreamResponse, file: Download) -> None:
    """Send a file as the whole body of an answer that has no head yet, and end the answer.

    Raises ToolboxError when the file cannot be read to its end; then the connection is of no more use.
    """
    checked = FROM in request.headers and is_relayed(request)
    response.content_length = file.size + (TAIL if checked else 0)
    if checked:
        response.headers[CHECKSUM] = "crc32"
    await response.prepare(request)
    # The head goes with the first bytes of a body, even if they are none.
    await response.write(b"")
    await copy(request, file, checked)
    await response.write_eof()


async def write(request: web.Request, data: bytes) -> None:
    """Send bytes after those of :func:`copy`."""
    with _Line(request) as line:
        await line.write(data)


async def copy(request: web.Request, file: Download, checked: bool = False) -> None:
    """Send a file's bytes to the client, after all that the library has written."""
    checksum = 0
    with _Line(request) as line, Pump(seen=checked) as pump:
        await line.flushed()
        async for data, count in file.pieces(pump):
            if checked:
                checksum = zlib.crc32(data or pump.view(count), checksum)
            if data:
                await line.write(data)
            else:
                await pump.give(line.fd, count, STALL)
        if checked:
            await line.write(checksum.to_bytes(TAIL, "big"))
