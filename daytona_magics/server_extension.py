"""What the notebook's own server does for us: a way to previews, and messages of kernels without delay.

Previews of the embedded engine, for browsers elsewhere:

    {base url}daytona-magics/p/TOKEN/3000/…      goes to the engine's preview listener as /p/TOKEN/3000/…
    {base url}daytona-magics/p/TOKEN             204 when the listener knows the token

A page below the notebook's origin must not be of that origin, so the engine sandboxes every answer, and the
browser then sends none of the notebook's cookies for what such a page loads. A proxy that asks who is there,
as jupyter-server-proxy does, refuses its scripts and sockets therefore. Here nobody is asked: the signed
token in the path is the proof, for one port of one sandbox, and nothing but previews can be reached by it.
Neither cookies nor other credentials of the notebook go in, and no cookie comes out.

A kernel answers a key in a terminal, or a cell, with several small messages in a row. Jupyter Server leaves
Nagle's algorithm on for them: all but the first wait until the browser's system acknowledges that one, which
it puts off for 40 ms. So the connections of kernels get TCP_NODELAY.

Jupyter Server loads this where daytona-magics is installed beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import aiohttp
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.utils import url_path_join
from tornado import iostream, web, websocket

from daytona_magics.engine import places

#: Sent with every answer, whatever the engine says: it must never be of the notebook's origin.
POLICY = "sandbox allow-scripts allow-forms allow-popups"
#: Never passed on: of one connection only, or the notebook's own. The engine leaves out more.
_NOT_IN = {
    *("host", "connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding"),
    *("upgrade", "cookie", "authorization", "x-xsrftoken", "referer", "content-length"),
    *("sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions"),
}
_NOT_OUT = {
    *("connection", "keep-alive", "transfer-encoding", "set-cookie", "clear-site-data", "upgrade"),
    *("service-worker-allowed", "content-length", "date", "server"),
}
#: Bytes of one message of a web socket; pieces of a request's body that wait to be sent.
MAX_MESSAGE, WAITING = 16 << 20, 8
#: Jupyter Server's setting: the class of browsers' connections to kernels.
_CONNECTIONS = "kernel_websocket_connection_class"
_TOKEN = r"/daytona-magics(/p/[a-z0-9]{26}(?:/[0-9]{1,5}(?:/.*)?)?)"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "daytona_magics.server_extension"}]


def _load_jupyter_server_extension(server: Any) -> None:
    settings = server.web_app.settings
    server.web_app.add_handlers(".*$", [(url_path_join(settings["base_url"], _TOKEN), PreviewHandler)])
    if (connections := settings.get(_CONNECTIONS)) is not None:
        settings[_CONNECTIONS] = without_delay(connections)


def without_delay(connections: type[Any]) -> type[Any]:
    """The server's class for browsers' connections to kernels, with TCP_NODELAY on each."""

    async def connect(self: Any) -> Any:
        self.websocket_handler.set_nodelay(True)
        return await super(made, self).connect()

    made: type[Any] = type(connections.__name__, (connections,), {"connect": connect})
    return made


def _listener() -> int:
    """The port of the engine's preview listener. Raises HTTPError 502 when there is none."""
    record = places.live_record()
    port = record.get("previews") if record is not None else None
    if type(port) is not int or not 0 < port < 65536:
        raise web.HTTPError(502, "no embedded engine is running")
    return port


