"""Variables on their way in or out: a container that describes itself, the same code on both sides.

    magic · length of the header (4 bytes) · header (JSON) · bodies, one after the other

The header holds a tree for each variable: JSON values stand for themselves, everything else is an object with
the name of its kind under ``"t"``, and what is large is a number under ``"b"``, the body with the raw bytes.
Nothing is pickled, unless a person asked for it by name, and nothing is evaluated: whoever reads builds
values of a closed list of types, from checked sizes. What cannot be rebuilt exactly is refused, with the name
of its type and where it stands.

Writing makes no copy of large values (:meth:`Package.pieces` gives views of them), reading
(:mod:`.unpacking`) fills the memory the values will live in. Arrays and pictures are in :mod:`.arrays`,
pandas in :mod:`.dataframes`, polars and Arrow in :mod:`.arrow`; each adds itself to ``WRITERS`` here and to
the readers.
"""

from __future__ import annotations

import array
import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator

    Piece = bytes | bytearray | memoryview

MAGIC = b"DMVARS1\n"
#: Largest header, bytes; most values in it; how deep they lie in each other.
MAX_HEADER, MAX_NODES, MAX_DEPTH = 64 << 20, 1_000_000, 50

PIECE = 1 << 20
#: A list of so many plain values of one kind becomes one body.
LONG = 64
#: Bytes of text in one body of texts, and texts in it.
GROUP, GROUP_COUNT = 16 << 20, 1 << 20
#: Texts that stand for something else in a body of texts have one of these as their length.
NONE, NAN, NA, NAT = -1, -2, -3, -4
#: Functions of the other modules: the tree of a value they know, else None.
WRITERS: list[Callable[[Packer, Any, str], Any]] = []


class CannotCarry(Exception):
    """A value cannot be carried; the message is for people."""


class Malformed(Exception):
    """The bytes are no container of ours."""


def kind_of(value: Any) -> str:
    """The name of a value's type, as errors say it."""
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else "%s.%s" % (module, kind.__qualname__)


class Body:
    """One body: its size in bytes, what it is, how many objects it becomes, and where its bytes come from."""

    def __init__(self, size: int, form: str, count: int, pieces: Callable[[], Iterable[Piece]]) -> None:
        self.size, self.form, self.count, self.pieces = size, form, count, pieces


class Package:
    """Packed variables, ready to be written.

    Attributes:
        size: bytes in all.
        about: for each name the number of bytes of its bodies.
    """

    def __init__(self, names: list[str], nodes: list[Any], bodies: list[Body], about: dict[str, int]) -> None:
        head = json.dumps(
            {
                "vars": [[name, nodes[number]] for number, name in enumerate(names)],
                "bodies": [[body.size, body.form, body.count] for body in bodies],
            },
            separators=(",", ":"),
        ).encode("ascii")
        if len(head) > MAX_HEADER:
            raise CannotCarry(
                "lists and dicts of more than %d MiB are not carried; use arrays or frames, or write a file"
                % (MAX_HEADER >> 20)
            )
        self._head = MAGIC + struct.pack("<I", len(head)) + head
        self._bodies = bodies
        self.about = about
        self.size = len(self._head) + sum(body.size for body in bodies)

    def pieces(self) -> Iterator[Piece]:
        """The bytes, in pieces of at most about 16 MiB, most of them views of the values themselves."""
        yield self._head
        for body in self._bodies:
            left = body.size
            for piece in body.pieces():
                left -= len(piece)
                yield piece
            if left:
                raise CannotCarry("a variable changed while it was read")

    def bytes(self) -> bytes:
        """All of it at once."""
        return b"".join(self.pieces())


def pack(values: dict[str, Any], pickled: bool = False) -> Package:
    """Pack variables.

    Args:
        values: by the names they get on the other side.
        pickled: pickle what cannot be carried otherwise.

    Raises CannotCarry.
    """
    packer = Packer()
    nodes, about = [], {}
    for name, value in values.items():
        before = len(packer.bodies)
        try:
            nodes.append(packer.node(value, repr(name)))
        except CannotCarry:
            if not pickled:
                raise
            del packer.bodies[before:]
            nodes.append(packer.pickle(value, name))
        about[name] = sum(body.size for body in packer.bodies[before:])
    return Package(list(values), nodes, packer.bodies, about)


