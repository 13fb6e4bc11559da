"""The verbs that open widgets: files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_magics import sandboxes
from daytona_magics.notebook.status import wait

if TYPE_CHECKING:
    from daytona_magics.widgets import FileTree


def files(shell: Any, options: Any) -> FileTree:
    """``%sandbox files [PATH]``"""
    from daytona_magics.widgets.file_tree import FileTree, first_page

    binding = sandboxes.current()
    # Asked for by name: what is stopped is started, and what is missing made, before anything is shown.
    page = wait(lambda tell: first_page(binding, tell, options.path), f"listing {options.path}")
    return FileTree(options.path, binding=binding, page=page)
