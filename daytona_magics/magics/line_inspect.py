"""``%sandbox inspect NAME``, and the setting ``tooltips``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.magics.inside import asked, place_of
from daytona_magics.notebook.inspection import Documentation, cover, uncover
from daytona_magics.notebook.status import wait
from daytona_magics.runtime import looking

if TYPE_CHECKING:
    from daytona_magics.sandboxes.report import Reporter


def inspect(shell: Any, options: Any) -> Documentation:
    """``%sandbox inspect [--source] NAME``

    Raises:
        SandboxUsageError: nothing of that name can be looked at.
    """
    binding, name = sandboxes.current(), options.name.strip().strip("?").strip()

    async def ask(tell: Reporter) -> str:
        await binding.rediscover(tell)
        if binding.sandbox is None:
            raise SandboxError("this notebook has no sandbox yet", hint="The first %%sandbox cell makes one.")
        channel = await binding.ready(tell)
        return await looking.inspect(channel, binding.context, name, len(name), detail=options.source)

    text = wait(ask, f"looking at {name}")
    if not text:
        raise SandboxUsageError(
            f"%sandbox inspect: {name} is no name there, or a cell is running, or its value would have to be "
            "computed",
            hint="In a cell:  %%sandbox  and below it  name?",
        )
    return Documentation(text)


def set_tooltips(shell: Any, on: bool) -> None:
    """Let Shift-Tab in sandbox cells ask the sandbox, or no longer. A terminal has no Shift-Tab."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return
    uncover(kernel)
    if on:
        cover(kernel, partial(_tooltip, shell))


def _tooltip(shell: Any, code: str, cursor: int, detail: bool) -> str | None:
    place = place_of(shell, code, cursor)
    if place is None:
        return None
    if place.language != "python":
        return ""
    return asked(place, partial(looking.inspect, detail=detail)) or ""
