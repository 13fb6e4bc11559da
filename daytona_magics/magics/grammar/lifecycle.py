"""The verbs about sandboxes and their life."""

from __future__ import annotations

from daytona_magics.magics.grammar.states import NAMES, YES
from daytona_magics.magics.grammar.terms import (
    ENV,
    LABEL,
    NAME_OPTIONAL,
    QUIET,
    SANDBOX,
    Argument,
    Command,
    Option,
)


def _label(help: str) -> Option:
    return Option(("--label",), help, "KEY=VALUE", repeat=True, values=LABEL)


VERBS: tuple[Command, ...] = (
    Command(
        "create",
        "Create a sandbox and bind this notebook to it.",
        "line_lifecycle:create",
        options=(
            Option(
                ("-n", "--count"),
                "create COUNT of them side by side, for cells with -s; this notebook is bound to none",
                "COUNT",
                "int",
            ),
            Option(("--name",), "name to give it, {i} is 1, 2, ... (default: after the notebook)", "NAME"),
            Option(("--snapshot",), "snapshot to start from (default: setting snapshot)", "NAME"),
            Option(
                ("--language",),
                "language of stateless code runs (default: python)",
                "LANG",
                choices=("python", "typescript", "javascript"),
            ),
            ENV,
            _label("put a label on it; may be repeated"),
            Option(
                ("--idle-stop", "--auto-stop"),
                "minutes without activity until it stops; 0: never (default: 15)",
                "MINUTES",
                "minutes",
            ),
            Option(
                ("--auto-delete",),
                "minutes stopped until it is deleted; -1: never (default: 7 days)",
                "MINUTES",
                "int",
            ),
            Option(("--ephemeral",), "delete it as soon as it stops"),
            Option(("--cpu",), "CPUs it may use (default: the endpoint's)", "COUNT", "count"),
            Option(("--memory",), "memory it may use, in GiB (default: the endpoint's)", "GIB", "count"),
            Option(("--disk",), "disk it may use, in GiB (default: the endpoint's)", "GIB", "count"),
            Option(
                ("--repo",),
                "clone this repository into it and give the notebook a branch of its own there: an address, "
                "or . for the origin and branch of the repository the notebook is in",
                "URL|.",
            ),
            Option(("--branch",), "with --repo: the branch to begin at", "BRANCH"),
            Option(
                ("--include-dirty",),
                "with --repo . or a folder: carry along what only this machine has: commits not pushed, "
                "changes, and files git does not track and does not ignore, at most 64 MiB",
            ),
            Option(
                ("--include-secrets",),
                "with --include-dirty: also files whose names look secret (.env, *.key)",
            ),
            Option(("--public",), "previews need no token"),
            Option(("--network-block-all",), "no way out at all"),
            Option(
                ("--network-allow-list",),
                "only these IPv4 networks, at most 10, with commas between",
                "CIDR[,CIDR...]",
            ),
            Option(
                ("--domain-allow-list",),
                "only these hosts, with commas between; also python, npm, debian, git, or essential for all",
                "NAME[,*.NAME...]",
            ),
            QUIET,
        ),
        examples=(
            "%sandbox create --name lab --auto-stop 60",
            "%sandbox create -n 4 --name agent-{i}",
            "%sandbox create --repo .",
            "%sandbox create --domain-allow-list python,api.example.org",
        ),
    ),
    Command(
        "use",
        "Bind this notebook to a sandbox that exists already; a stopped one is started.",
        "line_lifecycle:use",
        (Argument("name", "name or id of the sandbox", "?", values=SANDBOX),),
        (
            _label("the newest one with this label; may be repeated"),
            Option(("--context",), "work in this context, whoever else does (default: its own)", "NAME"),
            QUIET,
        ),
        examples=("%sandbox use lab", "%sandbox use --label project=mvp"),
    ),
    Command(
        "list",
        "List the sandboxes of the endpoint.",
        "line_lifecycle:list_",
        options=(
            Option(("--mine",), "only those made by these magics on this machine"),
            Option(
                ("--state",),
                "only those in this state",
                "STATE",
                choices=("started", "stopped", "archived", "error"),
            ),
            _label("only those with this label; may be repeated"),
        ),
    ),
    Command("info", "Show the card of a sandbox.", "line_lifecycle:info", (NAME_OPTIONAL,)),
    Command("start", "Start a sandbox.", "line_states:start", (NAMES,), (YES, QUIET)),
    Command(
        "stop",
        "Stop a sandbox: variables are lost, files kept.",
        "line_states:stop",
        (NAMES,),
        (Option(("--force",), "kill what runs in it instead of asking it to end"), YES, QUIET),
    ),
    Command(
        "restart", "Stop and start: variables are lost, files kept.", "line_lifecycle:restart", (), (QUIET,)
    ),
    Command(
        "reset",
        "Start with new workers: this notebook's variables are lost, its running cells ended; files are "
        "kept, jobs run on.",
        "line_lifecycle:reset",
        options=(
            Option(("--context",), "the variables of this context instead", "NAME"),
            Option(("--all",), "those of all contexts, also of other notebooks that use the sandbox"),
            QUIET,
        ),
    ),
    Command(
        "delete",
        "Delete a sandbox with all its files.",
        "line_reaping:delete",
        (NAMES,),
        (
            Option(("-y", "--yes"), "needed for a sandbox that is not this notebook's"),
            Option(("--all",), "all that this kernel or dead kernels of this machine made; needs --yes"),
            QUIET,
        ),
    ),
    Command(
        "keep",
        "Keep the sandbox longer: it stays started for at least the given time without activity.",
        "line_lifecycle:keep",
        (
            Argument(
                "duration",
                'like 30m, 2h or 1d; "forever", or "default" to go back (default: 2h)',
                "?",
                default="2h",
            ),
        ),
        examples=("%sandbox keep 4h",),
    ),
)
