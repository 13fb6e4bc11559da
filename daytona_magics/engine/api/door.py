"""The engine's listener: strangers are soon shown out, and never keep those with the key from getting in.

Everybody on this machine can connect to a loopback port, and somebody who says nothing, or a byte a minute,
costs a descriptor. So a connection is a stranger until a request on it has passed the guard: strangers are
cut off after some seconds whatever they are doing, and when there are as many connections as the process has
room for, the oldest stranger goes for the newest. Only when everybody has the key is the next one refused.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

from aiohttp import web

#: Seconds in which a new connection must show that it is somebody's who may come in.
STRANGER_SECONDS = 15.0
#: Connections at once, at most, and the part of the process's descriptors they may take.
MAX_CONNECTIONS, PART = 4096, 0.5
#: Connections that may wait to be accepted; asyncio also tries so often in a row when it cannot.
BACKLOG = 128
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def most_connections() -> int:
    """How many connections this process has room for, beside what its sandboxes need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, int(soft * PART))


class Door:
    """Serves an application on one socket.

    Args:
        most: connections at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._server: asyncio.Server | None = None
        # In the order in which they came.
        self._strangers: dict[int, tuple[Any, asyncio.TimerHandle]] = {}

    async def start(self, runner: web.AppRunner, listener: socket.socket) -> None:
        """Serve ``runner`` on ``listener``, which is closed by `stop`."""
        handlers = runner.server
        assert handlers is not None, "the runner has been set up"

        def protocol() -> asyncio.Protocol:
            if len(handlers.connections) >= self._most and not self._cut_oldest():
                return _Refused()
            return self._stranger(handlers())

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocol, sock=listener, backlog=BACKLOG)

    async def stop(self) -> None:
        """Take no more connections; those that are open stay."""
        if self._server is not None:
            self._server.close()

    def admit(self, request: web.BaseRequest) -> None:
        """A request passed the guard: its connection is no stranger's any more."""
        _, timer = self._strangers.pop(id(request.protocol), (None, None))
        if timer is not None:
            timer.cancel()

    def _stranger(self, handler: Any) -> asyncio.Protocol:
        timer = asyncio.get_running_loop().call_later(STRANGER_SECONDS, self._cut, id(handler))
        self._strangers[id(handler)] = (handler, timer)
        return handler  # type: ignore[no-any-return]

    def _cut(self, number: int) -> None:
        handler, timer = self._strangers.pop(number)
        timer.cancel()
        if handler.transport is not None:
            handler.transport.abort()

    def _cut_oldest(self) -> bool:
        """Make room; False when everybody here has shown the key. One that has left already makes none."""
        for number, (handler, _) in list(self._strangers.items()):
            is_here = handler.transport is not None
            self._cut(number)
            if is_here:
                return True
        return False


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()
