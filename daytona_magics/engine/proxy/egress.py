"""The gates: one per sandbox, each with its settings, its connections and its counters.

A sandbox with a network of its own has made the listener of its gate inside, and handed it out: whoever
connects there is in that sandbox, so nothing has to be proved. Sandboxes without one share a listener on
127.0.0.1 and send the token of their gate with every request.

Settings can be replaced at any moment: connections that the new ones forbid are cut at once. A watch ends
connections on which nothing moves.
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
from dataclasses import dataclass, field
from typing import Any

from daytona_magics.engine.log import hide, log
from daytona_magics.engine.proxy import http1, relay
from daytona_magics.engine.proxy.dialing import Dialer, Refused, Resolver, Route, system_resolver
from daytona_magics.engine.proxy.http1 import Malformed, Request, Wire
from daytona_magics.engine.proxy.indexes import Indexes
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.settings import INSIDE_URL, Access, HostNetwork, environment
from daytona_magics.engine.proxy.targets import Address, BadTarget, Target, parse_authority
from daytona_magics.engine.proxy.upstream import Upstream, parse_proxy

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


class _Connection:
    """One client's connection, and where it leads at the moment."""

    def __init__(self, sock: socket.socket) -> None:
        self.near = Wire(sock)
        self.far: socket.socket | None = None
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
        self.far = self.far_wire = self.target = self.address = None


class Gate:
    """The way out of one sandbox."""

    def __init__(self, id: str, policy: Policy, dialer: Dialer, indexes: Indexes, timing: Timing) -> None:
        self.id = id
        self.policy = policy
        self.token = secrets.token_urlsafe(32)
        self.counters = Counters()
        self._dialer = dialer
        self._indexes = indexes
        self._timing = timing
        self._connections: set[_Connection] = set()
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
        self._begin(sock, self._serve)

    def adopt(self, connection: _Connection, request: Request) -> None:
        """Go on with a connection whose first request has shown the token."""
        self._start(connection, self._serve(connection, request))

    def _begin(
        self,
        sock: socket.socket,
        serve: Callable[[_Connection], Coroutine[Any, Any, None]],
    ) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            refuse_at_once(sock, f"more than {MAX_CONNECTIONS} connections of this sandbox at once")
            return
        connection = _Connection(sock)
        self._start(connection, serve(connection))

    def _start(self, connection: _Connection, serving: Coroutine[Any, Any, None]) -> None:
        self._connections.add(connection)
        self.counters.connections += 1
        connection.task = asyncio.ensure_future(serving)
        connection.task.add_done_callback(lambda task: self._ended(connection, task))

    def _ended(self, connection: _Connection, task: asyncio.Task[None]) -> None:
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
    def _cut(connection: _Connection) -> None:
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

    async def _serve(self, connection: _Connection, request: Request | None = None) -> None:
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
        return hmac.compare_digest(_credentials(request)[1], self.token.encode())

    async def _one(self, connection: _Connection, request: Request) -> bool:
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

    async def _tunnel(self, connection: _Connection, request: Request) -> None:
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

    async def _dial(self, connection: _Connection, target: Target, *, tunnel: bool) -> Route:
        granted = self._indexes.grants(target)
        route = await self._dialer.dial(target, self.policy, tunnel=tunnel, granted=granted)
        connection.far, connection.target = route.sock, target
        connection.address, connection.granted = route.address, granted
        # The settings may have been replaced while it connected.
        if why := self.policy.refusal(target, route.address, granted=granted):
            raise Refused(403, why)
        return route


