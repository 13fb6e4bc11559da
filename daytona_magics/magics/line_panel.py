"""The verb ``panel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.notebook import mode
from daytona_magics.notebook.status import wait
from daytona_magics.sandboxes import actions

if TYPE_CHECKING:
    from daytona_magics.widgets import SandboxPanel


def panel(shell: Any, options: Any) -> SandboxPanel:
    """``%sandbox panel [--all]``"""
    from daytona_magics.widgets.panel import SandboxPanel

    binding = sandboxes.current()
    # Looking makes nothing and starts nothing.
    wait(lambda tell: actions.look(binding, tell), "asking for the state")
    return SandboxPanel(binding, mode=mode.of(shell), others=options.all)
