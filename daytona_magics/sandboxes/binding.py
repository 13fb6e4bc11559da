"""The tie between this kernel and its sandbox.

A :class:`Binding` answers one question for every cell: *which channel do I run on now?* The usual answer is
immediate (:meth:`Binding.open_channel`). Otherwise :meth:`Binding.ready` walks, on the loop thread, the
whole way: endpoint, client, the sandbox labelled with this very kernel (re-attach) or a new one, started if
it was stopped, channel opened; and it says everything the reader has to know about variables on the way.

Nothing falls back to running on the host: when any step fails, an exception leaves, and the cell fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from daytona_magics.config import SandboxConfig
from daytona_magics.errors import SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.channel import Channel, ExecRequest
from daytona_magics.runtime.events import Done, Event, FlowWindow
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes import identity, labels

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.sandboxes.endpoint import Endpoint

#: A channel that was used this recently, in seconds, is trusted without asking the endpoint for the state.
TRUSTED_FOR = 10.0
#: Seconds the deletion of a sandbox whose creation was cancelled may take, in the background.
CLEANUP = 30.0


class Reporter(Protocol):
    """Where a binding tells the reader what it does. Called on the loop thread."""

    def progress(self, text: str) -> None:
        """What is being waited for now; replaced by the next."""

    def note(self, text: str) -> None:
        """A sentence that must be seen."""


class Silent:
    """A reporter for programs."""

    def progress(self, text: str) -> None:
        """Nobody is looking."""

    def note(self, text: str) -> None:
        """Nobody is looking."""


def state_of(sandbox: Any) -> str:
    """The state as a plain word: "started", "stopped", "error", ..."""
    return str(getattr(sandbox.state, "value", sandbox.state) or "unknown")


class Binding:
    """Which sandbox this kernel uses. All coroutines must run on the loop thread.

    Args:
        config: the settings; read at each use, so changes take effect at once.
        who: called for every identification, because the notebook's path may become known late.

    Attributes:
        endpoint: where the sandbox lives; None before the first use.
        sandbox: the SDK's sandbox; None when none is bound.
        context: name of the guest context cells run in.
    """

    def __init__(self, config: SandboxConfig, who: Callable[[], identity.Identity]) -> None:
        self.config = config
        self.who = who
        self.endpoint: Endpoint | None = None
        self.client: AsyncDaytona | None = None
        self.sandbox: AsyncSandbox | None = None
        self.channel: Channel | None = None
        self.context = ""
        self._gone: SandboxGone | None = None
        self._boot = ""
        self._unseen = False
        self._used = 0.0
        self._choice: tuple[str, ...] = ()
        self._lock: asyncio.Lock | None = None

    # -- the way to a channel --------------------------------------------------------------------------

    def open_channel(self) -> Channel | None:
        """The channel, when it is open and was used moments ago; callable from any thread."""
        recent = time.monotonic() - self._used < TRUSTED_FOR
        usable = self.channel is not None and not self.channel.closed and self._gone is None
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
            await self._create_first(self.client, tell)
        elif self._unseen:
            await self._reattach(tell)
        else:
            await self._awake(tell)
        return self.bound()

    def locked(self) -> asyncio.Lock:
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    async def connect(self, tell: Reporter) -> AsyncDaytona:
        """The SDK's client for the endpoint the settings name now."""
        wanted = (self.config.endpoint, self.config.target, self.config.min_isolation)
        if self.client is not None and wanted == self._choice:
            return self.client
        if endpoints.choose(self.config).kind == "embedded":
            tell.progress("finding the embedded engine")
        found = await asyncio.to_thread(endpoints.connect, self.config)
        if (
            self.endpoint is None
            or found.api_url != self.endpoint.api_url
            or found.api_key != self.endpoint.api_key
        ):
            await self.disconnect()
            self.client = sdk.open_client(found)
        self.endpoint, self._choice = found, wanted
        assert self.client is not None
        return self.client

    async def disconnect(self) -> None:
        """Let go of sandbox and endpoint; both live on."""
        await self.unbind()
        client, self.client, self.endpoint = self.client, None, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    async def unbind(self) -> None:
        """Let go of the sandbox; it lives on."""
        channel, self.channel = self.channel, None
        self.sandbox, self.context, self._boot, self._gone, self._unseen = None, "", "", None, False
        if channel is not None:
            await channel.close()

    async def _find_own(self, client: AsyncDaytona, tell: Reporter) -> AsyncSandbox | None:
        """The sandbox labelled with this very kernel: it was restarted, or the extension reloaded."""
        tell.progress("looking for this kernel's sandbox")
        who = self.who()
        identity.hold(who.kernel)
        found = await self.find(client, {labels.KERNEL: who.kernel, labels.HOST: who.host}, tell)
        usable = [
            box for box in found if state_of(box) not in ("destroyed", "destroying", "error", "build_failed")
        ]
        return max(usable, key=lambda box: str(box.created_at), default=None)

    async def find(self, client: AsyncDaytona, wanted: dict[str, str], tell: Reporter) -> list[AsyncSandbox]:
        """All sandboxes that carry these labels; ``{}`` finds all."""
        from daytona import ListSandboxesQuery

        async def listed() -> list[AsyncSandbox]:
            return [box async for box in client.list(ListSandboxesQuery(labels=wanted or None))]

        found: list[AsyncSandbox] = await self.asked(sdk.retrying(listed, tell.progress), "listing sandboxes")
        return found

    async def asked(self, call: Any, doing: str) -> Any:
        """Await a call of the SDK; its exceptions come out as ours."""
        try:
            return await call
        except sdk.error_class() as error:
            raise sdk.translate(error, doing) from None

    # -- create, attach --------------------------------------------------------------------------------

    async def _create_first(self, client: AsyncDaytona, tell: Reporter) -> None:
        earlier = await self._earlier(client, tell)
        await self.create(tell)
        if earlier is not None:
            tell.note(
                f"`%sandbox use {earlier.name}` continues the sandbox of an earlier kernel of this notebook."
            )

    async def _earlier(self, client: AsyncDaytona, tell: Reporter) -> AsyncSandbox | None:
        who = self.who()
        if not who.notebook:
            return None
        found = await self.find(client, {labels.NOTEBOOK: who.notebook, labels.HOST: who.host}, tell)
        left = [
            box
            for box in found
            if state_of(box) in ("started", "stopped", "archived")
            and not identity.alive(box.labels.get(labels.KERNEL, ""))
        ]
        return max(left, key=lambda box: str(box.created_at), default=None)

    async def create(self, tell: Reporter, **params: Any) -> AsyncSandbox:
        """Create a sandbox and bind to it. A cancelled creation leaves nothing behind.

        Args:
            tell: hears what happens.
            params: fields of ``CreateSandboxFromSnapshotParams`` that differ from the settings.
        """
        client = await self.connect(tell)
        assert self.endpoint is not None
        from daytona import CreateSandboxFromSnapshotParams

        who = self.who()
        identity.hold(who.kernel)
        context = who.context
        kept = self.config.auto_delete_batch if who.batch else self.config.auto_delete
        wanted: dict[str, Any] = {
            "name": labels.make_name(who.title),
            "snapshot": self.config.snapshot or None,
            "auto_stop_interval": self.config.auto_stop,
            "auto_delete_interval": kept,
        }
        wanted.update(params)
        wanted["labels"] = {**labels.ours(who, context), **(params.get("labels") or {})}
        tell.progress(f"creating sandbox {wanted['name']}")
        start = time.monotonic()
        made = CreateSandboxFromSnapshotParams(**wanted)
        sandbox = await self._create_or_undo(client, made, tell)
        await self._release_previous(tell)
        self.sandbox, self.context = sandbox, context
        self._check_isolation(sandbox)
        took = time.monotonic() - start
        tell.note(f"created sandbox {sandbox.name} in {took:.1f} s · {self.endpoint.title}")
        offer = endpoints.choose(self.config).offer
        if offer:
            tell.note(offer)
        return sandbox

    async def _create_or_undo(self, client: AsyncDaytona, params: Any, tell: Reporter) -> AsyncSandbox:
        async def create() -> AsyncSandbox:
            try:
                return await client.create(params, timeout=self.config.create_timeout)
            except sdk.error_class() as error:
                # The request of a broken connection may have arrived; the name is ours alone.
                if not sdk.connection_failed(error):
                    raise
                try:
                    return await client.get(params.name)
                except sdk.error_class() as second:
                    raise error from second

        async def once() -> AsyncSandbox:
            task = asyncio.ensure_future(create())
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                tell.progress("cancelled; removing what was begun")
                await asyncio.shield(asyncio.ensure_future(_undo(client, task, params.name)))
                raise

        made: AsyncSandbox = await self.asked(sdk.retrying(once, tell.progress), "creating a sandbox")
        return made

    async def _release_previous(self, tell: Reporter) -> None:
        """A second sandbox takes over: the first must not be found as this kernel's own after a restart."""
        previous = self.sandbox
        await self.unbind()
        if previous is not None:
            await self._disown(previous)
            tell.note(f"the earlier sandbox {previous.name} lives on until it stops itself")

    async def _disown(self, sandbox: AsyncSandbox) -> None:
        try:
            await labels.merge(sandbox, {labels.KERNEL: "released"})
        except sdk.error_class() as error:
            if not sdk.not_found(error):
                raise sdk.translate(error, "changing labels") from None

    def _check_isolation(self, sandbox: AsyncSandbox) -> None:
        assert self.endpoint is not None
        if self.endpoint.kind == "embedded":
            endpoints.check_level(
                sandbox.labels.get(labels.ISOLATION, self.endpoint.isolation), self.config.min_isolation
            )

    async def attach(self, name: str, tell: Reporter) -> AsyncSandbox:
        """Bind to a sandbox that exists, by name or id, and start it if it is stopped.

        The context of its earlier kernel is continued when that kernel is no longer alive; otherwise this
        kernel works in a context of its own beside it.
        """
        client = await self.connect(tell)
        tell.progress(f"looking for sandbox {name}")
        try:
            found: AsyncSandbox = await sdk.retrying(lambda: client.get(name), tell.progress)
        except sdk.error_class() as error:
            if sdk.not_found(error):
                raise SandboxGone(
                    f"there is no sandbox {name!r} at the endpoint ({self.endpoint.title if self.endpoint else ''})",
                    hint="%sandbox list  shows those that exist.",
                ) from None
            raise sdk.translate(error, f"looking for {name}") from None
        self._check_isolation(found)
        who = self.who()
        identity.hold(who.kernel)
        owner, context = found.labels.get(labels.KERNEL, ""), found.labels.get(labels.CONTEXT, "")
        theirs = owner != who.kernel and identity.alive(owner)
        if self.sandbox is not None and self.sandbox.id != found.id:
            await self._release_previous(tell)
        else:
            await self.unbind()
        self.sandbox = found
        self.context = who.context if theirs or not context else context
        await self._awake(tell)
        if theirs:
            tell.note(f"another kernel is using {found.name}; this one has variables of its own there")
        else:
            await self.asked(labels.merge(found, labels.ours(who, self.context)), "changing labels")
        channel = await self._open(tell)
        await self._tell_alive(channel, found.name, tell, "attached to")
        return found

    async def _reattach(self, tell: Reporter) -> None:
        own = self.bound()
        was_running = state_of(own) == "started"
        await self._awake(tell)
        self._unseen = False
        if not was_running:
            return
        channel = await self._open(tell)
        if self.config.on_restart == "reset":
            await channel.reset([self.context])
            tell.note(f"re-attached to {own.name}: variables were reset (on_restart=reset), files kept")
        else:
            await self._tell_alive(channel, own.name, tell, "re-attached to")

    async def _tell_alive(self, channel: Channel, name: str, tell: Reporter, verb: str) -> None:
        """Say whether an earlier kernel's variables are there, and whether one of its cells still runs."""
        status = await channel.status()
        alive = [
            context
            for context in status.get("contexts", ())
            if context.get("name") == self.context
            and (context.get("worker_pid") is not None or context.get("language") == "bash")
        ]
        if not alive:
            tell.note(f"{verb} {name}: no variables are alive there, files are kept")
            return
        tell.note(
            f"{verb} {name}: variables of the earlier kernel are alive, `%sandbox reset` for a clean start"
        )
        for run in status.get("executions", ()):
            if run.get("context") == self.context and run.get("state") in ("running", "queued"):
                tell.note(
                    f"{run.get('name') or 'a cell'} of the earlier kernel is still {run['state']} there; "
                    "a new cell waits behind it"
                )

    # -- keeping it usable -----------------------------------------------------------------------------

    async def _awake(self, tell: Reporter) -> None:
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
        if state in ("destroyed", "destroying"):
            raise self.lost()
        if state in ("error", "build_failed"):
            why = f": {sandbox.error_reason}" if sandbox.error_reason else ""
            raise SandboxGone(
                f"sandbox {sandbox.name} is in state {state}{why}", hint="%sandbox create  makes a new one."
            )
        tell.progress(f"starting sandbox {sandbox.name} ({state})")
        await self.start(tell)
        tell.note(f"{sandbox.name} was {state}: started again; variables were lost, files kept")

    async def start(self, tell: Reporter) -> None:
        """Start the bound sandbox and wait until it is started."""
        sandbox = self.bound()
        await self._close_channel()
        await self.asked(sandbox.start(timeout=self.config.create_timeout), f"starting {sandbox.name}")

    async def stop(self, tell: Reporter, *, force: bool = False) -> None:
        """Stop the bound sandbox and wait until it is stopped."""
        sandbox = self.bound()
        tell.progress(f"stopping sandbox {sandbox.name}")
        await self._close_channel()
        await self.asked(
            sandbox.stop(timeout=self.config.create_timeout, force=force), f"stopping {sandbox.name}"
        )

    async def _close_channel(self) -> None:
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
    def gone(self) -> bool:
        """The bound sandbox was found deleted, and nobody has decided yet what comes next."""
        return self._gone is not None

    async def rediscover(self, tell: Reporter) -> None:
        """After a kernel restart: bind to this kernel's sandbox if there is one, without starting it."""
        client = await self.connect(tell)
        if self.sandbox is not None:
            return
        own = await self._find_own(client, tell)
        if own is not None:
            self._check_isolation(own)
            self.sandbox, self.context = own, own.labels.get(labels.CONTEXT, "") or self.who().context
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
        if self.channel is None or self.channel.closed:
            self.channel = Channel(
                self.sandbox, api_key=self.endpoint.api_key, reconnect_for=self.config.reconnect_for
            )
        tell.progress(f"connecting to sandbox {self.sandbox.name}")
        try:
            info = await self.asked(self.channel.open(), f"connecting to {self.sandbox.name}")
        except BaseException:
            # A half-open channel is of no use to the next cell, which starts over.
            await self._close_channel()
            raise
        if self._boot and info.boot != self._boot:
            tell.note("the sandbox's workers were started anew; variables were lost, files kept")
        self._boot = info.boot
        self._used = time.monotonic()
        return self.channel

    # -- running a cell --------------------------------------------------------------------------------

    async def run(
        self, channel: Channel, request: ExecRequest, sink: Callable[[Event], None], window: FlowWindow
    ) -> Done:
        """Execute on the channel, with signs of activity while it runs and errors that name the real cause."""
        beating = asyncio.ensure_future(self._heartbeat())
        try:
            return await channel.execute(request, sink, window)
        except SandboxUnreachable as error:
            raise await self._why(error) from None
        finally:
            beating.cancel()
            self._used = time.monotonic()

    async def _heartbeat(self) -> None:
        """A running process does not reset auto-stop; this does. A missed beat is made up by the next."""
        while self.config.heartbeat > 0:
            await asyncio.sleep(self.config.heartbeat)
            if self.sandbox is not None:
                await asyncio.wait([asyncio.ensure_future(self._beat(self.sandbox))], timeout=10)

    async def _beat(self, sandbox: AsyncSandbox) -> str:
        try:
            await sandbox.refresh_activity()
        except sdk.error_class() as error:
            return str(error)
        return ""

    async def _why(self, error: SandboxUnreachable) -> SandboxError:
        """A channel broke for good: ask the endpoint whether the sandbox stopped or is gone."""
        await self._close_channel()
        if self.sandbox is None:
            return error
        try:
            await self.sandbox.refresh_data(request_timeout=5)
        except sdk.error_class() as second:
            return self.lost() if sdk.not_found(second) else error
        state = state_of(self.sandbox)
        if state in ("destroyed", "destroying"):
            return self.lost()
        if state != "started":
            return SandboxUnreachable(
                f"sandbox {self.sandbox.name} is {state}: the cell was ended, variables were lost, files kept",
                hint="The next cell starts it again.",
            )
        return error


async def _undo(client: AsyncDaytona, creating: asyncio.Future[Any], name: str) -> None:
    """Delete what a cancelled creation made, as soon as it is known to exist."""

    async def undo() -> None:
        try:
            sandbox = await creating
        except Exception:
            # Refused, or its answer got lost: only the name can tell.
            try:
                sandbox = await client.get(name)
            except sdk.error_class() as error:
                if sdk.not_found(error):
                    return
                raise
        await sandbox.delete(timeout=CLEANUP)

    try:
        await asyncio.wait_for(undo(), CLEANUP)
    except sdk.error_class() as error:
        raise SandboxError(
            f"the creation was cancelled, but sandbox {name} could not be removed ({sdk.translate(error)})",
            hint=f"%sandbox delete --yes {name}",
        ) from None
