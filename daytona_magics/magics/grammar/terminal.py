"""The verb that opens shells."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import REMOTE_PATH, Argument, Command, Option

VERBS: tuple[Command, ...] = (
    Command(
        "terminal",
        "Open a terminal of the sandbox below the cell: shells in tabs, also while a cell runs.",
        "line_terminal:terminal",
        (
            Argument(
                "command", "typed into the first shell, as it stands to the end of the line", "?", default=""
            ),
        ),
        (
            Option(("--cwd",), "folder of the shells (default: the home folder)", "DIR", values=REMOTE_PATH),
            Option(("--name",), "name of the first tab (default: the command)", "NAME"),
            Option(("--list",), "list the terminals of the sandbox instead; a tab's ☰ connects to one"),
            Option(("--kill",), "end a terminal and what runs in it, by its name in the list", "NAME"),
        ),
        raw=True,
        examples=("%sandbox terminal", "%sandbox terminal --cwd ~/project --name tests pytest -x"),
    ),
)
