"""How a value is written as text: the same lines an IPython notebook shows, without IPython.

A printer collects texts, possible line ends and groups, and lays them out afterwards: a group stays on one
line when it fits (with what follows it up to the next possible line end), else every line end of that group
is taken, the outermost group first. ``_repr_pretty_(printer, cycle)`` methods draw through the same printer.
"""

from __future__ import annotations

import collections
import re
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

WIDTH, MAX_ITEMS = 79, 1000
_FLAGS = ("TEMPLATE", "IGNORECASE", "LOCALE", "MULTILINE", "DOTALL", "UNICODE", "VERBOSE", "DEBUG")


class _Group:
    """Texts, groups and possible line ends: a tuple is one, or with ``True`` one that is always taken."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def flat(self) -> int:
        """Width on one line; without end when a line end must be taken."""
        total = 0
        for part in self.parts:
            if isinstance(part, str):
                total += len(part)
            elif isinstance(part, _Group):
                total += part.flat()
            else:
                total += len(part[0]) if not part[2] else 1 << 40
        return total


class Printer:
    """What ``_repr_pretty_`` methods are given.

    Attributes:
        max_width: columns a line may have.
        max_seq_length: items of a container that are written.
        stack: ids of the objects being written.
        precision: a % format for floats, or "".
    """

    newline = "\n"
    verbose = False

    def __init__(self, max_width: int = WIDTH, max_seq_length: int = MAX_ITEMS, precision: str = "") -> None:
        self.max_width = max_width
        self.max_seq_length = max_seq_length
        self.precision = precision
        self.stack: list[int] = []
        self.indentation = 0
        self._root = _Group()
        self._open = [self._root]

    # -- collecting ----------------------------------------------------------------------------------------

    def text(self, obj: str) -> None:
        """Add a text."""
        self._open[-1].parts.append(str(obj))

    def breakable(self, sep: str = " ") -> None:
        """Add a separator that may become a line end."""
        self._open[-1].parts.append((sep, self.indentation, False))

    def break_(self) -> None:
        """Add a line end."""
        self._open[-1].parts.append(("", self.indentation, True))

    def begin_group(self, indent: int = 0, open: str = "") -> None:
        """Begin a group whose line ends are taken together."""
        if open:
            self.text(open)
        group = _Group()
        self._open[-1].parts.append(group)
        self._open.append(group)
        self.indentation += indent

    def end_group(self, dedent: int = 0, close: str = "") -> None:
        """End the group."""
        self.indentation -= dedent
        if len(self._open) > 1:
            self._open.pop()
        if close:
            self.text(close)

    def group(self, indent: int = 0, open: str = "", close: str = "") -> _Within:
        """``begin_group`` and ``end_group`` as a context manager."""
        return _Within(lambda: self.begin_group(indent, open), lambda: self.end_group(indent, close))

    def indent(self, indent: int) -> _Within:
        """More indentation inside of a ``with`` block."""

        def change(by: int) -> None:
            self.indentation += by

        return _Within(lambda: change(indent), lambda: change(-indent))

    def pretty(self, obj: Any) -> None:
        """Add an object."""
        cycle = id(obj) in self.stack
        self.stack.append(id(obj))
        self.begin_group()
        try:
            _drawer(obj)(obj, self, cycle)
        finally:
            self.end_group()
            self.stack.pop()

    def flush(self) -> None:
        """Part of the protocol; there is nothing to do."""

    # -- laying out ----------------------------------------------------------------------------------------

    def result(self) -> str:
        """The text of everything added."""
        out: list[str] = []
        self._lay(self._root, 0, 0, out)
        return "".join(out)

    def _lay(self, group: _Group, column: int, behind: int, out: list[str]) -> int:
        flat = column + group.flat() + behind <= self.max_width
        parts = group.parts
        for at, part in enumerate(parts):
            if isinstance(part, str):
                out.append(part)
                column += len(part)
            elif isinstance(part, _Group):
                column = self._lay(part, column, 0 if flat else _until_break(parts, at + 1, behind), out)
            elif flat:
                out.append(part[0])
                column += len(part[0])
            else:
                out.append("\n" + " " * part[1])
                column = part[1]
        return column


def _until_break(parts: list[Any], at: int, behind: int) -> int:
    """Width of what follows on the same line in a group whose line ends are taken."""
    total = 0
    for part in parts[at:]:
        if isinstance(part, tuple):
            return total
        total += len(part) if isinstance(part, str) else _first(part)
        if isinstance(part, _Group) and any(not isinstance(p, str) for p in part.parts):
            return total
    return total + behind


def _first(group: _Group) -> int:
    total = 0
    for part in group.parts:
        if isinstance(part, tuple):
            break
        total += len(part) if isinstance(part, str) else _first(part)
    return total


class _Within:
    def __init__(self, enter: Callable[[], Any], leave: Callable[[], Any]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()


def pretty(value: Any, precision: str = "") -> str:
    """A value as text, on several lines when it is long.

    In:  pretty({"a": 1})
    Out: "{'a': 1}"
    """
    if type(value) in (int, bool):
        return repr(value)
    printer = Printer(precision=precision)
    printer.pretty(value)
    return printer.result()


# -- what each kind of value looks like --------------------------------------------------------------------


def _drawer(value: Any) -> Callable[[Any, Printer, bool], Any]:
    """The function that draws a value: the first class in its order of resolution that says how."""
    kind = type(value)
    for cls in getattr(kind, "__mro__", (kind,)):
        found = _KINDS.get(cls)
        if found is not None:
            return found
        own = vars(cls)
        if callable(own.get("_repr_pretty_")):
            method = cls._repr_pretty_
            return lambda obj, printer, cycle: method(obj, printer, cycle)
        if cls is not object and callable(own.get("__repr__")):
            return _repr
    return _plain


def _repr(value: Any, printer: Printer, cycle: bool) -> None:
    lines = repr(value).splitlines()
    with printer.group():
        for number, line in enumerate(lines):
            if number:
                printer.break_()
            printer.text(line)


def _plain(value: Any, printer: Printer, cycle: bool) -> None:
    """An object whose class has no ``__repr__`` of its own."""
    kind = type(value)
    if _method(kind) is not _method(object):
        _repr(value, printer, cycle)
        return
    printer.text("<%s at %#x>" % (_qualified(kind), id(value)))


def _method(kind: Any) -> Any:
    return kind.__repr__


def _qualified(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    name = name if isinstance(name, str) else getattr(value, "__name__", "<unknown>")
    module = getattr(value, "__module__", None)
    return str(name) if module in (None, "builtins", "exceptions") else "%s.%s" % (module, name)


def _items(value: Any, printer: Printer, start: str, end: str, items: Any) -> None:
    printer.begin_group(len(start), start)
    for number, item in enumerate(items):
        if number:
            printer.text(",")
            printer.breakable()
        if number >= printer.max_seq_length:
            printer.text("...")
            break
        printer.pretty(item)
    if isinstance(value, tuple) and len(value) == 1:
        printer.text(",")
    printer.end_group(len(start), end)


def _sequence(start: str, end: str, base: Any) -> Callable[[Any, Printer, bool], None]:
    def draw(value: Any, printer: Printer, cycle: bool) -> None:
        if type(value) is not base and type(value).__repr__ is not base.__repr__:
            printer.text(repr(value))
        elif cycle:
            printer.text(start + "..." + end)
        else:
            _items(value, printer, start, end, value)

    return draw


def _set(start: str, end: str, base: Any) -> Callable[[Any, Printer, bool], None]:
    def draw(value: Any, printer: Printer, cycle: bool) -> None:
        if type(value) is not base and type(value).__repr__ is not base.__repr__:
            printer.text(repr(value))
        elif cycle:
            printer.text(start + "..." + end)
        elif not value:
            printer.text(base.__name__ + "()")
        else:
            items = list(value)
            if len(items) <= printer.max_seq_length:
                try:
                    items.sort()
                except Exception:
                    items = list(value)
            _items(value, printer, start, end, items)

    return draw


def _mapping(start: str, end: str, base: Any) -> Callable[[Any, Printer, bool], None]:
    def draw(value: Any, printer: Printer, cycle: bool) -> None:
        if type(value) is not base and type(value).__repr__ is not base.__repr__:
            printer.text(repr(value))
            return
        if cycle:
            printer.text("{...}")
            return
        printer.begin_group(len(start), start)
        for number, key in enumerate(value.keys()):
            if number:
                printer.text(",")
                printer.breakable()
            if number >= printer.max_seq_length:
                printer.text("...")
                break
            printer.pretty(key)
            printer.text(": ")
            printer.pretty(value[key])
        printer.end_group(len(start), end)

    return draw


def _call(printer: Printer, name: str, arguments: Any, named: Any = ()) -> None:
    prefix = name + "("
    first = True
    with printer.group(len(prefix), prefix, ")"):
        for key, value in [*((None, a) for a in arguments), *named]:
            if not first:
                printer.text(",")
                printer.breakable()
            first = False
            if key is None:
                printer.pretty(value)
            else:
                with printer.group(len(key) + 1, key + "="):
                    printer.pretty(value)


def _calling(arguments: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, Printer, bool], None]:
    """Drawn as the call that makes it."""

    def draw(value: Any, printer: Printer, cycle: bool) -> None:
        name = type(value).__name__
        if cycle:
            printer.text(name + "(...)")
        else:
            positional, named = arguments(value)
            _call(printer, name, positional, named)

    return draw


def _namespace(value: Any, printer: Printer, cycle: bool) -> None:
    name = "namespace" if type(value) is types.SimpleNamespace else type(value).__name__
    if cycle:
        printer.text(name + "(...)")
    else:
        _call(printer, name, (), vars(value).items())


def _type(value: Any, printer: Printer, cycle: bool) -> None:
    metas = type(value).__mro__
    # A metaclass that says how its classes are written.
    first = next(m for m in metas if "__repr__" in vars(m))
    if first is not type:
        _repr(value, printer, cycle)
    else:
        printer.text(_qualified(value))


def _function(value: Any, printer: Printer, cycle: bool) -> None:
    import inspect

    name = _qualified(value)
    try:
        name += str(inspect.signature(value))
    except (ValueError, TypeError):
        name = _qualified(value)
    printer.text("<function %s>" % name)


def _exception(value: Any, printer: Printer, cycle: bool) -> None:
    if _method(type(value)) is not _method(BaseException):
        _repr(value, printer, cycle)
    elif cycle:
        printer.text(_qualified(type(value)) + "(...)")
    else:
        _call(printer, _qualified(type(value)), value.args)


def _float(value: Any, printer: Printer, cycle: bool) -> None:
    printer.text(printer.precision % value if printer.precision else repr(value))


def _pattern(value: Any, printer: Printer, cycle: bool) -> None:
    flags = [name for name in _FLAGS if value.flags & getattr(re, name, 0)]
    parts = ["r" + repr(value.pattern), *filter(None, ["|".join("re." + flag for flag in flags)])]
    printer.text("re.compile(%s)" % ", ".join(parts))


_KINDS: dict[Any, Callable[[Any, Printer, bool], Any]] = {
    int: _repr,
    float: _float,
    str: _repr,
    tuple: _sequence("(", ")", tuple),
    list: _sequence("[", "]", list),
    dict: _mapping("{", "}", dict),
    set: _set("{", "}", set),
    frozenset: _set("frozenset({", "})", frozenset),
    type: _type,
    types.FunctionType: _function,
    types.BuiltinFunctionType: _function,
    types.MethodType: _repr,
    types.SimpleNamespace: _namespace,
    types.MappingProxyType: lambda v, p, c: (
        p.text("mappingproxy({...})") if c else _call(p, "mappingproxy", (dict(v),))
    ),
    re.Pattern: _pattern,
    BaseException: _exception,
    collections.OrderedDict: _calling(lambda v: ((list(v.items()),) if v else (), ())),
    collections.Counter: _calling(lambda v: ((dict(v.most_common()),) if v else (), ())),
    collections.defaultdict: _calling(lambda v: ((v.default_factory, dict(v)), ())),
    collections.deque: _calling(lambda v: ((list(v),), () if v.maxlen is None else (("maxlen", v.maxlen),))),
    collections.UserList: _calling(lambda v: ((v.data,), ())),
}
