"""Errors as the notebook shows them: frames of the cell and of libraries, never of the guest."""

from __future__ import annotations

import linecache
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Iterator
    from typing import Any

RED, GREEN, CYAN, BOLD, OFF = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
#: Frames shown of one traceback; of a longer one (a deep recursion) the first and the last half.
MAX_FRAMES = 40
_RULE = "-" * 75
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


#: ``%xmode``: Minimal shows the last line only.
mode = "Context"
_names: dict[str, str] = {}  # file name a cell was compiled with -> name of the cell
_latest: dict[str, str] = {}  # name of a cell -> file name of its latest version


def register(name: str, code: str) -> str:
    """Make a cell's source known (tracebacks, inspect); returns the file name to compile it with.

    A cell that is run again with other text gets another file name, so that functions of its earlier
    versions still show their own source.
    """
    filename, number = name, 1
    lines = code.splitlines(True)
    while filename in linecache.cache and linecache.getlines(filename) != lines:
        number += 1
        filename = "%s (%d)" % (name, number)
    linecache.cache[filename] = (len(code), None, lines, filename)
    _names[filename] = name
    _latest[name] = filename
    return filename


def is_cell(filename: str) -> bool:
    """Whether a file name is that of a cell."""
    return filename in _names


def _title(filename: str) -> str:
    name = _names.get(filename, filename)
    return name if _latest.get(name, filename) == filename else name + " (an earlier version)"


def render(error: BaseException) -> dict[str, Any]:
    """The ``error`` message of an exception that ends a cell.

    Returns:
        {"msg": "error", "ename", "evalue", "traceback"}, the traceback as lines with ANSI colours.
    """
    try:
        lines = list(_own_lines(error) or _lines(error))
    except Exception as second:
        # An exception can be hostile (a __str__ that raises, a broken __cause__): its name still gets out.
        lines = ["%s%s%s (its traceback could not be drawn: %r)" % (RED, type(error).__name__, OFF, second)]
    return {**_named(error), "traceback": lines}


def text_of(error: BaseException) -> str:
    """``str(error)``, or a note when that raises."""
    try:
        return str(error)
    except Exception as second:
        return "<exception str() failed: %s>" % type(second).__name__


def _own_lines(error: BaseException) -> list[str] | None:
    """What an exception draws itself (``_render_traceback_``), as in a notebook; None when it does not."""
    draw = getattr(type(error), "_render_traceback_", None)
    if draw is None:
        return None
    lines = draw(error)
    return [line if isinstance(line, str) else str(line) for line in lines] if lines is not None else None


def full(error: BaseException) -> dict[str, Any]:
    """The ``error`` message with the whole traceback, for ``%tb``: it does not end the cell."""
    return {**_named(error), "traceback": list(_chain(error)), "passing": True}


def _named(error: BaseException) -> dict[str, Any]:
    return {"msg": "error", "ename": type(error).__name__, "evalue": text_of(error)}


def _lines(error: BaseException) -> Iterator[str]:
    if isinstance(error, SystemExit):
        yield "An exception has occurred, use %tb to see the full traceback."
        yield from _summary(error)
    elif mode == "Minimal":
        yield from _summary(error, blank=False)
    else:
        yield from _chain(error)


def _chain(error: BaseException, rule: bool = True) -> Iterator[str]:
    links: list[tuple[BaseException, str]] = []
    seen = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(links) < 20:
        seen.add(id(one))
        if one.__cause__ is not None:
            links.append((one, _CAUSE))
            one = one.__cause__
        elif one.__context__ is not None and not one.__suppress_context__:
            links.append((one, _CONTEXT))
            one = one.__context__
        else:
            links.append((one, ""))
            one = None
    links.reverse()
    for number, (link, _) in enumerate(links):
        if number:
            yield ""
            yield links[number][1]
            yield ""
        yield from _one(link, rule and not number)


def _one(error: BaseException, rule: bool) -> Iterator[str]:
    name = type(error).__name__
    found = _frames(error.__traceback__)
    syntax = isinstance(error, SyntaxError) and error.filename
    if not syntax or found:
        if rule:
            yield RED + _RULE + OFF
        yield "%s%s%s%s" % (RED, name, OFF, "Traceback (most recent call last)".rjust(75 - len(name)))
    for number, text in enumerate(_folded(found)):
        yield ("\n" if number else "") + text
    if syntax:
        yield from _syntax(error)  # type: ignore[arg-type]
    yield from _summary(error, blank=not syntax)
    for number, sub in enumerate(_members(error), 1):
        yield "  +%s %d %s" % ("-" * 16, number, "-" * 16)
        yield from ("  | " + line for text in _chain(sub, False) for line in text.split("\n"))


def _members(error: BaseException) -> list[BaseException]:
    """The exceptions of a group."""
    found = getattr(error, "exceptions", ())
    return [one for one in found if isinstance(one, BaseException)] if isinstance(found, tuple) else []


