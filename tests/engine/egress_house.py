"""A gate on a plain listener, and servers behind it: real sockets, names by a resolver of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.gate import Timing
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.settings import HostNetwork

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: The addresses that tests may reach are loopback ones, so the usual policy names one of them.
LISTED = Policy.parse(allow_list="127.0.0.1/32")


class Names:
    """A resolver: what each name resolves to, one answer after the other (the last one stays)."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        waiting = self.answers[host]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@dataclass
class House:
    """An egress with one gate.

    Attributes:
        port: of the gate's listener.
        heads: of the requests that the origin has seen.
    """

    egress: Egress
    names: Names
    port: int
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    accepted: int = 0

    def apply(self, policy: Policy) -> None:
        self.egress.apply("box", policy)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)

    async def say(self, data: bytes, *, within: float = 20.0) -> bytes:
        """Send bytes and return everything up to the end of the connection."""
        reader, writer = await self.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        answer = await asyncio.wait_for(_all(reader), within)
        writer.close()
        return answer

    async def get(self, url: str, *more: str) -> bytes:
        lines = [f"GET {url} HTTP/1.1", "Host: whatever", "Connection: close", *more, "", ""]
        return await self.say("\r\n".join(lines).encode())

    async def tunnel(self, authority: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for a tunnel; the answer's head, and the connection."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20), reader, writer

    async def serve(self, serve: Serve, address: str = "127.0.0.1") -> int:
        """A server on ``address``; returns its port."""

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
            writer.close()

        server = await asyncio.start_server(counted, address, 0, limit=1 << 20)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    _servers: list[asyncio.Server] = field(default_factory=list)

    async def origin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Remembers the request; answers by its path."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        path = head.split(b" ")[1]
        if b"early" in path:
            writer.write(b"HTTP/1.1 413 Too much\r\nContent-Length: 4\r\n\r\nmuch")
            return
        self.bodies.append(await read_body(head, reader))
        writer.write(ANSWERS.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
        await writer.drain()


ANSWERS = {
    b"/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n",
    b"/until-close": b"HTTP/1.1 200 OK\r\nX-Kept: 1\r\nConnection: close, X-Dropped\r\nX-Dropped: 1\r\n\r\n"
    b"to the end",
    b"/nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"/interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 5\r\n\r\nhello",
    b"/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    b"/none": b"",
    b"/noise": b"\x16\x03\x01 not http\r\n\r\n",
    b"/switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"/huge": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
}


async def read_body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lower = head.lower()
    if b"content-length: " in lower:
        return await reader.readexactly(int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]))
    body = b""
    if b"transfer-encoding: chunked" in lower:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return body


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back; the end, too."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _all(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 20):
            answer += data
    return answer


@asynccontextmanager
async def house(
    policy: Policy = LISTED, host: HostNetwork | None = None, timing: Timing | None = None
) -> AsyncIterator[House]:
    """A gate that serves a plain listener, as it serves one that was handed out of a sandbox."""
    names = Names()
    egress = Egress(host or HostNetwork(), names, timing or Timing())
    egress.start()
    egress.admit("box", policy, own_network=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    egress.open("box", listener)
    made = House(egress, names, port)
    try:
        yield made
    finally:
        await egress.close()
        for server in made._servers:
            server.close()
