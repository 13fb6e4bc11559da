"""What a notebook keeps of a terminal: the text of its screens.

The page reports a screen when it has been quiet for a moment. The record has what stood on the screens, and
nothing else: whoever shows a password there keeps it in the notebook.
"""

from __future__ import annotations

import html
from typing import Any

from daytona_magics.errors import printable
from daytona_magics.widgets import records

#: Lines of a screen, characters of a line, and screens that are kept.
LINES, COLUMNS, SCREENS = 60, 240, 8

Tabs = list[tuple[int, str]]


class Screens:
    """The screens of a terminal, by the number of their tab."""

    def __init__(self) -> None:
        self._lines: dict[int, list[str]] = {}

    def take(self, tab: int, lines: Any) -> None:
        """A view's report of a tab's screen, bounded and made printable."""
        if isinstance(lines, list):
            texts = [one for one in lines[-LINES:] if isinstance(one, str)]
            told = [printable(one[:COLUMNS], line=True).rstrip() for one in texts]
            while told and not told[-1]:
                told.pop()
            self._lines[tab] = told

    def record(self, title: str, tabs: Tabs) -> tuple[str, str]:
        """What is kept, as plain text and as HTML."""
        kept = [(name, lines) for number, name in tabs[:SCREENS] if (lines := self._lines.get(number))]
        text = [title]
        markup = [f"<details open><summary>{html.escape(title)}</summary>"]
        for name, lines in kept:
            text += [f"── {name} ──", *lines]
            markup.append(f"<p>{html.escape(name)}</p>{records.preformatted(chr(10).join(lines))}")
        if not kept:
            markup.append("<p>Nothing of it was kept.</p>")
        return "\n".join(text), "".join([*markup, "</details>"])
