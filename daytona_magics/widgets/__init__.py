"""Jupyter widgets that show a sandbox: :class:`FileTree`, :class:`LogStream`, :class:`Preview`,
:class:`SandboxPanel`, :class:`Terminal`.

They are anywidgets: usable from ``%sandbox files``, in layouts of one's own, and in marimo. Each module
explains its part: ``assets`` how their code reaches the page, ``live`` how page and kernel talk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daytona_magics.widgets.file_tree import FileTree
    from daytona_magics.widgets.log_stream import LogStream
    from daytona_magics.widgets.panel import SandboxPanel
    from daytona_magics.widgets.preview import Preview
    from daytona_magics.widgets.terminal import Terminal

__all__ = ["FileTree", "LogStream", "Preview", "SandboxPanel", "Terminal"]

_MODULES = {
    "FileTree": "file_tree",
    "LogStream": "log_stream",
    "Preview": "preview",
    "SandboxPanel": "panel",
    "Terminal": "terminal",
}


def __getattr__(name: str) -> Any:
    # ipywidgets and anywidget take a while to import, and most notebooks never show a widget.
    if name in _MODULES:
        return getattr(import_module(f"daytona_magics.widgets.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
