"""A log on the disk: appended at one end, forgotten at the other, read anywhere.

A widget shows a screen of a log that may have millions of lines, so neither the page nor the kernel holds
them. They are records in files that have no name (they end with the process), each of 8 MiB; when all of them
are more than the limit, the oldest goes and what it held is counted; when those of all logs of this process
are more than theirs, the oldest of the largest log goes. The place of every 64th record is remembered, 8
bytes for 64 lines. Rows are numbered from the beginning of the log, those that are gone included, so a number
means the same row for ever.

A line longer than :data:`PIECE` is several rows, of which all but the last are marked as going on.
"""

from __future__ import annotations

import bisect
import os
import struct
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from daytona_magics.notebook.card import size

#: Rows between two remembered places; bytes of one file and, unless told otherwise, of all; bytes of a row.
BLOCK, SEGMENT, LIMIT, PIECE = 64, 8 << 20, 256 << 20, 8192
#: Bytes of all logs of this process together, each file counted whole.
TOGETHER = 1 << 30
STDOUT, STDERR, NOTE = 1, 2, 3
#: Flags of a kind: the line goes on in the source's next row.
GOES_ON = 0x10
#: What each record begins with: bytes that follow, source, kind, time.
RECORD = struct.Struct("<HBBd")
HEAD = RECORD.size


class Row(NamedTuple):
    """One row.

    Attributes:
        number: counted from the beginning of the log.
        source: number of its source.
        kind: STDOUT, STDERR or NOTE (a sentence of ours).
        goes_on: the line continues in the source's next row.
        time: seconds since 1970 when it arrived; 0 when that is not known.
        data: UTF-8, with SGR sequences.
    """

    number: int
    source: int
    kind: int
    goes_on: bool
    time: float
    data: bytes

    @property
    def line(self) -> str:
        """Its text, with SGR sequences."""
        return self.data.decode("utf-8", "replace")


class _Segment:
    """One file. ``first`` is the number of its first row, ``places`` those of every 64th record."""

    def __init__(self, first: int) -> None:
        self.first, self.rows, self.size = first, 0, 0
        self.places = array("Q")
        self.file = tempfile.TemporaryFile(prefix="daytona-magics-log-", buffering=0)  # noqa: SIM115 - lives on

    def end_of(self, block: int) -> int:
        return self.places[block + 1] if block + 1 < len(self.places) else self.size


