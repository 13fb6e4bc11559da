"""The words of the grammar: options, arguments, commands, and the options many commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: What the values of an argument or option are, for completion.
JOB, RUNNING, LABEL, SANDBOX, LOCAL_PATH, REMOTE_PATH, ENV_NAME, SETTING, VERB, NAME, GIT_VERB, BRANCH = (
    "job",
    "running-job",
    "label",
    "sandbox",
    "local-path",
    "remote-path",
    "env-name",
    "setting",
    "verb",
    "variable",
    "git-verb",
    "branch",
)


@dataclass(frozen=True)
class Option:
    """A flag (``metavar`` empty) or an option with a value.

    Attributes:
        flags: spellings, the long one last.
        help: one sentence, with unit and default.
        metavar: name of the value in help; "" for a flag.
        kind: "str", "seconds", "minutes", "int", "count" (1 or more).
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


@dataclass(frozen=True, eq=False)
class Command:
    """One verb, or the cell magic itself; each is only itself, so that looking one up costs nothing.

    Attributes:
        name: as typed.
        summary: one sentence, shown in the list of verbs.
        run: "module:function" below ``daytona_magics.magics``.
        raw: the text after the options is taken verbatim as the last argument (shell commands).
        rest: name of what gets the words after ``--``, as they are.
        examples: lines shown at the end of the help.
        magic: the magic it is a verb of.
    """

    name: str
    summary: str
    run: str = ""
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    raw: bool = False
    rest: str = ""
    examples: tuple[str, ...] = field(default=())
    magic: str = "sandbox"


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

NAME_OPTIONAL = Argument("name", "name or id of a sandbox (default: this notebook's)", "?", values=SANDBOX)
