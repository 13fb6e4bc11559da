"""``%sandbox VERB``: find the verb, parse its line, run its function."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from daytona_magics.magics import helptext
from daytona_magics.magics.parser import HelpWanted, parse, verb

#: Modules whose verbs work without a key.
KEYLESS = ("line_about", "line_doctor", "line_login", "line_whole")


def run_line(
    shell: Any,
    line: str,
    scope: Mapping[str, Any] | None = None,
    *,
    magic: str = "sandbox",
    body: str | None = None,
) -> Any:
    """Run one ``%sandbox`` or ``%sandbox_git`` line.

    Args:
        shell: the InteractiveShell.
        line: everything after the magic's name.
        scope: the local variables of the function it stands in, None at the top.
        magic: which of the two.
        body: the cell below the line, None for a line alone.

    Returns:
        what the verb returns: something that shows itself, or None.

    Raises:
        SandboxUsageError: unknown verb or option, with the nearest one that exists.
    """
    command, rest = verb(line, magic)
    try:
        options = parse(command, rest)
    except HelpWanted as wanted:
        from daytona_magics.notebook.card import Help

        return Help(helptext.of(wanted.command))
    options.scope, options.body = scope, body
    module, _, function = command.run.partition(":")
    if module not in KEYLESS:
        from daytona_magics.magics.line_login import ask_if_missing

        ask_if_missing(shell)
    run = getattr(import_module(f"daytona_magics.magics.{module}"), function)
    return run(shell, options)
