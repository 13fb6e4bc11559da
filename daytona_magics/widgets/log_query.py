"""Which rows of a log somebody wants to see, and where something is found in them.

A :class:`Selection` remembers one bit for each row, and grows with the log. It looks at the bytes on the disk
as they lie there and takes rows apart only where the text that is looked for can be. Regular expressions are
the reader's, lines are the sandbox's, and together they may take for ever: so each line gets a moment, and a
line that needs longer counts as found (hiding it would be worse) and is counted.
"""

from __future__ import annotations

import bisect
import threading
from array import array
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

from daytona_magics.widgets import log_text
from daytona_magics.widgets.log_store import BLOCK, HEAD, NOTE, RECORD, LogStore, Row, parse

#: Seconds a regular expression may take for one line, and in all until it is given up.
MOMENT, PATIENCE = 0.05, 5.0
#: Characters of a pattern; places found in one row that are shown.
MOST_PATTERN, MOST_MARKS = 1000, 200

#: Letters outside of ASCII that are the same as k, s and i where capitals do not matter.
_ODD = tuple(one.encode() for one in "\u212a\u017f\u0130\u0131")


class BadPattern(ValueError):
    """A regular expression that is none; the text says why."""


class Finder:
    """Looks for a text, or a regular expression, in lines.

    Args:
        pattern: what to look for.
        as_regex: it is a regular expression (Python's, as the package ``regex`` reads it).
        case: capitals matter.

    Attributes:
        slow: lines for which there was not time enough.

    Raises:
        BadPattern: it is no regular expression.

    In:  Finder("wor", False, False).places("Hello World")
    Out: [(6, 9)]
    """

    def __init__(self, pattern: str, as_regex: bool, case: bool) -> None:
        self.slow = 0
        self._spent = 0.0
        self._literal = b""
        self._case = case
        source = pattern if as_regex else regex.escape(pattern, special_only=True)
        try:
            self._regex = regex.compile(source, 0 if case else regex.IGNORECASE)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise BadPattern(f"{pattern!r} is no regular expression: {error}") from None
        if not as_regex and (case or pattern.isascii()):
            self._literal = pattern.encode() if case else pattern.lower().encode()

    def may_be_in(self, data: bytes) -> bool:
        """Whether it can be in these bytes at all."""
        # A style may stand in the middle of what is looked for.
        if not self._literal or b"\x1b" in data:
            return True
        if self._literal in (data if self._case else data.lower()):
            return True
        return not self._case and any(one in data for one in _ODD)

    def is_in(self, data: bytes) -> bool:
        """Whether a row holds it."""
        if not self.may_be_in(data):
            return False
        if self._literal and b"\x1b" not in data and (self._case or data.isascii()):
            return True
        line = log_text.text(data.decode("utf-8", "replace"))
        if self._spent <= PATIENCE:
            try:
                return self._regex.search(line, timeout=MOMENT) is not None
            except TimeoutError:
                self._spent += MOMENT
        self.slow += 1
        return True

    def places(self, line: str, most: int = MOST_MARKS) -> list[tuple[int, int]]:
        """Where it is in a line without styles; ``[(0, 0)]`` when there was no time to say."""
        if self._spent > PATIENCE:
            self.slow += 1
            return [(0, 0)]
        found: list[tuple[int, int]] = []
        try:
            for match in self._regex.finditer(line, timeout=MOMENT):
                found.append(match.span())
                if len(found) >= most:
                    break
        except TimeoutError:
            self.slow += 1
            self._spent += MOMENT
            return found or [(0, 0)]
        return found


