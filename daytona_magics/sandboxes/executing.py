"""Running one cell on the tie between kernel and sandbox.

The channel carries the cell; here is what the tie adds while it runs. A sign of activity goes to the endpoint
now and then, because a running process does not keep a sandbox awake. Where the connection is lost the
embedded engine is started again, which nobody else would do. Where it is lost for good the endpoint is
asked what became of the sandbox, so that the error names the cause instead of the symptom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.runtime.events import Done, Event, FlowWindow, Reconnecting
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes.report import state_of

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.runtime.channel import Channel, ExecRequest
    from daytona_magics.sandboxes.binding import Binding

#: Seconds one sign of activity may take.
BEAT_WITHIN = 10.0
#: Engines that are being started again; the loop itself would forget them.
_reviving: set[asyncio.Future[str]] = set()


async def execute(
    tie: Binding,
    channel: Channel,
    request: ExecRequest,
    sink: Callable[[Event], None],
    window: FlowWindow,
) -> Done:
    """Execute on the tie's channel, with signs of activity while it runs.

    Args:
        tie: whose sandbox it is.
        channel: the open channel to it.
        request: the cell.
        sink: hears what the cell does, on the loop thread.
        window: bounds what waits between the channel and the sink.

    Raises:
        SandboxGone: the sandbox was deleted meanwhile.
        SandboxUnreachable: the connection was lost for good; the message says what became of the sandbox.
    """
    return await begin(tie, channel, request, sink, window)


def begin(
    tie: Binding,
    channel: Channel,
    request: ExecRequest,
    sink: Callable[[Event], None],
    window: FlowWindow,
    *,
    keep_above: float = float("inf"),
) -> Coroutine[Any, Any, Done]:
    """Like :func:`execute`, on the loop thread: the cell leaves at once (see :meth:`Channel.begin`).

    Args:
        keep_above: as :meth:`Channel.execute` has it.
    """

    def watched(event: Event) -> None:
        if isinstance(event, Reconnecting) and event.attempt == 2:
            _revive(tie)
        sink(event)

    return _carried(tie, channel.begin(request, watched, window, keep_above=keep_above))


async def _carried(tie: Binding, running: Coroutine[Any, Any, Done]) -> Done:
    box = tie.sandbox
    beating: list[asyncio.Task[None]] = []

    def beat() -> None:
        beating.append(asyncio.ensure_future(_heartbeat(tie)))

    # Most cells have ended before their first beat.
    first = asyncio.get_running_loop().call_later(tie.config.heartbeat, beat)
    try:
        return await running
    except SandboxUnreachable as error:
        raise await _why(tie, error, box) from None
    finally:
        first.cancel()
        for task in beating:
            task.cancel()
        tie.ended()


def _revive(tie: Binding) -> None:
    """A connection to the embedded engine is lost: if the engine died, nobody else will start it."""
    if tie.endpoint is not None and tie.endpoint.kind == "embedded":
        reviving = asyncio.ensure_future(asyncio.to_thread(endpoints.revive))
        _reviving.add(reviving)
        reviving.add_done_callback(_reviving.discard)


async def _heartbeat(tie: Binding) -> None:
    """A running process does not reset auto-stop; this does. A missed beat is made up by the next."""
    while tie.config.heartbeat > 0:
        if tie.sandbox is not None:
            with suppress(asyncio.TimeoutError, sdk.error_class()):
                # Cancelled with this task and when it takes too long: no request outlives its cell.
                await asyncio.wait_for(tie.sandbox.refresh_activity(), BEAT_WITHIN)
        await asyncio.sleep(tie.config.heartbeat)


async def _why(tie: Binding, error: SandboxUnreachable, box: AsyncSandbox | None) -> SandboxError:
    """A channel broke for good: ask the endpoint whether its sandbox stopped or is gone."""
    # Who closed it (a panel, say) may be changing the sandbox: what became of it is known afterwards.
    changing = tie.channel is None and tie.locked().locked()
    async with tie.locked():
        mine = box is not None and tie.sandbox is box
        if mine:
            await tie.close_channel()
    if box is None:
        return error
    before = state_of(box)
    try:
        await box.refresh_data(request_timeout=5)
    except sdk.error_class() as second:
        if not sdk.not_found(second):
            return error
        return tie.lost() if mine else sdk.gone(box, "started" if before == "destroyed" else before)
    state = state_of(box)
    if state in ("destroyed", "destroying"):
        return tie.lost() if mine else sdk.gone(box, "started")
    if changing and mine and state == "started":
        return SandboxUnreachable(f"sandbox {box.name} was stopped and started while the cell ran in it")
    if state == "paused":
        return SandboxUnreachable(
            f"sandbox {box.name} is paused: the cell stands still with it and goes on when it wakes",
            hint="%sandbox start  wakes it; then  %sandbox jobs  shows the cell.",
        )
    if state != "started":
        return SandboxUnreachable(
            f"sandbox {box.name} is {state}: the cell was ended, variables were lost, files kept",
            hint="The next cell starts it again.",
        )
    return error
