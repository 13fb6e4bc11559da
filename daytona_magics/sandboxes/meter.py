"""How far a transfer is, told to whoever waits: a bar with the rate, once it takes longer than 2 seconds."""

from __future__ import annotations

import time

from daytona_magics.sandboxes.report import Reporter

#: Seconds before a bar is shown, and between two of its states.
SHOW_AFTER, EVERY = 2.0, 0.25
WIDTH = 20


def amount(count: float) -> str:
    """A number of bytes for people. In: amount(1536) Out: '1.5 KiB'"""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


class Meter:
    """Counts the bytes of one transfer.

    Args:
        tell: who is told.
        what: what is done, like "uploading data.csv".
        total: bytes expected; 0 when that is not known.

    Attributes:
        count: bytes so far.
    """

    def __init__(self, tell: Reporter, what: str, total: int = 0) -> None:
        self._tell, self._what, self.total = tell, what, total
        self.count = 0
        self._start = self._told = time.monotonic()
        tell.progress(what)

    @property
    def seconds(self) -> float:
        """Since the transfer began."""
        return time.monotonic() - self._start

    def add(self, count: int) -> None:
        """So many more bytes have gone."""
        self.reach(self.count + count)

    def reach(self, count: int) -> None:
        """So many bytes have gone in all."""
        self.count = count
        now = time.monotonic()
        if now - self._start >= SHOW_AFTER and now - self._told >= EVERY:
            self._told = now
            self._tell.progress(self.text())

    def text(self) -> str:
        """The line of now: ``sending a ███████░░░░░░░░░░░░░  38% · 390.6 MiB of 1.00 GiB · 121.0 MiB/s``."""
        rate = f"{amount(self.count / max(self.seconds, 0.001))}/s"
        if not self.total:
            return f"{self._what} · {amount(self.count)} · {rate}"
        part = min(1.0, self.count / self.total)
        bar = "█" * int(part * WIDTH) + "░" * (WIDTH - int(part * WIDTH))
        return f"{self._what} {bar} {part:4.0%} · {amount(self.count)} of {amount(self.total)} · {rate}"
