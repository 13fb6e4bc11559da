"""Where the cells of a notebook run, as the layers below the magics may know and change it."""

from __future__ import annotations

from typing import Any, Protocol

from daytona_magics.config import MODE_ATTRIBUTE


class Mode(Protocol):
    """Whole-notebook mode of one shell.

    Attributes:
        on: whether cells go to the sandbox.
        options: what stands behind ``%%sandbox`` for each of them.
        tagged: only cells with a tag go.
    """

    on: bool
    options: str
    tagged: bool

    def start(self, options: str, *, tagged: bool, quiet: bool) -> None:
        """From the next cell on."""

    def stop(self) -> None:
        """Cells run on this machine again."""


def of(shell: Any) -> Mode | None:
    """The mode of a shell; None where the magics are not loaded.

    In:  of(get_ipython()).on
    Out: False
    """
    found: Mode | None = getattr(shell, MODE_ATTRIBUTE, None)
    return found
