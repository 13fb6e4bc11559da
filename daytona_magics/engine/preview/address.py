"""Addresses of previews: what a request names, and the address of a port.

    http://3000-ID.localhost:PORT/…      and      http://3000-TOKEN.localhost:PORT/…     (host form)
    http://127.0.0.1:PORT/p/ID/3000/…    and      http://…/p/TOKEN/3000/…                (path form)
    http://…/p/TOKEN                                       whether this listener knows the token

Browsers resolve every ``*.localhost``; most programs do not, and behind a hub's proxy only paths arrive.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from aiohttp import web

from daytona_magics.engine.api.errors import PROXY
from daytona_magics.engine.errors import ApiError

_HOST = re.compile(r"([0-9]{1,5})-([a-z0-9]{1,57})\.localhost(?::([0-9]{1,5}))?", re.ASCII)
_PATH = re.compile(r"/p/([a-z0-9]{1,57})/([0-9]{1,5})(/.*)?", re.ASCII | re.DOTALL)
_GREETING = re.compile(r"/p/([a-z0-9]{1,57})", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What a request is for.

    Attributes:
        name: a sandbox's id or a signed token.
        target: path and query as the server inside shall see them, still encoded.
    """

    name: str
    port: int
    target: str
    by_path: bool

    @property
    def path(self) -> str:
        """The path alone, still encoded."""
        return self.target.partition("?")[0]


def url(name: str, port: int, listener: int, *, by_path: bool) -> str:
    """The address of `port` for a sandbox's id or a signed token.

    Example:
        >>> url("abc", 3000, 41000, by_path=False), url("abc", 3000, 41000, by_path=True)
        ('http://3000-abc.localhost:41000/', 'http://127.0.0.1:41000/p/abc/3000/')
    """
    if by_path:
        return f"http://127.0.0.1:{listener}/p/{name}/{port}/"
    return f"http://{port}-{name}.localhost:{listener}/"


def read(request: web.BaseRequest, listener: int) -> Wanted:
    """What a request to the listener's port names. Raises ApiError 400, and 404 for no preview's address."""
    raw = request.raw_path
    if not raw.startswith("/"):
        raise ApiError(400, "a preview is asked for by a path", source=PROXY)
    hosts = request.headers.getall("Host", [])
    match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
    if match is not None and int(match[3] or 80) == listener:
        wanted = Wanted(match[2], int(match[1]), raw, by_path=False)
    elif (match := _PATH.fullmatch(raw.partition("?")[0])) is not None:
        rest = raw[match.start(3) :] if match[3] else "/" + raw[match.end(2) :]
        wanted = Wanted(match[1], int(match[2]), rest, by_path=True)
    else:
        raise ApiError(404, "this address belongs to no preview", source=PROXY)
    if not 0 < wanted.port < 65536:
        raise ApiError(400, "a port is a number from 1 to 65535", source=PROXY)
    return wanted


def greeted(request: web.BaseRequest) -> str | None:
    """The token that a request asks about, with no port behind it; None for every other request."""
    match = _GREETING.fullmatch(request.raw_path) if request.method == "GET" else None
    return match[1] if match is not None and not _HOST.fullmatch(request.host.lower()) else None


def is_own_origin(request: web.BaseRequest) -> bool:
    """Whether a request names no origin, or its own one."""
    origins = request.headers.getall("Origin", [])
    return not origins or origins == [f"http://{request.headers.get('Host', '').lower()}"]


def resolves_localhost() -> bool:
    """Whether this machine's own lookups know names below ``localhost``, as browsers always do."""
    try:
        return bool(socket.getaddrinfo("probe.localhost", 80, type=socket.SOCK_STREAM))
    except OSError:
        return False
