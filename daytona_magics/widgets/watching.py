"""How the sandbox stands, said to every widget in the same way and when it changes.

One task on the loop looks once a second at what is known here anyway: the binding and the cells that ended on
it, the state that the SDK keeps up to date by events, and whether the embedded engine's process lives. While
somebody looks at a widget it also asks the endpoint now and then, because events can be missed; that wakes no
sandbox and keeps none awake. Nobody looking, nobody is asked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from daytona_magics.engine import places
from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import actions
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import PASSING
from daytona_magics.sandboxes.report import Silent, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.widgets.live import LiveWidget

#: Seconds between two looks, between two questions to the endpoint, and that a page's sign counts as looking.
LOOK_EVERY, ASK_EVERY, SEEN_FOR = 1.0, 20.0, 90.0

_task: asyncio.Future[None] | None = None


@dataclass(frozen=True)
class Standing:
    """How a sandbox stands.

    Attributes:
        state: the platform's word ("started", "stopped", ...), or "none" (there is no sandbox), "gone" (it
            was deleted), "unreachable" (the embedded engine ended).
        name: of the sandbox, "" when there is none.
        text: a sentence for the reader, "" when it is started.
        offer: what a button may do about it, in its own words; "" for nothing.
    """

    state: str
    name: str = ""
    text: str = ""
    offer: str = ""

    def wire(self) -> dict[str, str]:
        """As the page gets it."""
        return asdict(self)


def standing(binding: Binding) -> Standing:
    """How the kernel's sandbox stands, from what is known without asking anybody."""
    sandbox = binding.sandbox
    if sandbox is None:
        return Standing("none", "", "There is no sandbox yet.", "Create a sandbox")
    name = str(sandbox.name or sandbox.id)
    state = state_of(sandbox)
    if binding.gone or state in ("destroyed", "destroying"):
        return Standing("gone", name, f"The sandbox {name} is gone, with its files.", "Create another")
    endpoint = binding.endpoint
    if endpoint is not None and endpoint.kind == "embedded" and places.live_record() is None:
        text = "The embedded engine has ended: files are kept, variables are lost."
        return Standing("unreachable", name, text, "Start it again")
    if state == "started":
        return Standing(state, name)
    if state in PASSING:
        return Standing(state, name, f"The sandbox {name} is {state} …")
    if state in ("error", "build_failed"):
        why = str(sandbox.error_reason or "")[:300]
        text = (
            f"The sandbox {name} is in state {state}{': ' + why if why else ''}. %sandbox recover may help."
        )
        return Standing(state, name, text)
    kept = "variables are alive" if state == "paused" else "files are kept, variables are lost"
    return Standing(state, name, f"The sandbox {name} is {state}: {kept}.", "Start it")


async def asked(binding: Binding) -> Standing:
    """How it stands, after asking the endpoint; nothing is created or started."""
    known = standing(binding)
    if known.state == "unreachable":
        # Asking would start an engine.
        return known
    try:
        await actions.look(binding, Silent())
    except SandboxError:
        if not binding.gone and standing(binding).state == "started":
            raise
    return standing(binding)


async def start(binding: Binding) -> None:
    """Make the sandbox usable, whatever it takes: an engine, a start, a new one for one that is gone."""
    if standing(binding).state == "gone":
        if not binding.gone:
            # Seen by an event only: nobody has asked for it since.
            binding.lost()
        await actions.reset(binding, Silent())
    await binding.ready(Silent())


async def begin(living: Callable[[], Sequence[LiveWidget]]) -> None:
    """See to it that the watch runs.

    Args:
        living: gives the widgets alive now; the watch ends with the last of them.
    """
    global _task
    loop = asyncio.get_running_loop()
    if _task is None or _task.done() or _task.get_loop() is not loop:
        _task = loop.create_task(_watch(living))


async def _watch(living: Callable[[], Sequence[LiveWidget]]) -> None:
    last_asked = time.monotonic()
    while widgets := living():
        now = time.monotonic()
        looked_at = {one.binding: one.binding for one in widgets if now - one.seen_at < SEEN_FOR}
        if looked_at and now - last_asked >= ASK_EVERY:
            for binding in looked_at:
                await _refresh(binding)
            last_asked = time.monotonic()
        for one in widgets:
            one.stand(standing(one.binding))
            one.note_cells(one.binding.ran)
        await asyncio.sleep(LOOK_EVERY)


async def _refresh(binding: Binding) -> None:
    """Ask for the state of a bound sandbox, unless somebody works on it, who will know better."""
    sandbox = binding.sandbox
    if sandbox is None or binding.locked().locked() or standing(binding).state in ("gone", "unreachable"):
        return
    try:
        # The SDK's own call: it starts no engine.
        await sandbox.refresh_data(request_timeout=5)
    except sdk.error_class() as error:
        if sdk.not_found(error) and binding.sandbox is sandbox:
            binding.lost()