class LogStore:
    """The rows of one widget. Any thread.

    Args:
        limit: bytes on the disk beyond which the oldest rows are dropped.

    Attributes:
        first, end: numbers of the oldest row that is kept, and of the next row to come.
        lines: lines written so far, a line of several rows counted once.
        dropped_lines, dropped_bytes: of rows that are gone.
        dropped_why: what they had to go for, in words.
        on_drop: called when the oldest rows went for another log's sake, on that one's thread.
        clears: how often all rows were forgotten.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []
        self._size = 0
        self.first = self.end = 0
        self.lines = self.dropped_lines = self.dropped_bytes = 0
        self.dropped_why = ""
        self.on_drop: Callable[[], None] = lambda: None
        self.clears = 0
        self.notes: list[int] = []
        with _stores_lock:
            _stores.add(self)

    def append(self, source: int, kind: int, pieces: list[tuple[bytes, bool]], time: float = 0.0) -> None:
        """Add rows: each its bytes (at most 64 KiB) and whether its line goes on in the next."""
        if not pieces:
            return
        with self._lock:
            at = 0
            while at < len(pieces):
                segment = self._segment()
                # A file changes only between blocks, so that a block is read from one of them.
                room = BLOCK - segment.rows % BLOCK
                self._write(segment, source, kind, pieces[at : at + room], time)
                at += room

    def _segment(self) -> _Segment:
        if not self._segments or (
            self._segments[-1].size >= SEGMENT and self._segments[-1].rows % BLOCK == 0
        ):
            self._segments.append(_Segment(self.end))
            while self._size > self._limit and len(self._segments) > 2:
                self._drop(f"this log keeps the newest {size(self._limit)}")
            self._make_room()
        return self._segments[-1]

    def _make_room(self) -> None:
        """Keep to what all logs may have together; a log that is being written or read now is spared."""
        with _stores_lock:
            stores = list(_stores)
        while sum(len(one._segments) for one in stores) * SEGMENT > TOGETHER:
            for one in sorted(stores, key=lambda one: len(one._segments), reverse=True):
                if one._give(locked=one is self):
                    break
            else:
                return

    def _give(self, *, locked: bool) -> bool:
        """Give up the oldest file for the sake of a log; returns whether there was one to spare."""
        if not locked and not self._lock.acquire(blocking=False):
            return False
        try:
            spare = len(self._segments) > 2
            if spare:
                self._drop(f"the logs of this kernel keep {size(TOGETHER)} together")
        finally:
            if not locked:
                self._lock.release()
        if spare and not locked:
            self.on_drop()
        return spare

    def _write(
        self, segment: _Segment, source: int, kind: int, pieces: list[tuple[bytes, bool]], time: float
    ) -> None:
        out, ended = bytearray(), 0
        for data, goes_on in pieces:
            out += RECORD.pack(len(data), source, kind | GOES_ON if goes_on else kind, time)
            out += data
            ended += not goes_on
        # Counted once all of it is there: what a full disk took half of is written over.
        view, at = memoryview(out), segment.size
        while view:
            taken = os.pwrite(segment.file.fileno(), view, at)
            view, at = view[taken:], at + taken
        if segment.rows % BLOCK == 0:
            segment.places.append(segment.size)
        if kind == NOTE:
            self.notes.append(self.end)
        else:
            self.lines += ended
        segment.rows += len(pieces)
        segment.size += len(out)
        self._size += len(out)
        self.end += len(pieces)

    def _drop(self, why: str) -> None:
        self.dropped_why = why
        gone = self._segments.pop(0)
        for row in self._parsed(gone, 0, len(gone.places)):
            if not row.goes_on and row.kind != NOTE:
                self.dropped_lines += 1
        self.dropped_bytes += gone.size - HEAD * gone.rows
        self._size -= gone.size
        self.first = gone.first + gone.rows
        self.notes = self.notes[bisect.bisect_left(self.notes, self.first) :]
        gone.file.close()

    def clear(self) -> None:
        """Forget all rows, without counting them as dropped; numbers go on."""
        with self._lock:
            for segment in self._segments:
                segment.file.close()
            self._segments.clear()
            self._size, self.first, self.notes = 0, self.end, []
            self.lines = self.dropped_lines = self.dropped_bytes = 0
            self.dropped_why = ""
            self.clears += 1
            # Blocks begin at multiples of their size, also after this.
            if self.end % BLOCK:
                self.end += BLOCK - self.end % BLOCK
                self.first = self.end

    def close(self) -> None:
        """Give the room on the disk back. Idempotent."""
        self.clear()

    # -- reading -------------------------------------------------------------------------------------------

    def rows(self, start: int, stop: int) -> list[Row]:
        """The rows from ``start`` up to ``stop``, as far as they are kept."""
        found: list[Row] = []
        with self._lock:
            start, stop = max(start, self.first), min(stop, self.end)
            while start < stop:
                segment = self._holding(start)
                block = (start - segment.first) // BLOCK
                last = min((stop - 1 - segment.first) // BLOCK + 1, len(segment.places))
                found += [row for row in self._parsed(segment, block, last) if start <= row.number < stop]
                start = max(start + 1, segment.first + segment.rows)
        return found

    def blocks(self, block: int, most: int = 128) -> tuple[int, bytes, list[int]]:
        """The bytes of some blocks as they lie on the disk, for searching.

        Args:
            block: number of the first wanted, counted from the beginning of the log.
            most: how many blocks at most.

        Returns:
            the number of the first block that is kept of these, its and the following ones' bytes, and where
            in them each block begins; no bytes when there is nothing (yet).
        """
        with self._lock:
            block = max(block, self.first // BLOCK)
            if block * BLOCK >= self.end:
                return block, b"", []
            segment = self._holding(block * BLOCK)
            inside = block - segment.first // BLOCK
            last = min(inside + most, len(segment.places))
            start = segment.places[inside]
            data = os.pread(segment.file.fileno(), segment.end_of(last - 1) - start, start)
            return block, data, [place - start for place in segment.places[inside:last]]

    def _holding(self, number: int) -> _Segment:
        place = bisect.bisect_right(self._segments, number, key=lambda one: one.first) - 1
        return self._segments[place]

    def _parsed(self, segment: _Segment, block: int, last: int) -> Iterator[Row]:
        start = segment.places[block] if block < last else 0
        data = (
            os.pread(segment.file.fileno(), segment.end_of(last - 1) - start, start) if block < last else b""
        )
        return parse(data, segment.first + block * BLOCK)


#: The logs of this process, whose files count together.
_stores: weakref.WeakSet[LogStore] = weakref.WeakSet()
_stores_lock = threading.Lock()


def parse(data: bytes, number: int) -> Iterator[Row]:
    """The rows of bytes as they lie on the disk, of which the first is row ``number``."""
    at, end = 0, len(data)
    while at < end:
        length, source, kind, time = RECORD.unpack_from(data, at)
        at += HEAD
        yield Row(number, source, kind & 15, bool(kind & GOES_ON), time, data[at : at + length])
        at += length
        number += 1
