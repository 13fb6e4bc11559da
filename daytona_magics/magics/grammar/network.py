"""The verb about what the sandbox may reach."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import Argument, Command

VERBS: tuple[Command, ...] = (
    Command(
        "network",
        "Show or change what the sandbox may reach, at once and without a restart.",
        "line_network:network",
        (
            Argument(
                "action",
                "block: nothing; open: all public addresses; allow: only ENTRIES; test: ask from inside",
                "?",
                ("show", "block", "open", "allow", "test"),
                default="show",
            ),
            Argument(
                "entries",
                "allow: networks like 10.0.0.0/8, names like *.pypi.org, and python, npm, debian, git, maven,"
                " composer for where these get packages and code, or essential for all; test: URLs",
                "*",
            ),
        ),
        examples=("%sandbox network allow python,api.example.org", "%sandbox network test"),
    ),
)