@dataclass
class Egress:
    """All gates of the engine.

    Args:
        host: the host's proxy, package indexes and certificates.
        resolver: how names become addresses.
        timing: see `Timing`.
    """

    host: HostNetwork
    resolver: Resolver = system_resolver
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._shared: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._strangers: set[asyncio.Task[None]] = set()
        self._indexes = Indexes(self.host.indexes)

    def start(self) -> None:
        """Begin to watch; called on the engine's loop."""
        self._tasks.append(asyncio.ensure_future(self._watch()))

    async def close(self) -> None:
        """Close every gate and the shared listener."""
        for id in list(self._gates):
            self.shut(id)
        for task in [*self._tasks, *self._strangers]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._strangers, return_exceptions=True)
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def admit(self, id: str, policy: Policy, *, own_network: bool, outbound: str = "") -> Access:
        """Make the gate of a sandbox that is about to start.

        Args:
            own_network: it will hand out a listener, see `open`; else it gets a token for the shared one.
            outbound: the proxy that the sandbox's creator wants its requests to go through.

        Returns:
            the environment it needs, and the port it must be able to connect to (None with its own network).
        """
        self.shut(id)
        upstream = self.host.upstream
        if outbound and (wanted := parse_proxy(outbound)) is not None:
            upstream = Upstream(wanted, wanted, upstream.no_proxy)
        gate = Gate(id, policy, Dialer(upstream, self.resolver), self._indexes, self.timing)
        self._gates[id] = gate
        if own_network:
            return Access(environment(INSIDE_URL, self.host), None)
        hide(gate.token)
        port = self._shared_port()
        return Access(environment(f"http://{id}:{gate.token}@127.0.0.1:{port}", self.host), port)

    def open(self, id: str, listener: socket.socket | None) -> None:
        """Serve the listener that a started sandbox has handed out, if it has one."""
        if listener is None:
            return
        gate = self._gates.get(id)
        if gate is None:
            listener.close()
            return
        listener.setblocking(False)
        gate.listen(listener)

    def apply(self, id: str, policy: Policy) -> None:
        """New settings for a sandbox, at once; nothing happens when it does not run."""
        if (gate := self._gates.get(id)) is not None and (cut := gate.apply(policy)):
            log.info("sandbox %s: new network settings cut %d connections", id, cut)

    def shut(self, id: str) -> None:
        """Close the gate of a sandbox that has ended."""
        if (gate := self._gates.pop(id, None)) is not None:
            gate.close()

    def counters(self, id: str) -> Counters | None:
        """What went through a sandbox's gate since it started; None when it does not run."""
        gate = self._gates.get(id)
        return None if gate is None else gate.counters

    def _shared_port(self) -> int:
        if self._shared is None:
            self._shared = socket.create_server(("127.0.0.1", 0), backlog=512)
            self._shared.setblocking(False)
            self._tasks.append(asyncio.ensure_future(accept(self._shared, self._stranger)))
        return int(self._shared.getsockname()[1])

    def _stranger(self, sock: socket.socket) -> None:
        if len(self._strangers) >= MAX_CONNECTIONS:
            refuse_at_once(sock, "too many connections that have not shown a token")
            return
        task = asyncio.ensure_future(self._identify(_Connection(sock)))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _identify(self, connection: _Connection) -> None:
        """Read the first request on the shared listener and hand the connection to its gate."""
        near, adopted = connection.near, False
        try:
            with contextlib.suppress(OSError):
                try:
                    # Less patience than a gate has: anybody on this machine can connect here.
                    head = await near.head(min(10.0, self.timing.first), min(5.0, self.timing.head))
                    if head is None:
                        return
                    request = http1.parse_request(head)
                    gate = self._gates.get(_credentials(request)[0])
                    if gate is not None and gate.admits(request):
                        adopted = True
                        gate.adopt(connection, request)
                        return
                    said = [(b"Proxy-Authenticate", b'Basic realm="daytona-magics"')]
                    message = (
                        "this proxy needs the user name and password that are in HTTPS_PROXY inside a sandbox"
                    )
                    await near.send(http1.answer(407, message, headers=said))
                except Malformed as error:
                    await near.send(http1.answer(error.status, error.message))
                await finish(near)
        finally:
            if not adopted:
                near.sock.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.timing.watch)
            for gate in list(self._gates.values()):
                gate.sweep()


def _credentials(request: Request) -> tuple[str, bytes]:
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
