"""``%sandbox``, ``%%sandbox``, ``%sandbox_git`` and ``%%local``: registration.

Loading registers magics, two input transformers and one completer, and starts importing the SDK in the
background; everything else waits for its first use. Loading twice changes nothing, unloading takes exactly
these things out again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from daytona_magics.magics import whole
from daytona_magics.magics.places import CARRIER

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_ATTRIBUTE = "_daytona_magics"
_MAGIC = re.compile(r"\s*%%sandbox\b")
_COMMENTED = re.compile(r"\s*#+\s*(%%sandbox\b.*)", re.DOTALL)
#: The title of a cell in the percent format of editors, or a sandbox cell with a blank too many.
_TITLED = re.compile(r"\s*#+\s*%%\s+sandbox\b")
_BARE = re.compile(r"\s*%sandbox\s*$")
#: What a cell becomes that only looks as if it ran in the sandbox: nothing of it runs.
_REFUSED_TITLE = whole.refusal(
    "write # %%sandbox without a blank before sandbox to run this cell in the sandbox, "
    "or delete that line to run it on this machine"
)
_REFUSED_BARE = whole.refusal(
    "a lone %sandbox, which shows a card, leaves the lines below to this machine; "
    "write %%sandbox to run them in the sandbox, or %sandbox info for the card"
)
_MAGICS = ("sandbox", "sandbox_git", "local", CARRIER)


class _Loaded:
    """What :func:`register` put into a shell, so that :func:`unregister` finds it."""

    def __init__(self, shell: Any, config: Any, matcher: Any, after: Any) -> None:
        self.shell, self.config, self.matcher, self.after = shell, config, matcher, after


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
    def sandbox(line: str, cell: str | None = None, local_ns: Any = None) -> Any:
        """Run cells in a sandbox: %%sandbox. Manage it: %sandbox help."""
        if cell is None:
            from daytona_magics.magics.line import run_line

            return run_line(shell, line, local_ns)
        from daytona_magics.magics.cell import run_cell

        return run_cell(shell, line, cell)

    @no_var_expand  # type: ignore[untyped-decorator,unused-ignore]
    def sandbox_git(line: str, cell: str | None = None) -> Any:
        """git in the sandbox: %sandbox_git help. A commit's message may be a cell: %%sandbox_git commit."""
        from daytona_magics.magics.line import run_line

        return run_line(shell, line, magic="sandbox_git", body=cell)

    # `%sandbox push` in a function finds the function's variables.
    sandbox.needs_local_scope = True  # type: ignore[attr-defined,unused-ignore]

    @no_var_expand  # type: ignore[untyped-decorator,unused-ignore]
    def local(line: str, cell: str | None = None) -> Any:
        """Run this cell, or line, on the notebook's machine while `%sandbox on` holds."""
        from daytona_magics.magics.line_whole import local

        return local(shell, line, cell)

    @no_var_expand  # type: ignore[untyped-decorator,unused-ignore]
    def carried(line: str, cell: str) -> Any:
        """What a cell becomes while `%sandbox on` holds."""
        from daytona_magics.magics.cell import run_cell

        return run_cell(shell, line, cell, carried=True)

    shell.register_magic_function(sandbox, "line_cell", "sandbox")
    shell.register_magic_function(sandbox_git, "line_cell", "sandbox_git")
    shell.register_magic_function(local, "line_cell", "local")
    shell.register_magic_function(carried, "cell", CARRIER)
    shell.configurables.append(config)
    # In this order: what says itself where it runs is known before the mode is asked.
    shell.input_transformers_cleanup.extend([transform, whole.of(shell)])
    matcher = make_matcher(shell)
    if getattr(shell, "Completer", None) is not None:
        shell.Completer.custom_matchers.append(matcher)

    def after(result: Any = None) -> None:
        _after_cell(str(getattr(getattr(result, "info", None), "raw_cell", None) or ""))

    shell.events.register("post_run_cell", after)
    setattr(shell, _ATTRIBUTE, _Loaded(shell, config, matcher, after))
    config.observe(lambda change: _tooltips(shell, change.new), "tooltips")
    if config.tooltips:
        _tooltips(shell, True)
    if ignored:
        print(ignored)
    if whole.of(shell).on:
        print("every cell runs in the sandbox again, as before; %sandbox off ends this")
    elif restarted := whole.before_restart(shell):
        print(restarted)
    _warm_later()


def unregister(shell: InteractiveShell) -> None:
    """Take the magics out of a shell; the sandbox is left as it is. Idempotent."""
    loaded = getattr(shell, _ATTRIBUTE, None)
    if loaded is None:
        return
    delattr(shell, _ATTRIBUTE)
    shell.events.unregister("post_run_cell", loaded.after)
    if loaded.config.tooltips:
        _tooltips(shell, False)
    if whole.of(shell).on:
        print("%sandbox on holds no longer: cells run on this machine until daytona_magics is loaded again")
    for kind in ("line", "cell"):
        for name in _MAGICS:
            shell.magics_manager.magics[kind].pop(name, None)
    for collection, item in (
        (shell.configurables, loaded.config),
        (shell.input_transformers_cleanup, transform),
        (shell.input_transformers_cleanup, whole.of(shell)),
        (getattr(getattr(shell, "Completer", None), "custom_matchers", []), loaded.matcher),
    ):
        if item in collection:
            collection.remove(item)


def transform(lines: list[str]) -> list[str]:
    """Make three harmless ways of writing a sandbox cell work, and refuse two; pure and idempotent.

    Comments and blank lines above ``%%sandbox`` are allowed; an empty body becomes a blank line, because
    IPython refuses empty cell magics before they could explain themselves. The number of lines stays the same
    where line numbers matter. ``# %%sandbox`` is the same, for editors that know nothing of magics. A cell
    that begins with ``# %% sandbox`` looks as if it ran in the sandbox, and would run on this machine: it is
    refused. So is one that begins with ``%sandbox``, one sign too few, and goes on with what is no magic.

    In:  transform(["# note\\n", "%%sandbox\\n", "x\\n"])
    Out: ['%%sandbox\\n', '\\n', 'x\\n']
    """
    for index, line in enumerate(lines):
        commented = _COMMENTED.match(line)
        if commented or _MAGIC.match(line):
            magic = commented.group(1) if commented else line.lstrip()
            body = ["\n"] * index + lines[index + 1 :]
            if not body:
                body = ["\n"]
            return [magic if magic.endswith("\n") else magic + "\n", *body]
        if _TITLED.match(line):
            return [_REFUSED_TITLE]
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


def _tooltips(shell: Any, on: bool) -> None:
    from daytona_magics.magics.line_inspect import set_tooltips

    set_tooltips(shell, on)


def _after_cell(cell: str) -> None:
    """Where the notebook has a branch of its own, look whether there is something new to push."""
    from daytona_magics import sandboxes

    binding = sandboxes.bound()
    if binding is None or binding.sandbox is None:
        return
    if "daytona-magics/git-sync" in (binding.sandbox.labels or ()):
        from daytona_magics.magics.line_git_sync import after_cell

        after_cell(binding, cell)


def _warm_later() -> None:
    from daytona_magics.magics import warming

    warming.start()
