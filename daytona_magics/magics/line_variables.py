"""The verbs about variables: push, pull."""

from __future__ import annotations

from typing import Any

from daytona_magics import sandboxes
from daytona_magics.magics import variables
from daytona_magics.notebook.card import size
from daytona_magics.notebook.status import note

#: Bytes from which on a transfer is worth a sentence.
TELL = 1 << 20


def push(shell: Any, options: Any) -> None:
    """``%sandbox push NAME...``"""
    wanted = variables.pairs(options.names, "push")
    package = variables.packed(variables.values(shell, wanted, "push", options.scope))
    variables.run_empty(sandboxes.current(), variables.Carrier(package, quiet=options.quiet))
    if package.size >= TELL and not options.quiet:
        note(f"{size(package.size)} → {', '.join(package.about)} in the sandbox")


def pull(shell: Any, options: Any) -> None:
    """``%sandbox pull NAME...``"""
    wanted = variables.pairs(options.names, "pull")
    made = variables.Carrier(outputs=wanted, pickled=options.unsafe_pickle, quiet=options.quiet)
    shell.user_ns.update(variables.run_empty(sandboxes.current(), made))
