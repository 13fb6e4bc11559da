"""``%sandbox labels`` and ``%sandbox env``."""

from __future__ import annotations

from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import secrets
from daytona_magics.magics.parser import did_you_mean
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import tags

#: What stands for a value that looks like a key or token.
HIDDEN = "••••••••"


def labels_(shell: Any, options: Any) -> Table:
    """``%sandbox labels [KEY=VALUE ...]``"""
    binding = sandboxes.current()
    add, shown = {}, []
    for item in options.labels:
        key, equals, value = item.partition("=")
        shown.append(key)
        if equals:
            add[key] = value
    if not all(shown):
        raise SandboxUsageError("%sandbox labels: write KEY=VALUE, or KEY to show one")
    changes: dict[str, Any] = {
        "remove": options.remove or (),
        "replace": options.replace,
        "sure": options.yes,
    }
    box = wait(
        lambda tell: tags.relabel(binding, tell, options.of, add, **changes),
        "changing labels" if add else "asking for the labels",
        quiet=options.quiet,
    )
    for key in shown:
        if key not in box.labels:
            raise SandboxUsageError(f"{box.name} has no label {key}{did_you_mean(key, list(box.labels))}")
    # Their own first: what people set is what they look for.
    keys = sorted(shown or box.labels, key=lambda key: (tags.reserved(key), key))
    rows = [(key, box.labels[key]) for key in keys]
    return Table(("label", "value"), rows, rows, empty=f"{box.name} has no labels.", foot=box.name)


def env(shell: Any, options: Any) -> Table:
    """``%sandbox env [NAME[=VALUE] ...]``"""
    binding = sandboxes.current()
    new = secrets.environment(options.variables)
    for name in options.unset or ():
        if name not in binding.env and name not in (getattr(binding.sandbox, "env", None) or {}):
            raise SandboxUsageError(
                f"--unset {name}: cells get no such variable{did_you_mean(name, list(binding.env))}"
            )
    found = wait(
        lambda tell: tags.change_env(binding, tell, new, options.unset or ()),
        "changing variables" if new else "asking for the variables",
        quiet=options.quiet,
    )
    if (new or options.unset) and not options.quiet:
        note("Later cells and new processes get them; what runs already keeps its own.")
    rows = [
        (name, HIDDEN if secrets.looks_secret(name, value) else value)
        for name, value in sorted(found.items())
    ]
    return Table(("variable", "value"), rows, list(found), empty="Cells get no variables of yours.")