def _summary(error: BaseException, blank: bool = True) -> list[str]:
    text = text_of(error) if not isinstance(error, SyntaxError) else error.msg or ""
    head = "%s%s%s: %s" % (RED, type(error).__name__, OFF, text)
    notes = [str(n) for n in getattr(error, "__notes__", None) or ()]
    return [*([""] if blank else []), head, *notes]


def _frames(tb: types.TracebackType | None) -> list[tuple[types.FrameType, int]]:
    """Frames that are not ours. What called the cell (an event loop) is not shown either."""
    found = []
    while tb is not None:
        filename = tb.tb_frame.f_code.co_filename
        if os.path.dirname(filename) != _GUEST:
            found.append((tb.tb_frame, tb.tb_lineno))
        tb = tb.tb_next
    first = next((n for n, (f, _) in enumerate(found) if f.f_code.co_filename in _names), 0)
    return found[first:]


def without_ours(tb: types.TracebackType) -> types.TracebackType:
    """A traceback from the first frame of a cell on."""
    one: types.TracebackType | None = tb
    while one is not None and one.tb_frame.f_code.co_filename not in _names:
        one = one.tb_next
    return one or tb


# Where our own frames come from. Not __file__: inside the zip the two differ.
_GUEST = os.path.dirname(render.__code__.co_filename)


def _folded(found: list[tuple[types.FrameType, int]]) -> list[str]:
    """The frames as texts. One that comes again and again (a recursion) is shown twice and then counted."""
    texts: list[str] = []
    seen: dict[tuple[Any, int], int] = {}
    skipped: dict[str, int] = {}

    def close() -> None:
        if skipped:
            said = ", ".join("%s (%d times)" % item for item in skipped.items())
            texts.append("    [... skipping similar frames: %s]" % said)
            skipped.clear()

    for at, (frame, number) in enumerate(found):
        key = (frame.f_code, number)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 2 and at < len(found) - 1:
            name = "%s at line %d" % (getattr(frame.f_code, "co_qualname", frame.f_code.co_name), number)
            skipped[name] = skipped.get(name, 0) + 1
            continue
        close()
        texts.append(_frame(frame, number))
    close()
    if len(texts) <= MAX_FRAMES:
        return texts
    half = MAX_FRAMES // 2
    return [*texts[:half], "    ... %d more frames ..." % (len(texts) - 2 * half), *texts[-half:]]


def _arguments(code: types.CodeType) -> str:
    """Names of a function's parameters, as ``(a, b, *rest)``."""
    count = code.co_argcount + code.co_kwonlyargcount
    names = list(code.co_varnames[:count])
    for flag, stars in ((0x04, "*"), (0x08, "**")):  # CO_VARARGS, CO_VARKEYWORDS
        if code.co_flags & flag:
            names.append(stars + code.co_varnames[count])
            count += 1
    return "(%s)" % ", ".join(names)


def _frame(frame: types.FrameType, number: int) -> str:
    code = frame.f_code
    cell = code.co_filename in _names
    name = getattr(code, "co_qualname", code.co_name)
    where = "" if name == "<module>" else ", in %s%s%s%s" % (CYAN, name, OFF, _arguments(code))
    if cell:
        title = "%s%s%s, line %d%s" % (GREEN, _title(code.co_filename), OFF, number, where)
    else:
        title = "File %s%s:%d%s%s" % (GREEN, code.co_filename, number, OFF, where)
    if not cell:
        linecache.checkcache(code.co_filename)
    return "\n".join([title, *_source(code.co_filename, number, frame.f_globals)])


def _source(filename: str, number: int, namespace: dict[str, Any] | None = None) -> Iterator[str]:
    lines = linecache.getlines(filename, namespace)
    for at in range(max(1, number - 2), min(len(lines), number + 2) + 1):
        line = lines[at - 1].rstrip("\n")
        if at == number:
            yield "%s----> %s%d%s %s" % (GREEN, BOLD, at, OFF, line)
        else:
            yield "%s%s%s %s" % (GREEN, str(at).rjust(7), OFF, line)


def _syntax(error: SyntaxError) -> Iterator[str]:
    filename, number = error.filename or "", error.lineno or 0
    where = "" if filename in _names else "File "
    yield "  %s%s%s%s, line %d" % (where, GREEN, _title(filename), OFF, number)
    known = linecache.getline(filename, number) if filename in _names else ""
    text = (known or error.text or linecache.getline(filename, number)).rstrip("\n")
    if not text.strip():
        return
    stripped = text.lstrip()
    indent = len(text) - len(stripped)
    start = max((error.offset or 1) - 1 - indent, 0)
    end = getattr(error, "end_offset", None) or 0
    width = end - 1 - indent - start if getattr(error, "end_lineno", None) == number else 1
    yield "    " + stripped
    yield "    " + " " * start + RED + "^" * max(1, min(width, len(stripped) - start)) + OFF
