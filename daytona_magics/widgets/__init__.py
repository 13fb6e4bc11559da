"""Jupyter widgets that show a sandbox: :class:`FileTree`, :class:`Terminal`.

They are anywidgets: usable from ``%sandbox files``, in layouts of one's own, and in marimo. Each module
explains its part: ``assets`` how their code reaches the page, ``live`` how page and kernel talk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daytona_magics.widgets.file_tree import FileTree
    from daytona_magics.widgets.terminal import Terminal

__all__ = ["FileTree", "Terminal"]


def __getattr__(name: str) -> Any:
    # ipywidgets and anywidget take a while to import, and most notebooks never show a widget.
    if name == "FileTree":
        from daytona_magics.widgets.file_tree import FileTree

        return FileTree
    if name == "Terminal":
        from daytona_magics.widgets.terminal import Terminal

        return Terminal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
