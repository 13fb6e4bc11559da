"""What changes the state of sandboxes, by name: start, stop, pause, archive, recover, resize, fork.

Without a name the notebook's own sandbox is meant. One that these magics did not make on this machine, or
that another living kernel is using, is changed only by somebody who says ``--yes``: in a shared organisation
a wrong name must not stop a colleague's work.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.sandboxes import actions, attaching, identity, labels, several, sizing
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter, state_of

if TYPE_CHECKING:
    from daytona import AsyncSandbox


def theirs(binding: Binding, box: Any) -> str:
    """Why a sandbox is not this kernel's to change, as the end of a sentence; "" when it is."""
    if binding.sandbox is not None and binding.sandbox.id == box.id:
        return ""
    if not several.ours(binding, box):
        return "was not made by these magics on this machine"
    return "is in use by another kernel" if of_another(binding, box) else ""


def of_another(binding: Binding, box: Any) -> bool:
    """Whether a sandbox was made by another kernel of this machine that lives, whoever is bound to it."""
    owner = box.labels.get(labels.KERNEL, "")
    return bool(owner != binding.who().kernel and identity.alive(owner))


async def chosen(
    binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool, doing: str
) -> list[AsyncSandbox]:
    """The sandboxes a verb is for: those named, else the bound one, each with its state of now.

    Args:
        names: names, ids, patterns, labels; none for the bound one.
        sure: the person said that somebody else's is meant.
        doing: the verb, for the message.

    Raises:
        SandboxUsageError: one is somebody else's and ``sure`` is not set; nothing has been done then.
    """
    if not names:
        return [await actions.refresh(binding, tell)]
    await binding.rediscover(tell)
    found: dict[str, AsyncSandbox] = {}
    for name in names:
        if several.is_pattern(name):
            matched = await several.matching(binding, [name], tell, ended=True)
            if not matched:
                raise SandboxError(f"no sandbox made here matches {name!r}", hint="%sandbox list --mine")
        else:
            matched = [await actions.get(binding, name, tell)]
        for box in matched:
            ours = binding.sandbox is not None and binding.sandbox.id == box.id
            found[box.id] = await actions.refresh(binding, tell) if ours else box
    for box in found.values():
        why = theirs(binding, box)
        if why and not sure:
            raise SandboxUsageError(
                f"{box.name} {why}",
                hint=f"To {doing} it all the same:  %sandbox {doing} --yes {shlex.quote(box.name)}",
            )
    return list(found.values())


async def let_go(binding: Binding, box: AsyncSandbox) -> None:
    """Close the channels to a sandbox whose processes are about to stop."""
    if binding.sandbox is not None and binding.sandbox.id == box.id:
        await binding.close_channel()
    tie = binding.beside.pop(box.id, None)
    if tie is not None:
        await tie.disconnect()


async def each(boxes: Sequence[AsyncSandbox], act: Any) -> list[AsyncSandbox]:
    """Do something to all of them side by side; one that fails does not keep the others from it.

    Raises:
        SandboxError: it failed for at least one; the message names each.
    """
    outcomes = await asyncio.gather(*(act(box) for box in boxes), return_exceptions=True)
    failed = {
        box.name: error
        for box, error in zip(boxes, outcomes, strict=True)
        if isinstance(error, BaseException)
    }
    if failed:
        first = next(iter(failed.values()))
        if len(boxes) == 1 or not isinstance(first, SandboxError):
            raise first
        said = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise SandboxError(f"{len(failed)} of {len(boxes)} sandboxes: {said}")
    return list(boxes)


async def _change(
    binding: Binding,
    tell: Reporter,
    names: Sequence[str],
    act: Callable[[AsyncSandbox], Coroutine[Any, Any, None]],
    *,
    sure: bool,
    doing: str,
    step: str,
    check: Callable[[Sequence[AsyncSandbox]], None] = lambda boxes: None,
) -> list[AsyncSandbox]:
    """Do something to the sandboxes of a verb, side by side.

    Args:
        sure, doing: as of :func:`chosen`.
        step: the verb as a step that goes on ("stopping").
        check: raises when one of them cannot be changed so; then none is.
    """
    async with binding.locked():
        boxes = await chosen(binding, tell, names, sure=sure, doing=doing)
        check(boxes)
        tell.progress(f"{step} {boxes[0].name if len(boxes) == 1 else f'{len(boxes)} sandboxes'}")
        return await each(boxes, act)


