"""The code of all widgets, brought into the page once.

Every widget's own module (``_esm``) is the loader, about two kilobytes. The rest is the text of one hidden
model that each kernel has once: the loader asks the page's widget manager for that model, imports its text
from a blob, and keeps the module for all widgets of that version. So twenty widgets cost one bundle on the
wire, in memory and in a saved notebook; nothing comes from a CDN. What is large and used by one kind of
widget is a bundle of its own, in a model of its own, made when the first of its widgets is.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import anywidget
import traitlets

from daytona_magics.errors import SandboxError

_STATIC = Path(__file__).with_name("static")
_lock = threading.Lock()
_made: dict[str, Assets] = {}


@cache
def bundle(name: str) -> str:
    """The text of a bundle. Raises SandboxError when this copy of the package was not built."""
    try:
        return (_STATIC / name).read_text("utf-8")
    except FileNotFoundError:
        raise SandboxError(
            "the browser parts of the widgets are missing from this copy of daytona-magics",
            hint="`pip install .` in its folder builds them.",
        ) from None


class Assets(anywidget.AnyWidget):
    """The hidden model.

    Attributes:
        source: a JavaScript module.
        version: changes with it.
    """

    _esm = "export default {}"
    source = traitlets.Unicode().tag(sync=True)
    version = traitlets.Unicode().tag(sync=True)


def reference(name: str = "core.js") -> str:
    """What a widget's trait says of the kernel's assets: ``IPY_MODEL_`` and the model's id.

    Notebooks that are saved with their widgets' state keep the assets because they follow such references.

    Args:
        name: of the bundle.
    """
    with _lock:
        made = _made.get(name)
        if made is None or made.comm is None:
            text = bundle(name)
            # The first line of a bundle holds the hash of all sources.
            version = f"{name} {text.partition(chr(10))[0].strip('/* ')}"
            made = _made[name] = Assets(source=text, version=version)
        return f"IPY_MODEL_{made.model_id}"
