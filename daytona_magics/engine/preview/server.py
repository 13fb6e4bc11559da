"""The preview listener: it serves what runs inside sandboxes, and nothing of the engine's API.

A request's way: its address (`address`), who asks (here), then the terminal (`terminal`), the warning
(`pages`), a WebSocket (`upgrade`) or the server inside (`forward`), with what `headers` lets pass.

With a sandbox's id in the address the caller proves who it is, in the platform's order: bearer, header, query
parameter, cookie; unless the sandbox is public. A signed token in the address is proof by itself, and as good
for what the page loads next, so no cookie outlives it.
"""

from __future__ import annotations

import socket
from contextlib import nullcontext
from functools import partial

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from daytona_magics.engine.api.errors import PROXY
from daytona_magics.engine.api.guard import Guard, unanswered
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.preview import address, pages, terminal
from daytona_magics.engine.preview.address import Wanted
from daytona_magics.engine.preview.forward import Forwarder, leave_out
from daytona_magics.engine.preview.headers import (
    COOKIE,
    KEY_PARAMETER,
    TOKEN_HEADER,
    cross_origin,
    inward,
    is_preflight,
    outward,
    without_key,
)
from daytona_magics.engine.preview.listener import Listener
from daytona_magics.engine.preview.tokens import COOKIE_SECONDS, Tokens
from daytona_magics.engine.preview.upgrade import Upgrader, is_websocket
from daytona_magics.engine.toolbox.client import ToolboxError

#: Ports of the platform's own services: never without proof, public sandbox or not.
RESERVED = {2280, terminal.PORT, 33333}
SKIP_ACTIVITY = "X-Daytona-Skip-Last-Activity-Update"
#: On answers of our own: nothing in the sandbox was asked, or it gave no answer.
MARK = "X-Daytona-Magics-Error"


