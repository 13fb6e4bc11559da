"""``%sandbox on``, ``%sandbox off``, ``%local`` and ``%%local``."""

from __future__ import annotations

import re
import shlex
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, secrets, whole
from daytona_magics.magics.parser import parse
from daytona_magics.magics.places import below_on
from daytona_magics.notebook.status import note

_CELL_MAGIC = re.compile(r"(?:[ \t]*\n)*[ \t]*%%(\w+)[ \t]*([^\n]*)\n?")


def on(shell: Any, options: Any) -> None:
    """``%sandbox on [LANGUAGE] [options]``

    Raises:
        SandboxUsageError: code stands below it in its cell, or ``--tagged`` where no tags are seen.
    """
    if below_on(whole.typed(shell)):
        raise SandboxUsageError(
            "%sandbox on: what stands below it in this cell would run on this machine",
            hint="Put it into the next cell.",
        )
    if options.tagged and whole.TAG not in (whole.tags_of(shell) or ()):
        raise SandboxUsageError(
            f"%sandbox on --tagged: this cell needs the tag {whole.TAG} itself, which shows that tags are "
            "seen; it has none, or this front end does not send them",
            hint="Tag the cell, or use %sandbox on, or %%sandbox on the cells.",
        )
    secrets.environment(options.env)
    mode = whole.of(shell)
    mode.start(carried(options), tagged=options.tagged, quiet=options.quiet)
    if options.quiet:
        return
    bound = sandboxes.bound()
    name = f" {bound.sandbox.name}" if bound is not None and bound.sandbox is not None else ""
    which = f"every cell with the tag {whole.TAG}" if options.tagged else "every cell"
    note(f"from now on {which} runs in the sandbox{name}; `%%local` runs one here, `%sandbox off` ends this")


def carried(options: Any) -> str:
    """The options of ``%sandbox on`` as they stand behind ``%%sandbox`` for each cell.

    Raises:
        SandboxUsageError: they are none of a cell.
    """
    command = grammar.BY_NAME["on"]
    words = [options.language] if options.language else []
    for option in command.options:
        value = getattr(options, option.dest)
        if option.dest == "tagged" or value in (None, False, []):
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [option.flags[-1]] if one is True else [option.flags[-1], f"{one}"]
    line = shlex.join(words)
    parse(grammar.CELL, line)
    return line


def off(shell: Any, options: Any) -> None:
    """``%sandbox off``"""
    mode = whole.of(shell)
    was = mode.on
    mode.stop()
    note(
        "cells run on this machine again; `%%sandbox` still runs one in the sandbox"
        if was
        else "cells run on this machine already"
    )


def local(shell: Any, line: str, cell: str | None = None) -> Any:
    """Run a line, or a cell, on this machine.

    An ordinary ``%%local`` cell never comes here: the transformer has made it a cell of this kernel. What
    comes is one with a cell magic below it, and the ``%local`` line.

    Raises:
        SandboxUsageError: something stands behind ``%%local``.
        Whatever the code raises.
    """
    if cell is not None and line.split("#")[0].strip():
        raise SandboxUsageError("%%local takes nothing behind it", hint="The code begins on the next line.")
    with whole.of(shell).here():
        found = _CELL_MAGIC.match(cell) if cell is not None else None
        if cell is not None and found is not None:
            return shell.run_cell_magic(found.group(1), found.group(2), cell[found.end() :])
        code = shell.transform_cell(line if cell is None else cell)
        try:
            compile(code, "<%local>", "eval")
        except SyntaxError:
            shell.ex(code)
            return None
        return shell.ev(code)
