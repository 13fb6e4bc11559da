"""The verb that opens shells: terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import terminals
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.glances import TerminalInfo
    from daytona_magics.widgets import Terminal


def terminal(shell: Any, options: Any) -> Terminal | Table | None:
    """``%sandbox terminal [COMMAND]``, ``--list``, ``--kill NAME``"""
    binding = sandboxes.current()
    if (options.list or options.kill) and (options.command or (options.list and options.kill)):
        raise SandboxUsageError("--list and --kill each stand alone", hint="%sandbox terminal --help")
    if options.kill:
        wait(lambda tell: _killed(binding, tell, options.kill), "ending a terminal")
        note(f"terminal {options.kill} has ended")
        return None
    if options.list:
        found = wait(lambda tell: _listed(binding, tell), "listing terminals")
        return _table(found, binding)
    from daytona_magics.widgets.terminal import Terminal

    # Asked for by name: what is stopped is started, and what is missing made, before anything is shown.
    wait(lambda tell: _prepared(binding, tell, options.cwd or ""), "preparing the sandbox")
    return Terminal(options.command or "", cwd=options.cwd or "", name=options.name or "", binding=binding)


async def _prepared(binding: Binding, tell: Reporter, cwd: str) -> None:
    from daytona_magics.widgets.terminal import folder

    await folder(await binding.usable(tell), cwd)


async def _listed(binding: Binding, tell: Reporter) -> list[TerminalInfo]:
    return await terminals.listed(await binding.usable(tell))


async def _killed(binding: Binding, tell: Reporter, name: str) -> None:
    sandbox = await binding.usable(tell)
    if name not in [one.name for one in await terminals.listed(sandbox)]:
        raise SandboxUsageError(
            f"there is no terminal {name!r}", hint="%sandbox terminal --list  shows what there is."
        )
    await terminals.end(sandbox, name)


def _table(found: list[TerminalInfo], binding: Binding) -> Table:
    rows = [
        (
            one.name,
            "×".join(map(str, one.size)),
            one.folder,
            "running" if one.running else "not started",
            "this kernel" if terminals.ours(one.name, binding) else "",
        )
        for one in found
    ]
    foot = "%sandbox terminal --kill NAME  ends one." if found else ""
    return Table(
        ("name", "size", "folder", "state", "opened by"), rows, found, empty="No terminal is open.", foot=foot
    )
