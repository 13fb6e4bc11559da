"""Previews as the kernel sees them: addresses for a browser, and a look of its own at what is served.

The browser gets a signed address, which proves by itself that it may see one port for a while. The kernel
asks with the standard token in a header, and says that this is no activity: looking keeps nothing awake.

A served page is the sandbox's word: it is read within bounds, uncompressed, and no redirect or link is
followed that leads out of the preview, because the kernel may reach what the sandbox must not.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import re
import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from daytona_magics.engine.loopback import is_loopback
from daytona_magics.errors import SandboxError, SandboxUsageError, printable
from daytona_magics.runtime.proxies import through
from daytona_magics.sandboxes import client as sdk

if TYPE_CHECKING:
    import aiohttp
    from daytona import AsyncSandbox

#: Seconds a signed address is good for, and a look may take; redirects followed within the preview.
SIGNED_SECONDS, LOOK_WITHIN, REDIRECTS = 3600, 15.0, 3
#: Bytes of a page, and of each file it loads, that are read; how many files; characters of its text kept.
PAGE_BYTES, FILE_BYTES, MOST_FILES, TEXT_KEPT = 512 << 10, 1 << 20, 20, 2000
#: Seconds of work that reading a page may be, and characters of it that are read at once.
READ_WITHIN, PIECE = 0.2, 4096
_HEADERS = {
    "X-Daytona-Skip-Preview-Warning": "true",
    "X-Daytona-Skip-Last-Activity-Update": "true",
    "Accept": "text/html,*/*;q=0.8",
    "Accept-Encoding": "identity",
    "User-Agent": "daytona-magics",
}
#: What a proxy in front of the sandboxes answers when nothing behind it does.
_NOBODY = (502, 503, 504)
#: What it answers when it does not know the token, or the sandbox does not run.
_UNKNOWN = (400, 401, 404)
#: The header by which the embedded engine marks answers of its own.
MARK = "X-Daytona-Magics-Error"


#: A port that stands in no host name or id by chance.
_STANDS_OUT = 48391


async def pattern(sandbox: AsyncSandbox) -> str:
    """The standard address of any port of a sandbox, with ``{PORT}`` where the port stands.

    It says nothing secret: who asks proves itself by the token of ``get_preview_link`` in the header
    ``x-daytona-preview-token``, unless the sandbox is public.

    Raises:
        SandboxError: the endpoint's addresses name the port nowhere, or more than once.
    """
    link = await sdk.asked(sandbox.get_preview_link(_STANDS_OUT), "asking for an address")
    before, *after = str(link.url).split(str(_STANDS_OUT))
    if len(after) != 1 or "{" in link.url:
        raise SandboxError(
            "this endpoint's preview addresses have no place for a port",
            hint="%sandbox preview PORT  asks for the address of one.",
        )
    return f"{before}{{PORT}}{after[0]}"


@dataclass(frozen=True)
class Signed:
    """An address for a browser.

    Attributes:
        url: the whole of it; ends with a slash.
        token: what is secret in it.
        listener, path: where the same is found below a host that passes on paths only, and that host's port;
            0 and "" where there is no such form (the cloud).
        expires: seconds since 1970, by this machine's clock.
    """

    port: int
    url: str
    token: str
    expires: float
    listener: int = 0
    path: str = ""


@dataclass(frozen=True)
class Seen:
    """What the kernel saw of a page.

    Attributes:
        status: HTTP status; 0 when nothing answered.
        reason: why there was no answer.
        to: where a redirect leads that was not followed.
        frame_options, ancestors: what its headers say about frames: ``X-Frame-Options``, and the sources of
            ``frame-ancestors`` (None without that directive).
        absolute: it loads files by absolute paths, which do not work where it is shown below another path.
        digest: changes when the page, or a file that it loads, does; "" when it was not asked for.
        links: files of the same preview that it loads, as paths.
    """

    status: int
    reason: str = ""
    title: str = ""
    text: str = ""
    kind: str = ""
    to: str = ""
    frame_options: str = ""
    ancestors: tuple[str, ...] | None = None
    absolute: bool = False
    digest: str = ""
    links: tuple[str, ...] = field(default=(), repr=False)

    @property
    def answered(self) -> bool:
        return self.status > 0


def check_port(port: object) -> int:
    """A port, from what somebody typed. Raises SandboxUsageError."""
    text = str(port).removeprefix(":")
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):
        raise SandboxUsageError(f"a port is a number from 1 to 65535, not {str(port)!r}")
    return int(text)


def check_path(path: object) -> str:
    """A path on the server, from what somebody typed; always begins with one slash. Raises SandboxUsageError.

    In:  check_path("docs?page=2")
    Out: '/docs?page=2'
    """
    text = str(path).strip() or "/"
    parts = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text.partition("/")[0])
    if parts or "\\" in text or not text.isprintable() or len(text) > 2000:
        raise SandboxUsageError(f"{text[:80]!r} is no path on the server", hint="Like  /  or  /docs?page=2")
    return "/" + text.lstrip("/")


async def sign(sandbox: AsyncSandbox, port: int, seconds: int = SIGNED_SECONDS) -> Signed:
    """A new signed address. Raises SandboxError."""
    made: Any = await sdk.asked(
        sandbox.create_signed_preview_url(port, expires_in_seconds=seconds),
        f"signing an address of port {port}",
    )
    by_path = (made.additional_properties or {}).get("pathUrl")
    parts = urlsplit(by_path if isinstance(by_path, str) else "")
    where = urlsplit(str(made.url))
    if where.scheme not in ("http", "https") or not where.hostname:
        raise SandboxError("the endpoint made no address that a browser could open")
    url = str(made.url).rstrip("/") + "/"
    return Signed(
        port, url, str(made.token), time.time() + seconds, parts.port or 0, parts.path if parts.port else ""
    )


async def revoke(sandbox: AsyncSandbox, signed: Signed) -> None:
    """Take a signed address back; one that is gone already is as good. Raises SandboxError."""
    try:
        await sandbox.expire_signed_preview_url(signed.port, signed.token)
    except sdk.error_class() as error:
        if not sdk.not_found(error):
            raise sdk.translate(error, "taking a preview's address back") from None


class Eye:
    """Looks at the pages of one port of a sandbox. For the loop thread; to be closed.

    Args:
        marked: the proxy in front of the sandbox marks answers of its own (the embedded engine does).
    """

    def __init__(self, sandbox: AsyncSandbox, port: int, *, marked: bool) -> None:
        self._sandbox, self._port, self._marked = sandbox, port, marked
        self._session: aiohttp.ClientSession | None = None
        self._link: Any = None

    async def close(self) -> None:
        """Close its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def look(self, path: str, *, files: bool = False) -> Seen:
        """See one page.

        Args:
            files: also read what it loads, so that ``digest`` is the whole page's.

        Raises:
            SandboxError: the endpoint has no address for this port (the sandbox is stopped, or gone).
        """
        try:
            return await asyncio.wait_for(self._look(path, files), LOOK_WITHIN)
        except asyncio.TimeoutError:
            return Seen(0, f"port {self._port} gave no answer within {LOOK_WITHIN:g} s")

    async def _look(self, path: str, files: bool) -> Seen:
        import aiohttp

        try:
            seen, body = await self._page(path)
            if files and seen.answered:
                parts = [body, *await asyncio.gather(*(self._file(link) for link in seen.links))]
                digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
                return Seen(**{**vars(seen), "digest": digest})
            return seen
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Seen(0, printable(str(error) or type(error).__name__, line=True)[:300])

    async def _page(self, path: str) -> tuple[Seen, bytes]:
        for _ in range(REDIRECTS + 1):
            async with await self._get(path) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    to = self._within(path, answer.headers.get("Location", ""))
                    if to is None:
                        away = printable(answer.headers.get("Location", ""), line=True)[:300]
                        return Seen(answer.status, to=away), b""
                    path = to
                    continue
                body = await _read(answer, PAGE_BYTES)
                return self._described(answer, path, body), body
        return Seen(0, "it redirects in a circle"), b""

    async def _file(self, path: str) -> bytes:
        async with await self._get(path) as answer:
            return str(answer.status).encode() + await _read(answer, FILE_BYTES)

    async def _get(self, path: str) -> aiohttp.ClientResponse:
        import aiohttp

        link = await self._address()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=LOOK_WITHIN),
            )
        headers = {**_HEADERS, "X-Daytona-Preview-Token": str(link.token or "")}
        url = str(link.url).rstrip("/") + path
        # What is on this machine is not asked for through somebody's proxy.
        proxy = {} if is_loopback(urlsplit(url).hostname) else await through(url)
        answer = await self._session.get(url, headers=headers, allow_redirects=False, **proxy)
        if answer.status in _UNKNOWN and self._of_proxy(answer):
            # The token ends with the sandbox's run: the next look asks for the new one.
            self._link = None
        return answer

    def _of_proxy(self, answer: aiohttp.ClientResponse) -> bool:
        """Whether an answer is that of the proxy in front of the server, as far as can be told."""
        return MARK in answer.headers if self._marked else answer.status in (401, *_NOBODY)

    async def _address(self) -> Any:
        if self._link is None:
            self._link = await sdk.asked(
                self._sandbox.get_preview_link(self._port), f"asking for the address of port {self._port}"
            )
        return self._link

    def _within(self, path: str, location: str) -> str | None:
        """A link of the page at ``path`` as a path of this preview; None when it leads elsewhere."""
        base = str(self._link.url).rstrip("/")
        try:
            url = urljoin(base + path, location.strip())
            if not url.startswith(base + "/") or "/../" in url or not url.isprintable():
                return None
        except ValueError:
            return None
        return url[len(base) :].partition("#")[0]

    def _described(self, answer: aiohttp.ClientResponse, path: str, body: bytes) -> Seen:
        # A page without a type is looked at, as browsers do.
        bare = "text/html" if body.lstrip()[:1] == b"<" else "text/plain"
        kind = answer.content_type if "Content-Type" in answer.headers else bare
        if answer.status in _NOBODY and self._of_proxy(answer):
            return Seen(0, f"nothing answers on port {self._port}")
        if answer.status in _UNKNOWN and self._of_proxy(answer):
            return Seen(0, "the sandbox was started anew")
        reader = _Reader()
        if "html" in kind:
            reader.read(body.decode(_charset(answer), "replace"))
        links = [self._within(path, link) for link in reader.links]
        policies = answer.headers.getall("Content-Security-Policy", [])
        return Seen(
            answer.status,
            title=printable(" ".join(reader.title.split()), line=True)[:200],
            text=reader.text() or (_plain(body) if kind.startswith("text/") and "html" not in kind else ""),
            kind=printable(kind, line=True)[:100],
            frame_options=printable(answer.headers.get("X-Frame-Options", ""), line=True)[:100],
            ancestors=_ancestors(policies),
            absolute=any(link.startswith("/") and not link.startswith("//") for link in reader.links),
            links=tuple(dict.fromkeys(link for link in links if link is not None))[:MOST_FILES],
        )


