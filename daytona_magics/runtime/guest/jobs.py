"""Background jobs: cells that run beside the notebook's own, each in a context that begins and ends with it.

A job starts where its notebook is: in the folder its Python cells are in, or, in bash, from the whole state
the last bash cell left. From there on it is on its own: it sees no variable of the notebook's Python, changes
nothing of the notebook's, and what it started and left running ends with it. Nobody sits at its keyboard, so
a question fails at once. Its output is kept until it is forgotten or makes room for newer output.
"""

from __future__ import annotations

import os
import shutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .context import Context
    from .execution import Execution, Request
    from .processes import Process
    from .supervisor import Supervisor

NO_INPUT = "a background job has no keyboard; hand in what it needs with -e or as a file"
#: Files of a context that its next bash cell starts from, and all there may be.
_STATE = (".state", ".state.options")
_FILES = (
    *_STATE,
    ".state.new",
    ".state.cwd",
    ".state.options.new",
    ".state.prelude",
    ".state.cell",
    ".state.failed",
    ".log",
)


def key(request: Request) -> tuple[str, str]:
    """What the context of a request is known by."""
    name = "%s job %s" % (request.context, request.id) if request.job else request.context
    return name, request.language


def begin(context: Context, parent: Context | None) -> None:
    """Let a job's new context start where the notebook's is."""
    if parent is None:
        return
    for suffix in _STATE if context.language == "bash" else ():
        try:
            shutil.copyfile(parent.file + suffix, context.file + suffix)
        except FileNotFoundError:
            continue  # no bash cell has ended yet


def ended(execution: Execution, left: list[Process]) -> None:
    """Say what a job left running, which ends with it."""
    if left and not (execution.interrupted or execution.timed_out):
        count = "1 process" if len(left) == 1 else "%d processes" % len(left)
        execution.message({"msg": "notice", "text": "%s that the job left running ended with it" % count})


def retire(supervisor: Supervisor, context: Context) -> None:
    """A job is over: its worker and its context's files go."""
    for suffix in _FILES:
        try:
            os.unlink(context.file + suffix)
        except FileNotFoundError:
            continue
    context.over = True
    if context.worker is not None:
        context.worker.kill()  # its end takes the context away
    else:
        supervisor.contexts.pop((context.name, context.language), None)


def describe(execution: Execution, limit: int) -> dict[str, Any]:
    """The reply to ``describe``: what ``status`` says, and the last ``limit`` bytes of its text."""
    data = execution.journal.tail(limit)
    start = 0
    while start < min(4, len(data)) and data[start] & 0xC0 == 0x80 and len(data) < execution.printed:
        start += 1  # the rest of a character that is cut
    data = data[start:]
    return {**execution.describe(), "tail": data.decode("utf-8", "replace"), "tail_bytes": len(data)}
