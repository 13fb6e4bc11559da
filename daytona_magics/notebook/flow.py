"""How much of a cell's output the page takes, and how fast.

A Jupyter server drops what a kernel sends beyond 1 MB/s of streams and 1,000 messages/s, and a page of a
hundred megabytes is of no use to anybody. So of each cell

- the first :attr:`Limits.show` bytes of text are shown, and as many bytes of displays; ``clear_output`` makes
  room again, and what ``\\r`` overwrites takes none;
- with a server in front, they are shown no faster than it passes on;
- of the rest the sandbox only tells how much there is. It keeps the text, whose end is shown when the cell
  has ended, and the command that fetches it whole.

Every byte is counted once: shown above + shown at the end + only in the sandbox + lost there (beyond what a
sandbox keeps of one cell, 256 MiB) = printed.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol

from daytona_magics.notebook.card import size
from daytona_magics.notebook.status import StatusLine, in_kernel
from daytona_magics.runtime import events
from daytona_magics.runtime.records import Look

#: Bytes of a long output's end that are shown.
TAIL = 64 << 10
#: Bytes of output up to which a cell's end is not held up by anything here, and its spool not needed.
KEEP_ABOVE = 64 << 10
#: Messages per second to a server, how many of them and how many bytes at once, and bytes around each text.
MESSAGES, MESSAGE_BURST, BURST, ENVELOPE = 800.0, 300.0, 256 << 10, 700
#: Seconds between two counts of what is not shown; for the end of the output to be fetched.
COUNT_EVERY, TAIL_WITHIN = 1.0, 5.0
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


@dataclass(frozen=True)
class Limits:
    """What a page takes.

    Attributes:
        show: bytes of text, and of displays, of one cell; 0 for no limit.
        rate: bytes per second of text; 0 for as fast as it comes.
    """

    show: int = 8 << 20
    rate: int = 0


def limits(config: Any) -> Limits:
    """The limits the settings name: ``show_limit`` (MiB), ``pace``, ``pace_rate`` (kB/s)."""
    served = config.pace == "on" or (config.pace == "auto" and behind_server())
    return Limits(int(config.show_limit * (1 << 20)), int(config.pace_rate * 1000) if served else 0)


def behind_server() -> bool:
    """Whether a Jupyter server stands between this kernel and the page; it tells its kernels the notebook."""
    return bool(os.environ.get("JPY_SESSION_NAME")) and in_kernel() is not None


class Spool(Protocol):
    """The sandbox's copy of the cell's output."""

    name: str  # what `%sandbox logs` calls it

    def skim(self) -> None:
        """Have only the amount of further text sent."""

    def look(self, tail: int, within: float) -> Look | None:
        """What the sandbox says of the cell, with the end of its text; None when it does not answer."""

    def release(self) -> None:
        """The copy is not needed."""


class Pace:
    """Says how long to wait so that ``rate`` bytes per second and MESSAGES messages per second are kept."""

    def __init__(self, rate: int) -> None:
        self._rate = float(rate)
        self._bytes, self._messages, self._at = float(BURST), MESSAGE_BURST, time.monotonic()

    def _refill(self) -> None:
        now = time.monotonic()
        passed, self._at = now - self._at, now
        self._bytes = min(BURST, self._bytes + passed * self._rate)
        self._messages = min(MESSAGE_BURST, self._messages + passed * MESSAGES)

    def spend(self, text: str, messages: int) -> None:
        """So much was sent."""
        self._refill()
        sent = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) if text else 0
        self._bytes -= sent + messages * ENVELOPE
        self._messages -= messages

    def delay(self) -> float:
        """Seconds until something more may be sent."""
        self._refill()
        return max(0.0, -self._bytes / self._rate, -self._messages / MESSAGES)


class Flow:
    """Decides of each event of one cell whether it is shown, and counts.

    Args:
        limits: what the page takes.
        spool: the sandbox's copy; None when there is none to point to.
        quiet: no sentences of ours, but for those without which an output would look whole.

    Attributes:
        shown: bytes of text shown as they came.
        hidden: bytes of text that were not.
        lost: how many of these the sandbox has not kept.
        displays: how many displays were not shown, and their bytes.
        over: no more text is shown.
    """

    def __init__(self, limits: Limits, spool: Spool | None = None, *, quiet: bool = False) -> None:
        self.limits, self.spool = limits, spool
        self.pace = Pace(limits.rate) if limits.rate else None
        self.shown = self.hidden = self.lost = self._volume = 0
        self.displays = (0, 0)
        self.over = False
        self._room = self._display_room = limits.show or float("inf")
        self._open = 0  # characters of the last line, which has not ended
        self._line, self._counted = StatusLine(quiet=quiet), 0.0

    def admits(self, event: events.Event) -> bool:
        """Count an event; whether it is to be shown."""
        self._volume += events.volume(event)
        if isinstance(event, events.Stream):
            return self._admits_text(event)
        if isinstance(event, events.Gap):
            if event.kept:
                self.stop()
            self.hidden += event.bytes if self.over else 0
            self.lost += 0 if event.kept or not self.over else event.bytes
            self._count()
            return not self.over
        if isinstance(event, events.Clear) and not self.over:
            self._room = self._display_room = self.limits.show or float("inf")
        if isinstance(event, events.Display | events.Result):
            return self._admits_display(event)
        return True

    def _admits_text(self, event: events.Stream) -> bool:
        if not self.over:
            self._room -= event.size - self._overwritten(event.text)
            if self._room < 0:
                self.stop()
        if self.over:
            self.hidden += event.size
            self._count()
            return False
        self.shown += event.size
        return True

    def _overwritten(self, text: str) -> int:
        """How much of what is on the page, and of this text, is gone once it is shown: progress bars."""
        first, _, rest = text.partition("\n")
        gone = 0
        if "\r" in text:
            gone = sum(len(part.group()) for part in _OVERWRITTEN.finditer(text))
            gone += self._open if "\r" in first.removesuffix("\r" if rest else "") else 0
        if "\n" in text or "\r" in text:
            self._open = len(re.split("[\r\n]", text)[-1])
        else:
            self._open += len(text)
        return gone

    def _admits_display(self, event: events.Display | events.Result) -> bool:
        passing = isinstance(event, events.Display) and event.update
        room = self._display_room
        if isinstance(event, events.Result):
            # The value of the cell is shown even when its figures have filled the page.
            room = max(room, self.limits.show)
        if event.size > room:
            count, total = self.displays
            self.displays = (count + (not passing), total + event.size)
            return False
        if not passing:
            self._display_room -= event.size
        return True

    def stop(self) -> None:
        """Show no more text from here on."""
        if not self.over:
            self.over = True
            if self.spool is not None:
                self.spool.skim()

    def _count(self) -> None:
        now = time.monotonic()
        if self.over and self.hidden and now >= self._counted + COUNT_EVERY:
            self._counted = now
            self._line.show(f"{size(self.hidden)} more were printed and are kept in the sandbox")

    def close(self) -> str:
        """The cell has ended: say what is not shown; returns the end of the text, to be shown."""
        if not self.hidden and not self.displays[0]:
            if self._volume > KEEP_ABOVE and self.spool is not None:
                self.spool.release()
            return ""
        tail, count = "", 0
        if self.hidden and self.spool is not None:
            look = self.spool.look(min(TAIL, self.hidden), TAIL_WITHIN)
            if look is not None:
                tail, count, self.lost = look.tail, look.tail_bytes, max(self.lost, look.lost)
        self._line.insist(" ".join(self._sentences(count)))
        return tail

    def _sentences(self, tail: int) -> list[str]:
        told = []
        name = self.spool.name if self.spool is not None else ""
        if self.hidden:
            end = f", the last {size(tail)} below" if tail else ""
            told.append(
                f"{self.shown + self.hidden:,} bytes were printed: {self.shown:,} are shown above{end}."
            )
            if self.lost:
                told.append(
                    f"{self.lost:,} bytes of the middle are lost: they were more than a sandbox keeps."
                )
            whole = "The rest" if self.lost else "All of it"
            told.append(f"{whole} is kept in the sandbox: `%sandbox logs {name} --to FILE` fetches it.")
        count, total = self.displays
        if count:
            plural = "display was" if count == 1 else "displays were"
            told.append(
                f"{count:,} {plural} not shown ({size(total)}; the limit is {size(self.limits.show)}): "
                f"`%sandbox logs {name} --all` shows what is kept."
            )
        return told
