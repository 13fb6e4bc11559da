"""The preview listener: it serves what runs inside sandboxes, and nothing of the engine's API.

Two forms of address lead to port 3000 of a sandbox:

    http://3000-ID.localhost:PORT/…      and      http://3000-TOKEN.localhost:PORT/…     (host form)
    http://127.0.0.1:PORT/p/ID/3000/…    and      http://…/p/TOKEN/3000/…                (path form)

With an ID the caller proves who it is (header, bearer, query parameter or cookie) unless the sandbox is
public; a signed TOKEN is proof by itself. Browsers resolve every ``*.localhost``, most programs do not, and
behind a hub's proxy only paths arrive: then the preview shares the notebook's origin, so in the path form
nothing of the notebook's credentials goes in, nothing that changes the origin's state comes out, and every
answer is sandboxed by its Content-Security-Policy.
"""

from __future__ import annotations

import html
import re
import socket
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from daytona_magics.engine.api.errors import PROXY, error_response
from daytona_magics.engine.api.guard import Guard, unanswered
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.lifecycle import Sandboxes
from daytona_magics.engine.log import log
from daytona_magics.engine.preview.forward import Forwarder, end_to_end
from daytona_magics.engine.preview.tokens import Tokens
from daytona_magics.engine.sandbox import Sandbox

#: Ports of the platform's own services: never without proof, public sandbox or not.
RESERVED = {2280, 22222, 33333}
TOKEN_HEADER, KEY_PARAMETER = "X-Daytona-Preview-Token", "DAYTONA_SANDBOX_AUTH_KEY"
COOKIE, COOKIE_SECONDS = "daytona-sandbox-auth", 3600
SKIP_ACTIVITY = "x-daytona-skip-last-activity-update"
_HOST = re.compile(r"([0-9]{1,5})-([a-z0-9]{1,57})\.localhost(?::([0-9]{1,5}))?", re.ASCII)
_PATH = re.compile(r"/p/([a-z0-9]{1,57})/([0-9]{1,5})(/.*)?", re.ASCII | re.DOTALL)
#: Said to the engine, not to the server behind it.
_OURS = ("x-daytona-*",)
#: In the path form the notebook's own credentials stay out, and what would change its origin's state.
_PATH_IN = (
    *(*_OURS, "authorization", "cookie", "proxy-*", "referer", "x-xsrftoken", "x-jupyter*"),
    # What proxies in front of a hub say of its user.
    *(
        "cf-access-*",
        "remote-*",
        "x-amzn-oidc-*",
        "x-auth-*",
        "x-forwarded-access-token",
        "x-forwarded-email",
    ),
    *("x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-user", "x-goog-*", "x-remote-*"),
    *("x-ms-client-principal*", "x-ms-token-*"),
)
_PATH_OUT = (
    *("clear-site-data", "service-worker-allowed", "set-cookie", "set-cookie2", "set-login"),
    *("accept-ch", "alt-svc", "critical-ch", "origin-agent-cluster", "strict-transport-security"),
    *("nel", "public-key-pins*", "report-to", "reporting-endpoints", "www-authenticate"),
    *("attribution-reporting-*", "observe-browsing-topics", "use-as-dictionary"),
)
_PATH_POLICY = ("Content-Security-Policy", "sandbox allow-scripts allow-forms allow-popups")


