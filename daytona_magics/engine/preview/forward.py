"""Carrying one request to a server inside a sandbox, and its answer back; WebSockets too.

Connections are made by the sandbox's toolbox, from inside, so a request reaches that sandbox and nothing
else. What is meant for the engine or for the hop in between is left out in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import ClientTimeout, WSMsgType, web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from daytona_magics.engine.launch.sandbox import SandboxProcess
from daytona_magics.engine.toolbox.answers import protocol_errors
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from daytona_magics.engine.toolbox.operation import Operation

#: Of one connection only (RFC 9110, 7.6.1), beside what ``Connection`` names.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_WEBSOCKET = {
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
}
#: Most connections to one sandbox at once.
MAX_CONNECTIONS = 200
#: Most bytes of one WebSocket message, and most WebSockets of one sandbox: both are held in memory.
MAX_MESSAGE, MAX_SOCKETS = 8 << 20, 64


class _Connector(aiohttp.BaseConnector):
    """Connections to ports of one sandbox, made by its toolbox."""

    def __init__(self, toolbox: Toolbox) -> None:
        super().__init__(limit=MAX_CONNECTIONS, keepalive_timeout=30)
        self._toolbox = toolbox

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: object, timeout: ClientTimeout
    ) -> ResponseHandler:
        sock, operation = await connect(self._toolbox, req.url.port or 80)
        try:
            _, protocol = await self._loop.create_connection(self._factory, sock=sock)
        except BaseException:
            sock.close()
            operation.wire.close()
            raise
        # The operation lasts as long as the connection.
        closed = protocol.closed
        if closed is not None:
            closed.add_done_callback(lambda _: operation.wire.close())
        return protocol


async def connect(toolbox: Toolbox, port: int) -> tuple[socket.socket, Operation]:
    """A connection to `port` in a sandbox: our end, and the operation that ends when it is closed.

    Raises ToolboxError 502 when nothing listens there.
    """
    operation = await toolbox.begin("connect", port=port)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with far, protocol_errors():
            await operation.answer()
            await operation.wire.send_json({}, [far.fileno()])
        with protocol_errors():
            await operation.answer()
        near.setblocking(False)
        return near, operation
    except BaseException:
        near.close()
        operation.wire.close()
        raise


class Forwarder:
    """Forwards requests to running sandboxes."""

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[SandboxProcess, aiohttp.ClientSession] = WeakKeyDictionary()
        self._closing: set[asyncio.Future[None]] = set()
        self._sockets: WeakKeyDictionary[SandboxProcess, int] = WeakKeyDictionary()

    def _session(self, process: SandboxProcess) -> aiohttp.ClientSession:
        session = self._sessions.get(process)
        if session is None:
            session = self._sessions[process] = aiohttp.ClientSession(
                connector=_Connector(process.toolbox),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=ClientTimeout(total=None, sock_connect=20),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
            process.add_exit_callback(lambda _: self._close(session))
        return session

    def _close(self, session: aiohttp.ClientSession) -> None:
        task = asyncio.ensure_future(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        for session in list(self._sessions.values()):
            await session.close()
        await asyncio.gather(*self._closing)

    async def http(
        self,
        request: web.Request,
        process: SandboxProcess,
        target: URL,
        headers: CIMultiDict[str],
        *,
        drop: Iterable[str] = (),
        add: Iterable[tuple[str, str]] = (),
    ) -> web.StreamResponse:
        """Send `request` to `target` with `headers`; its answer without `drop` and with `add`.

        Raises ToolboxError 502 when the server cannot be reached, or says nothing that is HTTP.
        """
        body = request.content if request.body_exists else None
        try:
            answer = await self._session(process).request(
                request.method, target, headers=headers, data=body, allow_redirects=False
            )
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise ToolboxError(502, "BAD_GATEWAY", f"port {target.port} in the sandbox: {error}") from error
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            response.headers.extend(end_to_end(answer.headers, drop))
            for name, value in add:
                response.headers.add(name, value)
            if answer.content_length is None or request.method == "HEAD":
                response.headers.popall("Content-Length", None)
            await response.prepare(request)
            try:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            except (aiohttp.ClientError, OSError):
                # Half an answer must not look like a whole one.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionError("the server in the sandbox broke its answer off") from None
            return response

    async def websocket(
        self, request: web.Request, process: SandboxProcess, target: URL, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        """Connect the client's WebSocket with the one at `target`. Raises ToolboxError as `http`, and 503."""
        if self._sockets.get(process, 0) >= MAX_SOCKETS:
            raise ToolboxError(503, "SERVICE_UNAVAILABLE", f"this sandbox has {MAX_SOCKETS} open WebSockets")
        self._sockets[process] = self._sockets.get(process, 0) + 1
        try:
            return await self._websocket(request, process, target, headers)
        finally:
            self._sockets[process] -= 1

    async def _websocket(
        self, request: web.Request, process: SandboxProcess, target: URL, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        offered = [
            p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()
        ]
        try:
            far = await self._session(process).ws_connect(
                target,
                headers=CIMultiDict((n, v) for n, v in headers.items() if n.lower() not in _WEBSOCKET),
                protocols=offered,
                autoping=False,
                max_msg_size=MAX_MESSAGE,
            )
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise ToolboxError(502, "BAD_GATEWAY", f"port {target.port} in the sandbox: {error}") from error
        async with far:
            chosen = (far.protocol,) if far.protocol else ()
            near = web.WebSocketResponse(
                protocols=chosen, autoping=False, max_msg_size=MAX_MESSAGE, compress=False
            )
            await near.prepare(request)
            carriers = [asyncio.ensure_future(_carry(near, far)), asyncio.ensure_future(_carry(far, near))]
            try:
                await asyncio.wait(carriers, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in carriers:
                    task.cancel()
                await asyncio.gather(*carriers, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await near.close()
            return near


_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _carry(source: _Socket, sink: _Socket) -> None:
    """Pass messages on until `source` closes; then close `sink` with the same code."""
    with contextlib.suppress(ConnectionError):
        while True:
            message = await source.receive()
            if message.type == WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type == WSMsgType.PING:
                await sink.ping(message.data)
            elif message.type == WSMsgType.PONG:
                await sink.pong(message.data)
            else:
                break
        code = source.close_code or 1000
        # Codes that no peer may send.
        await sink.close(code=1000 if code in (1005, 1006, 1015) else code)


def end_to_end(headers: CIMultiDictProxy[str], drop: Iterable[str] = ()) -> CIMultiDict[str]:
    """`headers` without those of one hop and those in `drop` (lower case; a trailing ``*`` for any rest)."""
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    exact = {name for name in drop if not name.endswith("*")} | _HOP_BY_HOP | named
    prefixes = tuple(name[:-1] for name in drop if name.endswith("*"))
    kept = (
        (name, value)
        for name, value in headers.items()
        if name.lower() not in exact and not (prefixes and name.lower().startswith(prefixes))
    )
    return CIMultiDict(kept)
