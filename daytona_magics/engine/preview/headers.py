"""Which headers go into a sandbox and which come out.

In the host form a preview has an origin of its own: what is meant for the engine stays out, all else passes.
In the path form it may share the notebook's origin (behind a hub's proxy): nothing of the notebook's
credentials goes in, nothing that changes the origin's state comes out, redirects stay within the preview, and
every answer is sandboxed by its Content-Security-Policy.

Scripts of any page may read a preview (the platform's default, so that a front end and its server can be two
previews), unless ``X-Daytona-Disable-CORS: true`` is sent or the server has rules of its own. That gives no
page a way past the door: a preview's cookie is no proof for a page of another origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urljoin, urlsplit

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from daytona_magics.engine.preview.address import Wanted

TOKEN_HEADER, KEY_PARAMETER = "X-Daytona-Preview-Token", "DAYTONA_SANDBOX_AUTH_KEY"
DISABLE_CORS = "X-Daytona-Disable-CORS"
COOKIE, ACCEPTED_COOKIE = "daytona-sandbox-auth", "daytona-preview-page-accepted"

#: Of one connection only (RFC 9110, 7.6.1), beside what ``Connection`` names.
_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade"),
}
#: Said to the engine, not to the server behind it.
_OURS = ("x-daytona-*",)
_PATH_IN = (
    *(*_OURS, "authorization", "cookie", "proxy-*", "referer", "x-xsrftoken", "x-jupyter*"),
    # What proxies in front of a hub say of its user.
    *("cf-access-*", "remote-*", "x-amzn-oidc-*", "x-auth-*", "x-forwarded-access-token"),
    *("x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-user"),
    *("x-goog-*", "x-ms-client-principal*", "x-ms-token-*", "x-remote-*"),
)
_PATH_OUT = (
    *("clear-site-data", "service-worker-allowed", "set-cookie", "set-cookie2", "set-login"),
    *("accept-ch", "alt-svc", "critical-ch", "origin-agent-cluster", "strict-transport-security"),
    *("nel", "public-key-pins*", "report-to", "reporting-endpoints", "www-authenticate"),
    *("attribution-reporting-*", "observe-browsing-topics", "use-as-dictionary"),
    *("content-security-policy-report-only", "refresh", "access-control-*"),
)
PATH_POLICY = ("Content-Security-Policy", "sandbox allow-scripts allow-forms allow-popups")
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded")


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


def without_key(target: str) -> str:
    """A path with its query, without the parameter that proves who asks.

    Example:
        >>> without_key("/a?x=1&DAYTONA_SANDBOX_AUTH_KEY=t&y=2")
        '/a?x=1&y=2'
    """
    path, _, query = target.partition("?")
    if KEY_PARAMETER not in query:
        return target
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] != KEY_PARAMETER)
    return f"{path}?{kept}" if kept else path


def inward(request: web.Request, wanted: Wanted, *, bearer_is_ours: bool) -> CIMultiDict[str]:
    """The headers that go inside with a request."""
    headers = end_to_end(request.headers, _PATH_IN if wanted.by_path else _OURS)
    if bearer_is_ours:
        headers.popall("Authorization", None)
    _drop_cookies(headers)
    headers.popall("Expect", None)
    for name in _FORWARDED:
        if not wanted.by_path or name not in ("X-Forwarded-Host", "X-Forwarded-Proto"):
            headers.popall(name, None)
    headers["X-Forwarded-For"] = request.remote or "127.0.0.1"
    headers.setdefault("X-Forwarded-Host", request.headers.get("Host", ""))
    headers.setdefault("X-Forwarded-Proto", "http")
    if wanted.by_path:
        headers["X-Forwarded-Prefix"] = f"/p/{wanted.name}/{wanted.port}"
        headers["Host"] = f"localhost:{wanted.port}"
    return headers


def _drop_cookies(headers: CIMultiDict[str]) -> None:
    """Leave our own cookies out of what the server inside gets to see."""
    cookies = [line for value in headers.popall("Cookie", []) for line in value.split(";")]
    ours = (COOKIE, ACCEPTED_COOKIE)
    kept = [cookie.strip() for cookie in cookies if cookie.partition("=")[0].strip() not in ours]
    if any(kept):
        headers["Cookie"] = "; ".join(filter(None, kept))


def outward(request: web.Request, wanted: Wanted, answer: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that come out with the server's answer to a request."""
    headers = end_to_end(answer, _PATH_OUT if wanted.by_path else ())
    if wanted.by_path:
        headers.add(*PATH_POLICY)
        for location in headers.popall("Location", []):
            headers.add("Location", _within(location, request, wanted))
    for name, value in cross_origin(request, wanted):
        if not any(kept.lower().startswith("access-control-allow-origin") for kept in answer):
            headers.add(name, value)
    return headers


def _within(location: str, request: web.Request, wanted: Wanted) -> str:
    """A redirect to the preview's own server, however it is spelt, as one relative to the present path.

    A server that does not know of the path in front of its own means itself by ``/login`` and by the name it
    was asked for; in the path form both would be the notebook's.
    """
    spelt = location.replace("\\", "/").strip()
    try:
        parts = urlsplit(urljoin(f"http://localhost:{wanted.port}{wanted.path}", spelt))
    except ValueError:
        return "./"
    named = (request.headers.get("Host", ""), request.headers.get("X-Forwarded-Host", ""))
    own = {f"localhost:{wanted.port}", f"127.0.0.1:{wanted.port}", *(name.lower() for name in named)}
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in own:
        return location
    up = "../" * (wanted.path.count("/") - 1) or "./"
    rest = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    return up + rest + (f"#{parts.fragment}" if parts.fragment else "")


def cross_origin(request: web.Request, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """What lets scripts of other origins read the answer to `request`."""
    origin = request.headers.get("Origin")
    if origin is None or request.headers.get(DISABLE_CORS, "").lower() == "true":
        return
    # A page in the path form has no origin, so this is also what its own scripts need.
    yield "Access-Control-Allow-Origin", "*" if wanted.by_path else origin
    if not wanted.by_path:
        yield "Access-Control-Allow-Credentials", "true"
        yield "Vary", "Origin"
    if is_preflight(request):
        yield "Access-Control-Allow-Methods", request.headers["Access-Control-Request-Method"]
        if asked := request.headers.get("Access-Control-Request-Headers"):
            yield "Access-Control-Allow-Headers", asked
        yield "Access-Control-Max-Age", "600"


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a script may send something; it does so without any proof."""
    return request.method == "OPTIONS" and {"Origin", "Access-Control-Request-Method"} <= set(request.headers)
