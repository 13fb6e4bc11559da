"""Connections from the engine to servers inside a sandbox. Part of the toolbox program.

The engine hands in one end of a socket pair; bytes are carried between it and the server's port on the
sandbox's loopback, both ways, until both have ended. The server's own socket is not handed out: whether
reading it waits is a property that both sides would share, and the engine must never wait.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from . import wire
from .ports import listening
from .wire import Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Seconds a server of the sandbox may take to accept a connection.
CONNECT_SECONDS = 10.0
_READ = 128 * 1024


async def _connect(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op connect: {port} → {socket: "wanted"}; {} with a socket → {} when connected; then bytes on it."""
    from .agent import Refused

    # Asked for by itself: a descriptor that follows on a request's heels would be taken for the request's.
    await connection.send_json({"socket": "wanted"})
    frame = await connection.receive()
    fds = () if frame is None else frame.fds
    if len(fds) != 1:
        wire.close_fds(fds)
        raise wire.WireError("no socket was handed in")
    with socket.socket(fileno=fds[0]) as near:
        near.setblocking(False)
        port = int(request["port"])
        if port not in listening():
            raise Refused(502, "BAD_GATEWAY", f"nothing in the sandbox listens on port {port}")
        with await _reach(port) as far:
            await connection.send_json({})
            pumps = [asyncio.ensure_future(_pump(near, far)), asyncio.ensure_future(_pump(far, near))]
            gone = asyncio.ensure_future(connection.receive())
            both = asyncio.gather(*pumps)
            try:
                await asyncio.wait((both, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                both.cancel()
                gone.cancel()
                await asyncio.gather(*pumps, gone, return_exceptions=True)


async def _reach(port: int) -> socket.socket:
    """A connection to `port` on this sandbox's loopback. Raises Refused 502."""
    from .agent import Refused

    loop = asyncio.get_running_loop()
    problem = ""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # IPv6 is switched off.
            problem = problem or str(error)
            continue
        sock.setblocking(False)
        try:
            await asyncio.wait_for(loop.sock_connect(sock, (host, port)), CONNECT_SECONDS)
            return sock
        except (OSError, asyncio.TimeoutError) as error:
            sock.close()
            problem = problem or str(error) or f"no answer in {CONNECT_SECONDS:g} s"
        except BaseException:
            sock.close()
            raise
    raise Refused(502, "BAD_GATEWAY", f"port {port} in the sandbox cannot be reached: {problem}")


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until `source` ends; then `sink` is told that no more will come."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(source, _READ):
            await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


HANDLERS: "dict[str, Handler]" = {"connect": _connect}
