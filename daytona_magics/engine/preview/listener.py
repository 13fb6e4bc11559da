"""The preview listener's sockets: one port on both loopbacks, and a bounded number of connections."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from aiohttp import web

#: Connections at once; their descriptors are taken from those of the engine's API.
MAX_CONNECTIONS = 1000
#: Seconds a connection may be without a whole request's head: at its start, and between requests.
IDLE_SECONDS = 60.0
#: Bytes of one line of a request's head: cookies and tokens of real programs are larger than aiohttp's 8 KiB.
MAX_HEADER = 32 << 10


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


class Listener:
    """Serves `app` on sockets of its own.

    Args:
        app: what is served.
        most: connections at once; more are closed as they come.
        idle: seconds, see `IDLE_SECONDS`.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        most: int = MAX_CONNECTIONS,
        idle: float = IDLE_SECONDS,
        shutdown: float = 1.0,
    ) -> None:
        self._most = most
        self._servers: list[asyncio.Server] = []
        # A client that leaves lets go of its connection into the sandbox; bodies pass as they are.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=shutdown,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=idle,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on `sockets`, which are closed at the end."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._protocol, sock=sock, backlog=256))

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._most:
            return _Refused()
        return server()

    async def close(self) -> None:
        """Close the sockets and all connections."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        transport.close()
