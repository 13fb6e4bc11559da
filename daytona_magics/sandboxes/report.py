"""Where the coroutines of this layer tell the reader what they do, and the plain words they use."""

from __future__ import annotations

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
