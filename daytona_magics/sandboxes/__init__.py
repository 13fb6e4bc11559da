"""The binding between this kernel and its sandbox: endpoint, identity, life cycle."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daytona_magics.config import SandboxConfig
    from daytona_magics.sandboxes.binding import Binding

__all__ = ["bind", "bound", "current"]

_shell: Any = None
_config: SandboxConfig | None = None
_binding: Binding | None = None


def bind(shell: Any, config: SandboxConfig) -> None:
    """Say whose settings count from now on. An existing tie to a sandbox is kept."""
    global _shell, _config
    _shell, _config = shell, config
    if _binding is not None:
        _binding.config = config


def current() -> Binding:
    """The kernel's binding; made on first use, which costs nothing and contacts nobody."""
    global _binding
    if _binding is None:
        from daytona_magics.config import SandboxConfig
        from daytona_magics.sandboxes import leaving
        from daytona_magics.sandboxes.binding import Binding
        from daytona_magics.sandboxes.identity import identify

        _binding = Binding(_config or SandboxConfig(), lambda: identify(_shell or running()))
        leaving.watch(_binding, lambda: _shell or running())
    return _binding


def running() -> Any:
    """The shell of this process, also where the extension is not loaded; None in a plain program."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def bound() -> Binding | None:
    """The binding if there is one already; never makes one."""
    return _binding
