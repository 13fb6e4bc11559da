"""The way out of one sandbox: its settings, its connections, its counters.

A client's connection carries requests one after the other, or becomes a tunnel. Whatever is wrong or refused
is answered with one sentence and ends the connection. New settings cut at once what they forbid; they are
about what lies outside, so those who are linked with the sandbox stay in reach (see `peers`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from daytona_magics.engine.log import log
from daytona_magics.engine.proxy import http1, relay
from daytona_magics.engine.proxy.dialing import Dialer, Refused, Route
from daytona_magics.engine.proxy.http1 import Malformed, Request, Wire
from daytona_magics.engine.proxy.indexes import Indexes
from daytona_magics.engine.proxy.peers import Peer, Peers
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.targets import Address, BadTarget, Target, parse_authority

MAX_CONNECTIONS = 512
"""Connections of one sandbox at once, and of those who have not said yet which sandbox they are."""


@dataclass(frozen=True)
class Timing:
    """Seconds: until a first request, between requests, for a whole head, without any byte at all."""

    first: float = 30.0
    between: float = 75.0
    head: float = 20.0
    idle: float = 3600.0
    watch: float = 15.0


@dataclass
class Counters:
    """What went through a gate: connections, requests, refusals, bytes out of and into the sandbox."""

    connections: int = 0
    requests: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    last_refusal: str = ""


class Connection:
    """One client's connection, and where it leads at the moment."""

    def __init__(self, sock: socket.socket) -> None:
        self.near = Wire(sock)
        self.far: socket.socket | None = None
        self.peer: Peer | None = None
        self.far_wire: Wire | None = None
        self.target: Target | None = None
        self.address: Address | None = None
        self.granted = False
        self.task: asyncio.Task[None] | None = None
        self._seen = -1
        self._since = time.monotonic()

    def idle_seconds(self) -> float:
        """How long nothing has moved."""
        far = self.far_wire
        moved = self.near.received + self.near.sent + (far.received + far.sent if far else 0)
        if moved != self._seen:
            self._seen, self._since = moved, time.monotonic()
        return time.monotonic() - self._since

    def leads_nowhere(self) -> None:
        """The far end is let go of."""
        if self.far is not None:
            self.far.close()
        if self.peer is not None:
            self.peer.release()
        self.far = self.peer = self.far_wire = self.target = self.address = None


