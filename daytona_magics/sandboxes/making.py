"""Creating a sandbox for a kernel, so that a cancelled or broken creation leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import IsolationUnavailable, SandboxError
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes import identity, labels
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.sandboxes.binding import Binding

#: Seconds the deletion of a sandbox whose creation was cancelled may take, in the background.
CLEANUP = 30.0


async def create(
    binding: Binding, tell: Reporter, params: dict[str, Any], client: AsyncDaytona | None = None
) -> AsyncSandbox:
    """Create a sandbox and bind to it; an earlier one is let go of and lives on.

    Times after which it stops and is deleted are always set, so a sandbox can be forgotten but not leaked.

    Args:
        binding: who binds to it.
        tell: hears what happens.
        params: fields of ``CreateSandboxFromSnapshotParams`` that differ from the settings.
        client: the endpoint's client, when it was connected a moment ago.
    """
    client = client or await binding.connect(tell)
    endpoint = binding.endpoint
    assert endpoint is not None
    from daytona import CreateSandboxFromSnapshotParams

    who, config = binding.who(), binding.config
    identity.hold(who.kernel)
    wanted: dict[str, Any] = {
        "name": labels.make_name(who.title),
        "snapshot": config.snapshot or None,
        "auto_stop_interval": config.auto_stop,
        "auto_delete_interval": config.auto_delete_batch if who.batch else config.auto_delete,
        **params,
        "labels": {**labels.ours(who, who.context), **(params.get("labels") or {})},
    }
    tell.progress(f"creating sandbox {wanted['name']}")
    start = time.monotonic()
    sandbox = await _create_or_undo(binding, client, CreateSandboxFromSnapshotParams(**wanted), tell)
    try:
        binding.check_isolation(sandbox)
    except IsolationUnavailable:
        await sandbox.delete()
        raise
    await binding.release(tell)
    binding.bind(sandbox, who.context, fresh=True)
    took = time.monotonic() - start
    shown = f"{took:.1f} s" if took >= 1 else f"{took * 1000:.0f} ms"
    tell.note(f"created sandbox {sandbox.name} in {shown} · {endpoint.title}")
    offer = endpoints.choose(config).offer
    if offer:
        tell.note(offer)
    return sandbox


async def _create_or_undo(
    binding: Binding, client: AsyncDaytona, params: Any, tell: Reporter
) -> AsyncSandbox:
    async def create() -> AsyncSandbox:
        try:
            return await client.create(params, timeout=binding.config.create_timeout)
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

    made: AsyncSandbox = await sdk.asked(sdk.retrying(once, tell.progress), "creating a sandbox")
    return made


async def _undo(client: AsyncDaytona, creating: asyncio.Future[Any], name: str) -> None:
    """Delete what a cancelled creation made, as soon as it is known to exist."""

    async def undo() -> None:
        try:
            sandbox = await creating
        except sdk.error_class():
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
    except (sdk.error_class(), TimeoutError) as error:
        raise SandboxError(
            f"the creation was cancelled, but sandbox {name} could not be removed ({sdk.translate(error)})",
            hint=f"%sandbox delete --yes {name}",
        ) from None
