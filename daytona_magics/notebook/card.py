"""Cards and tables: one description, drawn as HTML for notebooks and as text for everything else.

The HTML uses JupyterLab's theme variables with fallbacks, so it follows light and dark themes and still
reads well where styles are stripped (GitHub, nbviewer). Names and states come from a sandbox or its endpoint,
so both forms replace control characters: a text form is printed to a terminal as it is.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from daytona_magics.errors import printable

BORDER = "1px solid var(--jp-border-color2,rgba(128,128,128,.35))"
SOFT = "color:var(--jp-ui-font-color2,GrayText)"
_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top"
_DOT = {
    "started": "var(--jp-success-color1,#2e7d32)",
    "ok": "var(--jp-success-color1,#2e7d32)",
    "error": "var(--jp-error-color1,#c62828)",
    "build_failed": "var(--jp-error-color1,#c62828)",
    "failed": "var(--jp-error-color1,#c62828)",
}
_SIGN = {"ok": "✓", "failed": "✗", "note": "!"}


def escape(text: object) -> str:
    """Escape for HTML; text between backticks becomes code."""
    parts = html.escape(printable(text)).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _state(state: str) -> str:
    """A state as HTML: a coloured sign and the word, never colour alone."""
    color = _DOT.get(state, "var(--jp-warn-color1,#b26a00)")
    return f'<span style="color:{color}">{_SIGN.get(state, "●")}</span> {html.escape(printable(state))}'


def state_sign(state: str) -> str:
    """The coloured sign of a state as HTML, in a place as wide as any other's; a space for ""."""
    shown, color = _SIGN.get(state, "●") if state else "", _DOT.get(state, "var(--jp-warn-color1,#b26a00)")
    return f'<span style="display:inline-block;width:1.2em;color:{color}">{shown}</span>'


def _cell(column: str, value: object) -> str:
    return _state(str(value)) if column in ("state", "check") else escape(value)


@dataclass
class Card:
    """A titled list of facts.

    Attributes:
        title: heading.
        state: a word shown beside it with a coloured sign; "" for none.
        facts: (label, value) pairs; empty values are left out.
        foot: sentences below; backticks mark code.
    """

    title: str
    facts: Sequence[tuple[str, object]]
    state: str = ""
    foot: Sequence[str] = ()

    def _shown(self) -> list[tuple[str, object]]:
        return [(label, value) for label, value in self.facts if value not in ("", None)]

    def __repr__(self) -> str:
        width = max((len(label) for label, _ in self._shown()), default=0)
        head = printable(self.title + (f"  [{self.state}]" if self.state else ""), line=True)
        facts = [
            f"  {label:<{width}}  {printable(value, line=True)}".rstrip() for label, value in self._shown()
        ]
        return "\n".join([head, *facts, *map(printable, self.foot)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr style="background:none"><td style="{_CELL};{SOFT}">{html.escape(label)}</td>'
            f'<td style="{_CELL}">{escape(value)}</td></tr>'
            for label, value in self._shown()
        )
        foot = "".join(f'<div style="{SOFT};margin-top:4px">{escape(line)}</div>' for line in self.foot)
        state = f' <span style="margin-left:8px">{_state(self.state)}</span>' if self.state else ""
        return (
            f'<div style="border:{BORDER};border-radius:4px;padding:8px 12px;margin:4px 0;'
            f'display:inline-block;min-width:22em"><div><strong>{html.escape(printable(self.title))}</strong>{state}</div>'
            f'<table style="border:none;margin:4px 0 0 0">{rows}</table>{foot}</div>'
        )


@dataclass
class Table:
    """Rows under headings; behaves like a sequence of ``items``.

    Attributes:
        head: headings.
        rows: cells as text; a cell in the column named "state" gets its coloured sign.
        items: the objects behind the rows, for programs.
        empty: what to say when there are no rows.
        foot: a sentence below.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    items: Sequence[Any] = field(default_factory=list)
    empty: str = "nothing"
    foot: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __repr__(self) -> str:
        if not self.rows:
            return printable(self.empty)
        cells = [[printable(cell, line=True) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.head))]
        limit = shutil.get_terminal_size((120, 24)).columns
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines = [line if len(line) <= max(limit, 60) else line[: max(limit, 60) - 1] + "…" for line in lines]
        return "\n".join([*lines, *([printable(self.foot)] if self.foot else [])])

    def _repr_html_(self) -> str:
        if not self.rows:
            return f'<div style="{SOFT}">{escape(self.empty)}</div>'
        head = "".join(
            f'<th style="{_CELL};border-bottom:{BORDER}">{html.escape(str(name))}</th>' for name in self.head
        )
        body = "".join(
            '<tr style="background:none">'
            + "".join(
                f'<td style="{_CELL}">{_cell(name, cell)}</td>'
                for name, cell in zip(self.head, row, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        foot = f'<div style="{SOFT}">{escape(self.foot)}</div>' if self.foot else ""
        return (
            f'<table style="border:none;margin:4px 0"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>{foot}"
        )


@dataclass
class Help:
    """A help text; ``markdown`` is what GitHub and people see, plain text what a terminal shows."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        shown = _emphasise(html.escape(self.text))
        return preformatted(shown, SOFT)


def preformatted(markup: str, style: str = "") -> str:
    """Markup in the notebook's code font, lines kept."""
    font = "font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px)"
    # JupyterLab's own rules for pre would indent it and break words anywhere.
    place = "margin:0;padding:2px 0 2px var(--jp-code-padding,5px);background:none"
    wrap = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"
    return f'<pre style="{font};{place};{wrap};{style}">{markup}</pre>'


def _emphasise(text: str) -> str:
    strong = '<strong style="color:var(--jp-ui-font-color1,inherit)">'
    return re.sub(r"^((?:%%?sandbox\b)[^\n]*)", rf"{strong}\1</strong>", text, flags=re.MULTILINE)


def counted(count: int, noun: str) -> str:
    """In: counted(1, "sandbox"), counted(2, "context")  Out: ('1 sandbox', '2 contexts')"""
    plural = "es" if noun.endswith(("x", "ch")) else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"


def size(count: float) -> str:
    """A number of bytes for people, in binary units.

    In:  size(0), size(1536)
    Out: ('0 B', '1.5 KiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def duration(minutes: int | float | None) -> str:
    """A number of minutes for people.

    In:  duration(15), duration(10080), duration(0)
    Out: ('15 min', '7 days', 'never')
    """
    if minutes is None or minutes <= 0:
        return "never"
    for length, name in ((1440, "day"), (60, "hour")):
        if minutes % length == 0:
            count = int(minutes // length)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{minutes:g} min"
