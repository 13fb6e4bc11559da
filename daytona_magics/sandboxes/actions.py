"""What the verbs do to a binding. Every function is a coroutine for the loop thread, and tells its steps."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daytona_magics.engine import address
from daytona_magics.errors import SandboxError, SandboxUsageError, printable
from daytona_magics.sandboxes import attaching, labels, making
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.endpoint import choose
from daytona_magics.sandboxes.report import Reporter, state_of

if TYPE_CHECKING:
    from daytona import AsyncSandbox


async def look(binding: Binding, tell: Reporter) -> AsyncSandbox | None:
    """The bound sandbox with its state of now, without creating or starting anything."""
    embedded = binding.client is None and choose(binding.config).kind == "embedded"
    # Asking for the state must not start an engine: without one there is no sandbox running either.
    if embedded and await asyncio.to_thread(address.find) is None:
        return None
    await binding.rediscover(tell)
    if binding.sandbox is not None:
        await refresh(binding, tell)
    return binding.sandbox


async def refresh(binding: Binding, tell: Reporter) -> AsyncSandbox:
    """Read the bound sandbox's state again.

    Raises:
        SandboxGone: it was deleted.
    """
    await binding.rediscover(tell)
    sandbox = binding.bound()
    try:
        await sdk.retrying(sandbox.refresh_data, tell.progress)
    except sdk.error_class() as error:
        if sdk.not_found(error):
            raise binding.lost() from None
        raise sdk.translate(error, f"asking for the state of {sandbox.name}") from None
    if state_of(sandbox) in ("destroyed", "destroying"):
        raise binding.lost()
    return sandbox


async def create(
    binding: Binding, tell: Reporter, params: dict[str, Any], size: dict[str, int] | None = None
) -> AsyncSandbox:
    """Create a sandbox and bind to it; an earlier one is let go of and lives on."""
    async with binding.locked():
        return await making.create(binding, tell, params, size=size)


async def use(
    binding: Binding, name: str | None, tell: Reporter, *, wanted: dict[str, str], context: str | None
) -> AsyncSandbox:
    """Bind to an existing sandbox.

    Args:
        name: of the sandbox, or its id; None for the newest that carries these labels.
        wanted: labels it must carry.
        context: the context to work in; None for the one that belongs to this kernel.

    Raises:
        SandboxError: none carries the labels.
    """
    async with binding.locked():
        if name is None:
            found = await listed(binding, tell, wanted, mine=False)
            usable = [box for box in found if state_of(box) not in attaching.ENDED]
            if not usable:
                said = ", ".join(f"{key}={value}" for key, value in wanted.items())
                raise SandboxError(f"no sandbox carries the label {said}", hint="%sandbox list  shows all.")
            name = usable[0].id
        return await attaching.attach(binding, name, tell, context)


async def get(binding: Binding, name: str, tell: Reporter) -> AsyncSandbox:
    """A sandbox by name or id, without binding to it."""
    return await attaching.get(await binding.connect(tell), name, tell)


async def listed(
    binding: Binding, tell: Reporter, wanted: dict[str, str], *, mine: bool
) -> list[AsyncSandbox]:
    """The endpoint's sandboxes, newest first.

    Args:
        wanted: only those that carry these labels.
        mine: only those these magics made on this machine.
    """
    client = await binding.connect(tell)
    own = {labels.CREATED_BY: labels.CREATOR, labels.HOST: binding.who().host} if mine else {}
    found = await attaching.find(client, {**own, **wanted}, tell)
    alive = [box for box in found if state_of(box) not in ("destroyed", "destroying")]
    return sorted(alive, key=lambda box: str(box.created_at), reverse=True)


async def restart(binding: Binding, tell: Reporter) -> AsyncSandbox:
    """Stop and start the bound sandbox."""
    async with binding.locked():
        sandbox = await refresh(binding, tell)
        if state_of(sandbox) == "started":
            await binding.stop(tell)
        await binding.start(tell)
        return sandbox


async def reset(binding: Binding, tell: Reporter, *, context: str = "", everything: bool = False) -> None:
    """New workers for a context; after a sandbox is gone, a clean slate for the next cell. Jobs run on.

    Args:
        context: which; "" for this kernel's.
        everything: for all contexts of the sandbox, also those of other kernels.

    Raises:
        SandboxUsageError: there is no such context.
    """
    async with binding.locked():
        if binding.gone:
            name = binding.bound().name
            await binding.unbind()
            tell.note(f"{name} is forgotten; the next cell creates a new sandbox")
            return
        await binding.rediscover(tell)
        if binding.sandbox is None:
            tell.note("there is no sandbox yet, so there is nothing to reset")
            return
        sandbox = await refresh(binding, tell)
        if state_of(sandbox) != "started":
            tell.note(f"{sandbox.name} is {state_of(sandbox)}: no variables are alive")
            return
        channel = await binding.opened(tell)
        # A job's context ends with it; its name has spaces, which no other's has.
        known = {str(one.get("name", "")) for one in (await channel.status())["contexts"]}
        names = sorted(name for name in known if " " not in name)
        chosen = names if everything else [context or binding.context]
        if context and context not in names:
            there = f"there are {_some(names)}" if names else "it has none yet"
            raise SandboxUsageError(f"{sandbox.name} has no context {context!r}; {there}")
        await channel.reset(chosen)
        others = [name for name in names if name not in chosen]
        whose = f"context {context}" if context else "this notebook"
        if everything and len(names) > 1:
            whose = f"all contexts ({_some(names)})"
        kept = f"; other contexts keep theirs ({_some(others)}): `%sandbox reset --all`" if others else ""
        tell.note(f"{sandbox.name} has new workers: variables of {whose} are lost, files kept{kept}")


def _some(names: Sequence[str]) -> str:
    """The first few names of contexts, as a hostile sandbox may tell them."""
    shown = [printable(name, line=True)[:64] for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


async def delete(binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool) -> None:
    """Delete the bound sandbox, or others when ``sure``; waits until they are gone.

    Args:
        names: names, ids, patterns or labels; none for the bound one.

    Raises:
        SandboxUsageError: another one is named and ``sure`` is not set; nothing was deleted then.
    """
    from daytona_magics.sandboxes import states

    async with binding.locked():
        if binding.gone:
            tell.note(f"{binding.bound().name} is gone already")
            await binding.unbind()
            return
        await binding.rediscover(tell)
        bound = binding.sandbox
        targets = (
            await states.chosen(binding, tell, names, sure=True, doing="delete")
            if names
            else [binding.bound()]
        )
        others = [box.name for box in targets if bound is None or box.id != bound.id]
        if others and not sure:
            raise SandboxUsageError(
                f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not this notebook's sandbox",
                hint=f"To delete it all the same:  %sandbox delete --yes {shlex.join(names)}",
            )

        if not sure and (used := [box.name for box in targets if states.of_another(binding, box)]):
            raise SandboxUsageError(
                f"{used[0]} is in use by another kernel, which would lose its variables and files",
                hint=f"To delete it all the same:  %sandbox delete --yes {shlex.quote(used[0])}",
            )

        async def one(box: AsyncSandbox) -> None:
            if bound is not None and box.id == bound.id:
                await binding.unbind()
            await states.let_go(binding, box)
            try:
                await box.delete(timeout=binding.config.create_timeout, wait=True)
            except sdk.error_class() as error:
                if not sdk.not_found(error):
                    raise sdk.translate(error, f"deleting {box.name}") from None

        tell.progress(f"deleting {', '.join(box.name for box in targets)}")
        await states.each(targets, one)
        said = ", ".join(box.name for box in targets)
        tell.note(
            f"{said} is deleted with all its files"
            if len(targets) == 1
            else f"{said} are deleted with all their files"
        )


async def keep(binding: Binding, tell: Reporter, minutes: int) -> None:
    """Set how long the bound sandbox stays started without activity, counted from now.

    Args:
        minutes: 0 for never stopping by itself.
    """
    async with binding.locked():
        sandbox = await refresh(binding, tell)
        await sdk.asked(sandbox.set_autostop_interval(minutes), "setting the auto-stop time")
        if state_of(sandbox) == "started":
            await sdk.asked(sandbox.refresh_activity(), "refreshing the activity")
