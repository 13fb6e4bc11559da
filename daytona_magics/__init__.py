"""Run notebook cells, or code of programs, in a Daytona sandbox.

``%load_ext daytona_magics`` registers the magics; :mod:`daytona_magics.api` has the Python interface, whose
names are here too: ``daytona_magics.current().run("40 + 2")``. Importing this package must stay cheap (it is
on the path of every ``%load_ext``), so everything heavy, the Daytona SDK first of all, is imported where it
is used and warmed up on a background thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from daytona_magics.api import (
        Sandbox,
        create,
        create_async,
        current,
        get,
        get_async,
        system_prompt,
        use,
        use_async,
    )

__version__ = "0.1.0"

__all__ = [
    "Sandbox",
    "__version__",
    "create",
    "create_async",
    "current",
    "get",
    "get_async",
    "load_ipython_extension",
    "system_prompt",
    "unload_ipython_extension",
    "use",
    "use_async",
]


def __getattr__(name: str) -> Any:
    # Public names that need more than this module; ``import daytona_magics`` alone stays cheap.
    if name in __all__:
        return getattr(importlib.import_module("daytona_magics.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register ``%sandbox`` and ``%%sandbox``; called by ``%load_ext daytona_magics``. Idempotent."""
    from daytona_magics.magics import register

    register(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Take the magics and completers out again; the sandbox itself is left running."""
    from daytona_magics.magics import unregister

    unregister(ipython)
