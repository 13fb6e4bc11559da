"""Background jobs of the bound sandbox: handing over, listing, ending, keeping the sandbox awake for them.

A job lives in its sandbox, not here: everything that is known of it is asked for. What this kernel adds are
signs of activity while it lives, and before that the time the sandbox may stay up without it: ``--keep``
raises auto-stop, a label remembers what it was, and whoever finds that no job runs any more puts it back.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.runtime import decode
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import labels

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import ExecRequest, Look
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter

#: Seconds each step of the ladder is given before :func:`cancel` climbs on; between two looks.
STEP, LOOK_EVERY = 2.0, 0.05
#: Seconds between two looks at the jobs of an earlier kernel where the setting heartbeat is 0.
BEAT = 60.0
_watchers: set[asyncio.Future[None]] = set()


async def submit(
    binding: Binding, channel: Channel, tell: Reporter, request: ExecRequest, keep: float
) -> Look:
    """Hand a job over and make sure its sandbox stays up for it.

    Args:
        keep: seconds the sandbox stays up for the job without this kernel; 0 leaves auto-stop as it is.
    """
    tell.progress("handing the job over")
    if keep:
        await _raise_auto_stop(binding, math.ceil(keep / 60))
    binding.jobs = True
    await channel.submit(request)
    return await channel.look(request.id)


async def listed(channel: Channel) -> list[Look]:
    """Every execution the sandbox knows, oldest first: jobs, what runs or waits, and what is kept."""
    return [decode.look(one) for one in (await channel.status())["executions"]]


async def find(binding: Binding, tell: Reporter, name: str, *, ended: bool = False) -> tuple[Binding, Look]:
    """The execution whose id begins with ``name``; of ``""`` the newest that runs in this kernel's context.

    What runs in sandboxes that cells were sent to with ``-s`` is found by its id as well.

    Args:
        ended: where nothing runs, the newest job of that context will do.

    Returns:
        it, and what binds its sandbox.

    Raises:
        SandboxUsageError: there is none, or several.
    """
    channel = await here(binding, tell)
    known = await listed(channel)
    if not name:
        running = [one for one in known if one.state == "running" and one.context == binding.context]
        if not running and ended:
            running = [one for one in known if one.job and one.context == binding.context][-1:]
        if not running:
            raise SandboxUsageError(
                "nothing of this notebook is running", hint="%sandbox jobs  lists what ran."
            )
        # A cell comes before jobs: it is what the notebook waits for.
        return binding, max(running, key=lambda one: (not one.job, one.started or 0.0))
    found = [(binding, one) for one in known if one.id.startswith(name)]
    for tie in binding.beside.values():
        if tie.channel is not None and not tie.channel.closed:
            found += [(tie, one) for one in await listed(tie.channel) if one.id.startswith(name)]
    if not found:
        raise SandboxUsageError(
            f"the sandbox knows no job {name!r}", hint="%sandbox jobs  lists those there are."
        )
    if len(found) > 1:
        raise SandboxUsageError(f"{len(found)} jobs begin with {name!r}: write more of the id")
    return found[0]


async def here(binding: Binding, tell: Reporter) -> Channel:
    """The channel to the sandbox there is; never makes a sandbox.

    Raises:
        SandboxError: there is none.
    """
    await binding.rediscover(tell)
    binding.bound()
    return await binding.ready(tell)


async def cancel(channel: Channel, job: Look) -> str:
    """End a job or a cell, as gently as it lets us; returns what was done."""
    did = []
    for level in (1, 2, 3):
        did.append(await channel.interrupt(job.id, level))
        until = asyncio.get_running_loop().time() + STEP
        while asyncio.get_running_loop().time() < until:
            if (await channel.look(job.id)).state == "done":
                return "; ".join(did)
            await asyncio.sleep(LOOK_EVERY)
    raise SandboxError(f"{job.name} was told to end three times ({'; '.join(did)}) and has not confirmed it")


# -- staying up ----------------------------------------------------------------------------------------------


async def _raise_auto_stop(binding: Binding, minutes: int) -> None:
    sandbox = binding.bound()
    await sdk.asked(sandbox.refresh_data(), "asking for the auto-stop time")
    before = int(sandbox.auto_stop_interval or 0)
    if not before or before >= minutes:
        return
    first = (_raised(sandbox.labels.get(labels.AUTO_STOP, "")) or (before, 0))[0]
    await sdk.asked(labels.merge(sandbox, {labels.AUTO_STOP: f"{first}>{minutes}"}), "changing labels")
    await sdk.asked(sandbox.set_autostop_interval(minutes), "setting the auto-stop time")
    await sdk.asked(sandbox.refresh_data(), "asking for the auto-stop time")


def _raised(label: str) -> tuple[int, int] | None:
    before, _, since = label.partition(">")
    return (int(before), int(since)) if before.isdecimal() and since.isdecimal() else None


async def put_back(binding: Binding, channel: Channel) -> None:
    """Put auto-stop back as it was before jobs raised it, once none of them runs any more."""
    sandbox = binding.sandbox
    if sandbox is None or any(one.job and one.state != "done" for one in await listed(channel)):
        return
    binding.jobs = False
    await sdk.asked(sandbox.refresh_data(), "asking for the auto-stop time")
    raised = _raised(sandbox.labels.get(labels.AUTO_STOP, ""))
    if raised is None:
        return
    # Somebody who has set another time since meant it.
    if int(sandbox.auto_stop_interval or 0) == raised[1]:
        await sdk.asked(sandbox.set_autostop_interval(raised[0]), "setting the auto-stop time")
    await sdk.asked(labels.merge(sandbox, {labels.AUTO_STOP: ""}), "changing labels")


def look_after(binding: Binding) -> None:
    """From now on look after the jobs an earlier kernel left, as long as some run. On the loop thread."""
    if binding.sandbox is not None and binding.channel is not None:
        _watchers.add(task := asyncio.ensure_future(_look_after(binding, binding.sandbox, binding.channel)))
        task.add_done_callback(_watchers.discard)


async def _look_after(binding: Binding, sandbox: AsyncSandbox, channel: Channel) -> None:
    with suppress(SandboxError):
        while binding.sandbox is sandbox and not channel.closed:
            if not any(one.job and one.state != "done" for one in await listed(channel)):
                await put_back(binding, channel)
                return
            binding.jobs = True
            await stay_awake(binding)
            await asyncio.sleep(binding.config.heartbeat or BEAT)


async def stay_awake(binding: Binding) -> None:
    """One sign of activity; a missed one is made up by the next."""
    if binding.sandbox is not None:
        with suppress(asyncio.TimeoutError, sdk.error_class()):
            await asyncio.wait_for(binding.sandbox.refresh_activity(), 10.0)
