"""A difference, drawn: one section per file, removed and added lines coloured and signed, bounded.

The text is git's own and comes from the sandbox, so it is escaped line by line. What is shown has a size
whatever the difference has: so many lines of a file, so many in all, so many characters of a line; the rest
is counted, and the page says how to see it.
"""

from __future__ import annotations

import html
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from daytona_magics.errors import printable
from daytona_magics.notebook.card import SOFT, counted, preformatted
from daytona_magics.notebook.status import in_kernel

#: Lines of one file and of all that are shown, files, and characters of a line.
OF_FILE, OF_ALL, FILES, LONGEST = 400, 2000, 200, 500
_NAME = re.compile(r'^diff --git (?:"?a/(?P<old>.*?)"?) (?:"?b/(?P<new>.*?)"?)$')
_STYLE = {
    "+": "background:rgba(46,160,67,.16)",
    "-": "background:rgba(248,81,73,.16)",
    "@": "color:var(--jp-info-color1,#0288d1)",
    "=": SOFT,
}
_ANSI = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m", "=": "\x1b[2m"}


@dataclass
class Section:
    """The part about one file.

    Attributes:
        name: of the file; "old → new" when it was renamed.
        lines: (kind, text): "+" added, "-" removed, " " context, "@" place, "=" about the file.
        added, removed: how many lines, shown or not.
    """

    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    added: int = 0
    removed: int = 0

    @property
    def changes(self) -> bool:
        """Lines were added or removed; of a binary file none are."""
        return bool(self.added or self.removed)


def sections(text: str) -> list[Section]:
    """Cut a difference into its files."""
    found: list[Section] = []
    inside = binary = False
    for line in text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"):
        header = _NAME.match(line)
        if header is not None or line.startswith("diff --cc "):
            inside = binary = False
            found.append(Section(_named(line, header)))
            continue
        if not found:
            found.append(Section(""))
        last = found[-1]
        if binary:
            continue
        if line == "GIT binary patch" and not inside:
            binary = True
            last.lines.append(("=", "Binary file"))
        elif line.startswith("@@"):
            inside = True
            last.lines.append(("@", line))
        elif not inside:
            if not line.startswith(("index ", "--- ", "+++ ")):
                last.lines.append(("=", line))
        elif line.startswith("+"):
            last.added += 1
            last.lines.append(("+", line))
        elif line.startswith("-"):
            last.removed += 1
            last.lines.append(("-", line))
        else:
            last.lines.append((" ", line))
    return found


def _named(line: str, header: re.Match[str] | None) -> str:
    if header is None:
        return line.removeprefix("diff --cc ")
    old, new = header["old"], header["new"]
    return new if old == new else f"{old} → {new}"


def _shown(text: str) -> str:
    text = printable(text.rstrip("\r") + ("␍" if text.endswith("\r") else "")).replace("\n", " ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


class Diff:
    """A difference.

    Attributes:
        text: git's own text, as much of it as was read.
        cut: there was more.
        files: names of the files it is about.
    """

    def __init__(self, text: str, *, cut: bool = False, stat: bool = False) -> None:
        self.text, self.cut, self._stat = text, cut, stat
        self._sections = [] if stat else sections(text) if text else []

    @property
    def files(self) -> list[str]:
        return [one.name for one in self._sections]

    def __bool__(self) -> bool:
        return bool(self.text)

    def __str__(self) -> str:
        return self.text

    def headline(self) -> str:
        """How much it is, in one line."""
        if not self.text:
            return "No difference"
        added = sum(one.added for one in self._sections)
        removed = sum(one.removed for one in self._sections)
        more = "; more than is read, so this is only its beginning" if self.cut else ""
        return f"{counted(len(self._sections), 'file')}: {added:,} added, {removed:,} removed{more}"

    def _bounded(self) -> list[tuple[Section, list[tuple[str, str]], int]]:
        """Of each section what is shown, and how many lines are not."""
        found, left = [], OF_ALL
        for one in self._sections[:FILES]:
            lines = one.lines[: min(OF_FILE, max(left, 0))]
            left -= len(lines)
            found.append((one, lines, len(one.lines) - len(lines)))
        return found

    def _missing(self) -> str:
        files = len(self._sections) - FILES
        return f"and {counted(files, 'file')} more: `%sandbox_git diff PATH` shows one" if files > 0 else ""

    def _text(self, color: bool) -> str:
        if self._stat or not self.text:
            return printable(self.text.rstrip("\n")) or self.headline()
        lines = [self.headline()]
        for one, shown, hidden in self._bounded():
            lines.append(f"── {_shown(one.name)}  +{one.added:,} −{one.removed:,}")
            for kind, line in shown:
                begin = _ANSI.get(kind, "") if color else ""
                lines.append(f"{begin}{_shown(line)}" + ("\x1b[0m" if begin else ""))
            if hidden:
                lines.append(f"   … {hidden:,} lines are not shown")
        return "\n".join([*lines, *([self._missing().replace("`", "")] if self._missing() else [])])

    def __repr__(self) -> str:
        return self._text(False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self._text(in_kernel() is None and sys.stdout.isatty()))

    def _repr_html_(self) -> str:
        if self._stat or not self.text:
            return preformatted(html.escape(self._text(False)), "" if self.text else SOFT)
        parts = [f'<div style="{SOFT};margin:4px 0">{html.escape(self.headline())}</div>']
        for one, shown, hidden in self._bounded():
            body = "".join(
                f'<div style="padding:0 8px;min-height:1.3em;{_STYLE.get(kind, "")}">'
                f"{html.escape(_shown(line))}</div>"
                for kind, line in shown
            )
            if hidden:
                body += f'<div style="padding:0 8px;{SOFT}">… {hidden:,} lines are not shown</div>'
            counts = f'<span style="{SOFT}">+{one.added:,} −{one.removed:,}</span>' if one.changes else ""
            parts.append(
                '<details open style="border:1px solid var(--jp-border-color2,rgba(128,128,128,.35));'
                'border-radius:4px;margin:4px 0"><summary style="cursor:pointer;padding:4px 8px;'
                f'overflow-wrap:anywhere"><strong>{html.escape(_shown(one.name))}</strong> {counts}</summary>'
                f"{_code(body)}</details>"
            )
        if self._missing():
            parts.append(f'<div style="{SOFT}">{html.escape(self._missing()).replace("`", "")}</div>')
        return f'<div style="max-width:100%">{"".join(parts)}</div>'


def _code(body: str) -> str:
    """Lines in the code font that scroll sideways instead of breaking."""
    font = "font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px)"
    return (
        f'<div tabindex="0" role="region" aria-label="lines" style="{font};line-height:1.3;overflow-x:auto;'
        f'white-space:pre;padding-bottom:4px"><div style="display:inline-block;min-width:100%">{body}</div>'
        "</div>"
    )
