"""A TCP proxy that breaks connections on purpose: what networks do to a long-lived line.

async with FaultProxy("127.0.0.1", port) as proxy:   # proxy.port leads to port
    proxy.cut("rst")        # every connection gets a reset; new ones work
    proxy.down("fin")       # ... and new ones are refused until proxy.up()
    proxy.down("hole")      # bytes vanish both ways, connections stay open, new ones hang
    proxy.up()              # new connections work; those of a black hole never come back
    proxy.slow(delay=0.05, rate=200_000)   # from the target: seconds for each piece, bytes per second
    proxy.garble("duplicate", 3)           # the next 3 pieces from the target come twice ("reorder": swapped)
    proxy.both_ways = True                 # what is slow or garbled is so towards the target too
    proxy.passed                           # bytes relayed so far
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal

Fault = Literal["rst", "fin", "hole"]
Garbling = Literal["duplicate", "reorder"]


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
        self.delay = self.rate = 0.0
        self.garbling: Garbling = "duplicate"
        self.to_garble = 0
        self.both_ways = False
        self.garble_after = 0
        self.passed = 0
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

    def slow(self, *, delay: float = 0.0, rate: float = 0.0) -> None:
        """Hold each piece from the target for ``delay`` seconds, and pass on ``rate`` bytes per second."""
        self.delay, self.rate = delay, rate

    def garble(self, how: Garbling, times: int, after: int = 0) -> None:
        """Spoil the next pieces from the target: what they carry is well formed, its order is not.

        Args:
            after: bytes that are relayed before.
        """
        self.garbling, self.to_garble, self.garble_after = how, times, self.passed + after

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
        pair = _Pair((reader, writer), upstream, (names[0], names[1]), self)
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
        proxy: FaultProxy,
    ) -> None:
        self._proxy = proxy
        self.client, self.server = client, server
        self._names = names
        self.swallow = False

    async def run(self) -> None:
        await asyncio.gather(
            self._relay(self.client[0], self.server[1]), self._relay(self.server[0], self.client[1])
        )

    async def _spoiled(self, reader: asyncio.StreamReader, data: bytes) -> bytes:
        proxy = self._proxy
        if proxy.delay or proxy.rate:
            await asyncio.sleep(proxy.delay + (len(data) / proxy.rate if proxy.rate else 0.0))
        if not proxy.to_garble or proxy.passed < proxy.garble_after:
            return data
        proxy.to_garble -= 1
        return data + data if proxy.garbling == "duplicate" else await reader.read(65536) + data

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = reader is self.client[0]
            while data := await reader.read(65536):
                if first:
                    data, first = data.replace(*self._names, 1), False
                if reader is self.server[0] or self._proxy.both_ways:
                    data = await self._spoiled(reader, data)
                self._proxy.passed += len(data)
                if not self.swallow:
                    writer.write(data)
                    await writer.drain()
            if not self.swallow:
                writer.close()
        except OSError:
            # One end has died; a relay that kept the other one would be a black hole.
            if not self.swallow:
                self.reset()

    def reset(self) -> None:
        for _, writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def finish(self) -> None:
        for _, writer in (self.client, self.server):
            writer.close()
