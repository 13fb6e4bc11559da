"""Which program a cell is for: the language, ``--interpreter``, a ``#!`` line, ``--fresh``, and its words.

Python and bash cells have a context whose state lives on. Everything else is stateless: each cell a program
of its own, started in the home folder, ``--cwd`` or nothing else decides where.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.errors import SandboxUnreachable, SandboxUsageError

if TYPE_CHECKING:
    from daytona_magics.sandboxes.report import Reporter

T = TypeVar("T")

#: Other names of languages. A shell is bash everywhere, so that there is one state to think of.
ALIASES = {"sh": "bash", "javascript": "node", "js": "node", "typescript": "ts"}
#: Ending of a file's name to the language that runs it.
BY_ENDING = {
    ".py": "fresh",
    ".sh": "bash",
    ".js": "node",
    ".cjs": "node",
    ".mjs": "node",
    ".ts": "ts",
    ".mts": "ts",
    ".rb": "ruby",
    ".R": "R",
    ".r": "R",
    ".pl": "perl",
}
#: Seconds before the second, third and every further try of ``--retries``.
PAUSES = (5.0, 10.0, 20.0)
MAX_CONTEXT = 128


def prepare(options: Any, body: str | None) -> str | None:
    """Settle what the cell's words mean; ``options`` gets ``language``, ``interpreter`` and ``argv``.

    Returns:
        the body, its ``#!`` line made empty when that was what chose the program.

    Raises:
        SandboxUsageError: the words contradict each other.
    """
    typed, options.language = options.language, ALIASES.get(options.language, options.language or "python")
    options.interpreter = interpreter(options.interpreter)
    if options.interpreter and typed is not None:
        raise SandboxUsageError(f"{typed} and --interpreter: one of them decides what runs the cell")
    if options.fresh and (options.interpreter or options.language != "python"):
        raise SandboxUsageError(
            "--fresh is for Python cells",
            hint="Cells of other languages know nothing of earlier ones anyway.",
        )
    if options.context is not None and not 1 <= len(options.context) <= MAX_CONTEXT:
        raise SandboxUsageError(f"--context: a name of 1 to {MAX_CONTEXT} characters")
    if options.retries is not None and not 0 <= options.retries <= 100:
        raise SandboxUsageError(f"--retries {options.retries}: a number of tries, 0 to 100")
    if body is not None and body.startswith("#!") and typed is None and not options.fresh:
        first, _, rest = body.partition("\n")
        options.interpreter, body = _shebang(first), "\n" + rest
    if options.interpreter:
        options.language = "program"
    if options.fresh:
        options.language, options.argv = "fresh", ["", *options.argv]
    elif options.argv and options.language == "python":
        raise SandboxUsageError(
            "words after -- are for --fresh, bash and other programs", hint="%%sandbox --fresh -- input.csv"
        )
    return body


def interpreter(text: str | None) -> list[str]:
    """The words of ``--interpreter``.

    In:  interpreter("ruby -")
    Out: ['ruby', '-']
    """
    if text is None:
        return []
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SandboxUsageError(f"--interpreter {text!r}: {str(error).lower()}") from None
    if not words:
        raise SandboxUsageError("--interpreter: name a program, like 'ruby -'")
    return words


def _shebang(line: str) -> list[str]:
    """The words of a ``#!`` line as the system takes them: a program, and the rest as one word."""
    program, _, rest = line[2:].strip().partition(" ")
    if not program:
        raise SandboxUsageError("the #! line names no program", hint="#!/usr/bin/env ruby")
    rest = rest.strip()
    if program.endswith("/env"):
        words = shlex.split(rest)
        return [word for word in words if word != "-S"] or [program]
    return [program, rest] if rest else [program]


def fields(options: Any) -> dict[str, Any]:
    """What of the cell's request is about its program."""
    return {
        "language": options.language,
        "argv": tuple(options.argv),
        "interpreter": tuple(options.interpreter),
        "stdin": bool(options.stdin),
    }


def tried(options: Any, run: Callable[[], T]) -> T:
    """``run()``; again with ``--retries`` while it fails because a connection did.

    Args:
        run: sends the same request each time: a sandbox that has the cell already goes on with it.

    Raises:
        whatever the last try raised; every other error at once.
    """
    from daytona_magics.notebook.status import note, wait

    left, number = options.retries or 0, 0
    while True:
        try:
            return run()
        except SandboxUnreachable as error:
            if number >= left:
                raise
            pause = PAUSES[min(number, len(PAUSES) - 1)]
            number += 1
            note(f"{error}; trying again in {pause:g} s (retry {number} of {left})")

        async def pass_by(tell: Reporter, pause: float = pause) -> None:
            await asyncio.sleep(pause)

        wait(pass_by, "waiting to try again", quiet=options.quiet)
