"""Carrying one request to a server inside a sandbox, and its answer back.

Connections are made by the sandbox's toolbox, from inside, so a request reaches that sandbox and nothing
else. Bodies are passed on piece by piece, as they come; a piece is read when the one before has been taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import ClientTimeout, web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from daytona_magics.engine.launch.sandbox import SandboxProcess
from daytona_magics.engine.preview.listener import MAX_HEADER
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from daytona_magics.engine.toolbox.connection_client import connect
from daytona_magics.engine.toolbox.operation import Operation

#: Most connections to one sandbox at once; requests beyond wait for one, this many seconds.
MAX_CONNECTIONS, QUEUE_SECONDS = 200, 30
#: Seconds a connection may take to be made.
CONNECT_SECONDS = 20
#: Sent over a connection that may have been closed meanwhile: asking twice does no harm.
_REPEATABLE = ("GET", "HEAD", "OPTIONS")

Outward = Callable[[CIMultiDictProxy[str]], CIMultiDict[str]]


def unreachable(port: int, error: Exception) -> ToolboxError:
    """The refusal when the server on `port` gives no answer."""
    why = str(error) or "no answer in time"
    return ToolboxError(502, "BAD_GATEWAY", f"port {port} in the sandbox: {why}")


class _Connector(aiohttp.BaseConnector):
    """Connections to ports of one sandbox, made by its toolbox."""

    def __init__(self, toolbox: Toolbox, *, force_close: bool) -> None:
        keepalive = {} if force_close else {"keepalive_timeout": 30}
        super().__init__(limit=MAX_CONNECTIONS, force_close=force_close, **keepalive)  # type: ignore[arg-type]
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
            closed.add_done_callback(lambda future: _let_go(future, operation))
        return protocol


def _let_go(closed: asyncio.Future[None], operation: Operation) -> None:
    # A broken connection is the reader's news; asking for it here keeps asyncio from reporting it as unread.
    if not closed.cancelled():
        closed.exception()
    operation.wire.close()


class Forwarder:
    """Forwards requests to running sandboxes."""

    def __init__(self) -> None:
        self._sessions: dict[bool, WeakKeyDictionary[SandboxProcess, aiohttp.ClientSession]] = {
            True: WeakKeyDictionary(),
            False: WeakKeyDictionary(),
        }
        self._closing: set[asyncio.Future[None]] = set()

    def _session(self, process: SandboxProcess, *, fresh: bool) -> aiohttp.ClientSession:
        """The session for a sandbox; with `fresh`, the one that never uses a connection twice."""
        sessions = self._sessions[fresh]
        session = sessions.get(process)
        if session is None:
            session = sessions[process] = aiohttp.ClientSession(
                connector=_Connector(process.toolbox, force_close=fresh),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=ClientTimeout(total=None, connect=QUEUE_SECONDS, sock_connect=CONNECT_SECONDS),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
            )
            process.add_exit_callback(lambda _: self._close(session))
        return session

    def _close(self, session: aiohttp.ClientSession) -> None:
        task = asyncio.ensure_future(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        for sessions in self._sessions.values():
            for session in list(sessions.values()):
                await session.close()
        await asyncio.gather(*self._closing)

    async def http(
        self,
        request: web.Request,
        process: SandboxProcess,
        target: URL,
        headers: CIMultiDict[str],
        outward: Outward,
    ) -> web.StreamResponse:
        """Send `request` to `target` with `headers`; its answer with the headers `outward` makes of its own.

        Raises ToolboxError 502 when the server cannot be reached, or says nothing that is HTTP.
        """
        port = target.port or 0
        body = request.content if request.body_exists else None
        fresh = body is not None or request.method not in _REPEATABLE
        try:
            answer = await self._session(process, fresh=fresh).request(
                request.method, target, headers=headers, data=body, allow_redirects=False
            )
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise unreachable(port, error) from error
        async with answer:
            response = await begin(request, answer.status, answer.reason, answer.headers, outward)
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


async def begin(
    request: web.Request,
    status: int,
    reason: str | None,
    headers: CIMultiDictProxy[str],
    outward: Outward,
) -> web.StreamResponse:
    """Send the head of a server's answer on. Raises ToolboxError 502 when it cannot be one.

    The server's length is kept; without one the body is sent in chunks, or to the connection's end.
    """
    try:
        response = web.StreamResponse(status=status, reason=reason)
        response.headers.extend(outward(headers))
        # What the server left open stays open: a page without a type is looked at by the browser.
        response[MISSING] = [name for name in ("Content-Type", "Server") if name not in headers]
        await response.prepare(request)
    except ValueError as error:
        raise ToolboxError(
            502, "BAD_GATEWAY", f"the server in the sandbox sent a malformed header: {error}"
        ) from error
    return response


MISSING = "daytona-magics.missing"


async def leave_out(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of the application: headers that aiohttp has added to a server's answer go again."""
    for name in response.get(MISSING, ()):
        response.headers.popall(name, None)