def _views(data: Any) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


class Packer:
    """Makes the tree of one container, and collects its bodies."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self._nodes = 0
        self._open: set[int] = set()

    def body(
        self, size: int, pieces: Callable[[], Iterable[Piece]], form: str = "raw", count: int = 0
    ) -> int:
        """Add a body; returns its number."""
        self.bodies.append(Body(size, form, count, pieces))
        return len(self.bodies) - 1

    def raw(self, data: Any) -> int:
        """Add anything with a contiguous buffer as a body; returns its number."""
        view = memoryview(data)
        return self.body(view.nbytes, lambda: _views(data) if view.nbytes else ())

    def refuse(self, value: Any, where: str, why: str = "cannot be carried safely") -> CannotCarry:
        """The error for a value."""
        return CannotCarry("%s is a %s, which %s" % (where, kind_of(value), why))

    def pickle(self, value: Any, name: str) -> dict[str, Any]:
        """A value as a pickle."""
        import pickle

        try:
            return {"t": "pickle", "b": self.raw(pickle.dumps(value, 4))}
        except Exception as error:
            raise CannotCarry("%r cannot be pickled: %s" % (name, error)) from None

    def node(self, value: Any, where: str) -> Any:
        """The tree of a value; ``where`` names it in errors."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise CannotCarry(
                "%s: more than %s values in lists and dicts are not carried; "
                "use an array or a frame, or write a file" % (where, format(MAX_NODES, ","))
            )
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(2**53) < value < 2**53 else {"t": "int", "v": hex(value)}
        if kind is float:
            return value if abs(value) < float("inf") else {"t": "float", "v": repr(value)}
        if kind in _CONTAINERS:
            if id(value) in self._open:
                raise CannotCarry("%s contains itself" % where)
            if len(self._open) >= MAX_DEPTH:
                raise CannotCarry("%s: nested deeper than %d levels" % (where, MAX_DEPTH))
            self._open.add(id(value))
            try:
                return self._container(value, kind, where)
            finally:
                self._open.discard(id(value))
        if kind is bytes or kind is bytearray:
            return {"t": kind.__name__, "b": self.raw(value)}
        if kind is complex:
            return {"t": "complex", "v": [self.node(value.real, where), self.node(value.imag, where)]}
        if kind is range or kind is slice:
            parts = [value.start, value.stop, value.step]
            return {"t": kind.__name__, "v": [self.node(part, where) for part in parts]}
        if value is Ellipsis:
            return {"t": "ellipsis"}
        found = _plain(self, value, kind, where)
        if found is None:
            for writer in WRITERS:
                found = writer(self, value, where)
                if found is not None:
                    return found
            raise self.refuse(value, where)
        return found

    def _container(self, value: Any, kind: type, where: str) -> Any:
        if kind is dict:
            if all(type(key) is str for key in value):
                return {
                    "t": "map",
                    "v": {key: self.node(one, "%s[%r]" % (where, key)) for key, one in value.items()},
                }
            keys = [self.node(key, "a key of " + where) for key in value]
            items = [self.node(one, "%s[%.40r]" % (where, key)) for key, one in value.items()]
            return {"t": "dict", "v": [keys, items]}
        items = value if kind is list else list(value)
        made = self._long(items) if len(items) >= LONG else None
        if made is None:
            named = kind in (list, tuple)
            made = [
                self.node(one, "%s[%d]" % (where, number) if named else "an element of " + where)
                for number, one in enumerate(items)
            ]
        return made if kind is list else {"t": kind.__name__, "v": made}

    def _long(self, items: list[Any]) -> Any:
        """A long list of plain values of one kind as bodies; None for any other."""
        kind = type(items[0])
        if kind not in (int, float, str) or any(type(one) is not kind for one in items):
            return None
        if kind is str:
            return {"t": "strs", "b": self.texts(items)}
        try:
            data = array.array("q" if kind is int else "d", items)
        except OverflowError:
            return None
        number = self.raw(data)
        self.bodies[number].form, self.bodies[number].count = kind.__name__ + "s", len(data)
        return {"t": kind.__name__ + "s", "b": number}

    def texts(self, items: Any, code: Callable[[Any], int | None] | None = None) -> list[int]:
        """Add texts as bodies; returns their numbers.

        Args:
            items: a sequence; a slice of it is a sequence too.
            code: for what is no text, which of NONE, NAN, NA and NAT stands for it.
        """
        numbers: list[int] = []
        start = 0
        while start < len(items) or not numbers:
            size, end = 4, start
            lengths = array.array("i")
            for item in items[start : start + GROUP_COUNT]:
                if type(item) is str:
                    length = len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
                else:
                    assert code is not None
                    length = code(item) or NONE
                if size + max(0, length) > GROUP and end > start:
                    break
                lengths.append(length)
                size += 4 + max(0, length)
                end += 1

            def pieces(start: int = start, end: int = end, lengths: Any = lengths) -> Iterator[Piece]:
                yield struct.pack("<I", len(lengths))
                yield memoryview(lengths).cast("B") if lengths else b""
                text = "".join(item for item in items[start:end] if type(item) is str)
                yield text.encode("utf-8", "surrogatepass")

            numbers.append(self.body(size, pieces, "strs", len(lengths)))
            start = end
            if not lengths:
                break
        return numbers


