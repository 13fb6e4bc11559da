"""What a person may type, declared once.

The same declarations build the argument parsers (:mod:`.parser`), the help texts and the completions
(:mod:`.completion`), so none of the three can drift from the others. Nothing here imports anything heavy:
``run`` names the function as ``"module:function"``, resolved when the verb is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: What the values of an argument or option are, for completion.
SANDBOX, LOCAL_PATH, REMOTE_PATH, ENV_NAME, SETTING, VERB = (
    "sandbox",
    "local-path",
    "remote-path",
    "env-name",
    "setting",
    "verb",
)


@dataclass(frozen=True)
class Option:
    """A flag (``metavar`` empty) or an option with a value.

    Attributes:
        flags: spellings, the long one last.
        help: one sentence, with unit and default.
        metavar: name of the value in help; "" for a flag.
        kind: "str", "seconds", "minutes", "int".
        repeat: may be given several times; the value is then a list.
        choices: the values allowed, when they are few.
        values: what completes it, one of the constants above.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    kind: str = "str"
    repeat: bool = False
    choices: tuple[str, ...] = ()
    values: str = ""

    @property
    def dest(self) -> str:
        return self.flags[-1].lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Argument:
    """A positional argument; ``nargs`` as in argparse ("" means exactly one)."""

    name: str
    help: str
    nargs: str = ""
    choices: tuple[str, ...] = ()
    values: str = ""
    default: Any = None


@dataclass(frozen=True)
class Command:
    """One verb, or the cell magic itself.

    Attributes:
        name: as typed.
        summary: one sentence, shown in the list of verbs.
        run: "module:function" below ``daytona_magics.magics``.
        raw: the text after the options is taken verbatim as the last argument (shell commands).
        examples: lines shown at the end of the help.
    """

    name: str
    summary: str
    run: str = ""
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    raw: bool = False
    examples: tuple[str, ...] = field(default=())


ENV = Option(
    ("-e", "--env"),
    "set a variable: NAME=VALUE, or NAME alone to copy it from the notebook's machine; may be repeated",
    "NAME[=VALUE]",
    repeat=True,
    values=ENV_NAME,
)
CWD = Option(
    ("--cwd",), "folder to run in (default: the context's current folder)", "DIR", values=REMOTE_PATH
)
QUIET = Option(("-q", "--quiet"), "no status lines and notices; the cell's own output is still shown")
NO_RAISE = Option(("--no-raise",), "show an error without failing the cell; the outcome is returned")

CELL = Command(
    "%%sandbox",
    "Run this cell in the notebook's sandbox, never on this machine.",
    arguments=(
        Argument(
            "language",
            "python (default; variables live on) or bash",
            "?",
            ("python", "bash"),
            default="python",
        ),
    ),
    options=(
        Option(
            ("--timeout",),
            "stop the cell after SECONDS (default: setting timeout; 0: no limit)",
            "SECONDS",
            "seconds",
        ),
        CWD,
        ENV,
        Option(("--out",), "keep output, errors and result in VAR instead of showing them", "VAR"),
        NO_RAISE,
        QUIET,
    ),
    examples=(
        "%%sandbox\n40 + 2",
        "%%sandbox bash --timeout 60\nmake test",
        "%%sandbox -e API_TOKEN --out answer\nprint('captured')",
    ),
)

_NAME_OPTIONAL = Argument("name", "name or id of a sandbox (default: this notebook's)", "?", values=SANDBOX)