async def stop(
    binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool, force: bool
) -> list[AsyncSandbox]:
    """Stop sandboxes; nothing happens to those that do not run."""

    async def one(box: AsyncSandbox) -> None:
        if state_of(box) in ("stopped", "archived"):
            return
        await let_go(binding, box)
        limit = binding.config.create_timeout
        await sdk.asked(box.stop(timeout=limit, force=force), f"stopping {box.name}")

    return await _change(binding, tell, names, one, sure=sure, doing="stop", step="stopping")


async def start(binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool) -> list[AsyncSandbox]:
    """Start sandboxes; nothing happens to those that are started."""

    async def one(box: AsyncSandbox) -> None:
        if state_of(box) != "started":
            await let_go(binding, box)
            limit = binding.config.create_timeout
            await sdk.asked(box.start(timeout=limit), f"starting {box.name}")

    return await _change(binding, tell, names, one, sure=sure, doing="start", step="starting")


async def pause(binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool) -> list[AsyncSandbox]:
    """Freeze sandboxes: memory, variables and processes are kept and use no CPU."""

    async def one(box: AsyncSandbox) -> None:
        if state_of(box) == "paused":
            return
        if state_of(box) != "started":
            raise SandboxError(
                f"{box.name} is {state_of(box)}; only a started sandbox can be paused",
                hint=f"%sandbox start {shlex.quote(box.name)}",
            )
        await let_go(binding, box)
        limit = binding.config.create_timeout
        await sdk.asked(box.pause(timeout=limit), f"pausing {box.name}")

    return await _change(binding, tell, names, one, sure=sure, doing="pause", step="pausing")


async def archive(
    binding: Binding, tell: Reporter, names: Sequence[str], *, sure: bool
) -> list[AsyncSandbox]:
    """Move the files of stopped sandboxes to where they use no disk of the machine; waits until it is done.

    Raises:
        SandboxError: one is not stopped; it is left as it is, because a stop would lose variables.
    """

    async def one(box: AsyncSandbox) -> None:
        if state_of(box) == "archived":
            return
        await sdk.asked(box.archive(), f"archiving {box.name}")
        await settled(box, binding.config.create_timeout)
        if state_of(box) != "archived":
            raise SandboxError(f"{box.name} is {state_of(box)} instead of archived", hint=_reason(box))

    def check(boxes: Sequence[AsyncSandbox]) -> None:
        running = [box.name for box in boxes if state_of(box) not in ("stopped", "archived")]
        if running:
            raise SandboxError(
                f"only a stopped sandbox can be archived, and these are not: {', '.join(running)}",
                hint="Variables are lost by a stop, files are kept:  %sandbox stop " + " ".join(names),
            )

    return await _change(binding, tell, names, one, sure=sure, doing="archive", step="archiving", check=check)


async def recover(binding: Binding, tell: Reporter, name: str | None) -> AsyncSandbox:
    """Bring a sandbox back from its error, where the endpoint knows how.

    Raises:
        SandboxError: it is in no error, or in one that cannot be recovered from; says which.
    """
    async with binding.locked():
        if name is None:
            await binding.rediscover(tell)
            box = binding.bound()
            await sdk.asked(box.refresh_data(), f"asking for the state of {box.name}")
        else:
            box = (await chosen(binding, tell, [name], sure=True, doing="recover"))[0]
        state = state_of(box)
        if state not in ("error", "build_failed"):
            raise SandboxError(f"{box.name} is {state}: there is no error to recover from")
        if not box.recoverable:
            raise SandboxError(
                f"{box.name} cannot be recovered: {_reason(box) or 'the endpoint gives no reason'}",
                hint=f"%sandbox delete {shlex.quote(box.name)}  removes it.",
            )
        tell.progress(f"recovering {box.name}")
        await let_go(binding, box)
        await sdk.asked(box.recover(timeout=binding.config.create_timeout), f"recovering {box.name}")
        return box


