"""From a target to a connected socket: resolve, check every address, connect to one that was checked.

The name is resolved once per connection and the socket goes to an address of that answer, so a name server
that answers differently the second time gains nothing. Allowed addresses are tried a quarter of a second
after each other, IPv6 and IPv4 in turn ("happy eyeballs"); addresses that are not allowed are never tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from daytona_magics.engine.proxy import http1, tls
from daytona_magics.engine.proxy.policy import Policy, plain
from daytona_magics.engine.proxy.targets import Address, Target
from daytona_magics.engine.proxy.upstream import Proxy, Upstream

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""``await resolver(host, port)``: addresses as text, best first; raises OSError when there are none."""

CONNECT_SECONDS = 15.0
STAGGER_SECONDS = 0.25
#: A machine that leaves names to its proxy may have a name server that never answers.
LOOKUP_SECONDS, LOOKUP_WITH_PROXY_SECONDS = 15.0, 2.0
MAX_ADDRESSES = 8
UPSTREAM_SECONDS = 30.0


class Refused(Exception):
    """The destination is not reached: ``status`` (403: by the settings) and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Route:
    """A connection that was made.

    Attributes:
        sock: connected and non-blocking.
        address: the checked address; None when only the name could be checked.
        proxy: the host's proxy at the other end; None when connected directly.
    """

    sock: socket.socket
    address: Address | None
    proxy: Proxy | None = None


async def system_resolver(host: str, port: int) -> list[str]:
    """The host's own resolver, in a thread that neither the engine's work nor its end waits for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str], error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error else answer.set_result(found)

    def look() -> None:
        found: list[str] = []
        problem: Exception | None = None
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            found = [str(entry[4][0]) for entry in entries]
        except (OSError, UnicodeError) as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, found, problem)

    threading.Thread(target=look, name="resolver", daemon=True).start()
    return await answer


class Dialer:
    """Makes the connections of one sandbox.

    Args:
        upstream: the proxies to go through.
        resolver: how names become addresses.
    """

    def __init__(self, upstream: Upstream, resolver: Resolver = system_resolver) -> None:
        self.upstream = upstream
        self._resolver = resolver
        self._lookups = asyncio.Semaphore(8)

    async def dial(self, target: Target, policy: Policy, *, tunnel: bool, granted: bool = False) -> Route:
        """Connect to ``target`` if ``policy`` allows it.

        Args:
            tunnel: the caller speaks to the server itself; else it sends plain requests, which a proxy of the
                host takes as they are.
            granted: see `Policy.refusal`.

        Raises:
            Refused
        """
        proxy = self.upstream.for_(target, tunnel=tunnel)
        if proxy is not None and proxy.problem:
            raise Refused(502, proxy.problem)
        if policy.block_all:
            raise Refused(403, policy.refusal(target, target.address))
        if target.address is None and policy.only_names and not policy.names(target.host):
            # Not even looked up: a lookup carries what the name says to whoever answers for it.
            raise Refused(403, policy.refusal(target, None, granted=granted))
        addresses = await self._addresses(target, through_proxy=proxy is not None)
        if not addresses:
            if why := policy.refusal(target, None, granted=granted):
                raise Refused(403, why)
            assert proxy is not None
            return Route(await self._through(proxy, target, tunnel), None, proxy)
        refusals = [policy.refusal(target, address, granted=granted) for address in addresses]
        allowed = [address for address, why in zip(addresses, refusals, strict=True) if not why]
        if not allowed:
            raise Refused(403, refusals[0])
        if proxy is not None:
            return Route(await self._through(proxy, target, tunnel), allowed[0], proxy)
        sock, address = await _connect(target, allowed)
        return Route(sock, address)

    async def _addresses(self, target: Target, *, through_proxy: bool) -> list[Address]:
        """What ``target`` resolves to; empty when only the host's proxy may know."""
        if target.address is not None:
            return [plain(target.address)]
        seconds = LOOKUP_WITH_PROXY_SECONDS if through_proxy else LOOKUP_SECONDS
        # Given up, a lookup keeps its place until it ends: a sandbox has never more than a few running.
        lookup = asyncio.ensure_future(self._look_up(target))
        lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            found = await asyncio.wait_for(asyncio.shield(lookup), seconds)
        except (OSError, UnicodeError, asyncio.TimeoutError) as error:
            if through_proxy:
                return []
            why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
            raise Refused(502, f"the name {target.host} cannot be resolved ({why})") from None
        addresses = []
        for text in found:
            # A zone id would choose an interface of this machine.
            with contextlib.suppress(ValueError):
                addresses.append(plain(ipaddress.ip_address(text)))
        addresses = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        if not addresses and not through_proxy:
            raise Refused(502, f"the name {target.host} has no address")
        return addresses

    async def _look_up(self, target: Target) -> list[str]:
        async with self._lookups:
            return await self._resolver(target.host, target.port)

    async def _through(self, proxy: Proxy, target: Target, tunnel: bool) -> socket.socket:
        """A connection to the host's proxy; for a tunnel one that it has connected to ``target``."""
        try:
            # The host's own settings name it: it is not the sandbox's choice.
            found = await asyncio.wait_for(system_resolver(proxy.host, proxy.port), LOOKUP_SECONDS)
            addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(found) if "%" not in text]
        except (OSError, UnicodeError, asyncio.TimeoutError):
            raise Refused(502, f"the proxy of this machine, {proxy.host}, cannot be resolved") from None
        sock, _ = await _connect(Target(proxy.host, proxy.port), addresses, "the proxy of this machine, ")
        if proxy.secure:
            try:
                sock = await tls.wrap(sock, ssl.create_default_context(), proxy.host, CONNECT_SECONDS)
            except OSError:
                raise Refused(502, f"the proxy of this machine, {proxy.host}, does not speak TLS") from None
        if not tunnel:
            return sock
        with _closed_on_failure(sock):
            wire = http1.Wire(sock)
            named = str(target).encode()
            headers = [(b"Host", named), *proxy.authorization]
            try:
                await wire.send(http1.write_head(b"CONNECT %b HTTP/1.1" % named, headers))
                head = await wire.head(UPSTREAM_SECONDS, UPSTREAM_SECONDS)
                answer = http1.parse_response(head or b"")
            except (OSError, http1.Malformed):
                raise Refused(502, f"the proxy of this machine, {proxy.host}, does not answer") from None
            if not 200 <= answer.status < 300:
                reason = answer.reason.decode("latin-1")[:200]
                raise Refused(
                    502, f"the proxy of this machine refuses {target}: {answer.status} {reason}".rstrip()
                )
            if wire.pending:
                raise Refused(502, "the proxy of this machine speaks before it is asked")
            return sock


