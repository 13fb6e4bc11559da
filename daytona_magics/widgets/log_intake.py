"""From what a source says, in pieces cut anywhere, to rows of a store.

One for each stream of each source: it knows the line that has not ended yet, the colour that lasts, and the
character or escape sequence that was cut. What has not ended is shown as it stands (:attr:`Intake.open`), and
is never larger than a row.
"""

from __future__ import annotations

import re

from daytona_magics.notebook.terminal import TerminalFilter
from daytona_magics.widgets import log_text
from daytona_magics.widgets.log_store import PIECE, LogStore

#: What makes a piece of text more than lines.
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACES = str.maketrans({"\x0b": " ", "\x0c": " ", "\x07": "", "\x85": " "})


class Intake:
    """One stream of a source.

    Attributes:
        open: the line that has not ended yet, as it is to be shown.
    """

    def __init__(self, store: LogStore, source: int, kind: int) -> None:
        self._store, self._source, self._kind = store, source, kind
        self._filter = TerminalFilter()
        self._style = log_text.PLAIN
        self.open = self._raw = ""

    def feed(self, text: str, time: float = 0.0) -> None:
        """Take in what came.

        Args:
            time: when it came, in seconds since 1970; 0 when that is not known.
        """
        plain = self._style == log_text.PLAIN and not self._filter.waiting
        if plain and _SUSPECT.search(text) is None and _SUSPECT.search(self._raw) is None:
            self._plain(self._raw + text, time)
            return
        text = self._filter.feed(text).translate(_SPACES)
        *lines, rest = (self._raw + log_text.unlinked(text)).split("\n")
        pieces: list[tuple[bytes, bool]] = []
        for line in lines:
            pieces += self._ended(line)
        self.open, self._raw = log_text.folded(rest) if log_text.overwrites(rest) else (rest, rest)
        pieces += self._cut()
        self._store.append(self._source, self._kind, pieces, time)

    def _plain(self, text: str, time: float) -> None:
        whole, newline, rest = text.rpartition("\n")
        pieces: list[tuple[bytes, bool]] = []
        if newline:
            for line in whole.encode("utf-8").split(b"\n"):
                if len(line) <= PIECE:
                    pieces.append((line, False))
                else:
                    pieces += cut(line.decode("utf-8"))
        self.open = self._raw = rest
        pieces += self._cut()
        self._store.append(self._source, self._kind, pieces, time)

    def _ended(self, line: str) -> list[tuple[bytes, bool]]:
        """The rows of a line that has ended."""
        line = line.rstrip("\r")
        if log_text.overwrites(line):
            line = log_text.folded(line)[0]
        shown = self._style.sequence() + line
        if "\x1b" in line:
            self._style = log_text.carried(self._style, line)
        return cut(shown)

    def _cut(self) -> list[tuple[bytes, bool]]:
        """What is too much of the open line goes as rows that go on."""
        if len(self.open) <= PIECE:
            return []
        rows = cut(self._style.sequence() + self.open)
        if "\x1b" in self.open:
            self._style = log_text.carried(self._style, self.open)
        rest = rows.pop()[0].decode("utf-8", "replace")
        self.open = self._raw = rest if "\x1b" not in rest else log_text.text(rest)
        return rows

    def end(self, time: float = 0.0) -> None:
        """Nothing more comes: what has not ended is a line, too."""
        if self.open:
            self._store.append(self._source, self._kind, self._ended(self._raw), time)
            self.open = self._raw = ""


def cut(line: str) -> list[tuple[bytes, bool]]:
    """A line as rows of at most :data:`~.log_store.PIECE` bytes of text, all but the last of which go on."""
    data = line.encode("utf-8", "replace")
    if len(data) <= PIECE:
        return [(data, False)]
    rows: list[tuple[bytes, bool]] = []
    style, at = log_text.PLAIN, 0
    while at < len(data):
        end = _boundary(data, at, min(at + PIECE, len(data)))
        piece = data[at:end]
        head = style.sequence().encode() if at else b""
        if b"\x1b" in piece:
            style = log_text.carried(style, piece.decode("utf-8", "replace"))
        rows.append((head + piece, end < len(data)))
        at = end
    return rows


def _boundary(data: bytes, start: int, end: int) -> int:
    """Where to cut at or before ``end``: neither in a character nor in an escape sequence."""
    if end >= len(data):
        return end
    escape = data.rfind(b"\x1b", max(start, end - 64), end)
    if escape > start and b"m" not in data[escape:end]:
        return escape
    while end > start + 1 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end
