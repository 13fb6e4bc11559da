"""What dead kernels of this machine left behind, and nothing else.

A sandbox may be reaped when its labels say all of this: these magics made it, on this machine, by a kernel
whose lock would be visible from here, and that lock is free now. What carries another host's label, another
lock folder's, or none, is somebody else's and is never touched, whatever state it is in.

Two looks with a pause between them must agree: between the two processes of a restarting kernel its lock is
free for a moment.

What a kernel does by itself, once it has reached its endpoint, is less than that: files and running
work of an earlier kernel may be wanted (``%sandbox use``), and the times set at the server stop and delete
them anyway. It only removes what nobody can use: creations that a dying kernel left half made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import attaching, identity, labels
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter, Silent, state_of

if TYPE_CHECKING:
    from daytona import AsyncSandbox

#: Seconds between the two looks of ``%sandbox reap``, and of the one in the background.
PAUSE, PAUSE_BEHIND = 3.0, 30.0
#: Seconds after which a kernel that has reached its endpoint sweeps there.
SWEEP_AFTER = 10.0
#: Seconds a creation may be on its way before it counts as half made.
CREATING_FOR = 600.0
#: How many times more those are tried that a fork of theirs was in the way of.
FORKS_DEEP = 5
#: Sandboxes that are stopped or deleted at the same time.
AT_ONCE = 8


@dataclass(frozen=True)
class Reaped:
    """What became of one sandbox: ``done`` is "stopped", "deleted", "kept", or why it failed."""

    sandbox: Any
    state: str
    done: str
    ok: bool = True


def orphan(binding: Binding, box: Any) -> bool:
    """Whether a sandbox belongs to a dead kernel of this machine, by its labels and the kernel's lock."""
    who, tags = binding.who(), box.labels
    return bool(
        tags.get(labels.CREATED_BY) == labels.CREATOR
        and tags.get(labels.HOST) == who.host
        and who.place
        and tags.get(labels.PLACE) == who.place
        and tags.get(labels.KERNEL, who.kernel) != who.kernel
        and not identity.alive(tags[labels.KERNEL])
        and (binding.sandbox is None or box.id != binding.sandbox.id)
        and box.id not in binding.beside
    )


def owner(binding: Binding, box: Any) -> str:
    """Whose a sandbox is, in words: "this kernel", "another kernel", "earlier kernel", ..."""
    who, kernel = binding.who(), box.labels.get(labels.KERNEL, "")
    if kernel == who.kernel:
        return "this kernel"
    if box.labels.get(labels.CREATED_BY) != labels.CREATOR:
        return "another program"
    if box.labels.get(labels.HOST) != who.host:
        return "another machine"
    if identity.alive(kernel):
        return "another kernel"
    same = who.notebook == box.labels.get(labels.NOTEBOOK, "-")
    return "earlier kernel of this notebook" if same else "earlier kernel"


def half_made(box: Any) -> bool:
    """Whether nothing can be done with it: its creation failed, or was never finished."""
    state = state_of(box)
    if state in ("error", "build_failed"):
        return not box.recoverable
    if state != "creating":
        return False
    with suppress(ValueError, TypeError):
        made = datetime.fromisoformat(str(box.created_at).replace("Z", "+00:00"))
        return (datetime.now(timezone.utc) - made).total_seconds() > CREATING_FOR
    return False


async def _look(binding: Binding, tell: Reporter) -> list[AsyncSandbox]:
    client = await binding.connect(tell)
    who = binding.who()
    made = {labels.CREATED_BY: labels.CREATOR, labels.HOST: who.host}
    found = await attaching.find(client, made, tell)
    return [
        box
        for box in found
        if state_of(box) not in ("destroyed", "destroying") and await asyncio.to_thread(orphan, binding, box)
    ]


async def orphans(binding: Binding, tell: Reporter, pause: float | None = None) -> list[AsyncSandbox]:
    """The sandboxes of dead kernels of this machine, newest first.

    Args:
        pause: seconds between the two looks, PAUSE by default; without orphans there is no second.
    """
    if not await _look(binding, tell):
        return []
    tell.progress("looking twice, so that no restarting kernel loses its sandbox")
    await asyncio.sleep(PAUSE if pause is None else pause)
    # What was no orphan before has changed hands meanwhile and is somebody's again.
    found = await _look(binding, tell)
    return sorted(found, key=lambda box: str(box.created_at), reverse=True)