VERBS: tuple[Command, ...] = (
    Command(
        "create",
        "Create a sandbox and bind this notebook to it.",
        "line_lifecycle:create",
        options=(
            Option(("--name",), "name to give it (default: after the notebook)", "NAME"),
            Option(("--snapshot",), "snapshot to start from (default: setting snapshot)", "NAME"),
            Option(
                ("--language",),
                "language of stateless code runs (default: python)",
                "LANG",
                choices=("python", "typescript", "javascript"),
            ),
            ENV,
            Option(("--label",), "put a label on it; may be repeated", "KEY=VALUE", repeat=True),
            Option(
                ("--auto-stop",),
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
            Option(("--cpu",), "CPUs it may use (default: the endpoint's)", "COUNT", "int"),
            Option(("--memory",), "memory it may use, in GiB (default: the endpoint's)", "GIB", "int"),
            Option(("--disk",), "disk it may use, in GiB (default: the endpoint's)", "GIB", "int"),
            Option(("--public",), "previews need no token"),
            Option(("--network-block-all",), "no way out at all"),
            Option(
                ("--network-allow-list",),
                "only these IPv4 networks, at most 10, with commas between",
                "CIDR[,CIDR...]",
            ),
            Option(("--domain-allow-list",), "only these hosts, with commas between", "NAME[,*.NAME...]"),
            QUIET,
        ),
        examples=(
            "%sandbox create --name lab --auto-stop 60",
            "%sandbox create --domain-allow-list pypi.org,files.pythonhosted.org",
        ),
    ),
    Command(
        "use",
        "Bind this notebook to a sandbox that exists already; a stopped one is started.",
        "line_lifecycle:use",
        (Argument("name", "name or id of the sandbox", values=SANDBOX),),
        (QUIET,),
        examples=("%sandbox use lab",),
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
            Option(("--label",), "only those with this label; may be repeated", "KEY=VALUE", repeat=True),
        ),
    ),
    Command("info", "Show the card of a sandbox.", "line_lifecycle:info", (_NAME_OPTIONAL,)),
    Command("start", "Start the notebook's sandbox.", "line_lifecycle:start", (), (QUIET,)),
    Command(
        "stop",
        "Stop the notebook's sandbox: variables are lost, files kept.",
        "line_lifecycle:stop",
        options=(Option(("--force",), "kill what runs in it instead of asking it to end"), QUIET),
    ),
    Command(
        "restart", "Stop and start: variables are lost, files kept.", "line_lifecycle:restart", (), (QUIET,)
    ),
    Command(
        "reset",
        "Start with new workers: variables are lost, files kept, running cells ended.",
        "line_lifecycle:reset",
        options=(QUIET,),
    ),
    Command(
        "logs",
        "Show what was printed between cells, by threads and by programs that outlived theirs.",
        "line_files:logs",
        options=(Option(("-n", "--lines"), "show the last LINES lines (default: 200)", "LINES", "int"),),
        examples=("%sandbox logs -n 20",),
    ),
    Command(
        "delete",
        "Delete a sandbox with all its files.",
        "line_lifecycle:delete",
        (_NAME_OPTIONAL,),
        (Option(("-y", "--yes"), "needed for a sandbox that is not this notebook's"), QUIET),
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
            Argument("entries", "allow: networks like 10.0.0.0/8 and names like *.pypi.org; test: URLs", "*"),
        ),
        examples=("%sandbox network allow pypi.org,files.pythonhosted.org", "%sandbox network test"),
    ),
    Command(
        "exec",
        "Run one shell command in the sandbox, outside of any context.",
        "line_files:exec_",
        (Argument("command", "the command, taken as typed to the end of the line"),),
        (
            Option(("--timeout",), "stop the command after SECONDS (default: 600)", "SECONDS", "seconds"),
            CWD,
            ENV,
            NO_RAISE,
        ),
        raw=True,
        examples=("%sandbox exec --cwd /tmp ls -la | head -5",),
    ),
    Command(
        "ls",
        "List a folder of the sandbox.",
        "line_files:ls",
        (
            Argument(
                "path", "folder or file (default: the home folder)", "?", values=REMOTE_PATH, default="~"
            ),
        ),
        (Option(("-a", "--all"), "also names that start with a dot"),),
    ),
    Command(
        "cat",
        "Show a text file of the sandbox.",
        "line_files:cat",
        (Argument("path", "file to show", values=REMOTE_PATH),),
        (Option(("-n", "--lines"), "show only the first LINES lines", "LINES", "int"),),
    ),
    Command(
        "upload",
        "Copy files of this machine into the sandbox.",
        "line_files:upload",
        (
            Argument(
                "paths",
                "files to copy; without --to the last of several is the destination",
                "+",
                values=LOCAL_PATH,
            ),
        ),
        (Option(("--to",), "file or folder/ in the sandbox", "PATH", values=REMOTE_PATH),),
        examples=("%sandbox upload data.csv --to input/", "%sandbox upload data.csv input/data.csv"),
    ),
    Command(
        "download",
        "Copy a file of the sandbox to this machine.",
        "line_files:download",
        (
            Argument("remote", "file in the sandbox", values=REMOTE_PATH),
            Argument(
                "local", "file or folder/ on this machine (default: same name, here)", "?", values=LOCAL_PATH
            ),
        ),
        (Option(("-f", "--force"), "overwrite a file that exists"),),
        examples=("%sandbox download report.pdf",),
    ),
    Command(
        "config",
        "Show the settings and where cells run, or change settings.",
        "line_about:config",
        (Argument("settings", "NAME=VALUE, or NAME to show one", "*", values=SETTING),),
        examples=("%sandbox config auto_stop=60 timeout=300",),
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
    ),
)

STATUS = Command("status", "Show the card of the notebook's sandbox.", "line_lifecycle:status")
BY_NAME: dict[str, Command] = {command.name: command for command in VERBS}
