"""The verb that installs a program in the sandbox."""

from __future__ import annotations

import re
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import secrets
from daytona_magics.magics.line_preview import in_quotes
from daytona_magics.notebook.card import Card
from daytona_magics.notebook.status import wait
from daytona_magics.sandboxes import installing


def install(shell: Any, options: Any) -> Card:
    """``%sandbox install [--verify COMMAND] [--fallback COMMAND] COMMAND``"""
    typed = (options.command or "").strip()
    options = in_quotes(options, "install")
    command = (options.command or "").strip()
    if not command:
        raise SandboxUsageError("%sandbox install needs a command", hint="%sandbox install --help")
    behind = re.search(r"\s(--(?:verify|fallback))\b", command)
    if behind and command == typed:
        raise SandboxUsageError(
            f"{behind[1]} stands behind the command",
            hint=f"%sandbox install {behind[1]} '...' COMMAND,  or the command in quotes",
        )
    plan = installing.Plan(
        command,
        options.verify or "",
        options.fallback or "",
        options.cwd,
        secrets.environment(options.env),
        installing.TIMEOUT if options.timeout is None else options.timeout,
    )
    done = wait(
        lambda tell: installing.install(sandboxes.current(), tell, plan),
        "installing",
        cancelled=f"stopped waiting; the command may run on in the sandbox for up to {plan.timeout:g} s",
    )
    facts = [
        ("by", done.by),
        ("tries", done.tries if done.tries > 1 else ""),
        ("check", f"{plan.verify}: {done.version or 'ok'}" if plan.verify else ""),
    ]
    return Card("Installed" if done.by else "It was there already", facts, "ok")