_CONTAINERS = (list, tuple, dict, set, frozenset)


def _plain(packer: Packer, value: Any, kind: type, where: str) -> Any:
    """Values of the standard library; None for any other."""
    name = (kind.__module__, kind.__qualname__)
    if name == ("datetime", "datetime"):
        parts = [value.year, value.month, value.day, value.hour, value.minute, value.second]
        parts += [value.microsecond, value.fold]
        return {"t": "datetime", "v": parts, "z": zone(packer, value.tzinfo, where)}
    if name == ("datetime", "date"):
        return {"t": "date", "v": [value.year, value.month, value.day]}
    if name == ("datetime", "time"):
        parts = [value.hour, value.minute, value.second, value.microsecond, value.fold]
        return {"t": "time", "v": parts, "z": zone(packer, value.tzinfo, where)}
    if name == ("datetime", "timedelta"):
        return {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    if name in _ZONES:
        return zone(packer, value, where)
    if name == ("decimal", "Decimal"):
        return {"t": "Decimal", "v": str(value)}
    if name == ("fractions", "Fraction"):
        return {
            "t": "Fraction",
            "v": [packer.node(value.numerator, where), packer.node(value.denominator, where)],
        }
    if name == ("uuid", "UUID"):
        return {"t": "UUID", "v": value.hex}
    if kind.__module__.partition(".")[0] == "pathlib" and kind.__name__ in PATHS:
        return {"t": "path", "v": [PATHS[kind.__name__], str(value)]}
    return None


#: A path of the running system is one of whatever system it arrives on.
PATHS = {
    "PosixPath": "Path",
    "WindowsPath": "Path",
    "PurePosixPath": "PurePosixPath",
    "PureWindowsPath": "PureWindowsPath",
}
_ZONES = (("datetime", "timezone"), ("zoneinfo", "ZoneInfo"))


def zone(packer: Packer, value: Any, where: str) -> Any:
    """The tree of a time zone, or of None."""
    if value is None:
        return None
    name = (type(value).__module__, type(value).__qualname__)
    if name == ("datetime", "timezone"):
        import datetime

        offset = value.utcoffset(None)
        given = value.tzname(None)
        plain = given == datetime.timezone(offset).tzname(None)
        return {
            "t": "timezone",
            "v": [offset.days, offset.seconds, offset.microseconds, None if plain else given],
        }
    if name[0].partition(".")[0] == "zoneinfo" and getattr(value, "key", None):
        return {"t": "ZoneInfo", "v": value.key}
    raise packer.refuse(value, "the time zone of " + where)
