"""The time a cell with ``--timeout`` has left, said only when it matters: after a while, past its half."""

from __future__ import annotations

import time

from daytona_magics.notebook.status import StatusLine

#: Seconds a cell runs before anything is said; between two counts; of the last minute.
AFTER, EVERY, OFTEN = 10.0, 5.0, 1.0


class Countdown:
    """A status line with the seconds left.

    Args:
        timeout: the limit in seconds; 0 for none.
        quiet: say nothing.
    """

    def __init__(self, timeout: float, *, quiet: bool = False) -> None:
        self._timeout = timeout
        self._line = StatusLine(quiet=quiet)
        self._end = time.monotonic() + timeout
        first = self._end - timeout + max(AFTER, timeout / 2)
        self._due: float | None = first if timeout and not quiet and first < self._end else None

    def next(self) -> float | None:
        """Seconds until :meth:`tick` has something to say; None for never."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def tick(self) -> None:
        """Say how much time is left, when it is due."""
        now = time.monotonic()
        if self._due is None or now < self._due:
            return
        left = self._end - now
        if left <= 0:
            # What becomes of the cell now is told by its own end.
            self._due = None
            self._line.show(f"the timeout of {self._timeout:g} s is over; the sandbox stops the cell")
            return
        self._due = now + (OFTEN if left <= 60 else EVERY)
        self._line.show(f"still running; its timeout of {self._timeout:g} s stops it in {left:.0f} s")

    def close(self) -> None:
        """Take the line away."""
        self._due = None
        self._line.close()