@dataclass(frozen=True)
class Query:
    """What a view wants to see.

    Attributes:
        match: only rows that hold this; "" for all.
        find: rows to walk through that hold this, among those; "" for none.
        as_regex, case: of both.
        kinds: of streams that are shown.
        hidden: numbers of sources that are not.
    """

    match: str = ""
    find: str = ""
    as_regex: bool = False
    case: bool = False
    kinds: tuple[int, ...] = (1, 2)
    hidden: tuple[int, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether no row is left out."""
        return not self.match and not self.hidden and len(self.kinds) == 2

    def filter(self) -> Finder | None:
        """What a row must hold. Raises BadPattern."""
        return Finder(self.match, self.as_regex, self.case) if self.match else None

    def finder(self) -> Finder | None:
        """What is walked through. Raises BadPattern."""
        return Finder(self.find, self.as_regex, self.case) if self.find else None


class Selection:
    """The rows that fit, by their place among them. Places are counted from the beginning of the log, too.

    Args:
        store: the log.
        query: what fits.
        inside: walk through what is found (``query.find``) instead of showing what matches.

    Attributes:
        looked: number of the row up to which it is known.
    """

    def __init__(self, store: LogStore, query: Query, *, inside: bool = False) -> None:
        self._store, self._query = store, query
        self._finders = [one for one in (query.filter(), query.finder() if inside else None) if one]
        # Notes, and what says that something was dropped, are never filtered away, but nothing to be found.
        self._notes = not inside
        self._trivial = query.everything and not inside
        self._lock = threading.Lock()
        self._base = store.first // BLOCK
        self._masks = array("Q")
        self._totals = array("Q")  # places before each block
        self._count = 0
        self.looked = store.first

    @property
    def slow(self) -> int:
        """Lines for which a regular expression had not time enough."""
        return sum(one.slow for one in self._finders)

    @property
    def first(self) -> int:
        """Place of the oldest row that is kept."""
        if self._trivial:
            return self._store.first
        with self._lock:
            block = self._store.first // BLOCK - self._base
            if block <= 0 or not self._totals:
                return 0
            return int(self._totals[block]) if block < len(self._totals) else self._count

    @property
    def end(self) -> int:
        """Place after the last row that fits, as far as was looked."""
        return self._store.end if self._trivial else self._count

    @property
    def behind(self) -> int:
        """Rows that were not looked at yet."""
        return 0 if self._trivial else max(0, self._store.end - max(self.looked, self._store.first))

    def extend(self, most: int = 128) -> bool:
        """Look at some more of the log, ``most`` times 64 rows; whether there was something new."""
        if self._trivial:
            return False
        with self._lock:
            if self.looked >= self._store.end:
                return False
            start, data, places = self._store.blocks(self.looked // BLOCK, most)
            if not data:
                return False
            self._pad(start)
            for number, masks in enumerate(self._sought(start, data, places)):
                self._set(start + number, masks)
            self.looked = max(self.looked, self._ended)
            return True

    def _pad(self, block: int) -> None:
        """Blocks that were dropped before anybody looked hold nothing."""
        if not self._masks and block > self._base:
            self._base = block
        while len(self._masks) + self._base < block:
            self._masks.append(0)
            self._totals.append(self._count)

    def _set(self, block: int, mask: int) -> None:
        index = block - self._base
        if index == len(self._masks):
            self._masks.append(mask)
            self._totals.append(self._count)
            self._count += mask.bit_count()
        else:  # the last block, which was not full
            self._count += mask.bit_count() - self._masks[index].bit_count()
            self._masks[index] = mask

    def _sought(self, start: int, data: bytes, places: list[int]) -> list[int]:
        """A mask for each block of these bytes."""
        narrowed = not self._query.hidden and len(self._query.kinds) == 2
        skip = narrowed and any(not one.may_be_in(data) for one in self._finders)
        notes = set(self._noted(start, start + len(places)))
        masks = []
        for number, place in enumerate(places):
            block = start + number
            end = places[number + 1] if number + 1 < len(places) else len(data)
            piece = data[place:end]
            if (skip or any(not one.may_be_in(piece) for one in self._finders)) and block not in notes:
                masks.append(0)
                continue
            masks.append(self._mask(piece))
        self._ended = min(self._store.end, (start + len(places)) * BLOCK)
        if places and self._ended > (start + len(places) - 1) * BLOCK and self._ended % BLOCK:
            # The last block may have grown since it was read: it is read again.
            self._ended = (start + len(places) - 1) * BLOCK + _count(data[places[-1] :])
        return masks

    def _noted(self, start: int, stop: int) -> list[int]:
        notes = self._store.notes
        low = bisect.bisect_left(notes, start * BLOCK)
        return [number // BLOCK for number in notes[low : bisect.bisect_left(notes, stop * BLOCK)]]

    def _mask(self, data: bytes) -> int:
        """One bit for each row of a block that fits."""
        hidden, kinds, finders = self._query.hidden, self._query.kinds, self._finders
        mask, bit, at, end = 0, 1, 0, len(data)
        while at < end:
            # Not by way of Row: this runs for each of a million lines.
            length, source, kind, _ = RECORD.unpack_from(data, at)
            at += HEAD
            piece = data[at : at + length]
            at += length
            if source in hidden:
                fits = False
            elif kind & 15 == NOTE:
                fits = self._notes
            else:
                fits = kind & 15 in kinds and all(one.is_in(piece) for one in finders)
            if fits:
                mask |= bit
            bit <<= 1
        return mask

    # -- places --------------------------------------------------------------------------------------------

    def rows(self, place: int, count: int) -> list[tuple[int, Row]]:
        """The rows from this place on, as far as they are kept, each with its place."""
        if self._trivial:
            return [(row.number, row) for row in self._store.rows(place, place + count)]
        found: list[tuple[int, Row]] = []
        numbers = self._numbers(place, count)
        at = 0
        while at < len(numbers):
            # Rows near each other are read at once.
            last = at
            while last + 1 < len(numbers) and numbers[last + 1][1] - numbers[at][1] < 4 * BLOCK:
                last += 1
            wanted = {number: one for one, number in numbers[at : last + 1]}
            rows = self._store.rows(numbers[at][1], numbers[last][1] + 1)
            found += [(wanted[row.number], row) for row in rows if row.number in wanted]
            at = last + 1
        return found

    def _numbers(self, place: int, count: int) -> list[tuple[int, int]]:
        """Places and numbers of rows from this place on."""
        found: list[tuple[int, int]] = []
        with self._lock:
            index = max(0, bisect.bisect_right(self._totals, place) - 1)
            while index < len(self._masks) and len(found) < count:
                mask, at = self._masks[index], int(self._totals[index])
                while mask and len(found) < count:
                    low = mask & -mask
                    if at >= place:
                        found.append((at, (index + self._base) * BLOCK + low.bit_length() - 1))
                    mask ^= low
                    at += 1
                index += 1
        return found

    def number(self, place: int) -> int | None:
        """The number of the row at a place."""
        if self._trivial:
            return place if place < self._store.end else None
        found = self._numbers(place, 1)
        return found[0][1] if found else None

    def place(self, number: int) -> int:
        """The place of a row, or of the next that fits."""
        if self._trivial:
            return number
        with self._lock:
            index = number // BLOCK - self._base
            if index < 0:
                return 0
            if index >= len(self._masks):
                return self._count
            before = self._masks[index] & ((1 << number % BLOCK) - 1)
            return int(self._totals[index]) + before.bit_count()


def _count(data: bytes) -> int:
    return sum(1 for _ in parse(data, 0))


def query(given: dict[str, Any]) -> Query:
    """What a page asks for, checked. Raises BadPattern."""
    texts = [given.get(key, "") for key in ("match", "find")]
    if not all(isinstance(one, str) and len(one) <= MOST_PATTERN for one in texts):
        raise BadPattern(f"at most {MOST_PATTERN} characters can be looked for")
    kinds = [one for one in given.get("kinds", (1, 2)) if one in (1, 2)]
    hidden = [one for one in given.get("hidden", ()) if isinstance(one, int) and 0 <= one < 256]
    return Query(
        texts[0], texts[1], given.get("regex") is True, given.get("case") is True, tuple(kinds), tuple(hidden)
    )
