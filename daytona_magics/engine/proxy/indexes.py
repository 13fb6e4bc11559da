"""The host's package indexes, served to sandboxes without their passwords.

An index whose address holds a password, or lies on this very machine, is given to sandboxes as
``http://index-0.daytona-magics.invalid/…``, a name that exists only in the proxy. The proxy fetches from the
real one, over TLS and with the password. Only GET and HEAD, and only what lies below the index's own path or
what its pages link to: a link that leads elsewhere on the same server is written into the page with a code
(HMAC) that only the engine can make, and without a code nothing else of that server is fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import json
import re
import secrets
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from daytona_magics.engine.proxy import http1, relay, tls
from daytona_magics.engine.proxy.dialing import Dialer, Refused
from daytona_magics.engine.proxy.http1 import Malformed, Request, Response, Wire
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.targets import Target

DOMAIN = "daytona-magics.invalid"
"""Below it are the names that exist only in the proxy; ``.invalid`` never exists anywhere else."""

MAX_PAGE = 48 << 20
_PASSED_ON = (b"accept", b"user-agent", b"range", b"if-range", b"npm-session", b"npm-command")
_PAGES = re.compile(rb"(?i)text/html|application/json|application/[a-z0-9.+-]*(?:simple|npm)[a-z0-9.+-]*")
_HREF = re.compile(r"""(<a\b[^<>]*?\bhref\s*=\s*)(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_CODED = re.compile(r"/\.dm-([0-9a-f]{32})(/.*)\Z")
_LINK_KEYS = ("url", "tarball", "href")


@dataclass(frozen=True)
class Origin:
    """One index of the host: its address without password, and what the proxy adds.

    Attributes:
        url: ``https://host[:port]/path``.
        authorization: value of the header, empty for none; never shown.
        cafile: certificates to check it with; empty for the system's.
        verify: whether its certificate is checked (the host's ``trusted-host`` says no).
    """

    url: str
    authorization: str = ""
    cafile: str = ""
    verify: bool = True

    def __repr__(self) -> str:
        return f"Origin({self.url})"

    def target(self) -> Target:
        """Where it is."""
        from daytona_magics.engine.proxy.targets import parse_host

        parts = urlsplit(self.url)
        host = parts.hostname or ""
        name, address = parse_host(f"[{host}]" if ":" in host else host)
        return Target(name, parts.port or (443 if parts.scheme == "https" else 80), address)


@dataclass(frozen=True)
class IndexSettings:
    """The host's indexes: ``relayed`` ones by number, and the places of those that sandboxes ask directly."""

    relayed: tuple[Origin, ...] = ()
    direct: frozenset[tuple[str, int]] = frozenset()


class Indexes:
    """All indexes the proxy serves."""

    def __init__(self, settings: IndexSettings) -> None:
        self._direct = settings.direct
        key = secrets.token_bytes(32)
        self._by_name = {
            f"index-{number}.{DOMAIN}": Index(origin, f"http://index-{number}.{DOMAIN}", key)
            for number, origin in enumerate(settings.relayed)
        }

    def get(self, target: Target) -> Index | None:
        """The index a request names.

        Raises:
            Refused: 404 when the name is one of the proxy's and nothing is there.
        """
        if target.host != DOMAIN and not target.host.endswith("." + DOMAIN):
            return None
        found = self._by_name.get(target.host) if target.port == 80 else None
        if found is None:
            raise Refused(404, f"the proxy serves no index at {target}")
        return found

    def grants(self, target: Target) -> bool:
        """Whether the host's settings name this place as an index, public or not."""
        return (target.host, target.port) in self._direct


class Index:
    """One served index.

    Args:
        origin: the real one.
        inside: its address inside, without a path.
        key: of the codes.
    """

    def __init__(self, origin: Origin, inside: str, key: bytes) -> None:
        self.target = origin.target()
        self._origin = origin
        self._inside = inside
        self._key = key
        parts = urlsplit(origin.url)
        self._secure = parts.scheme == "https"
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/") + "/"
        self._context: ssl.SSLContext | None = None

    async def serve(self, request: Request, path: str, near: Wire, dialer: Dialer, policy: Policy) -> bool:
        """Answer one request; whether another may follow on the connection.

        Raises:
            Malformed, Refused
        """
        if request.method not in (b"GET", b"HEAD") or not http1.request_body(request).is_empty:
            raise Malformed(405, "an index is only read: GET and HEAD")
        wanted = self._checked(path)
        sock = await self._connect(dialer, policy)
        try:
            far = Wire(sock)
            await far.send(self._head(request, wanted, dialer))
            response = await relay.answer_head(request, near, far)
            return await self._pass_on(request, response, near, far, self._base + wanted)
        finally:
            sock.close()

    def _checked(self, path: str) -> str:
        """The path to ask the real index for.

        Raises:
            Refused: it is neither below the index's own path nor linked from one of its pages.
        """
        # Servers differ in how often they decode, and some cut off what follows a semicolon.
        plain = unquote(unquote(path.partition("?")[0]))
        if not any(part.partition(";")[0].strip() in (".", "..") for part in re.split(r"[/\\]", plain)):
            if coded := _CODED.match(path):
                # Installers ask for these beside a file that was linked.
                linked = (coded[2], coded[2].removesuffix(".metadata"), coded[2].removesuffix(".asc"))
                if any(hmac.compare_digest(coded[1], self._code(each)) for each in linked):
                    return coded[2]
            elif path.startswith(self._prefix) or path == self._prefix[:-1]:
                return path
        raise Refused(403, f"only the index itself and what it links to are served, not {path[:200]}")

    def _code(self, path: str) -> str:
        return hmac.new(self._key, f"{self._base}{path}".encode(), hashlib.sha256).hexdigest()[:32]

    async def _connect(self, dialer: Dialer, policy: Policy) -> socket.socket:
        route = await dialer.dial(self.target, policy, tunnel=self._secure, granted=True)
        if not self._secure:
            return route.sock
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._origin.cafile or None)
            if not self._origin.verify:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE
        try:
            return await tls.wrap(route.sock, self._context, self.target.host, 20.0)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                502, f"the certificate of {self.target} is not accepted: {error.verify_message}"
            ) from None
        except OSError:
            raise Refused(502, f"{self.target} does not speak TLS") from None

    def _head(self, request: Request, path: str, dialer: Dialer) -> bytes:
        default = 443 if self._secure else 80
        host = str(self.target).removesuffix(f":{default}").encode()
        headers = [(b"Host", host)]
        headers += [(k, v) for k, v in request.headers if k.lower() in _PASSED_ON]
        if self._origin.authorization:
            headers.append((b"Authorization", self._origin.authorization.encode()))
        # Pages must be readable here.
        headers += [(b"Accept-Encoding", b"identity"), (b"Connection", b"close")]
        where = path.encode()
        proxy = dialer.upstream.for_(self.target, tunnel=self._secure)
        if proxy is not None and not self._secure:
            where = b"http://" + host + where
            headers += proxy.authorization
        return http1.write_head(b"%b %b HTTP/1.1" % (request.method, where), headers)

    async def _pass_on(self, request: Request, response: Response, near: Wire, far: Wire, url: str) -> bool:
        if response.status in (401, 407):
            raise Refused(502, f"the index {self.target} refuses the password of this machine's settings")
        kept = http1.end_to_end(response.headers, b"set-cookie", b"www-authenticate")
        response.headers = [
            (k, self.rewritten(v.decode("latin-1"), url).encode("latin-1", "replace"))
            if k.lower() == b"location"
            else (k, v)
            for k, v in kept
        ] + [(k, v) for k, v in response.headers if k.lower() == b"transfer-encoding"]
        kind = next(iter(http1.values(response.headers, b"content-type")), b"").partition(b";")[0].strip()
        if request.method != b"GET" or response.status != 200 or not _PAGES.fullmatch(kind):
            return await relay.send_answer(request, response, near, far)
        try:
            page = await _whole(far, http1.response_body(response, request.method))
        except Malformed as error:
            raise Refused(502, f"the index's answer cannot be read: {error.message}") from None
        # Pages have megabytes; other sandboxes do not wait for them.
        page = await asyncio.to_thread(self.rewrite_page, page, kind, url)
        headers = http1.end_to_end(
            response.headers, b"content-length", b"etag", b"last-modified", b"cache-control", b"expires"
        )
        # The codes in it are good as long as this engine runs.
        headers += [(b"Cache-Control", b"no-store"), (b"Content-Length", b"%d" % len(page))]
        headers.append((b"Connection", b"keep-alive" if request.wants_more() else b"close"))
        await near.send(http1.write_head(b"HTTP/1.1 200 OK", headers))
        await near.send(page)
        return request.wants_more()

    def rewrite_page(self, page: bytes, kind: bytes, url: str) -> bytes:
        """A page of the index with its links leading to the proxy; ``url`` is where the page is."""
        text = page.decode("utf-8", "surrogateescape")
        if kind.lower().endswith(b"html"):

            def link(found: re.Match[str]) -> str:
                quoted = found[2] if found[2] is not None else found[3]
                return f'{found[1]}"{html.escape(self.rewritten(html.unescape(quoted), url))}"'

            return _HREF.sub(link, text).encode("utf-8", "surrogateescape")
        try:
            return json.dumps(self._walk(json.loads(text), url)).encode()
        except (ValueError, RecursionError):
            return page

    def _walk(self, value: Any, url: str) -> Any:
        if isinstance(value, dict):
            return {
                key: self.rewritten(each, url)
                if key in _LINK_KEYS and isinstance(each, str)
                else self._walk(each, url)
                for key, each in value.items()
            }
        return [self._walk(each, url) for each in value] if isinstance(value, list) else value

    def rewritten(self, link: str, url: str) -> str:
        """A link as a sandbox shall follow it; links to other servers stay as they are."""
        try:
            whole = urljoin(url, link)
            parts = urlsplit(whole)
            same = (parts.scheme, parts.hostname, parts.port or None) == self._place()
        except ValueError:
            return link
        if not same:
            return link
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        if path.startswith(self._prefix):
            return f"{self._inside}{path}{fragment}"
        return f"{self._inside}/.dm-{self._code(path)}{path}{fragment}"

    def _place(self) -> tuple[str, str | None, int | None]:
        parts = urlsplit(self._base)
        return parts.scheme, parts.hostname, parts.port


async def _whole(far: Wire, body: http1.Body) -> bytes:
    page = bytearray()
    async for data in far.body(body):
        page += data
        if len(page) > MAX_PAGE:
            raise Malformed(502, f"a page of more than {MAX_PAGE >> 20} MiB")
    return bytes(page)


def relay_url(number: int, url: str) -> str:
    """The address inside of the index ``number`` whose real address is ``url``."""
    return f"http://index-{number}.{DOMAIN}{urlsplit(url).path}"


def relay_hosts(count: int) -> Iterable[str]:
    """The names of ``count`` indexes."""
    return (f"index-{number}.{DOMAIN}" for number in range(count))