@web.stream_request_body
class PreviewHandler(websocket.WebSocketHandler):
    """Carries one request, or one web socket."""

    _body: asyncio.Queue[bytes | None]
    _carrying: asyncio.Task[None] | None = None
    _session: aiohttp.ClientSession | None = None
    _upstream: aiohttp.ClientWebSocketResponse | None = None
    _reading: asyncio.Task[None] | None = None

    def check_origin(self, origin: str) -> bool:
        """Pages without an origin come from here; the token in the path is the proof."""
        return True

    def check_xsrf_cookie(self) -> None:
        """No cookie is worth anything here."""

    def set_default_headers(self) -> None:
        """Also failures of our own are sandboxed."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-store")

    def _log(self) -> None:
        """Paths hold tokens, and are not written into the server's log."""

    def _url(self, scheme: str) -> str:
        path = self.request.uri or ""
        return f"{scheme}://127.0.0.1:{_listener()}{path[path.index('/daytona-magics/p/') + 15 :]}"

    def _inward(self) -> dict[str, str]:
        kept = {n: v for n, v in self.request.headers.items() if n.lower() not in _NOT_IN}
        return {**kept, "X-Forwarded-Host": self.request.host, "X-Forwarded-Proto": self.request.protocol}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, timeout=timeout
            )
        return self._session

    # -- requests --------------------------------------------------------------------------------------------

    def prepare(self) -> Awaitable[None] | None:
        """Begin to carry the request; its body follows in pieces."""
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            self._body = asyncio.Queue(WAITING)
            self._carrying = asyncio.ensure_future(self._carry())
        return None

    async def data_received(self, chunk: bytes) -> None:
        """A piece of the body."""
        if self._carrying is not None and not self._carrying.done():
            put = asyncio.ensure_future(self._body.put(chunk))
            await asyncio.wait({put, self._carrying}, return_when=asyncio.FIRST_COMPLETED)
            put.cancel()

    @allow_unauthenticated
    async def _through(self, *_: str) -> None:
        """Every method but a web socket's GET."""
        assert self._carrying is not None
        await self.data_received(b"")
        await self._carrying

    post = put = patch = delete = head = options = _through

    @allow_unauthenticated
    async def get(self, *given: str) -> None:
        """A page, or the beginning of a web socket."""
        if self._carrying is not None:
            await self._through(*given)
            return
        await self._connect()
        await super().get(*given)

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._body.get():
            yield piece

    async def _carry(self) -> None:
        headers = self.request.headers
        has_body = "Content-Length" in headers or "Transfer-Encoding" in headers
        inward = self._inward()
        if has_body and (length := headers.get("Content-Length")) is not None:
            inward["Content-Length"] = length
        try:
            async with self._client().request(
                self.request.method or "GET",
                self._url("http"),
                headers=inward,
                data=self._pieces() if has_body else None,
                allow_redirects=False,
            ) as answer:
                self.set_status(answer.status, answer.reason or None)
                for name, value in answer.headers.items():
                    if name.lower() not in {*_NOT_OUT, "content-security-policy", "cache-control"}:
                        self.add_header(name, value)
                self._policies(answer.headers.getall("Content-Security-Policy", []))
                self.set_header("Cache-Control", answer.headers.get("Cache-Control", "no-cache"))
                async for piece in answer.content.iter_any():
                    self.write(piece)
                    await self.flush()
        except iostream.StreamClosedError:
            return  # The browser has left.
        except (aiohttp.ClientError, OSError) as error:
            if not self._headers_written:
                raise web.HTTPError(502, "the preview gives no answer") from error
            self.detach().close()  # Half an answer must not look like a whole one.

    def _policies(self, said: list[str]) -> None:
        """The server's own policies hold, and ours in any case."""
        for policy in said:
            if policy != POLICY:
                self.add_header("Content-Security-Policy", policy)

    # -- web sockets -----------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        words = [word.strip() for word in offered.split(",") if word.strip()]
        try:
            self._upstream = await self._client().ws_connect(
                self._url("ws"), headers=self._inward(), protocols=words, max_msg_size=MAX_MESSAGE
            )
        except (aiohttp.ClientError, OSError) as error:
            raise web.HTTPError(502, "the preview takes no web socket") from error

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """What the server inside has chosen."""
        return self._upstream.protocol if self._upstream is not None else None

    def open(self, *_: str) -> None:
        """Both ends are there."""
        self.set_nodelay(True)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._upstream is not None
        async for message in self._upstream:
            binary = message.type == aiohttp.WSMsgType.BINARY
            with contextlib.suppress(websocket.WebSocketClosedError, iostream.StreamClosedError):
                await self.write_message(message.data, binary=binary)
        code = self._upstream.close_code
        self.close(code if code is not None and 1000 <= code < 5000 and code not in (1005, 1006) else None)

    async def on_message(self, message: str | bytes) -> None:
        """The page has sent something."""
        if self._upstream is None or self._upstream.closed:
            return
        with contextlib.suppress(ConnectionError):
            if isinstance(message, bytes):
                await self._upstream.send_bytes(message)
            else:
                await self._upstream.send_str(message)

    def on_connection_close(self) -> None:
        """The browser has left."""
        if self._carrying is not None:
            self._carrying.cancel()
        super().on_connection_close()
        self._let_go()

    def on_close(self) -> None:
        """The web socket has ended."""
        if self._reading is not None:
            self._reading.cancel()
        self._let_go()

    def on_finish(self) -> None:
        """The answer is complete; a web socket's has only begun."""
        if self._upstream is None:
            self._let_go()

    def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._ending = asyncio.ensure_future(session.close())
