"""The line to a sandbox's guest: one link at a time, made anew when it breaks, for as long as that may help.

The first opening starts the guest. Later tries begin after 0.1, 0.3, 1, 3, then every 4 seconds; several
callers share one effort. A line that breaks at once each time, or nobody who listens on this very machine,
ends the trying sooner. What runs on the line (:mod:`.channel`) hears of it through its feeds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.runtime.events import Event, Reconnected, Reconnecting
from daytona_magics.runtime.feed import Feed
from daytona_magics.runtime.link import Link, LinkLost, Refused, Reply
from daytona_magics.runtime.records import GuestInfo
from daytona_magics.runtime.start import Attacher, explain, plain
from daytona_magics.runtime.transport import PtyAddress

if TYPE_CHECKING:
    from daytona import AsyncSandbox

#: Seconds from the start of one try to the start of the next; the last repeats. A path that is back is
#: therefore found within 5 s: 4 s of waiting and the try itself.
DELAYS = (0.1, 0.3, 1.0, 3.0, 4.0)
#: Seconds to keep trying at the first opening, and when nobody listens any more on this very machine.
FIRST_FOR, REFUSED_FOR = 15.0, 10.0
#: A line that broke within so many seconds, unused, counts as a flap; so many flaps in a row end the trying.
FLAP, FLAPS = 1.0, 15


class Line:
    """Keeps a link to a sandbox's guest. Base of :class:`~daytona_magics.runtime.channel.Channel`.

    Args:
        sandbox: the SDK's asynchronous sandbox object.
        api_key: the endpoint's key; it goes into request headers and nowhere else.
        reconnect_for: seconds for which a broken line is tried again before giving up.
        fresh: the sandbox was created a moment ago and has no guest yet; saves asking.

    Attributes:
        info: what the guest said at the last connect, None before the first.
        closed: whether :meth:`close` was called.
    """

    def __init__(
        self, sandbox: AsyncSandbox, *, api_key: str, reconnect_for: float = 60.0, fresh: bool = False
    ) -> None:
        self.sandbox = sandbox
        self.reconnect_for = reconnect_for
        self.info: GuestInfo | None = None
        self.closed = False
        self._secret = api_key
        self._attacher = Attacher(sandbox, PtyAddress.of(sandbox, api_key), fresh)
        self._link: Link | None = None
        self._link_since = 0.0
        self._flaps = 0
        self._connecting: asyncio.Task[Link] | None = None
        self._feeds: dict[str, Feed] = {}
        self._retained: set[str] = set()  # executions whose output the sandbox keeps

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self._link and self._link.alive else "idle"
        return f"{type(self).__name__}({self.sandbox.id}, {state})"

    async def open(self) -> GuestInfo:
        """Start the guest when needed and connect to it. Idempotent.

        Raises:
            SandboxUnreachable: no line could be opened, or no guest answered on it.
            SandboxGone: the sandbox does not exist any more.
            SandboxError: the sandbox has no Python ≥ 3.8.
            EndpointError: the endpoint refuses the key.
        """
        await self._line()
        assert self.info is not None
        return self.info

    async def close(self) -> None:
        """Close the line and delete its PTY session. Guest and workers live on. Idempotent."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for feed in list(self._feeds.values()):
            feed.fail(SandboxUnreachable("the channel was closed; the cell runs on in its sandbox"))
        link, self._link = self._link, None
        if link is not None:
            await link.close()
            self._attacher.delete(link.socket.session)
        await self._attacher.settle()

    async def _line(self) -> Link:
        """The living link, made when there is none; several callers share one effort."""
        if self.closed:
            raise SandboxUnreachable("the channel to the sandbox is closed")
        if self._link is not None and self._link.alive:
            return self._link
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="dm-channel-connect")
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self.closed:
                raise SandboxUnreachable("the channel to the sandbox was closed") from None
            raise

    async def _connect(self) -> Link:
        """Make a link, trying again as long as that may help."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reason = self._bury()
        first = self.info is None
        patience = min(self.reconnect_for, FIRST_FOR) if first else self.reconnect_for
        attempt = self._flaps
        running = any(feed.acknowledged for feed in self._feeds.values())
        due = began + (DELAYS[min(attempt, len(DELAYS) - 1)] if running or attempt else 0.0)
        told = False
        while True:
            attempt += 1
            if running or attempt > 1:
                told = told or not first
                self._tell(Reconnecting(loop.time() - began, attempt, reason), first)
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = loop.time() + DELAYS[min(attempt, len(DELAYS) - 1)]
            try:
                link = await self._attacher.attach(first)
            except Exception as error:  # noqa: BLE001 - explain() judges every kind of failure
                final = await explain(self.sandbox, error, self._secret)
                if final is not None:
                    raise final from None
                reason = plain(error, self._secret)
                if getattr(error, "refused_here", False):
                    patience = min(patience, REFUSED_FOR)
                if (first and isinstance(error, LinkLost)) or due - began > patience:
                    raise self._given_up(reason, loop.time() - began) from None
                continue
            self._link, self._link_since, self.info = link, loop.time(), link.info
            if told:
                self._tell(Reconnected(loop.time() - began), first)
            return link

    def _bury(self) -> str:
        """Put the last link away; returns why it ended."""
        link, self._link = self._link, None
        if link is None:
            return "not connected yet"
        lived = asyncio.get_running_loop().time() - self._link_since
        self._flaps = self._flaps + 1 if lived < FLAP and not link.answers else 0
        self._attacher.delete(link.socket.session)
        reason = link.lost.result()
        if self._flaps > FLAPS:
            self._flaps = 0
            raise SandboxUnreachable(
                f"the line to sandbox {self.sandbox.id} breaks at once each time: {reason}"
            )
        return reason

    def _given_up(self, reason: str, after: float) -> SandboxUnreachable:
        return SandboxUnreachable(
            f"sandbox {self.sandbox.id} could not be reached for {after:.0f} s: {reason}",
            hint="%sandbox doctor looks for the cause; nothing was run on this machine instead.",
        )

    def _tell(self, event: Event, first: bool) -> None:
        if not first:
            for feed in list(self._feeds.values()):
                feed.emit(event)

    async def ask(self, op: str, **fields: Any) -> Reply:
        """Ask the guest anything; once more on a new line when the first one breaks.

        Raises:
            SandboxUnreachable: both broke, or no answer came.
            SandboxError: the guest refused.
        """
        for last in (False, True):
            link = await self._line()
            try:
                return await link.request(op, **fields)
            except LinkLost as error:
                if last:
                    raise SandboxUnreachable(f"the line to the sandbox broke: {error}") from None
            except Refused as error:
                raise SandboxError(f"the sandbox refused {op!r}: {error}") from None
            except TimeoutError as error:
                raise SandboxUnreachable(str(error)) from None
        raise AssertionError("unreachable")
