"""pdb as a notebook shows it: the prompt is ``ipdb> ``, and a step shows the lines around it.

Python's own debugger, with the questions of :mod:`asking`; IPython need not be installed. Its ``continue``
leaves SIGINT alone, which the cells that follow need. pdb is imported when it is first used: it takes longer
than the rest of a worker's start.
"""

from __future__ import annotations

import linecache
import reprlib
import sys

from . import tracebacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any

#: Lines shown around the current one, with it.
CONTEXT = 5
_WIDTH = 7
_GREEN, _CYAN, _OFF = "\x1b[32m", "\x1b[36m", "\x1b[0m"


def _debugger() -> Any:
    """A debugger for ``pdb.set_trace()``, ``breakpoint()`` and ``%debug``."""
    import pdb

    class Debugger(pdb.Pdb):
        def canonic(self, filename: str) -> str:
            # A cell's name is no path.
            return filename if tracebacks.is_cell(filename) else super().canonic(filename)

        def print_stack_entry(self, frame_lineno: Any, prompt_prefix: str = "") -> None:
            for line in _entry(*frame_lineno, current=frame_lineno[0] is self.curframe):
                self.message(line)

    made = Debugger(nosigint=True)
    made.prompt = "ipdb> "
    return made


def _entry(frame: types.FrameType, number: int, *, current: bool) -> list[str]:
    """Where the debugger stands: the value returned, the place, the lines around it."""
    code = frame.f_code
    shown = []
    if "__return__" in frame.f_locals:
        shown.append(reprlib.repr(frame.f_locals["__return__"]))
    place = "%s%s%s(%d)%s%s%s()" % (_GREEN, code.co_filename, _OFF, number, _CYAN, code.co_name, _OFF)
    shown.append(("> " if current else "  ") + place)
    lines = linecache.getlines(code.co_filename, frame.f_globals)
    first = max(0, min(number - 1 - CONTEXT // 2, len(lines) - CONTEXT))
    for at, line in enumerate(lines[first : first + CONTEXT], first + 1):
        arrow = "-" * (_WIDTH - len(str(at)) - 2) + "> %d" % at
        mark = arrow if at == number else "%*d" % (_WIDTH, at)
        shown.append("%s%s%s %s" % (_GREEN, mark, _OFF, line.rstrip("\n")))
    return [*shown, ""]


def set_trace(*, header: str | None = None, **_: Any) -> None:
    """``pdb.set_trace``: stop in the caller."""
    debugger = _debugger()
    if header is not None:
        debugger.message(header)
    debugger.set_trace(sys._getframe(1))


def post_mortem(traceback: types.TracebackType) -> None:
    """Look around where an error came from."""
    debugger = _debugger()
    debugger.reset()
    debugger.interaction(None, traceback)
