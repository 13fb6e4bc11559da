"""The verbs about settings, health and help."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import SETTING, VERB, Argument, Command, Option

VERBS: tuple[Command, ...] = (
    Command(
        "config",
        "Show the settings and where cells run, or change settings.",
        "line_about:config",
        (Argument("settings", "NAME=VALUE, or NAME to show one", "*", values=SETTING),),
        examples=("%sandbox config auto_stop=60 timeout=300",),
    ),
    Command(
        "inspect",
        "Show what a name in the sandbox is: signature, documentation, type. Short: %sandbox ?NAME",
        "line_inspect:inspect",
        (Argument("name", "a name, or one with attributes: df.groupby"),),
        (Option(("--source",), "with its source"),),
        examples=("%sandbox inspect df.groupby",),
    ),
    Command(
        "asyncio",
        "Let asyncio.run(main()) work in cells of this machine; in sandbox cells it always does.",
        "line_asyncio:asyncio",
        (Argument("switch", "on or off; nothing to show which", "?", ("on", "off")),),
        examples=("%sandbox asyncio on",),
    ),
    Command(
        "doctor",
        "Check every part of the way to the sandbox; say what is isolated, limited, open and missing here.",
        "line_doctor:doctor",
        options=(
            Option(("--json",), "the report as JSON"),
            Option(("--offline",), "ask nothing of an endpoint that is not on this machine"),
        ),
    ),
    Command(
        "help",
        "Show this list, or the help of one verb.",
        "line_about:help_",
        (Argument("verb", "a verb of this list", "?", values=VERB),),
        (Option(("--markdown",), "everything as one Markdown text, for documents and language models"),),
    ),
)
