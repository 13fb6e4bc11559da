"""Ports that an output says something is served on, for a hint that names the command which shows them.

Programs print `http://localhost:5173`, and a click on that leads to the machine of whoever reads, where
nothing is. A port is offered once, and of one output at most :data:`MOST` are. What a sandbox prints decides
only on the number, from 1 to 65535; every other word of a hint is ours. Nothing is asked of the sandbox.
"""

from __future__ import annotations

import re

#: Ports offered for one output; characters of a line that are looked at; lines that may be looked into.
MOST, LINE, LINES = 3, 500, 1000
_ADDRESS = re.compile(r"https?://(?:localhost|127(?:\.\d{1,3}){3}|0\.0\.0\.0|\[::1?\]):(\d{1,5})(?!\d)")
_WORDS = re.compile(
    r"\b(?:listening|running|serving|started|ready)\b.{0,60}?\b(?:on|at)\b.{0,40}?"
    r"(?:\bport\s|(?:\s|\*|localhost|\d\.\d{1,3}|\]):)(\d{2,5})(?![\d:.])",
    re.IGNORECASE,
)
#: Who says one of these speaks of somebody else's server, or of none.
_NOT = re.compile(
    r"refused|connect|fail|fatal|error|unable|could not|cannot|curl |wget |\b(?:GET|POST|HEAD|PUT) ",
    re.IGNORECASE,
)
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_SIGNS = ("://", "isten", "ort ", "unning", "erving", "tarted")


class Offers:
    """Reads one output as it comes, in pieces cut anywhere; looks at whole lines only."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._ports: set[int] = set()
        self._left = LINES

    def seen(self, stream: str, text: str) -> list[int]:
        """Ports that this piece of a stream is the first to name.

        In:  Offers().seen("stdout", "Local: http://localhost:5173/\\n")
        Out: [5173]
        """
        if len(self._ports) >= MOST or self._left <= 0:
            return []
        before = self._open.get(stream, "")
        head, newline, rest = text.rpartition("\n")
        if not newline:
            self._open[stream] = (before + text)[:LINE]
            return []
        self._open[stream] = rest[:LINE]
        head = before + head
        return self._ports_of(head) if any(sign in head for sign in _SIGNS) else []

    def _ports_of(self, text: str) -> list[int]:
        found: list[int] = []
        for line in text.split("\n"):
            if not any(sign in line for sign in _SIGNS):
                continue
            self._left -= 1
            if self._left < 0 or len(self._ports) >= MOST:
                break
            port = port_of(line)
            if port and port not in self._ports:
                self._ports.add(port)
                found.append(port)
        return found


def port_of(line: str) -> int:
    """The port that a line says a server is on; 0 for none.

    In:  port_of("Serving HTTP on 0.0.0.0 port 8000 ..."), port_of("connection to localhost:1 refused")
    Out: (8000, 0)
    """
    line = _COLOURS.sub("", line[:LINE])
    match = _ADDRESS.search(line) or _WORDS.search(line)
    if match is None or _NOT.search(line):
        return 0
    port = int(match[1])
    return port if port < 65536 else 0


def hint(port: int) -> str:
    """The sentence that offers a port's preview."""
    return f"Port {port} is inside the sandbox: `%sandbox preview {port}` shows what it serves."


#: Said behind the first hint of a cell: as long as a server runs in a cell, no other cell can.
BUSY = "A server in a cell keeps the notebook busy; `%sandbox serve COMMAND` runs it beside."
