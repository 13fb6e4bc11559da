"""TLS towards a server, behind an ordinary socket.

The proxy's code speaks to non-blocking sockets. Where it must speak TLS itself (to a package index whose
password it adds, to a proxy of the host that wants TLS) the encrypted connection is held by asyncio and
joined to one end of a socket pair; the other end is given out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from daytona_magics.engine.proxy.http1 import PIECE
from daytona_magics.engine.tasks import until_one_ends

_joined: set[asyncio.Task[None]] = set()


async def wrap(sock: socket.socket, context: ssl.SSLContext, host: str, seconds: float) -> socket.socket:
    """A plain socket whose bytes travel over ``sock`` in TLS; ``sock`` belongs to it from now on.

    Raises:
        OSError: the handshake failed; ``ssl.SSLCertVerificationError`` says why the certificate is not
        accepted.
    """
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=host, ssl_handshake_timeout=seconds
        )
    except BaseException:
        sock.close()
        raise
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    task = asyncio.ensure_future(_join(reader, writer, far))
    _joined.add(task)
    task.add_done_callback(_joined.discard)
    return near


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    async def out() -> None:
        while data := await loop.sock_recv(far, PIECE):
            writer.write(data)
            await writer.drain()
        # TLS streams of asyncio cannot be half closed; whoever asks has asked completely by now.

    async def back() -> None:
        while data := await reader.read(PIECE):
            await loop.sock_sendall(far, data)
        far.shutdown(socket.SHUT_WR)

    try:
        # Either end's end is the end: a request has been sent whole before its answer ends.
        await until_one_ends(out(), back())
    finally:
        far.close()
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 5.0)
