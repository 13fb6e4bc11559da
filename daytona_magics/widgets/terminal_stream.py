"""What a terminal prints, between the sandbox that prints it and the pages that show it.

Three places: what *waits* for a page, what is *on its way* (sent, and no view has said that it showed it),
and what is *kept* for views that come later. All are bounded. Every byte that is sent has a number, so a view
notices by itself when something is missing, and asks for what is kept.

Of what is not kept any more one thing still matters: the modes it set (a full-screen program's other screen,
bracketed paste, mouse reports). They are remembered, and set again before what is kept is replayed.
"""

from __future__ import annotations

import re
from collections import deque

#: Bytes kept for views that come later; waiting at most before the sandbox is read no further; on their way.
HISTORY, AHEAD, WINDOW = 1 << 20, 8 << 20, 256 << 10
#: Bytes of one message to the page, at most.
PIECE = 128 << 10

_MODE = re.compile(rb"\x1b\[\?([\d;]{1,64})([hl])")
#: A cut between two messages may fall into an escape sequence; so many bytes are looked at twice.
_OVERLAP = 80
#: How far the beginning of what is replayed is looked through for the end of a line.
_LINE = 4 << 10


class Stream:
    """The bytes of one terminal. Nothing here waits.

    Attributes:
        waiting: bytes that no page was sent yet.
        sent: number of the next byte that is sent.
        shown: number of the first byte that no view has shown.
    """

    def __init__(self) -> None:
        self.waiting = self.sent = self.shown = 0
        self._pending: deque[bytes] = deque()
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._modes: dict[bytes, bytes] = {}
        self._tail = b""

    def add(self, data: bytes) -> None:
        """The terminal printed something."""
        if data:
            self._pending.append(data)
            self.waiting += len(data)

    @property
    def open(self) -> bool:
        """Whether a page may be sent more."""
        return self.waiting > 0 and self.sent - self.shown < WINDOW

    def take(self, most: int = PIECE) -> tuple[int, bytes]:
        """What is sent next, and its number; from now on it is kept."""
        parts: list[bytes] = []
        size = 0
        while self._pending and size < most:
            part = self._pending.popleft()
            if size + len(part) > most:
                part, rest = part[: most - size], part[most - size :]
                self._pending.appendleft(rest)
            parts.append(part)
            size += len(part)
        data, at = b"".join(parts), self.sent
        self.waiting -= size
        self.sent += size
        if data:
            self._keep(data)
        return at, data

    def drop(self, leave: int) -> int:
        """Throw away what waits, but for the last ``leave`` bytes; returns how many bytes that were."""
        whole = b"".join(self._pending)
        gone = max(0, len(whole) - leave)
        self._pending = deque([whole[gone:]] if len(whole) > gone else [])
        self.waiting = len(whole) - gone
        self._remember(whole[:gone])
        return gone

    def before(self, data: bytes) -> None:
        """Put something of ours before what waits."""
        self._pending.appendleft(data)
        self.waiting += len(data)

    def seen(self, number: int) -> None:
        """A view has shown everything before this number."""
        self.shown = max(self.shown, min(number, self.sent))

    def replay(self) -> tuple[int, bytes, bytes]:
        """What a new view needs: how many bytes are missing before, what sets the modes, what is kept."""
        kept = b"".join(self._kept)
        missing = self.sent - len(kept)
        if missing:
            cut = kept.find(b"\n", 0, _LINE) + 1
            return missing + cut, self._settings(kept[:cut]), kept[cut:]
        return 0, b"", kept

    def _settings(self, cut: bytes) -> bytes:
        modes = self._modes | _modes(self._tail + cut)
        return b"".join(b"\x1b[?%s%s" % (number, on) for number, on in modes.items())

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        while len(self._kept) > 1 and self._kept_bytes - len(self._kept[0]) >= HISTORY:
            gone = self._kept.popleft()
            self._kept_bytes -= len(gone)
            self._remember(gone)

    def _remember(self, gone: bytes) -> None:
        self._modes |= _modes(self._tail + gone)
        self._tail = (self._tail + gone)[-_OVERLAP:]


def _modes(data: bytes) -> dict[bytes, bytes]:
    """The private modes that some output leaves set or reset, in the order they were first named."""
    found: dict[bytes, bytes] = {}
    for numbers, on in _MODE.findall(data):
        for number in numbers.split(b";"):
            if number:
                found[number[:6]] = on
    return dict(list(found.items())[-64:])
