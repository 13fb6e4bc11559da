"""HTTP/1.1 messages on a socket, read strictly: what could be read in two ways is refused.

Two programs that disagree about where a request ends can be made to see different requests ("smuggling"). So
line ends are CRLF, header names are tokens directly before their colon, lines are not folded, a body has one
length (``Content-Length`` once, or ``Transfer-Encoding: chunked`` alone), and chunk sizes are plain hex.
Chunks are read and written anew, never copied.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

MAX_HEAD = 64 << 10
MAX_HEADERS = 200
PIECE = 64 << 10
"""Bytes of a body or tunnel that are in memory at once, per direction."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\Z")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_HOP_BY_HOP = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_PROXY_ONLY = frozenset((b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info"))

Headers = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """A message that is refused: ``status`` and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Body:
    """How long a body is: ``length`` bytes, ``chunked``, or up to the end of the connection (both unset)."""

    length: int | None = None
    chunked: bool = False

    @property
    def is_empty(self) -> bool:
        return self.length == 0


@dataclass
class Request:
    """A request's head."""

    method: bytes
    target: bytes
    minor: int
    headers: Headers

    def wants_more(self) -> bool:
        """Whether the client will send another request on the connection."""
        words = options(self.headers)
        if self.minor == 0:
            return b"keep-alive" in words
        return b"close" not in words


@dataclass
class Response:
    """A response's head."""

    minor: int
    status: int
    reason: bytes
    headers: Headers


class Wire:
    """A connected non-blocking socket with a buffer for what was read too far.

    ``received`` and ``sent`` count bytes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = self.sent = 0
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> bool:
        """Whether bytes were read that nobody has asked for yet."""
        return bool(self._buffer)

    async def head(self, first: float, whole: float) -> bytes | None:
        """Everything up to the empty line, without it; None when the peer is gone before a byte of it.

        Args:
            first: seconds until the first byte.
            whole: seconds from the first byte to the last, however slowly they trickle in.

        Raises:
            Malformed: too long (431), too slow (408) or cut short.
        """
        try:
            if not await asyncio.wait_for(self._begin(), first):
                return None
        except asyncio.TimeoutError:
            return None
        try:
            return await asyncio.wait_for(self._until(b"\r\n\r\n", MAX_HEAD, 431), whole)
        except asyncio.TimeoutError:
            raise Malformed(408, f"the request's head did not arrive within {whole:g} s") from None

    async def _begin(self) -> bool:
        """Wait for the first byte of a message; a client may end its last one with a CRLF too many."""
        while not self._buffer.lstrip(b"\r\n"):
            self._buffer.clear()
            if not await self._fill():
                return False
        del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
        return True

    async def line(self, limit: int) -> bytes:
        """One line without its CRLF."""
        return await self._until(b"\r\n", limit, 400)

    async def _until(self, end: bytes, limit: int, status: int) -> bytes:
        seen = 0
        while (found := self._buffer.find(end, max(seen - len(end), 0))) < 0:
            seen = len(self._buffer)
            if seen > limit:
                raise Malformed(status, f"more than {limit} bytes without an end")
            if not await self._fill():
                raise Malformed(400, "the connection ended in the middle of a message")
        if found > limit:
            raise Malformed(status, f"more than {limit} bytes without an end")
        taken = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return taken

    async def _fill(self) -> bool:
        data = await self._loop.sock_recv(self.sock, PIECE)
        self.received += len(data)
        self._buffer += data
        return bool(data)

    async def piece(self, most: int = PIECE) -> bytes:
        """Some bytes, at most ``most``; empty at the end."""
        if self._buffer:
            taken = bytes(self._buffer[:most])
            del self._buffer[:most]
            return taken
        data = await self._loop.sock_recv(self.sock, min(most, PIECE))
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)
        self.sent += len(data)

    async def body(self, body: Body) -> AsyncIterator[bytes]:
        """The pieces of a body, without chunk framing; trailers are read and dropped.

        Raises:
            Malformed: a chunk is malformed, or the connection ends too early.
        """
        if body.chunked:
            while size := await self._chunk_size():
                async for data in self._exactly(size):
                    yield data
                if await self.line(2) != b"":
                    raise Malformed(400, "a chunk is longer than it says")
            left = MAX_HEAD
            while trailer := await self.line(left):
                left -= len(trailer)
        elif body.length is not None:
            async for data in self._exactly(body.length):
                yield data
        else:
            while data := await self.piece():
                yield data

    async def _chunk_size(self) -> int:
        found = _SIZE.match(await self.line(4096))
        if found is None:
            raise Malformed(400, "a chunk's size is not a plain hexadecimal number")
        return int(found[1], 16)

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length:
            data = await self.piece(min(length, PIECE))
            if not data:
                raise Malformed(400, "the connection ended in the middle of a body")
            length -= len(data)
            yield data


def parse_request(head: bytes) -> Request:
    """Read a request's head.

    Raises:
        Malformed
    """
    first, *lines = head.split(b"\r\n")
    found = _REQUEST.match(first)
    if found is None:
        raise Malformed(400, "the request line is not METHOD TARGET HTTP/1.1")
    return Request(found[1], found[2], int(found[3]), _headers(lines))


def parse_response(head: bytes) -> Response:
    """Read a response's head.

    Raises:
        Malformed
    """
    first, *lines = head.split(b"\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise Malformed(502, "the server's answer is not HTTP/1.1")
    return Response(int(found[1]), int(found[2]), found[3] or b"", _headers(lines))


def _headers(lines: list[bytes]) -> Headers:
    if len(lines) > MAX_HEADERS:
        raise Malformed(431, f"more than {MAX_HEADERS} header lines")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name) or not _VALUE.match(value):
            raise Malformed(400, "a header line is malformed or folded")
        headers.append((name, value.strip(b" \t")))
    return headers


def values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header, in order; ``name`` in lower case."""
    return [value for key, value in headers if key.lower() == name]


def options(headers: Headers) -> set[bytes]:
    """The words of the ``Connection`` headers, and of ``Proxy-Connection``, which says the same."""
    found = values(headers, b"connection") + values(headers, b"proxy-connection")
    return {word.strip().lower() for value in found for word in value.split(b",")}


def end_to_end(headers: Headers, *also: bytes) -> Headers:
    """The headers meant for the other end: none of this connection, none of proxies, none of ``also``."""
    drop = _HOP_BY_HOP | _PROXY_ONLY | options(headers) | set(also)
    return [(name, value) for name, value in headers if name.lower() not in drop]


def request_body(request: Request) -> Body:
    """How long a request's body is.

    Raises:
        Malformed: it says so in no way, or in two.
    """
    coding, lengths = (
        values(request.headers, b"transfer-encoding"),
        values(request.headers, b"content-length"),
    )
    if coding:
        if lengths or request.minor == 0 or [c.lower() for c in coding] != [b"chunked"]:
            raise Malformed(400, "the length of the request's body is ambiguous")
        return Body(chunked=True)
    if not lengths:
        return Body(length=0)
    if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
        raise Malformed(400, "the length of the request's body is ambiguous")
    return Body(length=int(lengths[0]))


def response_body(response: Response, method: bytes) -> Body:
    """How long a response's body is.

    Raises:
        Malformed
    """
    if method == b"HEAD" or response.status < 200 or response.status in (204, 304):
        return Body(length=0)
    coding, lengths = (
        values(response.headers, b"transfer-encoding"),
        values(response.headers, b"content-length"),
    )
    if coding:
        if lengths or [c.lower() for c in coding] != [b"chunked"]:
            raise Malformed(502, "the length of the server's answer is ambiguous")
        return Body(chunked=True)
    if not lengths:
        return Body()
    if len(set(lengths)) > 1 or not _LENGTH.match(lengths[0]):
        raise Malformed(502, "the length of the server's answer is ambiguous")
    return Body(length=int(lengths[0]))


def write_head(first: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head as bytes."""
    return b"\r\n".join([first, *(name + b": " + value for name, value in headers), b"", b""])


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk; empty data ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(status: int, message: str, *, close: bool = True, headers: Headers | None = None) -> bytes:
    """A whole answer of the proxy's own. The sentence is everywhere a client may show something of it:

    in the reason phrase (pip and urllib print that of a refused CONNECT), in a header, and in the body.
    """
    line = "".join(letter if " " <= letter <= "~" else "?" for letter in message).encode()
    body = message.encode() + b"\n"
    fixed = [
        (b"X-Daytona-Magics-Error", line),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Connection", b"close" if close else b"keep-alive"),
    ]
    return write_head(b"HTTP/1.1 %d %b" % (status, line), [*fixed, *(headers or [])]) + body
