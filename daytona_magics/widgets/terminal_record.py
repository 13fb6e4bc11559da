"""What a notebook keeps of a terminal: the text of its screens.

The page reports a screen when it has been quiet for a moment. The report goes into an output of its own,
which is updated in place while the view beside it lives on, and which a page with a live view does not show.
It has what stood on the screen, and nothing else: whoever shows a password there keeps it in the notebook.
"""

from __future__ import annotations

import html
import secrets
from typing import Any

from daytona_magics.errors import printable
from daytona_magics.notebook.status import in_kernel

#: Lines of a screen, characters of a line, and screens that are kept.
LINES, COLUMNS, SCREENS = 60, 240, 8

Tabs = list[tuple[int, str]]


class Record:
    """The screens of a terminal.

    Attributes:
        name: of its output and of its element in the page.
    """

    def __init__(self) -> None:
        self.name = f"dm-record-{secrets.token_hex(6)}"
        self._screens: dict[int, list[str]] = {}
        self._placed = False
        self._shown = ""

    def take(self, tab: int, lines: Any) -> None:
        """A view's report of a tab's screen, bounded and made printable."""
        if isinstance(lines, list):
            texts = [one for one in lines[-LINES:] if isinstance(one, str)]
            told = [printable(one[:COLUMNS], line=True).rstrip() for one in texts]
            while told and not told[-1]:
                told.pop()
            self._screens[tab] = told

    def text(self, title: str, tabs: Tabs) -> str:
        """The record as plain text."""
        parts = [title]
        for number, name in tabs[:SCREENS]:
            if lines := self._screens.get(number):
                parts += [f"── {name} ──", *lines]
        return "\n".join(parts)

    def html(self, title: str, tabs: Tabs) -> str:
        """The record as HTML."""
        shown = "".join(
            f"<p>{html.escape(name)}</p><pre>{html.escape(chr(10).join(lines))}</pre>"
            for number, name in tabs[:SCREENS]
            if (lines := self._screens.get(number))
        )
        empty = "" if shown else "<p>Nothing of it was kept.</p>"
        head = f'<details open class="{self.name}"><summary>{html.escape(title)}</summary>'
        return f"{head}{shown}{empty}</details>"

    def place(self, title: str, tabs: Tabs) -> None:
        """Show the record here; from now on it is updated."""
        self._publish(title, tabs, update=False)
        self._placed = True

    def show(self, title: str, tabs: Tabs) -> None:
        """Update the record where it was shown, if it has changed."""
        if self._placed:
            self._publish(title, tabs, update=True)

    def _publish(self, title: str, tabs: Tabs, *, update: bool) -> None:
        shell, text = in_kernel(), self.text(title, tabs)
        if shell is None or (update and text == self._shown):
            return
        self._shown = text
        shell.display_pub.publish(
            {"text/plain": text, "text/html": self.html(title, tabs)},
            transient={"display_id": self.name},
            update=update,
        )
