"""Magics that look at things: ``name?``, ``%who``, ``%tb``, ``%%html`` and relatives."""

from __future__ import annotations

import re
import sys

from . import debugger, rich, tracebacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .worker import Session

_DOCUMENTED = ("int", "str", "float", "bytes", "bool", "NoneType", "list", "dict", "tuple", "set", "complex")


class Looking:
    """The magics."""

    _session: Session
    error: type[Exception]

    # -- name? ---------------------------------------------------------------------------------------------

    def inspect(self, name: str, detail: bool = False) -> None:
        """``name?`` and ``name??``: what an object is, in the notebook's pager."""
        frame = sys._getframe(1)
        try:
            value = eval(name, frame.f_globals, frame.f_locals)
        except Exception:
            print("Object `%s` not found." % name)
            return
        self._session.send({"msg": "page", "text": describe(value, detail)})

    def search(self, pattern: str) -> None:
        """``str.*find*?``: the names that match, in the notebook's pager."""
        import builtins
        import fnmatch

        frame = sys._getframe(1)
        owner, dot, last = pattern.rpartition(".")
        if "*" in owner:
            raise self.error("%s?: only the part behind the last dot can have a *" % pattern)
        try:
            known = dir(eval(owner, frame.f_globals, frame.f_locals)) if owner else dir(builtins)
        except Exception:
            print("Object `%s` not found." % owner)
            return
        if not owner:
            every = {*known, *frame.f_globals, *frame.f_locals}
            known = sorted(name for name in every if last[:1] == "_" or name[:1] != "_")
        found = [owner + dot + name for name in known if fnmatch.fnmatchcase(name, last)]
        self._session.send({"msg": "page", "text": "\n".join(found) or "No name matches."})

    # -- names ---------------------------------------------------------------------------------------------

    def _names(self, line: str) -> list[str]:
        wanted = set(line.split())
        names = self._session.namespace
        own = [n for n in names if not n.startswith("_") and n not in ("In", "Out")]
        return sorted(n for n in own if not wanted or type(names[n]).__name__ in wanted)

    def magic_who_ls(self, line: str) -> list[str]:
        """``%who_ls [TYPES]``: names the cells have defined, as a list."""
        return self._names(line)

    def magic_who(self, line: str) -> None:
        """``%who [TYPES]``: names the cells have defined."""
        names = self._names(line)
        if not names:
            empty = "No variables match your requested type." if line else "Interactive namespace is empty."
            print(empty)
            return
        for at in range(0, len(names), 10):
            print("".join(name + "\t " for name in names[at : at + 10]))

    def magic_whos(self, line: str) -> None:
        """``%whos [TYPES]``: the same as a table."""
        rows = [(n, type(v).__name__, _short(v)) for n, v in self._values(line)]
        if not rows:
            self.magic_who(line)
            return
        first = max(len("Variable"), *(len(row[0]) for row in rows))
        second = max(len("Type"), *(len(row[1]) for row in rows))
        head = "%-*s   %-*s   Data/Info" % (first, "Variable", second, "Type")
        print(head + "\n" + "-" * len(head))
        for name, kind, text in rows:
            print("%-*s   %-*s   %s" % (first, name, second, kind, text))

    def _values(self, line: str) -> list[tuple[str, Any]]:
        return [(name, self._session.namespace[name]) for name in self._names(line)]

    def magic_xdel(self, line: str) -> None:
        """``%xdel NAME``: delete a name, also from ``Out``."""
        name = line.strip()
        if name not in self._session.namespace:
            raise self.error("there is no variable %s" % name)
        value = self._session.namespace.pop(name)
        outputs = self._session.history.outputs
        for number in [n for n, v in outputs.items() if v is value]:
            del outputs[number]

    def magic_reset_selective(self, line: str) -> None:
        """``%reset_selective -f REGEX``: delete the names that match."""
        words = line.split()
        if words[:1] != ["-f"] or len(words) != 2:
            raise self.error("usage: %reset_selective -f REGEX (without -f it would have to ask)")
        pattern = re.compile(words[1])
        for name in self._names(""):
            if pattern.search(name):
                del self._session.namespace[name]

    # -- settings ------------------------------------------------------------------------------------------

    def magic_precision(self, line: str) -> str:
        """``%precision [DIGITS or FORMAT]``: how floats are shown; without a value the default again."""
        text = line.strip()
        if text.isdigit():
            text = "%%.%df" % int(text)
        try:
            _ = text and text % 1.5
        except (TypeError, ValueError):
            raise self.error("%%precision: %s is neither a number nor a format" % line) from None
        self._session.precision = text
        return text or "%r"

    def magic_xmode(self, line: str) -> None:
        """``%xmode Plain|Context|Verbose|Minimal``: how much of a traceback is shown."""
        mode = line.strip().capitalize() or "Context"
        if mode not in ("Plain", "Context", "Verbose", "Minimal", "Docs"):
            raise self.error("%xmode takes Plain, Context, Verbose or Minimal")
        tracebacks.mode = mode
        print("Exception reporting mode: %s" % mode)

    def magic_tb(self, line: str) -> None:
        """``%tb``: the whole traceback of the last error, once more."""
        error = getattr(sys, "last_value", None)
        if error is None:
            print("No traceback available to show.", file=sys.stderr)
        else:
            self._session.send(tracebacks.full(error))

    def magic_debug(self, line: str) -> None:
        """``%debug``: look around where the last error came from."""
        traceback = getattr(sys, "last_traceback", None)
        if traceback is None:
            print("No traceback has been produced, nothing to debug.", file=sys.stderr)
            return
        debugger.post_mortem(tracebacks.without_ours(traceback))

    # -- shown as they are ---------------------------------------------------------------------------------

    def cell_html(self, line: str, body: str) -> None:
        """``%%html``: show the cell as HTML."""
        self._shown("text/html", body, "HTML")

    def cell_markdown(self, line: str, body: str) -> None:
        """``%%markdown``: show the cell as Markdown."""
        self._shown("text/markdown", body, "Markdown")

    def cell_latex(self, line: str, body: str) -> None:
        """``%%latex``: show the cell as LaTeX."""
        self._shown("text/latex", body, "Latex")

    def cell_svg(self, line: str, body: str) -> None:
        """``%%svg``: show the cell as an SVG drawing."""
        self._shown("image/svg+xml", body.rstrip("\n"), "SVG")

    def cell_javascript(self, line: str, body: str) -> None:
        """``%%javascript``: a script for the notebook page, which runs it only for a trusted sandbox."""
        self._shown("application/javascript", body, "Javascript")

    cell_HTML, cell_SVG, cell_js = cell_html, cell_svg, cell_javascript

    def _shown(self, mime: str, body: str, name: str) -> None:
        rich.publish({mime: body, "text/plain": "<IPython.core.display.%s object>" % name})


