"""Reading a container of variables (see :mod:`.packing`), believing none of its bytes.

On the notebook's side the container comes from a sandbox: every size is checked before memory is taken for
it, every body is used once, and values are built of a closed list of types.
"""

from __future__ import annotations

import array
import json
import struct
import sys

from .packing import MAGIC, MAX_HEADER, NA, NAN, NAT, PATHS, PIECE, CannotCarry, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

MAX_NAMES = 1000
#: Bytes of a body from which on it is filled in place.
ROOM = 64 << 10
#: Bytes of memory a text, or a number in a list, may take beside its characters.
_OBJECT = 80
MAX_FRACTION = 1 << 20  # bits
#: Bytes of memory that are asked for at once, a number of whole pages.
_MADV_POPULATE_WRITE, _AHEAD = 23, 4 << 20
#: Functions of the other modules: what becomes of a body of such a form as soon as it is there.
EARLY: dict[str, Callable[[Unpacker, Any], Any]] = {}


class Unpacker:
    """Reads a container as its bytes come in, believing none of them.

    Args:
        place: where this runs, as errors say it: "this kernel" or "the sandbox".
        pickled: unpickle what is a pickle; else refuse it.
        room: bytes of memory that may be used; None for any number.
        check: called with the header; raises on what should not be parsed.
        names: the only names allowed, None for any.
    """

    def __init__(
        self,
        place: str,
        pickled: bool = False,
        room: int | None = None,
        check: Callable[[bytes], Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> None:
        self.place, self.pickled = place, pickled
        self._room, self._check = room, check
        self._names = None if names is None else set(names)
        self._head = bytearray()
        self._length = -1
        self._vars: list[Any] | None = None
        self._specs: list[tuple[int, str, int]] = []
        self.bodies: list[Any] = []
        self._view: memoryview | None = None
        self._buffer: Any = None
        self._filled = 0
        self._touched = 0

    def take(self, piece: Any) -> None:
        """Take the next bytes. Raises Malformed, CannotCarry."""
        view = memoryview(piece).cast("B")
        if self._vars is None:
            view = self._take_head(view)
        while len(view):
            if self._view is None:
                raise Malformed("more bytes than were announced")
            count = min(len(view), len(self._view) - self._filled)
            self._view[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == len(self._view):
                self._finish_body()

    def room(self) -> memoryview | None:
        """The memory where the next bytes belong, from its start on; None where `take` is quicker."""
        if self._view is None or len(self._view) - self._filled < ROOM:
            return None
        if self._filled >= self._touched:
            self._touched = _touched(self._buffer, self._filled)
        return self._view[self._filled :]

    def filled(self, count: int) -> None:
        """So many bytes of the `room` were filled. Raises Malformed, CannotCarry."""
        self._filled += count
        if self._view is not None and self._filled == len(self._view):
            self._finish_body()

    def _take_head(self, view: memoryview) -> memoryview:
        start = len(MAGIC) + 4
        if self._length < 0:
            count = min(len(view), start - len(self._head))
            self._head += view[:count]
            view = view[count:]
            if len(self._head) < start:
                return view
            if self._head[: len(MAGIC)] != MAGIC:
                raise Malformed("it does not begin as one")
            self._length = struct.unpack("<I", self._head[len(MAGIC) :])[0]
            if self._length > MAX_HEADER:
                raise Malformed("a header of %d bytes" % self._length)
            self._head.clear()
        count = min(len(view), self._length - len(self._head))
        self._head += view[:count]
        if len(self._head) == self._length:
            self._read_head(bytes(self._head))
            self._head.clear()
        return view[count:]

    def _read_head(self, head: bytes) -> None:
        if self._check is not None:
            self._check(head)
        try:
            value = json.loads(head.decode("ascii"))
            found, specs = value["vars"], value["bodies"]
            self._specs = [_spec(spec) for spec in specs]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Malformed("its header cannot be read: %s" % type(error).__name__) from None
        if not isinstance(found, list) or len(found) > MAX_NAMES:
            raise Malformed("its variables are no short list")
        for pair in found:
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise Malformed("a variable is no name and value")
            if self._names is not None and pair[0] not in self._names:
                raise Malformed("a variable %.60r that nobody asked for" % pair[0])
        needed = sum(size + _OBJECT * count for size, _, count in self._specs)
        if self._room is not None and needed > self._room:
            raise CannotCarry(
                "%s bytes are needed for the variables, and %s has about %s free"
                % (format(needed, ","), self.place, format(self._room, ","))
            )
        self._vars = found
        self._next_body()

    def _next_body(self) -> None:
        while len(self.bodies) < len(self._specs):
            size = self._specs[len(self.bodies)][0]
            self._buffer = _room_for(size)
            self._view, self._filled, self._touched = memoryview(self._buffer).cast("B"), 0, 0
            if size:
                return
            self._keep_body()
        self._view = self._buffer = None

    def _finish_body(self) -> None:
        self._keep_body()
        self._next_body()

    def _keep_body(self) -> None:
        _, form, count = self._specs[len(self.bodies)]
        buffer, self._buffer, self._view = self._buffer, None, None
        if form == "raw":
            self.bodies.append(buffer)
        elif form in ("ints", "floats"):
            numbers = array.array("q" if form == "ints" else "d")
            numbers.frombytes(buffer)
            self.bodies.append(numbers.tolist())
        elif form == "strs":
            self.bodies.append(_texts(memoryview(buffer).cast("B"), count))
        elif form in EARLY:
            try:
                self.bodies.append(EARLY[form](self, buffer))
            except ImportError as error:
                raise self.missing(error.name or str(error)) from None
        else:
            raise Malformed("a body of no known form")

    def values(self) -> dict[str, Any]:
        """The variables, when all bytes were taken. Raises Malformed, CannotCarry."""
        if self._vars is None or len(self.bodies) < len(self._specs):
            raise Malformed("it ends too early")
        try:
            return {name: self.value(node) for name, node in self._vars}
        except (CannotCarry, Malformed):
            raise
        except ImportError as error:
            raise self.missing(error.name or str(error)) from None
        except Exception as error:
            raise Malformed("%s: %.200s" % (type(error).__name__, error)) from None

    def missing(self, package: str) -> CannotCarry:
        """The error for a package that is not installed here."""
        return CannotCarry("%s has no %s, which a variable needs" % (self.place, package.partition(".")[0]))

    def body(self, node: dict[str, Any], kind: Any = None) -> Any:
        """The body a node names: its bytes, or what became of them. Each can be had once."""
        number = node["b"]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.bodies):
            raise Malformed("a body that is none")
        found, self.bodies[number] = self.bodies[number], None
        if kind is None:
            kind = _Buffer
        if not isinstance(found, kind):
            raise Malformed("a body of another kind, or used twice")
        return found

    def value(self, node: Any) -> Any:
        """The value of a tree."""
        if isinstance(node, list):
            return [self.value(one) for one in node]
        if not isinstance(node, dict):
            return node
        kind = node.get("t")
        reader = READERS.get(kind) if isinstance(kind, str) else None
        if reader is None:
            raise Malformed("a value of no known kind")
        return reader(self, node)


def _spec(spec: Any) -> tuple[int, str, int]:
    size, form, count = spec
    for number in (size, count):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**50:
            raise ValueError("size")
    most = {"ints": 8, "floats": 8, "strs": 4}.get(form)
    # A count is what memory is reckoned with: as many as the bytes hold, and no fewer than there are.
    if not isinstance(form, str) or (most is not None and count * most > size):
        raise ValueError("form")
    if form in ("ints", "floats") and count * 8 != size:
        raise ValueError("count")
    return size, form, count


def _room_for(size: int) -> Any:
    """Memory for a body, not touched before it is filled; writable, as arrays made of it must be.

    Large memory is mapped in small pages: huge ones, which numpy asks for, are several times as slow to get
    on a machine whose memory is full of files. A forked process gets a copy, as of any other memory.
    """
    if size < PIECE:
        return bytearray(size)
    import mmap

    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


def _touched(buffer: Any, start: int) -> int:
    """Have some of a large body's memory be there before it is filled; returns where the next of it begins.

    The system is quicker to give much of it than page by page.
    """
    if not hasattr(buffer, "madvise") or sys.platform != "linux":
        return len(buffer)
    start -= start % _AHEAD
    try:
        buffer.madvise(_MADV_POPULATE_WRITE, start, min(_AHEAD, len(buffer) - start))
    except OSError:
        return len(buffer)  # an older system: it comes page by page
    return start + _AHEAD


def _texts(view: memoryview, count: int) -> list[Any]:
    if len(view) < 4 or struct.unpack("<I", view[:4])[0] != count or len(view) < 4 + 4 * count:
        raise Malformed("texts that were not announced")
    lengths = array.array("i")
    lengths.frombytes(view[4 : 4 + 4 * count])
    start, found = 4 + 4 * count, []
    if start + sum(length for length in lengths if length > 0) != len(view):
        raise Malformed("texts of another length")
    for length in lengths:
        if length < 0:
            found.append(MISSING.get(length))
        else:
            found.append(str(view[start : start + length], "utf-8", "surrogatepass"))
            start += length
    return found


class _BufferKind(type):
    def __instancecheck__(cls, value: object) -> bool:
        try:
            memoryview(value).release()  # type: ignore[arg-type]
        except TypeError:
            return False
        return True


class _Buffer(metaclass=_BufferKind):
    """Whatever has bytes: bytearray, mmap, an array of numpy."""


class Missing:
    """Stands in a list of texts for what is none."""

    def __init__(self, code: int) -> None:
        self.code = code


MISSING: dict[int, Any] = {code: Missing(code) for code in (NAN, NA, NAT)}


def texts(unpacker: Unpacker, node: dict[str, Any]) -> list[Any]:
    """Texts, and instances of Missing, of the bodies a node names."""
    parts = [unpacker.body({"b": number}, list) for number in node["b"]]
    return parts[0] if len(parts) == 1 else [item for part in parts for item in part]


def _strs(unpacker: Unpacker, node: dict[str, Any]) -> list[str]:
    found = texts(unpacker, node)
    if any(type(item) is not str for item in found):
        raise Malformed("a text that is none")
    return found


def _dict(unpacker: Unpacker, node: dict[str, Any]) -> dict[Any, Any]:
    keys, values = (unpacker.value(part) for part in node["v"])
    found = {key: values[number] for number, key in enumerate(keys)}
    if len(found) != len(values):
        raise Malformed("a dict whose keys are not one for each value")
    return found


def _pickle(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    if not unpacker.pickled:
        raise CannotCarry("a variable came as a pickle, which nobody asked for")
    import pickle

    return pickle.loads(unpacker.body(node))


def _big(unpacker: Unpacker, node: dict[str, Any]) -> int:
    return int(text(node), 16)


def text(node: dict[str, Any]) -> str:
    if not isinstance(node["v"], str):
        raise Malformed("no text where one belongs")
    return str(node["v"])


def whole_numbers(node: dict[str, Any]) -> list[int]:
    numbers = node["v"]
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise Malformed("no numbers where they belong")
    return numbers


def _float(unpacker: Unpacker, node: dict[str, Any]) -> float:
    return {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}[text(node)]


def _datetime(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import datetime

    *parts, fold = whole_numbers(node)
    kind: Any = datetime.datetime if node["t"] == "datetime" else datetime.time
    return kind(*parts, tzinfo=unpacker.value(node.get("z")), fold=fold)


def _timezone(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import datetime

    days, seconds, microseconds, name = node["v"]
    offset = datetime.timedelta(days, seconds, microseconds)
    if name is None:
        return datetime.timezone(offset) if offset else datetime.timezone.utc
    return datetime.timezone(offset, name)


def _zoneinfo(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(text(node))
    except zoneinfo.ZoneInfoNotFoundError:
        raise CannotCarry("%s knows no time zone %.60r" % (unpacker.place, node["v"])) from None


def _of_library(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    """Values of the standard library that are made of their parts."""
    kind = node["t"]
    if kind in ("date", "timedelta"):
        import datetime

        return getattr(datetime, kind)(*whole_numbers(node))
    if kind == "Decimal":
        import decimal

        return decimal.Decimal(text(node))
    if kind == "Fraction":
        import fractions

        parts = [unpacker.value(part) for part in node["v"]]
        if any(type(part) is not int or part.bit_length() > MAX_FRACTION for part in parts):
            raise Malformed("no fraction, or one whose reduction would not end")
        return fractions.Fraction(*parts)
    if kind == "UUID":
        import uuid

        return uuid.UUID(text(node))
    import pathlib

    name, path = node["v"]
    if name not in PATHS.values() or not isinstance(path, str):
        raise Malformed("a path of no kind")
    return getattr(pathlib, name)(path)


READERS: dict[str, Callable[[Unpacker, dict[str, Any]], Any]] = {
    "int": _big,
    "float": _float,
    "ints": lambda unpacker, node: unpacker.body(node, list),
    "floats": lambda unpacker, node: unpacker.body(node, list),
    "strs": _strs,
    "tuple": lambda unpacker, node: tuple(unpacker.value(node["v"])),
    "set": lambda unpacker, node: set(unpacker.value(node["v"])),
    "frozenset": lambda unpacker, node: frozenset(unpacker.value(node["v"])),
    "map": lambda unpacker, node: {str(key): unpacker.value(one) for key, one in node["v"].items()},
    "dict": _dict,
    "bytes": lambda unpacker, node: bytes(unpacker.body(node)),
    "bytearray": lambda unpacker, node: bytearray(unpacker.body(node)),
    "complex": lambda unpacker, node: complex(*[unpacker.value(part) for part in node["v"]]),
    "range": lambda unpacker, node: range(*[unpacker.value(part) for part in node["v"]]),
    "slice": lambda unpacker, node: slice(*[unpacker.value(part) for part in node["v"]]),
    "ellipsis": lambda unpacker, node: Ellipsis,
    "datetime": _datetime,
    "time": _datetime,
    "timezone": _timezone,
    "ZoneInfo": _zoneinfo,
    "date": _of_library,
    "timedelta": _of_library,
    "Decimal": _of_library,
    "Fraction": _of_library,
    "UUID": _of_library,
    "path": _of_library,
    "pickle": _pickle,
}
