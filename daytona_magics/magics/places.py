"""Which cells stay on this machine when all others run in the sandbox, decided by their text alone.

A cell goes to one place as a whole. It stays here when it begins with ``%%local``, or when every line of it
is a command to the magics themselves (``%sandbox ls``, ``%load_ext daytona_magics``, ``%local x = 1``). It
is refused when it has such lines and others besides: to split it would run two halves in two places, and a
reader would have to guess which half saw which variables. Everything else goes to the sandbox, ``!cmd``,
``%pip``, ``%cd`` and ``%%bash`` with it.
"""

from __future__ import annotations

import ast
import re
import tokenize
from typing import Literal

Place = Literal["sandbox", "here", "mixed", "own", "nothing"]

#: What a cell of whole-notebook mode becomes; like ``%%sandbox``, on a line that is not in the notebook.
CARRIER = "_sandbox_cell"

_OWN_CELL = re.compile(rf"%%(sandbox|sandbox_git|{CARRIER})\b")
_LOCAL_CELL = re.compile(r"%%local\b")
_LOCAL_COMMENT = re.compile(r"\s*#+\s*%%local\b")
_OWN_LINE = re.compile(
    r"\s*(?:[\w.,\s\[\]'\"()*]+?=\s*)?\?{0,2}"
    r"(?:%%?(?:sandbox|sandbox_git|local)\b|%(?:re|un)?load_ext\s+daytona_magics\s*$)"
)
_MAYBE_OWN = re.compile(r"%(?:sandbox|sandbox_git|local|load_ext|reload_ext|unload_ext)\b")
_BLANK = (
    tokenize.NL,
    tokenize.COMMENT,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def place(lines: list[str]) -> Place:
    """Where a cell belongs while ``%sandbox on`` holds.

    Args:
        lines: the cell, each line with its end.

    Returns:
        "sandbox"; "here" for ``%%local``; "own" when it is all commands to the magics, or says itself where
        it runs; "mixed" when it is partly that; "nothing" when there is nothing to run.

    In:  place(["!ls\\n"]), place(["%sandbox ls\\n"]), place(["%sandbox ls\\n", "x = 1\\n"])
    Out: ('sandbox', 'own', 'mixed')
    """
    first = ""
    for line in lines:
        if _LOCAL_COMMENT.match(line):
            return "here"
        if line.strip() and not line.lstrip().startswith("#"):
            first = line.strip()
            break
    if not first:
        return "nothing"
    if _LOCAL_CELL.match(first):
        return "here"
    if _OWN_CELL.match(first):
        return "own"
    if first.startswith("%%") or not any(_MAYBE_OWN.search(line) for line in lines):
        return "sandbox"
    return _by_lines(lines)


def _by_lines(lines: list[str]) -> Place:
    text = "".join(lines)
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        own = [bool(_OWN_LINE.match(line)) for line in statements(lines)]
        return "own" if all(own) else "mixed" if any(own) else "sandbox"
    # Python through and through: what looks like a magic stands in a string or divides something.
    return "sandbox"


def statements(lines: list[str]) -> list[str]:
    """The first line of every statement, command or magic; lines inside strings and brackets are none.

    In:  statements(["x = '''\\n", "%sandbox ls\\n", "'''\\n", "%pwd\\n"])
    Out: ["x = '''\\n", '%pwd\\n']
    """
    from IPython.core.inputtransformer2 import make_tokens_by_line

    found = []
    for tokens in make_tokens_by_line(lines):
        begins = next((token for token in tokens if token.type not in _BLANK and token.string.strip()), None)
        if begins is not None:
            found.append(lines[begins.start[0] - 1])
    return found


def below_on(text: str) -> bool:
    """Whether something stands below ``%sandbox on`` in its cell that would run on this machine.

    In:  below_on("%sandbox on\\nx = 1"), below_on("%sandbox on -q\\n%sandbox info")
    Out: (True, False)
    """
    lines = text.splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if re.match(r"\s*%sandbox\s+on\b", line)]
    return bool(at) and place(lines[at[-1] + 1 :]) not in ("nothing", "own")
