"""Creating a sandbox for a kernel, so that a cancelled or broken creation leaves nothing behind.

The answer to a creation may get lost while the creation itself succeeds. So every creation carries a random
word in a label: whatever stands under the wanted name afterwards is taken over, or deleted, only with that
word on it. A sandbox of somebody else by the same name is never touched.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes import identity, labels, sizing
from daytona_magics.sandboxes.report import Reporter, Silent, openness, state_of

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.sandboxes.binding import Binding

#: Seconds the deletion of a sandbox whose creation was cancelled or failed may take.
CLEANUP = 30.0
#: Sandboxes that are created at the same time, of several.
AT_ONCE = 8
#: Seconds after which a creation that failed at the endpoint is tried again, once.
AGAIN_AFTER = 2.0


async def create(
    binding: Binding,
    tell: Reporter,
    params: dict[str, Any],
    client: AsyncDaytona | None = None,
    size: dict[str, int] | None = None,
) -> AsyncSandbox:
    """Create a sandbox and bind to it; an earlier one is let go of and lives on.

    Times after which it stops and is deleted are always set, so a sandbox can be forgotten but not leaked.

    Args:
        binding: who binds to it.
        tell: hears what happens.
        params: fields of ``CreateSandboxFromSnapshotParams`` that differ from the settings.
        client: the endpoint's client, when it was connected a moment ago.
        size: ``cpu``, ``memory`` and ``disk`` it shall have, where the endpoint's choice will not do.
    """
    client = client or await binding.connect(tell)
    start = time.monotonic()
    sandbox = await _made(binding, tell, params, client, size or {})
    await binding.release(tell)
    binding.bind(sandbox, binding.who().context, fresh=True)
    assert binding.endpoint is not None
    tell.note(f"created sandbox {sandbox.name} in {_shown(start)} · {binding.endpoint.title}")
    await _tell_more(binding, sandbox, tell)
    return sandbox


def _shown(start: float) -> str:
    took = time.monotonic() - start
    return f"{took:.1f} s" if took >= 1 else f"{took * 1000:.0f} ms"


async def _tell_more(binding: Binding, sandbox: AsyncSandbox, tell: Reporter) -> None:
    await _tell_open(binding, sandbox, tell)
    offer = endpoints.choose(binding.config).offer
    if offer:
        tell.note(offer)


async def _made(
    binding: Binding, tell: Reporter, params: dict[str, Any], client: AsyncDaytona, size: dict[str, int]
) -> AsyncSandbox:
    """A new sandbox with this kernel's labels and the settings' times, not bound to."""
    from daytona import CreateSandboxFromSnapshotParams

    who, config = binding.who(), binding.config
    identity.hold(who.kernel)
    wanted: dict[str, Any] = {
        "name": labels.make_name(who.title),
        "snapshot": config.snapshot or None,
        "auto_stop_interval": config.auto_stop,
        "auto_delete_interval": config.auto_delete_batch if who.batch else config.auto_delete,
        **params,
        "labels": {
            **labels.ours(who, who.context),
            **(params.get("labels") or {}),
            labels.CREATION: secrets.token_hex(8),
        },
    }
    tell.progress(f"creating sandbox {wanted['name']}")
    creation = _Creation(client, CreateSandboxFromSnapshotParams(**wanted), config.create_timeout, tell)
    sandbox = await creation.run()
    try:
        binding.check_isolation(sandbox)
        await sizing.fit(sandbox, size, config.create_timeout)
    except SandboxError:
        await sandbox.delete()
        raise
    return sandbox


async def create_many(
    binding: Binding, tell: Reporter, names: list[str], params: dict[str, Any], size: dict[str, int]
) -> dict[str, AsyncSandbox | SandboxError]:
    """Create several sandboxes side by side; the kernel is bound to none of them.

    Args:
        names: one for each.
        params, size: as of :func:`create`, without a name.

    Returns:
        by name the sandbox, or why there is none.

    Cancelled, it removes those that were made.
    """
    client = await binding.connect(tell)
    start, room = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    group = {labels.GROUP: secrets.token_hex(4)}
    found: dict[str, AsyncSandbox | SandboxError] = {}

    def count() -> str:
        failed = sum(isinstance(one, SandboxError) for one in found.values())
        made = len(found) - failed
        return f"{made} of {len(names)} created" + (f", {failed} failed" if failed else "")

    async def one(name: str) -> None:
        wanted = {**params, "name": name, "labels": {**(params.get("labels") or {}), **group}}
        async with room:
            try:
                found[name] = await _made(binding, Silent(), wanted, client, size)
            except SandboxError as error:
                found[name] = error
        tell.progress(f"creating {len(names)} sandboxes: {count()}")

    tell.progress(f"creating {len(names)} sandboxes")
    tasks = [asyncio.ensure_future(one(name)) for name in names]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.shield(asyncio.ensure_future(_remove_made(tasks, found)))
        raise
    assert binding.endpoint is not None
    tell.note(f"{count()} in {_shown(start)} · {binding.endpoint.title}")
    made = [box for box in found.values() if not isinstance(box, SandboxError)]
    binding.made.update(box.id for box in made)
    if made:
        await _tell_more(binding, made[0], tell)
    return {name: found[name] for name in names}


async def _remove_made(
    tasks: list[asyncio.Task[None]], found: dict[str, AsyncSandbox | SandboxError]
) -> None:
    """The creation of several was given up: delete those that are ready; the others undo themselves."""
    await asyncio.gather(*tasks, return_exceptions=True)
    made = [box for box in found.values() if not isinstance(box, SandboxError)]
    await asyncio.gather(*(box.delete(timeout=CLEANUP) for box in made), return_exceptions=True)


async def _tell_open(binding: Binding, sandbox: AsyncSandbox, tell: Reporter) -> None:
    """Below L3, say once per kernel what is open, before the first cell runs there."""
    assert binding.endpoint is not None
    level = sandbox.labels.get(labels.ISOLATION, binding.endpoint.isolation)
    if binding.endpoint.kind != "embedded" or level == "L3" or binding.told_open:
        return
    binding.told_open = True
    facts = await asyncio.to_thread(endpoints.engine_facts)
    tell.note(openness(level, facts.get("open") or ()))


class _Creation:
    """One creation, from its request to a started sandbox or to nothing.

    Args:
        params: what is asked for; with a name, and the label ``labels.CREATION``.
        timeout: seconds it may take; 0 for no limit.
    """

    def __init__(self, client: AsyncDaytona, params: Any, timeout: float, tell: Reporter) -> None:
        self._client, self._params, self._timeout, self._tell = client, params, timeout, tell
        self._word = params.labels[labels.CREATION]
        self._asked_before = self._again = False

    async def run(self) -> AsyncSandbox:
        """Create it; made again when the endpoint could not be reached.

        Raises:
            SandboxError: refused, failed or too slow; what was begun is removed, or the message says it
                could not be.
        """
        made: AsyncSandbox = await sdk.asked(
            sdk.retrying(self._once, self._tell.progress), "creating a sandbox"
        )
        return made

    async def _once(self) -> AsyncSandbox:
        task = asyncio.ensure_future(self._create())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._again = True  # not once more
            self._tell.progress("cancelled; removing what was begun")
            await asyncio.shield(asyncio.ensure_future(self._undo("was cancelled", task)))
            raise

    async def _create(self) -> AsyncSandbox:
        try:
            return await self._ask()
        except sdk.error_class() as error:
            if sdk.timed_out(error):
                await self._undo("took too long")
                raise SandboxError(
                    f"the sandbox was not started within {self._timeout:g} s and was removed again",
                    hint="%sandbox config create_timeout=300  gives it more time.",
                ) from None
            if not sdk.connection_failed(error) and not sdk.refused(error):
                # It may stand there half made, in a state nothing can be done with.
                await self._undo("failed")
                if not self._again:
                    self._again = True
                    self._tell.progress(f"the creation failed; trying again in {AGAIN_AFTER:g} s")
                    await asyncio.sleep(AGAIN_AFTER)
                    return await self._create()
            raise

    async def _ask(self) -> AsyncSandbox:
        asked_before, self._asked_before = self._asked_before, True
        try:
            return await self._client.create(self._params, timeout=self._timeout)
        except sdk.error_class() as error:
            # The request of a broken connection may have arrived, and so may an earlier one of ours.
            lost = sdk.connection_failed(error) and not sdk.timed_out(error)
            if not lost and not (asked_before and sdk.conflicts(error)):
                raise
            try:
                found = await self._found()
            except sdk.error_class() as second:
                raise error from second
            if found is None:
                raise
        if state_of(found) != "started":
            await found.wait_for_sandbox_start(timeout=self._timeout)
        return found

    async def _found(self) -> AsyncSandbox | None:
        """What this creation made, None when that is nothing."""
        try:
            sandbox = await self._client.get(self._params.name)
        except sdk.error_class() as error:
            if sdk.not_found(error):
                return None
            raise
        return sandbox if sandbox.labels.get(labels.CREATION) == self._word else None

    async def _undo(self, why: str, creating: asyncio.Future[AsyncSandbox] | None = None) -> None:
        """Delete what there is, once ``creating`` has ended."""

        async def undo() -> None:
            sandbox: AsyncSandbox | None = None
            if creating is not None:
                try:
                    sandbox = await creating
                except SandboxError:
                    return  # it has cleaned up, or has said that it could not
                except sdk.error_class():
                    sandbox = None
            sandbox = sandbox or await self._found()
            if sandbox is not None:
                # Until it is gone: a second try asks for the same name.
                await sandbox.delete(timeout=CLEANUP, wait=True)

        try:
            await asyncio.wait_for(undo(), CLEANUP)
        except (sdk.error_class(), asyncio.TimeoutError) as error:
            raise SandboxError(
                f"the creation {why}, but sandbox {self._params.name} could not be removed "
                f"({sdk.translate(error)})",
                hint=f"%sandbox delete --yes {self._params.name}",
            ) from None
