"""The verbs of whole-notebook mode."""

from __future__ import annotations

from daytona_magics.magics.grammar.cell import CELL
from daytona_magics.magics.grammar.terms import QUIET, Command, Option

#: Options of a cell that make sense for every cell of a notebook.
_EVERY = ("timeout", "cwd", "env", "context", "sandbox", "stdin", "retries")

VERBS: tuple[Command, ...] = (
    Command(
        "on",
        "Run every following cell in the sandbox; %%local on its first line keeps a cell on this machine.",
        "line_whole:on",
        CELL.arguments[:1],
        (
            *(option for option in CELL.options if option.dest in _EVERY),
            Option(("--tagged",), "only cells with the tag sandbox; this one needs the tag, too"),
            Option(QUIET.flags, "no mark of where each cell ran, no status lines and notices"),
        ),
        examples=("%sandbox on --timeout 10m",),
    ),
    Command("off", "Run cells on this machine again.", "line_whole:off"),
)
