"""Where the coroutines of this layer tell the reader what they do, and the plain words they use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Reporter(Protocol):
    """Where a binding tells the reader what it does. Called on the loop thread."""

    def progress(self, text: str) -> None:
        """What is being waited for now; replaced by the next."""

    def note(self, text: str) -> None:
        """A sentence that must be seen."""


class Silent:
    """A reporter for programs."""

    def progress(self, text: str) -> None:
        """Nobody is looking."""

    def note(self, text: str) -> None:
        """Nobody is looking."""


def state_of(sandbox: Any) -> str:
    """The state as a plain word: "started", "stopped", "error", ..."""
    return str(getattr(sandbox.state, "value", sandbox.state) or "unknown")


def openness(level: str, phrases: Sequence[str]) -> str:
    """What a level below L3 leaves open, as the sentence for the first creation; "" at L3.

    Args:
        level: of the embedded engine's sandboxes.
        phrases: what the engine says is open, a short phrase each.

    In:  openness("L1", ["the host name can be read"])
    Out: "isolation L1 leaves open: the host name can be read. There is no /home/daytona here and /tmp ..."
    """
    if level == "L3":
        return ""
    if level == "L0":
        said = "isolation L0: nothing is isolated, cells reach everything you can"
    else:
        said = f"isolation {level} leaves open: {'; '.join(phrases) or 'see the doctor'}"
    places = "There is no /home/daytona here and /tmp is closed, write `~` and `$TMPDIR`"
    if level == "L0":
        places = "There is no /home/daytona here, write `~`"
    elif level != "L2":
        places += "; servers can listen on 16 ports, from `$PORT` on"
    return f"{said}. {places}. `%sandbox doctor` says why and what would help."
