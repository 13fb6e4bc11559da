"""A TCP proxy that breaks connections on purpose: what networks do to a long-lived line.

async with FaultProxy("127.0.0.1", port) as proxy:   # proxy.port leads to port
    proxy.cut("rst")        # every connection gets a reset; new ones work
    proxy.down("fin")       # ... and new ones are refused until proxy.up()
    proxy.down("hole")      # bytes vanish both ways, connections stay open, new ones hang
    proxy.up()              # new connections work; those of a black hole never come back
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal

Fault = Literal["rst", "fin", "hole"]


class FaultProxy:
    """Relays 127.0.0.1:port to a target, until told to fail.

    Args:
        host: target host.
        port: target port.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.connections = 0
        self._pairs: list[_Pair] = []
        self._down: Fault | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for pair in self._pairs:
            pair.reset()
        await asyncio.sleep(0)

    def cut(self, fault: Fault) -> None:
        """Break every connection there is; new ones are not affected."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            if fault == "rst":
                pair.reset()
            elif fault == "fin":
                pair.finish()
            else:
                pair.swallow = True
                self._pairs.append(pair)

    def down(self, fault: Fault) -> None:
        """Break every connection, and serve new ones in the same way until :meth:`up`."""
        self._down = fault
        self.cut(fault)

    def up(self) -> None:
        """New connections are relayed again."""
        self._down = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._down in ("rst", "fin"):
            writer.transport.abort()
            return
        swallow = self._down == "hole"
        try:
            upstream = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        names = [f"Host: 127.0.0.1:{port}".encode() for port in (self.port, self.target[1])]
        pair = _Pair((reader, writer), upstream, (names[0], names[1]))
        pair.swallow = swallow
        self._pairs.append(pair)
        await pair.run()
        with contextlib.suppress(ValueError):
            self._pairs.remove(pair)


class _Pair:
    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        names: tuple[bytes, bytes],
    ) -> None:
        self.client, self.server = client, server
        self._names = names
        self.swallow = False

    async def run(self) -> None:
        await asyncio.gather(
            self._relay(self.client[0], self.server[1]), self._relay(self.server[0], self.client[1])
        )

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            first = reader is self.client[0]
            while data := await reader.read(65536):
                if first:
                    data, first = data.replace(*self._names, 1), False
                if not self.swallow:
                    writer.write(data)
                    await writer.drain()
            if not self.swallow:
                writer.close()

    def reset(self) -> None:
        for _, writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def finish(self) -> None:
        for _, writer in (self.client, self.server):
            writer.close()