def _charset(answer: aiohttp.ClientResponse) -> str:
    try:
        return codecs.lookup(answer.charset or "utf-8").name
    except LookupError:
        return "utf-8"


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The beginning of a body; a server that never ends one is not waited for."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) >= limit:
            break
    return bytes(body[:limit])


def _ancestors(policies: list[str]) -> tuple[str, ...] | None:
    """The sources of ``frame-ancestors``, None without it.

    In:  _ancestors(["frame-ancestors 'self' x.org"])
    Out: ("'self'", 'x.org')
    """
    for directive in ";".join(policies).replace(",", ";").split(";"):
        words = directive.split()
        if words and words[0].lower() == "frame-ancestors":
            return tuple(printable(word, line=True)[:200] for word in words[1:21])
    return None


def _plain(body: bytes) -> str:
    return printable(body[: TEXT_KEPT * 4].decode("utf-8", "replace"))[:TEXT_KEPT]


class _Reader(HTMLParser):
    """Title, visible text and files of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.links: list[str] = []
        self._words: list[str] = []
        self._kept = 0
        self._hidden = ""

    def read(self, markup: str) -> None:
        """Take a page in, as far as the parser comes in READ_WITHIN seconds of this thread's own time.

        This runs on the loop, which serves the cells, too; and a page may be made to take long, or to be
        something the parser gives up.
        """
        until = time.thread_time() + READ_WITHIN
        for start in range(0, len(markup), PIECE):
            if self._full or time.thread_time() > until:
                return
            try:
                self.feed(markup[start : start + PIECE])
            except AssertionError:
                return

    @property
    def _full(self) -> bool:
        return len(self.links) >= MOST_FILES and self._kept >= TEXT_KEPT

    def text(self) -> str:
        """Its text, one line for each piece, at most TEXT_KEPT characters."""
        return printable("\n".join(self._words))[:TEXT_KEPT]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        link = given.get("href" if tag == "link" else "src")
        if link and tag in ("link", "script", "img") and len(self.links) < MOST_FILES and len(link) < 2000:
            self.links.append(link)
        if tag in ("script", "style", "title", "template", "svg"):
            self._hidden = self._hidden or tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if self._hidden == "title" and len(self.title) < 1000:
            self.title += data
        elif not self._hidden and self._kept < TEXT_KEPT and (line := " ".join(data.split())):
            self._words.append(line)
            self._kept += len(line)
