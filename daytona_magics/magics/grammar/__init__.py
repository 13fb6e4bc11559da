"""What a person may type, declared once.

The same declarations build the argument parsers (:mod:`..parser`), the help texts and the completions
(:mod:`..completion`), so none of the three can drift from the others. Nothing here imports anything heavy:
``run`` names the function as ``"module:function"``, resolved when the verb is used. One module per family of
verbs; the list of verbs in the help has their order.
"""

from __future__ import annotations

from daytona_magics.magics.grammar import (
    about,
    files,
    git,
    jobs,
    lifecycle,
    network,
    paths,
    serving,
    states,
    terminal,
    variables,
    whole,
    widgets,
)
from daytona_magics.magics.grammar.cell import CELL
from daytona_magics.magics.grammar.terms import (
    BRANCH,
    ENV_NAME,
    GIT_VERB,
    JOB,
    LABEL,
    LOCAL_PATH,
    NAME,
    REMOTE_PATH,
    RUNNING,
    SANDBOX,
    SETTING,
    VERB,
    Argument,
    Command,
    Option,
)

__all__ = [
    "BRANCH",
    "BY_NAME",
    "CELL",
    "ENV_NAME",
    "FAMILIES",
    "GIT_VERB",
    "GIT_VERBS",
    "JOB",
    "LABEL",
    "LOCAL_PATH",
    "NAME",
    "REMOTE_PATH",
    "RUNNING",
    "SANDBOX",
    "SETTING",
    "STATUS",
    "VERB",
    "VERBS",
    "Argument",
    "Command",
    "Option",
]

#: What ``%sandbox`` alone does.
STATUS = Command("status", "Show the card of the notebook's sandbox.", "line_lifecycle:status")
VERBS: tuple[Command, ...] = (
    STATUS,
    *lifecycle.VERBS,
    *states.VERBS,
    *jobs.VERBS,
    *files.VERBS,
    *paths.VERBS,
    *variables.VERBS,
    *network.VERBS,
    *serving.VERBS,
    *widgets.VERBS,
    *terminal.VERBS,
    *whole.VERBS,
    *about.VERBS,
)

BY_NAME: dict[str, Command] = {command.name: command for command in VERBS}
GIT_VERBS: tuple[Command, ...] = git.VERBS
#: The verbs of each line magic, by name.
FAMILIES: dict[str, dict[str, Command]] = {
    "sandbox": BY_NAME,
    "sandbox_git": {command.name: command for command in GIT_VERBS},
}
