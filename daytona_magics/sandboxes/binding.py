"""The tie between this kernel and its sandbox.

A :class:`Binding` answers one question for every cell: *which channel do I run on now?* The usual answer is
immediate (:meth:`Binding.open_channel`). Otherwise :meth:`Binding.ready` walks, on the loop thread, the
whole way: endpoint, client, the sandbox labelled with this very kernel (re-attach) or a new one, started if
it was stopped, channel opened; and it says everything the reader has to know about variables on the way.

Nothing falls back to running on the host: when any step fails, an exception leaves, and the cell fails.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daytona_magics.config import SandboxConfig
from daytona_magics.engine import loopback, places
from daytona_magics.errors import SandboxError, SandboxGone
from daytona_magics.runtime.channel import Channel
from daytona_magics.sandboxes import attaching, identity, keys, labels, making, spare
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes.report import Reporter, state_of

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.sandboxes.endpoint import Endpoint

#: A channel that was used this recently, in seconds, is trusted without asking the endpoint for the state.
TRUSTED_FOR = 10.0
#: Seconds a cell waits, once its sandbox is made, for the hint about a sandbox of an earlier kernel.
HINT_WITHIN = 0.5
#: States that become another by themselves, soon.
PASSING = ("creating", "starting", "stopping", "pausing", "resuming", "archiving", "restoring", "resizing")


class Binding:
    """Which sandbox this kernel uses. All coroutines must run on the loop thread.

    Args:
        config: the settings; read at each use, so changes take effect at once.
        who: called for every identification, because the notebook's path may become known late.

    Attributes:
        endpoint: where the sandbox lives; None before the first use.
        sandbox: the SDK's sandbox; None when none is bound.
        context: name of the guest context cells run in.
        told_open: this kernel has been told what its isolation level leaves open.
        jobs: background jobs of this kernel may be running, so the sandbox outlives the kernel.
        made: ids of the sandboxes this kernel owns beside the bound one; they end with it.
        env: variables every cell gets.
        beside: ties to other sandboxes that cells of this kernel ran in, by id.
        ran: number of cells that have ended.
    """

    def __init__(self, config: SandboxConfig, who: Callable[[], identity.Identity]) -> None:
        self.config = config
        self.who = who
        self.endpoint: Endpoint | None = None
        self.client: AsyncDaytona | None = None
        self.sandbox: AsyncSandbox | None = None
        self.channel: Channel | None = None
        self.context = ""
        self.told_open = False
        self.jobs = False
        self.ran = 0
        self.beside: dict[str, Binding] = {}
        self.env: dict[str, str] = {}
        self.made: set[str] = set()
        self._gone: SandboxGone | None = None
        self._boot = ""
        self._unseen = False
        self._used = 0.0
        self._fresh = False
        self._choice: tuple[str, ...] = ()
        self._lock: asyncio.Lock | None = None
        self._sweeping: asyncio.Future[int] | None = None
        self._sparing: asyncio.Future[None] | None = None

    # -- the way to a channel --------------------------------------------------------------------------

    def open_channel(self) -> Channel | None:
        """The channel, when it is open and was used moments ago; callable from any thread."""
        recent = time.monotonic() - self._used < TRUSTED_FOR
        usable = self.channel is not None and not self.channel.closed and self._gone is None
        if self._wanted() != self._choice:
            return None
        if recent and usable and self.sandbox is not None and state_of(self.sandbox) == "started":
            return self.channel
        return None

    async def ready(self, tell: Reporter) -> Channel:
        """Make sure there is a started sandbox with an open channel.

        Raises:
            SandboxGone: the bound sandbox was deleted, or cannot be started.
            EndpointError, IsolationUnavailable, SandboxUnreachable: there is no way to a sandbox.
        """
        async with self.locked():
            await self._usable(tell)
            return await self._open(tell)

    async def usable(self, tell: Reporter) -> AsyncSandbox:
        """Like :meth:`ready`, for work that needs the sandbox and no channel (files, commands)."""
        async with self.locked():
            return await self._usable(tell)

    async def _usable(self, tell: Reporter) -> AsyncSandbox:
        if self._gone is not None:
            raise self._gone
        await self.rediscover(tell)
        if self.sandbox is None:
            assert self.client is not None
            looking = asyncio.ensure_future(attaching.earlier(self, self.client))
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                await making.create(self, tell, {}, self.client)
                # Only a hint: looked for beside the creation, hardly waited for, and missed without a word.
                await asyncio.wait([looking], timeout=HINT_WITHIN)
            finally:
                looking.cancel()
            if looking.done() and not looking.cancelled() and looking.exception() is None:
                self._tell_of(looking.result(), tell)
        elif self._unseen:
            await attaching.reattach(self, tell)
            self._unseen = False
        else:
            await self.awake(tell)
        return self.bound()

    @staticmethod
    def _tell_of(earlier: AsyncSandbox | None, tell: Reporter) -> None:
        if earlier is not None:
            tell.note(
                f"`%sandbox use {earlier.name}` continues the sandbox of an earlier kernel of this notebook."
            )

    def locked(self) -> asyncio.Lock:
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    async def connect(self, tell: Reporter) -> AsyncDaytona:
        """The SDK's client for the endpoint the settings name now."""
        embedded = endpoints.choose(self.config).kind == "embedded"
        if self.client is not None and self._wanted() == self._choice and not embedded:
            return self.client
        # The embedded engine ends itself when it is idle, so it is looked for (or started) every time.
        if embedded:
            running = await asyncio.to_thread(places.live_record) is not None
            tell.progress("asking the embedded engine" if running else "starting the embedded engine")
        wanted = self._wanted()
        found = await asyncio.to_thread(endpoints.connect, self.config)
        if (
            self.endpoint is None
            or found.api_url != self.endpoint.api_url
            or found.api_key != self.endpoint.api_key
        ):
            await self.disconnect()
            self.client = sdk.open_client(found)
            self._sweep_later()
        self.endpoint, self._choice = found, wanted
        assert self.client is not None
        return self.client

    def _sweep_later(self) -> None:
        """Once at each endpoint, and when nobody waits: remove what dying kernels left half made there."""
        from daytona_magics.sandboxes import reaping

        self._sweeping = asyncio.ensure_future(reaping.begin(self))

    def _wanted(self) -> tuple[str, ...]:
        return self.config.endpoint, self.config.target, self.config.min_isolation, keys.fingerprint()

    async def disconnect(self) -> None:
        """Let go of sandbox and endpoint; both live on."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        if self._sparing is not None:
            self._sparing.cancel()
            self._sparing = None
        await self.unbind()
        beside, self.beside = self.beside, {}
        for tie in beside.values():
            await tie.disconnect()
        self.made.clear()
        client, self.client, self.endpoint = self.client, None, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    async def unbind(self) -> None:
        """Let go of the sandbox; it lives on."""
        channel, self.channel = self.channel, None
        self.sandbox, self.context, self._boot, self._gone, self._unseen = None, "", "", None, False
        if channel is not None:
            await channel.close()

    def bind(self, sandbox: AsyncSandbox, context: str, *, fresh: bool = False) -> None:
        """From now on cells run in this sandbox, in this context; ``fresh``: it was just created."""
        # Its own address may be on this machine where the endpoint's is not, or by another name.
        loopback.add_no_proxy(os.environ, urlsplit(sandbox.toolbox_proxy_url).hostname)
        self.sandbox, self.context, self._fresh = sandbox, context, fresh

    async def release(self, tell: Reporter) -> None:
        """Another sandbox takes over: the first must not be found as this kernel's own after a restart."""
        previous = self.sandbox
        was_gone = self.gone
        await self.unbind()
        if previous is None or was_gone:
            return
        try:
            # It stays this kernel's as long as it lives; another kernel's label is not ours to change.
            if previous.labels.get(labels.KERNEL) == self.who().kernel:
                await labels.merge(previous, {labels.GROUP: "released"})
        except sdk.error_class() as error:
            if not sdk.not_found(error):
                raise sdk.translate(error, "changing labels") from None
        tell.note(f"the earlier sandbox {previous.name} lives on until it stops itself")

    def check_isolation(self, sandbox: AsyncSandbox) -> None:
        """Refuse a sandbox of the embedded engine whose level is below the setting min_isolation.

        Raises:
            IsolationUnavailable: it is.
        """
        assert self.endpoint is not None
        if self.endpoint.kind == "embedded":
            level = sandbox.labels.get(labels.ISOLATION, self.endpoint.isolation)
            endpoints.check_level(level, self.config.min_isolation)

    # -- keeping it usable -----------------------------------------------------------------------------

    async def awake(self, tell: Reporter) -> None:
        """Make sure the bound sandbox exists and is started."""
        sandbox = self.sandbox
        assert sandbox is not None
        try:
            await sdk.retrying(sandbox.refresh_data, tell.progress)
        except sdk.error_class() as error:
            if sdk.not_found(error):
                raise self.lost() from None
            raise sdk.translate(error, f"asking for the state of {sandbox.name}") from None
        state = state_of(sandbox)
        if state == "started":
            return
        if state in PASSING:
            tell.progress(f"sandbox {sandbox.name} is {state}")
            state = await self._settled(sandbox)
            if state == "started":
                return
        if state in ("destroyed", "destroying"):
            raise self.lost()
        if state in ("error", "build_failed"):
            why = f": {sandbox.error_reason}" if sandbox.error_reason else ""
            helps = "%sandbox recover  brings it back." if sandbox.recoverable else ""
            raise SandboxGone(
                f"sandbox {sandbox.name} is in state {state}{why}",
                hint=helps or "%sandbox create  makes a new one.",
            )
        tell.progress(f"starting sandbox {sandbox.name} ({state})")
        await self.start(tell)
        if state == "paused":
            tell.note(f"{sandbox.name} was paused: it goes on, and variables are alive")
        else:
            tell.note(f"{sandbox.name} was {state}: started again; variables were lost, files kept")

    async def _settled(self, sandbox: AsyncSandbox) -> str:
        """Wait until a change that somebody else began has come to its end; returns the state then."""
        until = time.monotonic() + (self.config.create_timeout or float("inf"))
        while state_of(sandbox) in PASSING and time.monotonic() < until:
            await asyncio.sleep(0.2)
            await sdk.asked(sandbox.refresh_data(), f"asking for the state of {sandbox.name}")
        return state_of(sandbox)

    async def start(self, tell: Reporter) -> None:
        """Start the bound sandbox and wait until it is started."""
        sandbox = self.bound()
        await self.close_channel()
        await sdk.asked(sandbox.start(timeout=self.config.create_timeout), f"starting {sandbox.name}")

    async def stop(self, tell: Reporter, *, force: bool = False) -> None:
        """Stop the bound sandbox and wait until it is stopped."""
        sandbox = self.bound()
        tell.progress(f"stopping sandbox {sandbox.name}")
        await self.close_channel()
        await sdk.asked(
            sandbox.stop(timeout=self.config.create_timeout, force=force), f"stopping {sandbox.name}"
        )

    async def close_channel(self) -> None:
        """Close the channel to the bound sandbox; the next cell opens another."""
        channel, self.channel, self._boot = self.channel, None, ""
        if channel is not None:
            await channel.close()

    def bound(self) -> AsyncSandbox:
        """The bound sandbox.

        Raises:
            SandboxError: there is none.
        """
        if self.sandbox is None:
            raise SandboxError(
                "this notebook has no sandbox yet",
                hint="The first %%sandbox cell makes one, or  %sandbox create",
            )
        return self.sandbox

    @property
    def used_at(self) -> float:
        """When a cell last ran in the bound sandbox, by the monotonic clock; 0 before."""
        return self._used

    def ended(self) -> None:
        """A cell has ended in the bound sandbox, or in its connection."""
        self._used = time.monotonic()
        self.ran += 1

    @property
    def gone(self) -> bool:
        """The bound sandbox was found deleted, and nobody has decided yet what comes next."""
        return self._gone is not None

    async def rediscover(self, tell: Reporter) -> None:
        """After a kernel restart: bind to this kernel's sandbox if there is one, without starting it."""
        client = await self.connect(tell)
        if self.sandbox is not None:
            return
        tell.progress("looking for this kernel's sandbox")
        own = await attaching.own(self, client, tell)
        if own is not None:
            self.check_isolation(own)
            self.bind(own, own.labels.get(labels.CONTEXT, "") or self.who().context)
            self._unseen = True

    async def opened(self, tell: Reporter) -> Channel:
        """The channel to the bound, started sandbox."""
        return await self._open(tell)

    def lost(self) -> SandboxGone:
        """Remember that the sandbox is gone: every cell says so until create, use, reset or delete."""
        assert self.sandbox is not None
        state = state_of(self.sandbox)
        self._gone = sdk.gone(self.sandbox, "started" if state == "destroyed" else state)
        return self._gone

    async def _open(self, tell: Reporter) -> Channel:
        assert self.sandbox is not None and self.endpoint is not None
        fresh = self._fresh
        if self.channel is None or self.channel.closed:
            self.channel = Channel(
                self.sandbox,
                api_key=self.endpoint.api_key,
                reconnect_for=self.config.reconnect_for,
                fresh=self._fresh,
            )
            self._fresh = False
        tell.progress(f"connecting to sandbox {self.sandbox.name}")
        try:
            info = await sdk.asked(self.channel.open(), f"connecting to {self.sandbox.name}")
        except BaseException:
            # A half-open channel is of no use to the next cell, which starts over.
            await self.close_channel()
            raise
        if self._boot and info.boot != self._boot:
            tell.note("the sandbox's workers were started anew; variables were lost, files kept")
        self._boot = info.boot
        self._used = time.monotonic()
        if fresh and self.endpoint.kind == "embedded":
            self._sparing = asyncio.ensure_future(spare.ask(self.endpoint))
        return self.channel