def _short(value: Any) -> str:
    try:
        text = "n=%d" % len(value) if isinstance(value, (list, dict, tuple, set)) else str(value)
    except Exception as error:
        text = "<%s in its text>" % type(error).__name__
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:25] + "<...>" + text[-25:]


def describe(value: Any, detail: bool) -> str:
    """The page ``?`` shows, or with ``detail`` the one of ``??`` (with the source)."""
    import inspect

    rows: list[tuple[str, str]] = []
    try:
        if callable(value):
            name = getattr(value, "__name__", type(value).__name__)
            title = "Init signature" if isinstance(value, type) else "Signature"
            rows.append((title, name + str(inspect.signature(value))))
    except (TypeError, ValueError):
        rows = []
    kind = type(value).__name__
    plain = kind in _DOCUMENTED
    if plain or not (callable(value) or inspect.ismodule(value)):
        rows.append(("Type", kind))
        rows.append(("String form", _short(value)))
        if hasattr(value, "__len__"):
            rows.append(("Length", str(len(value))))
    source = ""
    if detail:
        try:
            source = inspect.getsource(value)
        except (TypeError, OSError):
            source = ""
    if source:
        rows.append(("Source", "\n" + source.rstrip("\n")))
    else:
        rows.append(("Docstring", inspect.getdoc(value) or "<no docstring>"))
    try:
        file = inspect.getfile(value)
    except (TypeError, OSError):
        file = ""
    if file:
        rows.append(("File", file))
    if not any(key == "Type" for key, _ in rows):
        rows.append(("Type", kind))
    width = max(len(key) for key, _ in rows) + 2
    out = []
    for key, text in rows:
        label = "\x1b[31m%s\x1b[39m" % (key + ":")
        lines = text.split("\n")
        gap = " " * (width - len(key) - 1)
        out.append(label + ("\n" + text.lstrip("\n") if len(lines) > 1 else gap + text))
    return "\n".join(out) + "\n"
