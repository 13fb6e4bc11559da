"""The multipart bodies of file transfers, as the SDK's senders write them and its parser reads them."""

from __future__ import annotations

import json
import secrets
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import BodyPartReader, web

CHUNK = 256 << 10


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


async def chunks_of(part: BodyPartReader) -> AsyncIterator[bytes]:
    """The bytes of a part as they arrive."""
    while chunk := await part.read_chunk(CHUNK):
        yield bytes(chunk)


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
    async def begin(cls, request: web.Request) -> MultipartResponse:
        """Send the head of the answer."""
        boundary = f"daytona-{secrets.token_hex(16)}"
        response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
        await response.prepare(request)
        return cls(response, boundary)

    async def header(self, name: str, path: str, content_type: str, size: int) -> None:
        """Begin a part of ``size`` bytes."""
        lines = (
            f"{'' if self._first else chr(13) + chr(10)}--{self._boundary}",
            f"Content-Disposition: {content_disposition(name, path)}",
            f"Content-Type: {content_type}",
            f"Content-Length: {size}",
            "\r\n",
        )
        self._first = False
        await self._response.write("\r\n".join(lines).encode())

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
