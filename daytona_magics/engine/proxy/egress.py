"""The gates: one per sandbox, each with its settings, its connections and its counters.

A sandbox with a network of its own has made the listener of its gate inside, and handed it out: whoever
connects there is in that sandbox, so nothing has to be proved. Sandboxes without one share a listener on
127.0.0.1 and send the token of their gate with every request.

Settings can be replaced at any moment: connections that the new ones forbid are cut at once. A watch ends
connections on which nothing moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field

from daytona_magics.engine.log import hide, log, unhide
from daytona_magics.engine.proxy import http1
from daytona_magics.engine.proxy.dialing import Dialer, Resolver, system_resolver
from daytona_magics.engine.proxy.gate import (
    MAX_CONNECTIONS,
    Connection,
    Counters,
    Gate,
    Timing,
    accept,
    credentials,
    finish,
    refuse_at_once,
)
from daytona_magics.engine.proxy.http1 import Malformed
from daytona_magics.engine.proxy.indexes import Indexes
from daytona_magics.engine.proxy.peers import Peers, nobody
from daytona_magics.engine.proxy.policy import Policy
from daytona_magics.engine.proxy.settings import INSIDE_URL, Access, HostNetwork, environment
from daytona_magics.engine.proxy.upstream import Upstream, parse_proxy


@dataclass
class Egress:
    """All gates of the engine.

    Args:
        host: the host's proxy, package indexes and certificates.
        resolver: how names become addresses.
        timing: see `Timing`.
        peers: who else sandboxes can reach, besides what lies outside.
    """

    host: HostNetwork
    resolver: Resolver = system_resolver
    timing: Timing = field(default_factory=Timing)
    peers: Peers = nobody

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
        gate = Gate(id, policy, Dialer(upstream, self.resolver), self._indexes, self.timing, self.peers)
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
            unhide(gate.token)

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
        task = asyncio.ensure_future(self._identify(Connection(sock)))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _identify(self, connection: Connection) -> None:
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
                    gate = self._gates.get(credentials(request)[0])
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
