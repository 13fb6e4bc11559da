"""Shift-Tab inside a sandbox cell: the kernel's own inspection, asked about the sandbox's names instead.

Jupyter has no hook for this: a kernel answers ``inspect_request`` by its method ``do_inspect``. So the method
of this one kernel object is covered by a function that looks at the place first, only when the setting
``tooltips`` is on, and only where the method is what we know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daytona_magics.notebook.terminal import clean

#: Given cell, cursor and level of detail: the documentation, "" for none, None when the place is not ours.
Ask = Callable[[str, int, bool], "str | None"]

_MARK = "_daytona_magics"


def cover(kernel: Any, ask: Ask) -> bool:
    """Ask ``ask`` first for every inspection of a kernel; False when this kernel cannot be covered."""
    original = getattr(kernel, "do_inspect", None)
    if original is None or not callable(original):
        return False
    if hasattr(original, _MARK):
        return True

    def do_inspect(code: str, cursor_pos: int, detail_level: int = 0, *more: Any, **named: Any) -> Any:
        text = ask(code, cursor_pos, detail_level > 0)
        if text is None:
            return original(code, cursor_pos, detail_level, *more, **named)
        data = {"text/plain": clean(text)} if text else {}
        return {"status": "ok", "found": bool(text), "data": data, "metadata": {}}

    setattr(do_inspect, _MARK, True)
    kernel.do_inspect = do_inspect
    return True


def uncover(kernel: Any) -> None:
    """Give a kernel its own inspection back. Idempotent."""
    if hasattr(getattr(kernel, "do_inspect", None), _MARK):
        del kernel.do_inspect


class Documentation:
    """What a sandbox says of a name; shows itself as text, with the colours it came with."""

    def __init__(self, text: str) -> None:
        self.text = clean(text)

    def __repr__(self) -> str:
        return self.text.rstrip("\n")