class Previews:
    """The preview application.

    Args:
        sandboxes: those of the engine.
        tokens: loaded.
        guard: knows the engine's key.
    """

    def __init__(self, sandboxes: Sandboxes, tokens: Tokens, guard: Guard) -> None:
        self._sandboxes = sandboxes
        self._guard = guard
        self._forwarder = Forwarder()
        self._upgrader = Upgrader()
        self.tokens = tokens
        self.port = 0
        self.app = web.Application(client_max_size=0)
        self.app.router.add_route("*", "/{rest:.*}", self._serve, expect_handler=unanswered)
        self.app.on_response_prepare.append(leave_out)
        self._listener = Listener(self.app)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on `sockets`, which have one port."""
        self.port = sockets[0].getsockname()[1]
        await self._listener.start(sockets)

    async def close(self) -> None:
        """Close the listener, then connections to sandboxes."""
        await self._listener.close()
        await self._forwarder.close()

    def url(self, name: str, port: int, *, by_path: bool) -> str:
        """The address of `port` for a sandbox's id or a signed token."""
        return address.url(name, port, self.port, by_path=by_path)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        wanted: Wanted | None = None
        try:
            if (token := address.greeted(request)) is not None:
                return self._greeting(token)
            wanted = address.read(request, self.port)
            return await self._preview(request, wanted)
        except ConnectionError:
            raise
        except ToolboxError as error:
            refusal = ApiError(error.status, error.message, error.code, PROXY)
            return self._failure(request, wanted, refusal)
        except Exception as error:  # noqa: BLE001  every failure becomes an answer
            return self._failure(request, wanted, error)

    def _greeting(self, token: str) -> web.Response:
        """Says to a page of any origin whether this is the listener that knows its token.

        A notebook's page finds out by it which way leads here: directly, or through its server's proxy.
        """
        known = self.tokens.look_up(token) is not None
        headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store", MARK: "preview"}
        return web.Response(status=204 if known else 404, headers=headers)

    @staticmethod
    def _failure(request: web.Request, wanted: Wanted | None, error: Exception) -> web.Response:
        response = pages.failure(request, error)
        response.headers[MARK] = "preview"
        if wanted is not None:
            # A page that may read answers may read why there is none.
            response.headers.extend(cross_origin(request, wanted))
        return response

    async def _preview(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        if is_preflight(request) and (allowed := list(cross_origin(request, wanted))):
            # Browsers ask this without any proof, and it says nothing of the sandbox.
            return web.Response(status=204, headers=CIMultiDict(allowed))
        sandbox = self._admit(request, wanted)
        self._listener.admit(request)
        process = sandbox.started
        counts = request.headers.get(SKIP_ACTIVITY, "").lower() != "true"
        if wanted.port == terminal.PORT:
            return self._remember(
                request, wanted, sandbox, await terminal.serve(request, sandbox, wanted, counts=counts)
            )
        if not wanted.by_path and (accepted := pages.accepted(request)) is not None:
            return accepted
        if pages.needs_warning(request, wanted):
            return self._remember(request, wanted, sandbox, pages.warning(wanted))
        if wanted.by_path and request.headers.get("Service-Worker", "").lower() == "script":
            raise ApiError(403, "a preview by path has no service worker: it has no origin", source=PROXY)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        headers = inward(request, wanted, bearer_is_ours=self._is_bearer(request))
        answers = partial(self._outward, request, wanted, sandbox)
        target = without_key(wanted.target)
        with sandbox.used() if counts else nullcontext():
            if is_websocket(request):
                return await self._upgrader.carry(request, process, wanted.port, target, headers, answers)
            inside = URL(f"http://127.0.0.1:{wanted.port}{target}", encoded=True)
            return await self._forwarder.http(request, process, inside, headers, answers)

    def _admit(self, request: web.Request, wanted: Wanted) -> Sandbox:
        """The sandbox, when the caller may see it. Raises ApiError 401, 403, 404."""
        signed = self.tokens.look_up(wanted.name)
        if signed is not None:
            if signed.port != wanted.port:
                raise ApiError(401, "this token is for another port", source=PROXY)
            return self._sandboxes.get(signed.sandbox)
        found = next((s for s in self._sandboxes if s.record.id == wanted.name), None)
        if found is None:
            raise ApiError(404, "there is no such sandbox, or the token has expired", source=PROXY)
        if wanted.by_path and not self._is_own(request.headers.get("Host", "")):
            # A page that made its own name lead here must not get by with a browser's cookies.
            raise ApiError(403, "the Host header does not name this engine", source=PROXY)
        if found.record.public and wanted.port not in RESERVED:
            return found
        if not self._has_proof(request, found, wanted):
            raise ApiError(401, "this preview needs the sandbox's preview token", source=PROXY)
        return found

    def _is_own(self, host: str) -> bool:
        return host.lower() in (f"127.0.0.1:{self.port}", f"localhost:{self.port}", f"[::1]:{self.port}")

    def _is_bearer(self, request: web.Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._guard.is_key(bearer.strip())

    def _has_proof(self, request: web.Request, sandbox: Sandbox, wanted: Wanted) -> bool:
        if self._is_bearer(request):
            return True
        given = (request.headers.get(TOKEN_HEADER), request.query.get(KEY_PARAMETER))
        if any(token and self.tokens.is_standard(sandbox, token) for token in given):
            return True
        # In the path form cookies are the notebook's; elsewhere they are for the preview's own pages.
        if wanted.by_path or not address.is_own_origin(request):
            return False
        return self.tokens.is_cookie(sandbox, wanted.port, request.cookies.get(COOKIE, ""))

    def _outward(
        self, request: web.Request, wanted: Wanted, sandbox: Sandbox, answer: CIMultiDictProxy[str]
    ) -> CIMultiDict[str]:
        headers = outward(request, wanted, answer)
        if (cookie := self._cookie(request, wanted, sandbox)) is not None:
            headers.add("Set-Cookie", cookie)
        return headers

    def _remember(
        self, request: web.Request, wanted: Wanted, sandbox: Sandbox, response: web.StreamResponse
    ) -> web.StreamResponse:
        if not response.prepared and (cookie := self._cookie(request, wanted, sandbox)) is not None:
            response.headers.add("Set-Cookie", cookie)
        return response

    def _cookie(self, request: web.Request, wanted: Wanted, sandbox: Sandbox) -> str | None:
        """Who came with the key in the address keeps a cookie, for what the page loads next."""
        token = request.query.get(KEY_PARAMETER, "")
        if wanted.by_path or not self.tokens.is_standard(sandbox, token):
            return None
        value = self.tokens.cookie(sandbox, wanted.port)
        return f"{COOKIE}={value}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax"
