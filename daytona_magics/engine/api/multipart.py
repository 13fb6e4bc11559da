"""The multipart bodies of file transfers, as the SDK's senders write them and its parser reads them."""

from __future__ import annotations

import json
import secrets
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import StreamReader, multipart, web

from daytona_magics.engine.api import straight
from daytona_magics.engine.toolbox.client import Download

CHUNK = 256 << 10
#: Largest head of a part, and largest field that is no file, bytes.
MAX_HEAD, MAX_FIELD = 16 << 10, 64 << 10


def content_disposition(name: str, path: str) -> str:
    """The header that names a part and echoes the requested path byte for byte.

    Printable ASCII is quoted (with ``\\"`` and ``\\\\``).  Anything else travels percent-encoded in
    ``filename*``, which wins; the plain ``filename`` beside it is for parsers that know only that one.

    Example:
        >>> content_disposition("file", "a b")
        'form-data; name="file"; filename="a b"'
    """
    shown = "".join(c if c.isascii() and c.isprintable() else "_" for c in path)
    quoted = shown.replace("\\", "\\\\").replace('"', '\\"')
    header = f'form-data; name="{name}"; filename="{quoted}"'
    return header if shown == path else f"{header}; filename*=UTF-8''{urllib.parse.quote(path, safe='')}"


class Form:
    """The parts of a form as they arrive: each boundary is searched for once, and no byte kept for longer.

    Args:
        content: the request's body.
        boundary: as its Content-Type names it.

        while (name := await form.next()) is not None:
            async for piece in form.pieces():
                ...

    Raises ValueError, from any of its coroutines, where the body is no such form or ends too early.
    """

    def __init__(self, content: StreamReader, boundary: str) -> None:
        if not 0 < len(boundary) <= 70 or not boundary.isascii():
            raise ValueError("its boundary is not one")
        self._content = content
        self._end = f"\r\n--{boundary}".encode()
        # The first boundary may be the first line.
        self._data = b"\r\n"
        self._inside = True

    async def _more(self) -> None:
        piece = await self._content.readany()
        if not piece:
            raise ValueError("it ends in the middle of a part")
        self._data = self._data + piece if self._data else piece

    async def next(self) -> str | None:
        """The name of the next part, "" for one without; None after the last."""
        async for _ in self.pieces():
            continue
        while len(self._data) < 2:
            await self._more()
        if self._data.startswith(b"--"):
            return None
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > MAX_HEAD:
                raise ValueError("the head of a part is too long")
            await self._more()
        if end > MAX_HEAD:
            raise ValueError("the head of a part is too long")
        head, self._data = self._data[:end], self._data[end + 4 :]
        if head.lstrip(b" \t")[:2] not in (b"", b"\r\n"):
            raise ValueError("a boundary has more to it")
        self._inside = True
        return _name_of(head)

    async def pieces(self) -> AsyncIterator[memoryview]:
        """What is left of the part."""
        while self._inside:
            at = self._data.find(self._end)
            if at >= 0:
                piece, self._data = memoryview(self._data)[:at], self._data[at + len(self._end) :]
                self._inside = False
            else:
                # What may be the beginning of a boundary waits for what follows.
                at = max(0, len(self._data) - len(self._end) + 1)
                piece, self._data = memoryview(self._data)[:at], self._data[at:]
            if piece:
                yield piece
            if self._inside:
                await self._more()

    async def field(self) -> bytes:
        """All of a part that is no file."""
        data = b""
        async for piece in self.pieces():
            data += piece
            if len(data) > MAX_FIELD:
                raise ValueError("a field is too long")
        return data


def _name_of(head: bytes) -> str:
    """The name in the head of a part."""
    found = ""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        text = value.strip().decode("utf-8", "surrogateescape")
        if key.strip().lower() == b"content-disposition":
            _, params = multipart.parse_content_disposition(text)
            found = multipart.content_disposition_filename(params, "name") or ""
        elif key.strip().lower() == b"content-type" and text.lower().startswith("multipart/"):
            raise ValueError("a part is a form of its own")
    return found


class MultipartResponse:
    """A ``multipart/form-data`` answer written part by part.

    Example::

        answer = await MultipartResponse.begin(request)
        await answer.header("file", "a.txt", "application/octet-stream", 3)
        await answer.write(b"abc")
        response = await answer.end()
    """

    def __init__(self, response: web.StreamResponse, boundary: str) -> None:
        self._response = response
        self._boundary = boundary
        self._first = True

    @classmethod
    def new(cls) -> MultipartResponse:
        """An answer whose head can still be changed."""
        boundary = f"daytona-{secrets.token_hex(16)}"
        response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return cls(response, boundary)

    @classmethod
    async def begin(cls, request: web.Request) -> MultipartResponse:
        """Send the head of the answer."""
        made = cls.new()
        await made._response.prepare(request)
        return made

    async def only(self, request: web.Request, path: str, file: Download) -> web.StreamResponse:
        """Send the answer that holds one large file and nothing else."""
        head = self.head("file", path, "application/octet-stream", file.size)
        tail = f"\r\n--{self._boundary}--\r\n".encode()
        self._response.content_length = len(head) + file.size + len(tail)
        await self._response.prepare(request)
        await self._response.write(head)
        await straight.copy(request, file)
        # Of what it has not written itself the library thinks that it is still to come.
        await straight.write(request, tail)
        await self._response.write_eof()
        return self._response

    def head(self, name: str, path: str, content_type: str, size: int) -> bytes:
        """What goes before the ``size`` bytes of a part."""
        lines = (
            f"{'' if self._first else chr(13) + chr(10)}--{self._boundary}",
            f"Content-Disposition: {content_disposition(name, path)}",
            f"Content-Type: {content_type}",
            f"Content-Length: {size}",
            "\r\n",
        )
        self._first = False
        return "\r\n".join(lines).encode()

    async def header(self, name: str, path: str, content_type: str, size: int) -> None:
        """Begin a part of ``size`` bytes."""
        await self._response.write(self.head(name, path, content_type, size))

    async def write(self, data: bytes) -> None:
        """Send bytes of the part."""
        await self._response.write(data)

    async def error(self, path: str, body: dict[str, Any]) -> None:
        """A whole part that says why ``path`` is not there."""
        data = json.dumps(body).encode()
        await self.header("error", path, "application/json", len(data))
        await self.write(data)

    async def end(self) -> web.StreamResponse:
        """Send the closing boundary."""
        opening = "" if self._first else "\r\n"
        await self._response.write(f"{opening}--{self._boundary}--\r\n".encode())
        await self._response.write_eof()
        return self._response