class Gate:
    """The way out of one sandbox."""

    def __init__(
        self, id: str, policy: Policy, dialer: Dialer, indexes: Indexes, timing: Timing, peers: Peers
    ) -> None:
        self.id = id
        self.policy = policy
        self.token = secrets.token_urlsafe(32)
        self.counters = Counters()
        self._dialer = dialer
        self._indexes = indexes
        self._peers = peers
        self._timing = timing
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def listen(self, listener: socket.socket) -> None:
        """Serve the sandbox's own listener; it belongs to the gate from now on."""
        self._listener = listener
        self._accepting = asyncio.ensure_future(accept(listener, self.take))

    def take(self, sock: socket.socket) -> None:
        """Serve a connection that comes from this sandbox."""
        if len(self._connections) >= MAX_CONNECTIONS:
            refuse_at_once(sock, f"more than {MAX_CONNECTIONS} connections of this sandbox at once")
            return
        connection = Connection(sock)
        self._start(connection, self._serve(connection))

    def adopt(self, connection: Connection, request: Request) -> None:
        """Go on with a connection whose first request has shown the token."""
        if len(self._connections) >= MAX_CONNECTIONS:
            refuse_at_once(connection.near.sock, f"more than {MAX_CONNECTIONS} connections at once")
            return
        self._start(connection, self._serve(connection, request))

    def _start(self, connection: Connection, serving: Coroutine[Any, Any, None]) -> None:
        self._connections.add(connection)
        self.counters.connections += 1
        connection.task = asyncio.ensure_future(serving)
        connection.task.add_done_callback(lambda task: self._ended(connection, task))

    def _ended(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        connection.leads_nowhere()
        connection.near.sock.close()
        self.counters.sent += connection.near.received
        self.counters.received += connection.near.sent
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection of sandbox %s failed", self.id, exc_info=error)

    def apply(self, policy: Policy) -> int:
        """Replace the settings; returns how many open connections they forbid, which are cut."""
        self.policy = policy
        cut = 0
        for connection in list(self._connections):
            target = connection.target
            if target is not None and policy.refusal(target, connection.address, granted=connection.granted):
                self._cut(connection)
                cut += 1
        return cut

    def sweep(self) -> None:
        """Cut connections on which nothing moves."""
        for connection in list(self._connections):
            if connection.idle_seconds() > self._timing.idle:
                self._cut(connection)

    @staticmethod
    def _cut(connection: Connection) -> None:
        if connection.task is not None:
            connection.task.cancel()

    def close(self) -> None:
        """Cut everything and stop listening."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            self._cut(connection)

    # -- one connection

    async def _serve(self, connection: Connection, request: Request | None = None) -> None:
        near, timing = connection.near, self._timing
        shared, first = request is not None, timing.first
        with contextlib.suppress(OSError):
            try:
                while True:
                    if request is None:
                        head = await near.head(first, timing.head)
                        if head is None:
                            return
                        request = http1.parse_request(head)
                        if shared:
                            self._check_token(request)
                    self.counters.requests += 1
                    if not await self._one(connection, request):
                        break
                    connection.leads_nowhere()
                    request, first = None, timing.between
            except (Malformed, Refused) as error:
                connection.leads_nowhere()
                self.counters.refused += 1
                self.counters.last_refusal = error.message
                await near.send(http1.answer(error.status, error.message))
            await finish(near)

    def _check_token(self, request: Request) -> None:
        if not self.admits(request):
            raise Malformed(407, "the proxy's user name and password changed within a connection")

    def admits(self, request: Request) -> bool:
        """Whether a request shows this gate's token."""
        return hmac.compare_digest(credentials(request)[1], self.token.encode())

    async def _one(self, connection: Connection, request: Request) -> bool:
        """Serve one request; whether another may follow."""
        if request.method == b"CONNECT":
            await self._tunnel(connection, request)
            return False
        plain = relay.parse_plain(request)
        http1.request_body(request)
        index = self._indexes.get(plain.target)
        if index is not None:
            connection.target, connection.granted = index.target, True
            return await index.serve(request, plain.path, connection.near, self._dialer, self.policy)
        route = await self._dial(connection, plain.target, tunnel=False)
        connection.far_wire = Wire(route.sock)
        return await relay.exchange(request, plain, connection.near, connection.far_wire, route.proxy)

    async def _tunnel(self, connection: Connection, request: Request) -> None:
        try:
            target = parse_authority(request.target.decode("ascii"))
        except BadTarget as error:
            raise Malformed(400, str(error)) from None
        if not http1.request_body(request).is_empty:
            raise Malformed(400, "a CONNECT has no body")
        route = await self._dial(connection, target, tunnel=True)
        connection.far_wire = Wire(route.sock)
        await connection.near.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay.tunnel(connection.near, connection.far_wire)

    async def _dial(self, connection: Connection, target: Target, *, tunnel: bool) -> Route:
        if (peer := await self._peers(self.id, target)) is not None:
            connection.far, connection.peer = peer.sock, peer
            return Route(peer.sock, None)
        granted = self._indexes.grants(target)
        route = await self._dialer.dial(target, self.policy, tunnel=tunnel, granted=granted)
        connection.far, connection.target = route.sock, target
        connection.address, connection.granted = route.address, granted
        # The settings may have been replaced while it connected.
        if why := self.policy.refusal(target, route.address, granted=granted):
            raise Refused(403, why)
        return route


def credentials(request: Request) -> tuple[str, bytes]:
    """The sandbox id and the token of a request; empty when it has none that can be read."""
    found = http1.values(request.headers, b"proxy-authorization")
    if len(found) != 1 or found[0][:6].lower() != b"basic ":
        return "", b""
    try:
        id, _, token = base64.b64decode(found[0][6:].strip(), validate=True).partition(b":")
        return id.decode("ascii"), token
    except (binascii.Error, ValueError):
        return "", b""


async def accept(listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
    """Hand every connection of a listener to ``take`` until cancelled, or until the listener is closed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, _ = await loop.sock_accept(listener)
        except OSError as error:
            if listener.fileno() < 0:
                return
            log.warning("a connection to the proxy could not be accepted: %s", error)
            # Usually too many open files; some will be closed.
            await asyncio.sleep(0.2)
            continue
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        take(sock)
        # Accepting what waits in the queue does not let anybody else run.
        await asyncio.sleep(0)


def refuse_at_once(sock: socket.socket, message: str) -> None:
    """Answer 503 without reading anything."""
    with contextlib.suppress(OSError):
        sock.send(http1.answer(503, message))
    sock.close()


async def finish(wire: Wire) -> None:
    """End a connection so that the last answer arrives: closing with unread bytes would throw it away."""
    wire.sock.shutdown(socket.SHUT_WR)

    async def drain() -> None:
        left = 1 << 20
        while left > 0 and (data := await wire.piece()):
            left -= len(data)
            await asyncio.sleep(0)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(drain(), 1.0)
