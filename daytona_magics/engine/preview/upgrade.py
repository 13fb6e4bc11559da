"""WebSockets: the handshake is carried like any request, what follows is bytes, both ways.

Messages are not looked at, so their size, compression, fragments, pings and close codes are whatever the two
ends agree on, and no message is ever held in memory. Only WebSockets are passed: another protocol would be
another way to send requests past the headers' rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any, cast
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict, CIMultiDictProxy

from daytona_magics.engine.launch.sandbox import SandboxProcess
from daytona_magics.engine.preview.forward import Outward, begin, unreachable
from daytona_magics.engine.proxy import http1
from daytona_magics.engine.tasks import until_one_ends
from daytona_magics.engine.toolbox.client import ToolboxError
from daytona_magics.engine.toolbox.connection_client import connect

#: Most WebSockets of one sandbox.
MAX_SOCKETS = 100
#: Bytes of a client that wait for the server before the client is read no further.
MAX_WAITING = 256 << 10
#: Seconds for the server's answer to begin, and to be whole.
ANSWER_SECONDS = 60.0
MAX_INTERIM = 20
_LINE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


def is_websocket(request: web.BaseRequest) -> bool:
    """Whether a request wants to become a WebSocket."""
    words = {word.strip().lower() for word in request.headers.get("Connection", "").split(",")}
    return request.headers.get("Upgrade", "").strip().lower() == "websocket" and "upgrade" in words


class Upgrader:
    """Carries WebSockets to running sandboxes."""

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[SandboxProcess, int] = WeakKeyDictionary()

    async def carry(
        self,
        request: web.Request,
        process: SandboxProcess,
        port: int,
        target: str,
        headers: CIMultiDict[str],
        outward: Outward,
    ) -> web.StreamResponse:
        """Connect the client with the server on `port`; a server that refuses has its answer passed on.

        Raises ToolboxError 502 as `Forwarder.http`, and 503 with too many WebSockets.
        """
        if self._open.get(process, 0) >= MAX_SOCKETS:
            raise ToolboxError(503, "SERVICE_UNAVAILABLE", f"this sandbox has {MAX_SOCKETS} open WebSockets")
        self._open[process] = self._open.get(process, 0) + 1
        try:
            sock, operation = await connect(process.toolbox, port)
            with sock, contextlib.closing(operation.wire):
                far = http1.Wire(sock)
                try:
                    answer = await _ask(far, request, target, headers)
                except (OSError, http1.Malformed) as error:
                    raise unreachable(port, error) from error
                return await _answer(request, far, answer, outward)
        finally:
            self._open[process] -= 1


async def _ask(
    far: http1.Wire, request: web.Request, target: str, headers: CIMultiDict[str]
) -> http1.Response:
    """Send the handshake; the server's answer. Raises ToolboxError 400, Malformed, OSError."""
    lines = [(_bytes(name), _bytes(value)) for name, value in headers.items()]
    lines += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    first = _bytes(f"GET {target} HTTP/1.1")
    if request.method != "GET" or request.body_exists or first.count(b" ") != 2:
        raise ToolboxError(400, "BAD_REQUEST", "a WebSocket begins with a GET without a body")
    await far.send(http1.write_head(first, lines))
    for _ in range(MAX_INTERIM):
        head = await far.head(ANSWER_SECONDS, ANSWER_SECONDS)
        if head is None:
            raise http1.Malformed(502, "the server closed the connection, or did not answer in time")
        answer = http1.parse_response(head)
        if answer.status == 101 or answer.status >= 200:
            return answer
    raise http1.Malformed(502, "the server sends interim answers without end")


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if not _LINE.match(data):
        raise ToolboxError(400, "BAD_REQUEST", "a header holds a control character")
    return data


async def _answer(
    request: web.Request, far: http1.Wire, answer: http1.Response, outward: Outward
) -> web.StreamResponse:
    named = [(n.decode("latin-1"), v.decode("utf-8", "surrogateescape")) for n, v in answer.headers]
    headers = CIMultiDictProxy(CIMultiDict(named))
    if answer.status == 101:
        lines = [(_bytes(name), _bytes(value)) for name, value in outward(headers).items()]
        lines += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        await request.writer.write(http1.write_head(b"HTTP/1.1 101 Switching Protocols", lines))
        await _tunnel(request, far)
        return _Over()
    try:
        body = http1.response_body(answer, b"GET")
    except http1.Malformed as error:
        raise ToolboxError(502, "BAD_GATEWAY", error.message) from error
    response = await begin(request, answer.status, answer.reason.decode("latin-1"), headers, outward)
    try:
        async for piece in far.body(body):
            await response.write(piece)
        await response.write_eof()
    except (http1.Malformed, OSError):
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionError("the server in the sandbox broke its answer off") from None
    return response


class _Over(web.StreamResponse):
    """Everything has been said: nothing is sent, and the connection is closed."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Inbox:
    """Takes a client's bytes from aiohttp's connection, in place of a parser; gives them to the server."""

    def __init__(self, transport: asyncio.Transport, sink: http1.Wire) -> None:
        self._transport, self._sink = transport, sink
        self._waiting = bytearray()
        self._ended = False
        self._news = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._waiting += data
        if len(self._waiting) > MAX_WAITING:
            self._transport.pause_reading()
        self._news.set()
        return False, b""

    def feed_eof(self) -> None:
        self._ended = True
        self._news.set()

    async def empty(self) -> None:
        """Pass on what comes until the client ends."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                data = bytes(self._waiting)
                self._waiting.clear()
                await self._sink.send(data)
                if not self._transport.is_closing():
                    self._transport.resume_reading()
            if self._ended:
                self._sink.sock.shutdown(socket.SHUT_WR)
                return


async def _tunnel(request: web.Request, far: http1.Wire) -> None:
    """Carry bytes both ways until one side ends."""
    transport = request.transport
    if transport is None:
        raise ConnectionError("the client has left")
    inbox = _Inbox(transport, far)
    cast(Any, request.protocol).set_parser(inbox)
    await until_one_ends(inbox.empty(), _outbox(request, far))


async def _outbox(request: web.Request, far: http1.Wire) -> None:
    writer = request.writer
    while data := await far.piece():
        await writer.write(data)
        await writer.drain()
        # Reading and writing what is ready lets nobody else run.
        await asyncio.sleep(0)
