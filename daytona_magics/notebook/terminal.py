"""Terminal text from a sandbox: colours and progress bars pass, everything that reaches further does not.

Escape sequences can do more than colour: set the clipboard (OSC 52) or the window's title, link text to
``javascript:`` addresses (OSC 8), ask the terminal for answers that are then typed as input, redraw the
whole screen. Only an allow-list is kept: SGR colours, erase-in-line and short cursor moves, hyperlinks to
http(s) and mailto. A sequence may be cut between two pieces of output, so the filter keeps a short memory.
"""

from __future__ import annotations

import re

#: The longest body of a sequence, characters. A longer one is none: its introducer goes, the rest is text.
LONGEST = 4096

# No body may contain the start of another sequence and none is longer than LONGEST: so each character is
# looked at by one introducer only, and what a hostile sandbox prints takes linear time.
_ESCAPE = re.compile(
    r"""
      (?P<csi>(?:\x1b\[|\x9b)[0-?]{0,4096}[ -/]{0,4096}[@-~])
    | (?P<osc>(?:\x1b\]|\x9d)[^\x07\x18\x1a\x1b\x80-\x9f]{0,4096}(?:\x07|\x1b\\|\x9c))
    | (?P<string>(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x18\x1a\x1b\x80-\x9f]{0,4096}(?:\x1b\\|\x9c))
    | (?P<short>\x1b[ -/]{0,4096}[0-OQ-WYZ\\`-~])
    | (?P<control>[\x80-\x9f\x00-\x06\x0e-\x1a\x1c-\x1f\x7f])
    | (?P<broken>\x1b)
    | (?P<surrogate>[\ud800-\udfff])
    """,
    re.VERBOSE,
)
_UNFINISHED = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,4096}[ -/]{0,4096}\Z"
    r"|(?:\x1b\]|\x9d)[^\x07\x18\x1a\x1b\x80-\x9f]{0,4096}\x1b?\Z"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x18\x1a\x1b\x80-\x9f]{0,4096}\x1b?\Z"
    r"|\x1b[ -/]{0,4096}\Z"
)
_SAFE_CSI = re.compile(r"(?:\x1b\[|\x9b)(?:[0-9;:]*m|[0-2]?K|[0-9]{0,3}[ABCDG])\Z")
_LINK = re.compile(r"(?:\x1b\]|\x9d)8;[!-:<-~]*;(?P<url>[^\x07\x1b\x9c]*)(?:\x07|\x1b\\|\x9c)\Z")
_SAFE_URL = re.compile(r"(?:https?://|mailto:)[!-~]*\Z|\Z", re.IGNORECASE)
_SUSPECT = re.compile("[\x00-\x06\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class TerminalFilter:
    """Filters one stream of text, piece by piece.

    In:  TerminalFilter().feed("\\x1b]52;c;c2VjcmV0\\x07\\x1b[31mred\\x1b[0m")
    Out: '\\x1b[31mred\\x1b[0m'
    """

    def __init__(self) -> None:
        self._rest = ""
        self._linked = False  # text that is shown now belongs to a link that was kept

    @property
    def waiting(self) -> bool:
        """Whether the start of a sequence waits for its end."""
        return bool(self._rest)

    def feed(self, text: str) -> str:
        """Return what may be shown of ``text``; the start of an unfinished sequence waits for its end."""
        if not self._rest and not _SUSPECT.search(text):
            return text
        text, self._rest = self._rest + text, ""
        open_end = _UNFINISHED.search(text)
        if open_end:
            self._rest = open_end.group()
            text = text[: open_end.start()]
        return _ESCAPE.sub(self._keep, text)

    def _keep(self, match: re.Match[str]) -> str:
        text = match.group()
        if match["csi"]:
            return text if _SAFE_CSI.match(text) else ""
        if match["osc"]:
            link = _LINK.match(text)
            if link is None or not _SAFE_URL.match(link["url"]):
                return ""
            # The end of a link that was taken out goes as well.
            ends, self._linked = not link["url"] and not self._linked, bool(link["url"])
            return "" if ends else text
        # Half a surrogate pair is no text: the kernel's messages could not be encoded with it.
        return "\N{REPLACEMENT CHARACTER}" if match["surrogate"] else ""


def clean(text: str) -> str:
    """Filter a complete text.

    In:  clean("\\x1b]0;title\\x07x")
    Out: 'x'
    """
    return TerminalFilter().feed(text)
