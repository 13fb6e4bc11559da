"""Whether a widget is live, or only its record is shown: the setting ``display``, and what ``auto`` finds.

A live widget needs a page that draws it. Where nobody sits at the notebook (nbconvert, nbclient, papermill),
in a terminal and in a plain program there is none: then no comm is opened, nothing is sent, and what is shown
is the record. marimo draws anywidgets without a Jupyter kernel.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from traitlets import TraitError

from daytona_magics.errors import SandboxUsageError

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding


def is_live(binding: Binding) -> bool:
    """Whether widgets are drawn where this code runs.

    Raises:
        SandboxUsageError: ``DAYTONA_MAGICS_DISPLAY`` is none of auto, live and static.
    """
    try:
        wanted = binding.config.display
    except TraitError as error:
        raise SandboxUsageError(str(error)) from None
    if wanted != "auto":
        return bool(wanted == "live")
    from daytona_magics.notebook.status import in_kernel

    if in_kernel() is None:
        return _in_marimo()
    return not binding.who().batch


def _in_marimo() -> bool:
    marimo = sys.modules.get("marimo")
    running = getattr(marimo, "running_in_notebook", None)
    return bool(running is not None and running())
