"""``%sandbox`` and ``%%sandbox``: registration.

Loading registers two functions, one input transformer and one completer, and starts importing the SDK in
the background; everything else waits for its first use. Loading twice changes nothing, unloading takes
exactly these things out again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_ATTRIBUTE = "_daytona_magics"
_MAGIC = re.compile(r"\s*%%sandbox\b")
_COMMENTED = re.compile(r"\s*#+\s*%%\s*sandbox\b")
_BARE = re.compile(r"\s*%sandbox\s*$")
#: What a cell becomes that only looks as if it ran in the sandbox: nothing of it runs.
_REFUSAL = (
    "raise __import__('daytona_magics.errors', fromlist=['errors']).SandboxUsageError("
    "'nothing was run: {}')\n"
)
_REFUSED_COMMENT = _REFUSAL.format(
    "write %%sandbox without the # to run this cell in the sandbox, "
    "or delete that line to run it on this machine"
)
_REFUSED_BARE = _REFUSAL.format(
    "a lone %sandbox, which shows a card, leaves the lines below to this machine; "
    "write %%sandbox to run them in the sandbox, or %sandbox info for the card"
)


class _Loaded:
    """What :func:`register` put into a shell, so that :func:`unregister` finds it."""

    def __init__(self, shell: Any, config: Any, matcher: Any) -> None:
        self.shell, self.config, self.matcher = shell, config, matcher


def register(shell: InteractiveShell) -> None:
    """Put the magics into a shell. Idempotent."""
    if hasattr(shell, _ATTRIBUTE):
        return
    from IPython.core.magic import no_var_expand

    from daytona_magics import sandboxes
    from daytona_magics.config import make_config
    from daytona_magics.magics.completion import make_matcher

    config, ignored = make_config(shell)
    sandboxes.bind(shell, config)

    # No $name or {name} of ours is ever filled in: what stands in the cell is what runs.
    @no_var_expand  # type: ignore[untyped-decorator,unused-ignore]
    def sandbox(line: str, cell: str | None = None) -> Any:
        """Run cells in a sandbox: %%sandbox. Manage it: %sandbox help."""
        if cell is None:
            from daytona_magics.magics.line import run_line

            return run_line(shell, line)
        from daytona_magics.magics.cell import run_cell

        return run_cell(shell, line, cell)

    shell.register_magic_function(sandbox, "line_cell", "sandbox")
    shell.configurables.append(config)
    shell.input_transformers_cleanup.append(transform)
    matcher = make_matcher()
    if getattr(shell, "Completer", None) is not None:
        shell.Completer.custom_matchers.append(matcher)
    setattr(shell, _ATTRIBUTE, _Loaded(shell, config, matcher))
    if ignored:
        print(ignored)
    _warm_later()


def unregister(shell: InteractiveShell) -> None:
    """Take the magics out of a shell; the sandbox is left as it is. Idempotent."""
    loaded = getattr(shell, _ATTRIBUTE, None)
    if loaded is None:
        return
    delattr(shell, _ATTRIBUTE)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("sandbox", None)
    for collection, item in (
        (shell.configurables, loaded.config),
        (shell.input_transformers_cleanup, transform),
        (getattr(getattr(shell, "Completer", None), "custom_matchers", []), loaded.matcher),
    ):
        if item in collection:
            collection.remove(item)


def transform(lines: list[str]) -> list[str]:
    """Make two harmless ways of writing a sandbox cell work, and refuse two; pure and idempotent.

    Comments and blank lines above ``%%sandbox`` are allowed; an empty body becomes a blank line, because
    IPython refuses empty cell magics before they could explain themselves. The number of lines stays the same
    where line numbers matter. A cell that begins with ``# %%sandbox`` looks as if it ran in the sandbox, and
    would run on this machine: it is refused. So does one that begins with ``%sandbox``, one sign too few, and
    goes on with something that is no magic.

    In:  transform(["# note\\n", "%%sandbox\\n", "x\\n"])
    Out: ['%%sandbox\\n', '\\n', 'x\\n']
    """
    for index, line in enumerate(lines):
        if _MAGIC.match(line):
            magic = line.lstrip()
            body = ["\n"] * index + lines[index + 1 :]
            if not body:
                body = ["\n"]
            return [magic if magic.endswith("\n") else magic + "\n", *body]
        if _COMMENTED.match(line):
            return [_REFUSED_COMMENT]
        if _BARE.match(line) and any(not _harmless(below) for below in lines[index + 1 :]):
            return [_REFUSED_BARE]
        if line.strip() and not line.lstrip().startswith("#"):
            return lines
    return lines


def _harmless(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith(("#", "%"))


# Tells IPython to leave it out when it only asks whether a cell is complete: the empty body's blank line
# would end a typed `%%sandbox` at once in a terminal, and the lines after it would run on this machine.
transform.has_side_effects = True  # type: ignore[attr-defined]


def _warm_later() -> None:
    from daytona_magics.magics import warming

    warming.start()