async def reap(binding: Binding, tell: Reporter, *, delete: bool, look_only: bool = False) -> list[Reaped]:
    """Stop what dead kernels of this machine left running, and delete what cannot be used.

    Args:
        delete: delete all of it, with its files.
        look_only: change nothing.
    """
    found = await orphans(binding, tell)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(box: AsyncSandbox) -> Reaped:
        state = state_of(box)
        async with room:
            if look_only:
                return Reaped(box, state, "")
            if not await asyncio.to_thread(orphan, binding, box):
                return Reaped(box, state, "kept: a kernel took it over")
            try:
                if delete or half_made(box):
                    await _gone(box.delete(timeout=binding.config.create_timeout, wait=True))
                    return Reaped(box, state, "deleted")
                if state in ("stopped", "archived"):
                    return Reaped(box, state, "kept")
                await _gone(box.stop(timeout=binding.config.create_timeout))
                return Reaped(box, state, "stopped")
            except (SandboxError, sdk.error_class()) as error:
                return Reaped(box, state, f"failed: {sdk.translate(error)}", ok=False)

    if found:
        tell.progress(f"reaping {len(found)} sandboxes of earlier kernels")
    return await _over_forks(found, one)


async def _over_forks(
    boxes: list[AsyncSandbox], one: Callable[[AsyncSandbox], Awaitable[Reaped]]
) -> list[Reaped]:
    """Side by side; those that failed once more: a parent is refused while one of its forks exists."""
    done = {box.id: reaped for box, reaped in zip(boxes, await asyncio.gather(*map(one, boxes)), strict=True)}
    for _ in range(FORKS_DEEP):
        again = [box for box in boxes if not done[box.id].ok]
        if not again:
            break
        done.update(
            {
                box.id: reaped
                for box, reaped in zip(again, await asyncio.gather(*map(one, again)), strict=True)
            }
        )
    return [done[box.id] for box in boxes]


async def _gone(call: Any) -> None:
    """Await a stop or a deletion; that it is gone already is as good."""
    try:
        await call
    except sdk.error_class() as error:
        if not sdk.not_found(error):
            raise


async def sweep(binding: Binding, pause: float = PAUSE_BEHIND) -> int:
    """The part that needs nobody's word: delete half made sandboxes of dead kernels. Says and raises nothing.

    Returns:
        how many were deleted.
    """
    gone = 0
    with suppress(SandboxError, sdk.error_class(), OSError):
        if not any(half_made(box) for box in await _look(binding, Silent())):
            return 0
        await asyncio.sleep(pause)
        for box in await _look(binding, Silent()):
            if half_made(box):
                await _gone(box.delete(timeout=binding.config.create_timeout))
                gone += 1
    return gone


async def begin(binding: Binding) -> int:
    """:func:`sweep`, a while after a kernel has first reached its endpoint."""
    await asyncio.sleep(SWEEP_AFTER)
    return await sweep(binding)


async def delete_all(binding: Binding, tell: Reporter) -> tuple[list[Reaped], list[Any]]:
    """Delete every sandbox of this kernel and of dead kernels of this machine.

    Returns:
        what was deleted; and what was left, because a living kernel uses it.
    """
    await binding.rediscover(tell)
    client = binding.client
    assert client is not None
    who = binding.who()
    made = {labels.CREATED_BY: labels.CREATOR, labels.HOST: who.host}
    found = [
        box
        for box in await attaching.find(client, made, tell)
        if state_of(box) not in ("destroyed", "destroying")
    ]
    dead = {box.id for box in await orphans(binding, tell)}
    mine = [box for box in found if box.labels.get(labels.KERNEL) == who.kernel or box.id in dead]
    left = [box for box in found if box not in mine]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(box: AsyncSandbox) -> Reaped:
        state = state_of(box)
        tie = binding.beside.pop(box.id, None)
        if tie is not None:
            await tie.disconnect()
        if binding.sandbox is not None and binding.sandbox.id == box.id:
            await binding.unbind()
        async with room:
            try:
                await _gone(box.delete(timeout=binding.config.create_timeout, wait=True))
            except sdk.error_class() as error:
                return Reaped(box, state, f"failed: {sdk.translate(error)}", ok=False)
        return Reaped(box, state, "deleted")

    tell.progress(f"deleting {len(mine)} sandboxes")
    return await _over_forks(mine, one), left
