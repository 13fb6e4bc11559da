"""What one view of a log is shown: the rows that fit its query, the last of them as they come.

A page keeps only what it draws. It is told how many rows there are, gets the newest while it follows, and
asks for others when somebody scrolls. Messages are few and small whatever the log does: at most twenty in a
second, 64 KiB each, and the next only when the page has said that it drew the last (or nothing for a while: a
busy kernel hears nobody).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from daytona_magics.widgets import log_text
from daytona_magics.widgets.log_query import Finder, Query, Selection
from daytona_magics.widgets.log_store import GOES_ON, HEAD, NOTE, LogStore, Row

#: Seconds between two messages; until one that was not acknowledged is followed by another.
TICK, UNHEARD = 0.05, 1.0
#: Rows and bytes of one message; of an answer to a page that scrolls.
PUSHED_ROWS, PUSHED_BYTES, ASKED_ROWS, ASKED_BYTES = 200, 64 << 10, 400, 512 << 10
#: Seconds of one look at what is new; views of one widget.
GLANCE, MOST_VIEWS = 0.04, 6


class View:
    """One view. Any thread.

    Args:
        store: the log.
        query: what is shown.

    Raises:
        BadPattern: the query has a regular expression that is none.
    """

    def __init__(self, store: LogStore, query: Query) -> None:
        self._lock = threading.Lock()
        self._store = store
        self.following = True
        self._pushed = self._acknowledged = 0
        self._pushed_at = 0.0
        self._sent_end = -1
        self._told: Any = None
        self.ask(query)

    def ask(self, query: Query) -> None:
        """Show something else. Raises BadPattern."""
        finder: Finder | None = query.finder()
        mark = finder or query.filter()
        with self._lock:
            self.query, self._mark = query, mark
            self._shown = Selection(self._store, query)
            self._found = Selection(self._store, query, inside=True) if finder else None
            self._sent_end, self._told = -1, None

    def again(self) -> None:
        """The log was cleared: begin anew."""
        self.ask(self.query)

    # -- what is new -----------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the page may get another message now."""
        now = time.monotonic()
        waited = now - self._pushed_at
        return waited >= TICK and (self._acknowledged >= self._pushed or waited >= UNHEARD)

    def heard(self, number: int) -> None:
        """The page has drawn the message with this number."""
        self._acknowledged = max(self._acknowledged, min(number, self._pushed))

    @property
    def behind(self) -> int:
        """Rows that were not looked at yet, for what is shown or found."""
        return max(one.behind for one in (self._shown, self._found) if one)

    def glance(self) -> None:
        """Look at some of what is new, for a moment."""
        until = time.monotonic() + GLANCE
        for one in (self._shown, self._found):
            while one is not None and time.monotonic() < until and one.extend(32):
                pass

    def news(self, extra: dict[str, Any], *, always: bool = False) -> dict[str, Any] | None:
        """The next message; None when the page knows everything.

        Args:
            extra: what else is to be told, compared with what was told last.
            always: also then.
        """
        self.glance()
        with self._lock:
            state = self._state()
            told = {**state, **extra}
            if not always and told == self._told:
                return None
            self._told = told
            self._pushed += 1
            self._pushed_at = time.monotonic()
            rows: list[Any] = []
            if self.following or always:
                rows = self._last(max(self._sent_end, state["first"]) if not always else state["first"])
                self._sent_end = state["end"]
            return {**told, "push": self._pushed, "rows": rows}

    def _state(self) -> dict[str, Any]:
        store, found = self._store, self._found
        return {
            "first": self._shown.first,
            "end": self._shown.end,
            "lines": store.lines,
            "clears": store.clears,
            "dropped": [store.dropped_lines, store.dropped_bytes, store.dropped_why],
            "behind": self._behind(),
            "found": None if found is None else found.end - found.first,
            "slow": max(one.slow for one in (self._shown, found) if one),
        }

    def _behind(self) -> int:
        """For the reader, and not each row of a flood."""
        behind = self.behind
        return behind if behind > 50_000 else 0

    def _last(self, since: int) -> list[Any]:
        end = self._shown.end
        rows = self._shown.rows(max(since, end - PUSHED_ROWS), PUSHED_ROWS)
        room, kept = PUSHED_BYTES, 0
        for _, row in reversed(rows):
            room -= len(row.data) + HEAD
            if room < 0 and kept:
                break
            kept += 1
        return [self._wire(place, row) for place, row in rows[len(rows) - kept :]]

    # -- what is asked for -----------------------------------------------------------------------------------

    def rows(self, place: int, count: int) -> dict[str, Any]:
        """The rows from a place on; fewer when they are many bytes."""
        with self._lock:
            found: list[Any] = []
            room = ASKED_BYTES
            for at, row in self._shown.rows(place, min(count, ASKED_ROWS)):
                room -= len(row.data) + HEAD
                if room < 0 and found:
                    break
                found.append(self._wire(at, row))
            return {"rows": found, "first": self._shown.first, "end": self._shown.end}

    def find(self, place: int, step: int) -> dict[str, Any]:
        """The next row, or the one before, in which something is found; round and round.

        Args:
            place: where the reader is, among the rows that are shown.
            step: 1 for the next, -1 for the one before.
        """
        with self._lock:
            found, shown = self._found, self._shown
            first = 0 if found is None else found.first
            if found is None or found.end <= first:
                return {"place": None, "nth": 0, "count": 0}
            number = shown.number(place)
            if number is None:
                number = self._store.end if place >= shown.end else self._store.first
            at = found.place(number + 1) if step > 0 else found.place(number) - 1
            at = at if first <= at < found.end else first if step > 0 else found.end - 1
            target = found.number(at)
            where = None if target is None else shown.place(target)
            return {"place": where, "nth": at - first + 1, "count": found.end - first}

    def _wire(self, place: int, row: Row) -> list[Any]:
        line = row.line
        marks = self._mark.places(log_text.text(line)) if self._mark and row.kind != NOTE else []
        kind = row.kind | (GOES_ON if row.goes_on else 0)
        return [place, row.source, kind, round(row.time, 3), *log_text.wire(line, marks)]
