"""Finding the sandbox that belongs to a kernel, and binding to one that exists.

Everything is decided by labels at the endpoint, never by files here, and never by the notebook's path alone.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxGone
from daytona_magics.runtime import decode
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import identity, jobs, labels
from daytona_magics.sandboxes.report import Reporter, state_of

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.runtime.channel import Channel
    from daytona_magics.sandboxes.binding import Binding

#: States in which there is nothing left to attach to.
ENDED = ("destroyed", "destroying", "error", "build_failed")


async def find(client: AsyncDaytona, wanted: dict[str, str], tell: Reporter) -> list[AsyncSandbox]:
    """All sandboxes that carry these labels; ``{}`` finds all."""
    found: list[AsyncSandbox] = await sdk.asked(
        sdk.retrying(lambda: _listed(client, wanted), tell.progress), "listing sandboxes"
    )
    return found


async def _listed(client: AsyncDaytona, wanted: dict[str, str]) -> list[AsyncSandbox]:
    from daytona import ListSandboxesQuery

    return [box async for box in client.list(ListSandboxesQuery(labels=wanted or None))]


async def get(client: AsyncDaytona, name: str, tell: Reporter) -> AsyncSandbox:
    """A sandbox by name or id.

    Raises:
        SandboxGone: there is none.
    """
    try:
        found: AsyncSandbox = await sdk.retrying(lambda: client.get(name), tell.progress)
    except sdk.error_class() as error:
        if sdk.not_found(error):
            near = await _nearest(client, name)
            raise SandboxGone(
                f"there is no sandbox {name!r} here" + (f"; did you mean {near}?" if near else ""),
                hint="%sandbox list  shows those that exist.",
            ) from None
        raise sdk.translate(error, f"looking for {name}") from None
    return found


async def _nearest(client: AsyncDaytona, name: str) -> str:
    """The name that is most like this one, "" when none is; only ever a hint, so asked for once."""
    try:
        known = [box.name for box in await _listed(client, {})]
    except sdk.error_class():
        return ""
    return next(iter(get_close_matches(name, known, n=1)), "")


async def own(binding: Binding, client: AsyncDaytona, tell: Reporter) -> AsyncSandbox | None:
    """The sandbox labelled with this very kernel: it was restarted, or the extension reloaded."""
    tell.progress("looking for this kernel's sandbox")
    who = binding.who()
    identity.hold(who.kernel)
    found = await find(client, {labels.KERNEL: who.kernel, labels.HOST: who.host}, tell)
    usable = [box for box in found if state_of(box) not in ENDED and not box.labels.get(labels.GROUP)]
    return max(usable, key=lambda box: str(box.created_at), default=None)


async def earlier(binding: Binding, client: AsyncDaytona) -> AsyncSandbox | None:
    """The newest sandbox that a kernel of this notebook, now dead, left behind; only ever a hint.

    Asked for once: a hint is not worth the pauses in which a failed request is made again.
    """
    who = binding.who()
    if not who.notebook:
        return None
    found = await _listed(client, {labels.NOTEBOOK: who.notebook, labels.HOST: who.host})
    left = [
        box
        for box in found
        if state_of(box) in ("started", "stopped", "archived")
        and not identity.alive(box.labels.get(labels.KERNEL, ""))
    ]
    return max(left, key=lambda box: str(box.created_at), default=None)


def _whose(binding: Binding, box: AsyncSandbox) -> str:
    """Whose a sandbox is: "ours", "another kernel" of this machine, "another machine", "another program"."""
    who, owner = binding.who(), box.labels.get(labels.KERNEL, "")
    if owner == who.kernel:
        return "ours"
    if owner and box.labels.get(labels.HOST) != who.host:
        # Whether that kernel is alive cannot be seen from here.
        return "another machine"
    if identity.alive(owner):
        return "another kernel"
    return "ours" if box.labels.get(labels.CREATED_BY) == labels.CREATOR else "another program"


async def attach(binding: Binding, name: str, tell: Reporter, context: str | None = None) -> AsyncSandbox:
    """Bind to a sandbox that exists, by name or id, and start it if it is stopped.

    The context of its earlier kernel is continued when that kernel is no longer alive; otherwise this
    kernel works in a context of its own beside it. The labels of another machine's sandbox stay as they are.

    Args:
        context: the context to work in instead, whoever else does.
    """
    client = await binding.connect(tell)
    tell.progress(f"looking for sandbox {name}")
    found = await get(client, name, tell)
    binding.check_isolation(found)
    who = binding.who()
    identity.hold(who.kernel)
    whose, told = _whose(binding, found), found.labels.get(labels.CONTEXT, "")
    theirs = whose in ("another kernel", "another machine")
    if binding.sandbox is not None and binding.sandbox.id != found.id:
        await binding.release(tell)
    else:
        await binding.unbind()
    binding.bind(found, context or (who.context if theirs or not told else told))
    await binding.awake(tell)
    if theirs:
        by = "another kernel is using" if whose == "another kernel" else "a kernel of another machine owns"
        shares = f"; `%sandbox use {found.name} --context {told}` shares its variables" if told else ""
        tell.note(f"{by} {found.name}; this one has variables of its own there{'' if context else shares}")
        if whose == "another machine":
            tell.note(f"after a restart of this kernel, `%sandbox use {found.name}` comes back to it")
    else:
        taken = {labels.GROUP: ""} if labels.GROUP in found.labels else {}
        tied = labels.guest_of if whose == "another program" else labels.ours
        taken.update(tied(who, binding.context))
        await sdk.asked(labels.merge(found, taken), "changing labels")
    channel = await binding.opened(tell)
    if not theirs:
        await tell_alive(binding, channel, tell, "attached to")
    return found


async def reattach(binding: Binding, tell: Reporter) -> None:
    """Come back, in a restarted kernel, to the sandbox found by its label; says what is alive."""
    sandbox = binding.bound()
    was_running = state_of(sandbox) == "started"
    await binding.awake(tell)
    if not was_running:
        return
    channel = await binding.opened(tell)
    if binding.config.on_restart == "reset":
        await channel.reset([binding.context])
        tell.note(f"re-attached to {sandbox.name}: variables were reset (on_restart=reset), files kept")
    else:
        await tell_alive(binding, channel, tell, "re-attached to")


async def tell_alive(binding: Binding, channel: Channel, tell: Reporter, verb: str) -> None:
    """Say whether an earlier kernel's variables are there, and whether one of its cells still runs."""
    name = binding.bound().name
    status = await channel.status()
    alive = [
        context
        for context in status.get("contexts", ())
        if context.get("name") == binding.context
        and (context.get("worker_pid") is not None or context.get("language") == "bash")
    ]
    if not alive:
        tell.note(f"{verb} {name}: no variables are alive there, files are kept")
    else:
        tell.note(
            f"{verb} {name}: variables of the earlier kernel are alive, `%sandbox reset` for a clean start"
        )
    jobs.look_after(binding)
    for one in status.get("executions", ()):
        run = decode.look(one)
        if run.context != binding.context or run.state == "done":
            continue
        shown = f"`%sandbox logs --follow {run.id[:8]}` shows its output"
        if run.job:
            tell.note(f"{run.name}, a job of the earlier kernel, is still {run.state}: {shown}")
        else:
            tell.note(
                f"a cell of the earlier kernel, {run.name}, is still {run.state}: {shown}; "
                "a new cell waits behind it"
            )
