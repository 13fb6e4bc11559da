"""The preview listener: one port on both loopbacks, with the same door in front as the engine's own."""

from __future__ import annotations

import socket
from contextlib import suppress

from aiohttp import web

from daytona_magics.engine.api.door import Door

#: Connections at once; their descriptors are taken from those of the engine's API.
MAX_CONNECTIONS = 1000
#: Seconds a connection may be idle between requests, and a later request's head may take to arrive.
IDLE_SECONDS = 60.0
#: Bytes of one line of a request's head: cookies and tokens of real programs are larger than aiohttp's 8 KiB.
MAX_HEADER = 32 << 10
SHUTDOWN_SECONDS = 1.0


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
    """Serves `app` on sockets of its own."""

    def __init__(self, app: web.Application) -> None:
        self._doors: list[Door] = []
        # A client that leaves lets go of its connection into the sandbox; bodies pass as they are.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on `sockets`, which are closed at the end."""
        await self._runner.setup()
        for sock in sockets:
            door = Door(MAX_CONNECTIONS)
            await door.start(self._runner, sock)
            self._doors.append(door)

    def admit(self, request: web.BaseRequest) -> None:
        """A request was let in: its connection is no stranger's any more."""
        for door in self._doors:
            door.admit(request)

    async def close(self) -> None:
        """Close the sockets and all connections."""
        for door in self._doors:
            await door.stop()
        await self._runner.cleanup()
