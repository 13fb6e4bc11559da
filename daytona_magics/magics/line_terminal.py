"""The verb that opens shells: terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.status import wait
from daytona_magics.sandboxes import terminals
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.widgets import Terminal


def terminal(shell: Any, options: Any) -> Terminal | Table:
    """``%sandbox terminal [COMMAND]``"""
    binding = sandboxes.current()
    if options.list:
        if options.command:
            raise SandboxUsageError("--list takes no command", hint="%sandbox terminal --help")
        found = wait(lambda tell: _listed(binding, tell), "listing terminals")
        return _table(found)
    from daytona_magics.widgets.terminal import Terminal

    # Asked for by name: what is stopped is started, and what is missing made, before anything is shown.
    wait(lambda tell: _prepared(binding, tell, options.cwd or ""), "preparing the sandbox")
    return Terminal(options.command or "", cwd=options.cwd or "", name=options.name or "", binding=binding)


async def _prepared(binding: Binding, tell: Reporter, cwd: str) -> None:
    from daytona_magics.widgets.terminal import folder

    await folder(await binding.usable(tell), cwd)


async def _listed(binding: Binding, tell: Reporter) -> list[terminals.TerminalInfo]:
    return await terminals.listed(await binding.usable(tell), binding)


def _table(found: list[terminals.TerminalInfo]) -> Table:
    rows = [
        (
            one.name,
            "×".join(map(str, one.size)),
            one.folder,
            "running" if one.running else "not started",
            "this kernel" if one.ours else "",
        )
        for one in found
    ]
    return Table(("name", "size", "folder", "state", "opened by"), rows, empty="No terminal is open.")
