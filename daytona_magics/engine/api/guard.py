"""Who may talk to the engine: the outermost middleware, in front of every route, WebSocket and unknown path.

A page in the user's browser can send requests to loopback ports.  It cannot know the bearer; and because it
can make its own name resolve to 127.0.0.1, the ``Host`` header must be one of ours, and an ``Origin`` header,
when there is one, must be ours too.  Socket.IO brings its token in its first packet (``events``), so only
that path goes without the bearer here.

aiohttp answers an ``Expect`` header before it calls a middleware.  So every route is given ``unanswered`` as
its expect handler, and what is expected is answered here, when the request has passed.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, web

from daytona_magics.engine.api import straight
from daytona_magics.engine.api.errors import PROXY, error_response
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.log import log, request_id, request_sandbox

SOCKETIO_PATH = "/api/socket.io/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HOST = re.compile(r"(127\.0\.0\.1|localhost):([0-9]{1,5})", re.ASCII)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Guard:
    """The access rule.

    Args:
        key: the bearer.
        port: the port the engine listens on.

    Attributes:
        is_signed: whether a request carries a valid signature that stands for the bearer; raises ApiError for
            an invalid one. Set by the application, which knows the sandboxes.
    """

    def __init__(self, key: str, port: int) -> None:
        self._key = key.encode()
        self._port = port
        self.is_signed: Callable[[web.BaseRequest], bool] = lambda request: False

    def is_key(self, token: object) -> bool:
        """Whether ``token`` is the engine's key, compared in constant time."""
        return isinstance(token, str) and hmac.compare_digest(token.encode("utf-8", "replace"), self._key)

    def is_own_host(self, host: str) -> bool:
        """Whether a ``Host`` value (``name:port``) names this engine.

        Example: ``127.0.0.1:PORT`` and ``localhost:PORT`` do, ``127.evil.com:PORT`` does not.
        """
        match = _HOST.fullmatch(host.lower())
        return match is not None and int(match[2]) == self._port

    def check(self, request: web.BaseRequest) -> None:
        """Let the request pass or raise.

        Raises:
            ApiError: 403 for a foreign Host or Origin, 401 for a missing or wrong bearer.
        """
        source = PROXY if request.path.startswith("/toolbox/") else ""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self.is_own_host(hosts[0]):
            raise ApiError(403, "the Host header does not name this engine", source=source)
        for origin in request.headers.getall("Origin", []):
            scheme, _, host = origin.partition("://")
            if scheme.lower() != "http" or not self.is_own_host(host):
                raise ApiError(403, "requests from other origins are refused", source=source)
        if request.path == SOCKETIO_PATH:
            return
        headers = request.headers.getall("Authorization", [])
        if not headers and self.is_signed(request):
            return
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not self.is_key(token.strip()):
            raise ApiError(401, "Invalid credentials: not the API key of this embedded engine", source=source)


def _check_encoding(request: web.BaseRequest) -> None:
    """No client of the platform packs its bodies, and a small packed one could be a huge one.

    Raises:
        ApiError: 415 for a packed body.
    """
    encodings = request.headers.getall("Content-Encoding", [])
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        raise ApiError(415, "a request body is sent as it is, without a Content-Encoding")


async def name_request(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer, a stream and a WebSocket too, says under which id the log knows its request."""
    response.headers["X-Request-Id"] = request_id.get()


async def unanswered(request: web.Request) -> None:
    """The expect handler of every route: says nothing to somebody who has not been checked."""


async def _answer_expect(request: web.Request) -> None:
    expected = request.headers.get("Expect", "")
    if not expected or request.version < HttpVersion11 or straight.wanted(request):
        # Who sends a file straight through is told to begin when the sandbox has opened it.
        return
    if expected.lower() != "100-continue":
        raise ApiError(417, "no other expectation than 100-continue can be met")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The answer proper has not begun.
    request.writer.output_size = 0


def guard_middleware(
    guard: Guard, on_request: Callable[[web.BaseRequest], None]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """The middleware: request id, access rule, errors as bodies, one log line.

    Args:
        guard: the rule.
        on_request: called with each request that passed, but for Socket.IO's, whose sender is not known yet.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("X-Request-Id", "")
        rid = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        request_id.set(rid)
        request_sandbox.set(request.match_info.get("sandbox", ""))
        started = time.monotonic()
        response: web.StreamResponse
        try:
            guard.check(request)
            _check_encoding(request)
            if request.path != SOCKETIO_PATH:
                on_request(request)
            await _answer_expect(request)
            response = await handler(request)
        except ConnectionError:
            # There is nobody to answer.
            took = (time.monotonic() - started) * 1000
            log.info("%s %s (the client left) %.1f ms", request.method, request.path, took)
            raise
        except Exception as error:  # noqa: BLE001  every failure becomes the platform's error body
            response = error_response(request, error)
        took = (time.monotonic() - started) * 1000
        log.info("%s %s %s %.1f ms", request.method, request.path, response.status, took)
        return response

    return middleware