async def resize(
    binding: Binding, tell: Reporter, name: str | None, size: dict[str, int], *, sure: bool
) -> AsyncSandbox:
    """Give a sandbox another size.

    Args:
        size: ``cpu`` (CPUs), ``memory`` and ``disk`` (GiB), those to change.

    Raises:
        SandboxError: a running one cannot be given it; it is left as it is.
    """
    async with binding.locked():
        names = [] if name is None else [name]
        (box,) = await chosen(binding, tell, names, sure=sure, doing="resize")
        wanted = {key: value for key, value in size.items() if value != getattr(box, key)}
        if not wanted:
            return box
        tell.progress(f"resizing {box.name}")
        if state_of(box) == "started" and not sizing.grows(box, wanted):
            raise SandboxError(
                f"{box.name} runs: CPUs and memory can only grow, and its disk cannot change",
                hint=f"Variables are lost by a stop, files are kept:  %sandbox stop {name or ''}".rstrip(),
            )
        from daytona import Resources

        limit = binding.config.create_timeout
        await sdk.asked(box.resize(Resources(**wanted), timeout=limit), f"resizing {box.name}")
        return box


async def fork(
    binding: Binding, tell: Reporter, name: str | None, *, of: str | None, use: bool, sure: bool
) -> AsyncSandbox:
    """A new sandbox that begins with a copy of another's files; it is this kernel's.

    Args:
        name: to give it; None for one made from the parent's.
        of: the parent; None for the bound one.
        use: bind to it.
    """
    async with binding.locked():
        (parent,) = await chosen(binding, tell, [of] if of else [], sure=sure, doing="fork")
        if state_of(parent) != "started":
            raise SandboxError(
                f"{parent.name} is {state_of(parent)}; only a started sandbox can be forked",
                hint=f"%sandbox start {of or ''}".rstrip(),
            )
        made_name = name or labels.make_name(parent.name)
        tell.progress(f"forking {parent.name} into {made_name}")
        limit = binding.config.create_timeout
        who = binding.who()
        identity.hold(who.kernel)
        box: AsyncSandbox = await sdk.asked(
            parent.fork(name=made_name, timeout=limit), f"forking {parent.name}"
        )
        # It has its parent's labels by now, which say that it is somebody's own.
        own = {**labels.ours(who, who.context), labels.GROUP: "fork", labels.CREATION: secrets.token_hex(8)}
        await sdk.asked(labels.merge(box, own), "changing labels")
        binding.made.add(box.id)
        if use:
            return await attaching.attach(binding, box.id, tell)
        return box


async def settled(box: AsyncSandbox, timeout: float) -> str:
    """Wait until a sandbox is in no state that passes ("stopping", "archiving"); returns its state.

    Args:
        timeout: seconds; 0 for as long as it takes.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout if timeout else None
    while state_of(box).endswith("ing") and (until is None or loop.time() < until):
        await asyncio.sleep(0.2)
        await sdk.asked(box.refresh_data(), f"asking for the state of {box.name}")
    return state_of(box)


def _reason(box: AsyncSandbox) -> str:
    return str(box.error_reason or "")


async def family(binding: Binding, tell: Reporter, name: str | None) -> list[tuple[int, Any]]:
    """Where a sandbox comes from and what was forked from it.

    Returns:
        its origin and everything forked below it, each with its depth; at most 1,000.
    """
    from daytona.common.errors import DaytonaNotFoundError

    names = [] if name is None else [name]
    (box,) = await chosen(binding, tell, names, sure=True, doing="tree")
    client: Any = binding.client
    api = client._sandbox_api
    try:
        above = list(await api.get_sandbox_ancestors(box.id))
    except DaytonaNotFoundError:
        above = []
    origin = above[-1] if above else box
    below: list[tuple[int, Any]] = []
    todo: list[tuple[int, Any]] = [(0, origin)]
    while todo and len(below) < 1000:
        depth, one = todo.pop()
        below.append((depth, one))
        children = await sdk.asked(api.get_sandbox_forks(one.id), f"asking for the forks of {one.name}")
        todo += [(depth + 1, child) for child in reversed(children)]
    return below


async def usage(binding: Binding, tell: Reporter, name: str | None) -> tuple[AsyncSandbox, Any]:
    """What a started sandbox may use, and what it uses now, as the SDK's ``SandboxMetrics``."""
    names = [] if name is None else [name]
    (box,) = await chosen(binding, tell, names, sure=True, doing="resources")
    if state_of(box) != "started":
        raise SandboxError(
            f"{box.name} is {state_of(box)}, so it uses nothing", hint=f"%sandbox start {name or ''}".rstrip()
        )
    return box, await sdk.asked(box.get_metrics_latest(), f"asking {box.name} for its resources")
