"""The verbs that change sandboxes, tie labels and variables to them, and clear up."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import (
    ENV_NAME,
    LOCAL_PATH,
    NAME_OPTIONAL,
    QUIET,
    SANDBOX,
    Argument,
    Command,
    Option,
)

NAMES = Argument(
    "names", "names, patterns or labels KEY=VALUE (default: this notebook's sandbox)", "*", values=SANDBOX
)
YES = Option(("-y", "--yes"), "needed for a sandbox that was made elsewhere, or that another kernel uses")

VERBS: tuple[Command, ...] = (
    Command(
        "pause",
        "Freeze a sandbox: variables and processes are kept and use no CPU; the next cell wakes it.",
        "line_states:pause",
        (NAMES,),
        (YES, QUIET),
    ),
    Command(
        "archive",
        "Move the files of a stopped sandbox to slower storage; starting it again takes longer.",
        "line_states:archive",
        (NAMES,),
        (YES, QUIET),
    ),
    Command(
        "recover",
        "Bring a sandbox back from an error, where that is possible.",
        "line_states:recover",
        (NAME_OPTIONAL,),
        (QUIET,),
    ),
    Command(
        "resize",
        "Change the size of a sandbox; a running one can only be given more CPUs and memory.",
        "line_states:resize",
        (NAME_OPTIONAL,),
        (
            Option(("--cpu",), "CPUs it may use", "COUNT", "count"),
            Option(("--memory",), "memory it may use, in GiB", "GIB", "count"),
            Option(("--disk",), "disk it may use, in GiB; only more, and only while stopped", "GIB", "count"),
            YES,
            QUIET,
        ),
        examples=("%sandbox resize --cpu 4 --memory 8",),
    ),
    Command(
        "fork",
        "Make a new sandbox that begins with a copy of this one's files.",
        "line_states:fork",
        (Argument("name", "name to give it (default: after its parent)", "?"),),
        (
            Option(("--of",), "sandbox to copy (default: this notebook's)", "NAME", values=SANDBOX),
            Option(("--use",), "bind this notebook to the new one"),
            YES,
            QUIET,
        ),
        examples=("%sandbox fork idea-2 --use",),
    ),
    Command(
        "tree", "Show where a sandbox was forked from, and its forks.", "line_states:tree", (NAME_OPTIONAL,)
    ),
    Command(
        "resources",
        "Show what a sandbox may use, and what it uses now.",
        "line_states:resources",
        (NAME_OPTIONAL,),
    ),
    Command(
        "labels",
        "Show the labels of the notebook's sandbox, or set some; the others stay.",
        "line_tags:labels_",
        (Argument("labels", "KEY=VALUE, or KEY to show one", "*"),),
        (
            Option(("--remove",), "take a label off; may be repeated", "KEY", repeat=True),
            Option(("--replace",), "take off all others that are not the magics' own"),
            Option(("--of",), "another sandbox than this notebook's", "NAME", values=SANDBOX),
            YES,
            QUIET,
        ),
        examples=("%sandbox labels team=a stage=draft",),
    ),
    Command(
        "env",
        "Show the variables cells get, or set some for all later cells and new processes of the sandbox.",
        "line_tags:env",
        (
            Argument(
                "variables",
                "NAME=VALUE, or NAME alone to copy it from the notebook's machine",
                "*",
                values=ENV_NAME,
            ),
        ),
        (Option(("--unset",), "take a variable away; may be repeated", "NAME", repeat=True), QUIET),
        examples=("%sandbox env MODE=test API_TOKEN",),
    ),
    Command(
        "reap",
        "Stop what dead kernels of this machine left running; never what belongs to anybody else.",
        "line_reaping:reap",
        options=(
            Option(("--delete",), "delete all of it with its files, also what is stopped"),
            Option(("--dry-run",), "only show what there is"),
            QUIET,
        ),
    ),
    Command(
        "login",
        "Give the API key of the cloud or a self-hosted Daytona; it stays in this kernel's memory.",
        "line_login:login",
        options=(
            Option(
                ("--env-file",),
                "take DAYTONA_API_KEY, _API_URL, _TARGET from this file instead of asking",
                "PATH",
                values=LOCAL_PATH,
            ),
            Option(("--forget",), "forget what was given"),
        ),
        examples=("%sandbox login", "%sandbox login --env-file .env"),
    ),
)