@dataclass(frozen=True)
class Wanted:
    """What a request is for: ``name`` is a sandbox's id or a signed token."""

    name: str
    port: int
    path: str
    by_path: bool


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
        self.tokens = tokens
        self.port = 0
        self.app = web.Application(client_max_size=0)
        self.app.router.add_route("*", "/{rest:.*}", self._serve, expect_handler=unanswered)

    async def close(self) -> None:
        """Close connections to sandboxes."""
        await self._forwarder.close()

    def url(self, name: str, port: int, *, by_path: bool) -> str:
        """The address of `port` for a sandbox's id or a signed token."""
        if by_path:
            return f"http://127.0.0.1:{self.port}/p/{name}/{port}/"
        return f"http://{port}-{name}.localhost:{self.port}/"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._preview(request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  every failure becomes an answer
            return _failure(request, error)

    async def _preview(self, request: web.Request) -> web.StreamResponse:
        wanted = self._wanted(request)
        sandbox = self._admit(request, wanted)
        process = sandbox.started
        quiet = request.headers.get(SKIP_ACTIVITY, "").lower() == "true"
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        target, headers = self._target(request, wanted)
        with nullcontext() if quiet else sandbox.used():
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._forwarder.websocket(request, process, target, headers)
            if wanted.by_path:
                return await self._forwarder.http(
                    request, process, target, headers, drop=_PATH_OUT, add=[_PATH_POLICY]
                )
            return await self._forwarder.http(
                request, process, target, headers, add=self._cookie(request, sandbox)
            )

    def _wanted(self, request: web.Request) -> Wanted:
        """Read the address. Raises ApiError 404 for one that is none of ours."""
        if not request.raw_path.startswith("/"):
            raise ApiError(400, "a preview is asked for by a path", source=PROXY)
        hosts = request.headers.getall("Host", [])
        host = hosts[0].lower() if len(hosts) == 1 else ""
        match = _HOST.fullmatch(host)
        if match is not None and int(match[3] or 80) == self.port:
            wanted = Wanted(match[2], int(match[1]), request.raw_path, by_path=False)
        elif (match := _PATH.fullmatch(request.raw_path.partition("?")[0])) is not None:
            rest = request.raw_path[match.start(3) :] if match[3] else "/" + request.raw_path[match.end(2) :]
            wanted = Wanted(match[1], int(match[2]), rest, by_path=True)
        else:
            raise ApiError(404, "this address belongs to no preview", source=PROXY)
        if not 0 < wanted.port < 65536:
            raise ApiError(400, "a port is a number from 1 to 65535", source=PROXY)
        return wanted

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
        own = wanted.by_path and self._is_own(request.headers.get("Host", ""))
        if wanted.by_path and not own:
            # A page that made its own name lead here must not get by with a browser's cookies.
            raise ApiError(403, "the Host header does not name this engine", source=PROXY)
        if found.record.public and wanted.port not in RESERVED:
            return found
        if not self._has_proof(request, found, wanted):
            raise ApiError(401, "this preview needs the sandbox's preview token", source=PROXY)
        return found

    def _is_own(self, host: str) -> bool:
        return host.lower() in (f"127.0.0.1:{self.port}", f"localhost:{self.port}", f"[::1]:{self.port}")

    def _has_proof(self, request: web.Request, sandbox: Sandbox, wanted: Wanted) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._guard.is_key(bearer.strip()):
            return True
        given = [request.headers.get(TOKEN_HEADER), request.query.get(KEY_PARAMETER)]
        if not wanted.by_path:
            given.append(request.cookies.get(COOKIE))
        return any(token and self.tokens.is_standard(sandbox, token) for token in given)

    def _target(self, request: web.Request, wanted: Wanted) -> tuple[URL, CIMultiDict[str]]:
        """Where the request goes inside, and the headers that go with it."""
        path, mark, query = wanted.path.partition("?")
        if KEY_PARAMETER in query:
            query = "&".join(part for part in query.split("&") if part.partition("=")[0] != KEY_PARAMETER)
        headers = end_to_end(request.headers, _PATH_IN if wanted.by_path else _OURS)
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._guard.is_key(bearer.strip()):
            del headers["Authorization"]
        _drop_cookie(headers)
        headers.popall("Expect", None)
        for name in (
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Prefix",
            "Forwarded",
        ):
            if not wanted.by_path or name not in ("X-Forwarded-Host", "X-Forwarded-Proto"):
                headers.popall(name, None)
        headers["X-Forwarded-For"] = request.remote or "127.0.0.1"
        headers.setdefault("X-Forwarded-Host", request.headers.get("Host", ""))
        headers.setdefault("X-Forwarded-Proto", "http")
        if wanted.by_path:
            headers["X-Forwarded-Prefix"] = f"/p/{wanted.name}/{wanted.port}"
            headers["Host"] = f"localhost:{wanted.port}"
        full = path + (mark + query if query else "")
        return URL(f"http://127.0.0.1:{wanted.port}{full}", encoded=True), headers

    def _cookie(self, request: web.Request, sandbox: Sandbox) -> list[tuple[str, str]]:
        """Who came with the key in the address keeps it as a cookie, for what the page loads next."""
        token = request.query.get(KEY_PARAMETER, "")
        if not self.tokens.is_standard(sandbox, token):
            return []
        return [("Set-Cookie", f"{COOKIE}={token}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax")]


def _drop_cookie(headers: CIMultiDict[str]) -> None:
    """Leave our own cookie out of what the server inside gets to see."""
    cookies = [line for value in headers.popall("Cookie", []) for line in value.split(";")]
    kept = [cookie.strip() for cookie in cookies if cookie.partition("=")[0].strip() != COOKIE]
    if any(kept):
        headers["Cookie"] = "; ".join(filter(None, kept))


def _failure(request: web.Request, error: Exception) -> web.Response:
    """A page for browsers, the platform's error body for programs."""
    response = error_response(request, error)
    log.info("preview %s %s %s", request.method, request.path, response.status)
    if "text/html" not in request.headers.get("Accept", "") or request.method not in ("GET", "HEAD"):
        return response
    text = str(error) if isinstance(error, ApiError) else getattr(error, "message", "the preview failed")
    page = (
        "<!doctype html><meta charset=utf-8><title>Preview</title>"
        "<meta name=color-scheme content='light dark'>"
        "<style>body{font:16px system-ui;max-width:40rem;margin:15vh auto;padding:0 1rem}"
        "p{opacity:.75}</style>"
        f"<h1>{response.status}</h1><p>{html.escape(text)}</p>"
    )
    return web.Response(
        status=response.status,
        text=page,
        content_type="text/html",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"},
    )


def listen(wanted: int) -> list[socket.socket]:
    """Sockets that listen on 127.0.0.1 and, if there is IPv6, on ::1, on one port; `wanted` if it is free.

    Browsers go to ::1 first: if it were left to somebody else, that one would be sent the tokens.

    Raises:
        OSError: no port is free on both.
    """
    problem: OSError | None = None
    for port in (wanted, *[0] * 20):
        found: list[socket.socket] = []
        try:
            found.append(socket.create_server(("127.0.0.1", port)))
            if socket.has_ipv6 and _has_loopback6():
                same = found[0].getsockname()[1]
                found.append(socket.create_server(("::1", same), family=socket.AF_INET6))
            return found
        except OSError as error:
            problem = error
            for sock in found:
                sock.close()
    raise problem or OSError("no port is free")


def _has_loopback6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def resolves_localhost() -> bool:
    """Whether this machine's own lookups know names below ``localhost``, as browsers always do."""
    try:
        return bool(socket.getaddrinfo("probe.localhost", 80, type=socket.SOCK_STREAM))
    except OSError:
        return False
