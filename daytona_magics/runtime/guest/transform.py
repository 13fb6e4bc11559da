"""Cell text that is not Python: ``!command``, ``x = !command``, ``%magic``.

Only a cell that does not compile is looked at, so a ``%`` or ``!`` inside a string, or a formula continued
over two lines, is never mistaken. Every line stays one line: line numbers in tracebacks are right.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize

#: The name in builtins through which transformed lines call (see magics).
HELPER = "__sandbox_cell__"

_SYSTEM = re.compile(r"^(\s*)!(!?)(.*)$", re.S)
_MAGIC = re.compile(r"^(\s*)%([A-Za-z_][\w.]*)[ \t]*(.*)$", re.S)
_FIRST_CELL_MAGIC = re.compile(r"(?:[ \t]*\n)*%%([A-Za-z_]\w*)[ \t]*([^\n]*)(?:\n|\Z)")
_CELL_MAGIC = re.compile(r"^(\s*)(%%\S+)(.*)$", re.S)
_ASSIGN = re.compile(r"^(\s*)([A-Za-z_][\w.,\[\]'\" \t*]*?)[ \t]*=[ \t]*([!%])(.*)$", re.S)
_HELP = re.compile(r"^(\s*)(\?{0,2})([A-Za-z_][\w.]*)(\?{0,2})[ \t]*$")
_SEARCH = re.compile(r"^(\s*)(\??)([A-Za-z_*][\w.*]*)(\??)[ \t]*$")

_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.DEDENT)


def dedent(code: str) -> str:
    """Take away indentation that all lines share (a cell pasted from inside a function).

    In:  dedent("  a = 1\\n  b = 2")
    Out: 'a = 1\\nb = 2'
    """
    lines = code.splitlines(True)
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    indent = first[: len(first) - len(first.lstrip())]
    if not indent:
        return code
    if all(line.startswith(indent) or not line.strip() for line in lines):
        return "".join(
            line[len(indent) :] if line.startswith(indent) else line.lstrip(" \t") for line in lines
        )
    return code


def cell_magic(code: str) -> tuple[str, str, str] | None:
    """Name, line and body of a cell that begins with ``%%name``; else None.

    In:  cell_magic("%%time\\nx = 1")
    Out: ('time', '', 'x = 1\\n')
    """
    found = _FIRST_CELL_MAGIC.match(code)
    if found is None:
        return None
    body = code[found.end() :]
    return found.group(1), found.group(2).strip(), body if body.endswith("\n") else body + "\n"


def _line(text: str) -> str | None:
    """The Python for one special line (without its newline); None when it is an ordinary one."""
    found = _CELL_MAGIC.match(text)
    if found:
        return "%s%s.misplaced(%r)" % (found.group(1), HELPER, found.group(2))
    found = _SYSTEM.match(text)
    if found:
        call = "capture" if found.group(2) else "system"
        return "%s%s.%s(%r)" % (found.group(1), HELPER, call, found.group(3).strip())
    found = _MAGIC.match(text)
    if found:
        return "%s%s.magic(%r, %r)" % (found.group(1), HELPER, found.group(2), found.group(3).strip())
    found = _ASSIGN.match(text)
    if found:
        indent, target, kind, rest = found.groups()
        if kind == "!":
            return "%s%s = %s.capture(%r)" % (indent, target, HELPER, rest.strip())
        name, _, line = rest.strip().partition(" ")
        return "%s%s = %s.magic(%r, %r)" % (indent, target, HELPER, name, line.strip())
    found = _HELP.match(text)
    if found and (found.group(2) or found.group(4)):
        detail = "??" in (found.group(2), found.group(4))
        return "%s%s.inspect(%r, %r)" % (found.group(1), HELPER, found.group(3), detail)
    found = _SEARCH.match(text)
    if found and "*" in found.group(3) and (found.group(2) or found.group(4)):
        return "%s%s.search(%r)" % (found.group(1), HELPER, found.group(3))
    return None


def _unfinished(text: str) -> bool:
    """Whether ``text`` ends inside brackets, a long string or a continued line."""
    if text.rstrip("\n").endswith("\\"):
        return True
    try:
        for _ in tokenize.generate_tokens(io.StringIO(text).readline):
            continue
    except tokenize.TokenError as error:
        return (
            "EOF in multi-line" in str(error)
            or "unexpected EOF" in str(error)
            or "unterminated" in str(error)
        )
    except (IndentationError, SyntaxError) as error:
        return "unterminated triple" in str(error) or "was never closed" in str(error)
    return False


def transform(code: str) -> str:
    """Replace special lines by Python; an unchanged text means there were none.

    In:  transform("!ls\\nx = !date")
    Out: "__sandbox_cell__.system('ls')\\nx = __sandbox_cell__.capture('date')"
    """
    out: list[str] = []
    pending = ""  # lines since the last one known to begin a statement
    lines = code.splitlines(True)
    at = 0
    while at < len(lines):
        body = lines[at].rstrip("\r\n")
        count = 1
        new = _line(body)
        if new is not None and not (pending and _unfinished(pending)):
            while body.endswith("\\") and at + count < len(lines):
                body = body[:-1] + lines[at + count].rstrip("\r\n")
                count += 1
            new = _line(body)
            out.append((new or body) + "\n" * count)
            pending = ""
        else:
            out.append(lines[at])
            pending += lines[at]
        at += count
    text = "".join(out)
    return text if code.endswith("\n") else text.rstrip("\n")


def silenced(code: str, last: ast.stmt) -> bool:
    """Whether the last statement of a cell ends with ``;`` (its value is then not shown)."""
    tail = code.rstrip()
    if ";" not in tail[-1:] and ";" not in tail.rpartition("\n")[2]:
        return False
    previous = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in _NO_CODE:
                previous = token.string
    except (tokenize.TokenError, SyntaxError):
        return tail.endswith(";")
    return previous == ";"
