"""The verbs about what runs, or ran, in the sandbox."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import Command, Option

VERBS: tuple[Command, ...] = (
    Command(
        "logs",
        "Show what was printed between cells, by threads and by programs that outlived theirs.",
        "line_files:logs",
        options=(Option(("-n", "--lines"), "show the last LINES lines (default: 200)", "LINES", "int"),),
        examples=("%sandbox logs -n 20",),
    ),
)
