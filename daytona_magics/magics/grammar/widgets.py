"""The verbs that open widgets."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import REMOTE_PATH, Argument, Command, Option

VERBS: tuple[Command, ...] = (
    Command(
        "files",
        "Open the sandbox's files as a tree: look into them, upload, download, rename and delete.",
        "line_widgets:files",
        (
            Argument(
                "path",
                "the folder at the top (default: the home folder)",
                "?",
                values=REMOTE_PATH,
                default="~",
            ),
        ),
        examples=("%sandbox files ~/project",),
    ),
    Command(
        "panel",
        "Open a panel: state, resources, deadlines, what runs in the sandbox, and all your sandboxes.",
        "line_panel:panel",
        options=(Option(("--all",), "begin with the list of all sandboxes open"),),
        examples=("%sandbox panel",),
    ),
)