@contextmanager
def _closed_on_failure(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise


async def _connect(target: Target, addresses: list[Address], who: str = "") -> tuple[socket.socket, Address]:
    """Connect to the first of ``addresses`` that answers.

    Raises:
        Refused: none does.
    """
    queue = _interleaved(addresses)
    running: set[asyncio.Task[tuple[socket.socket, Address]]] = set()
    problem = "no address"
    deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
    try:
        while queue or running:
            if queue:
                running.add(asyncio.ensure_future(_one(queue.pop(0), target.port)))
            left = deadline - asyncio.get_running_loop().time()
            done, running = await asyncio.wait(
                running,
                timeout=max(min(left, STAGGER_SECONDS) if queue else left, 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            winners = [task for task in done if task.exception() is None]
            for late in winners[1:]:
                late.result()[0].close()
            if winners:
                return winners[0].result()
            for task in done:
                problem = _reason(task.exception())
            if left <= 0:
                raise Refused(504, f"{who}{target} does not answer")
        raise Refused(502, f"{who}{target} cannot be reached: {problem}")
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_late)


def _interleaved(addresses: list[Address]) -> list[Address]:
    """IPv6 and IPv4 in turn, the kind that came first in front."""
    first = [a for a in addresses if a.version == addresses[0].version]
    second = [a for a in addresses if a.version != addresses[0].version]
    turns = [a for pair in zip(first, second, strict=False) for a in pair]
    return turns + first[len(second) :] + second[len(first) :]


async def _one(address: Address, port: int) -> tuple[socket.socket, Address]:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    with _closed_on_failure(sock):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        # A port of this machine in the range it picks from can be connected to itself.
        if sock.getsockname() == sock.getpeername():
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock, address


def _close_late(task: asyncio.Task[tuple[socket.socket, Address]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].close()


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return os.strerror(error.errno or 0).lower()
    return "connection failed"
