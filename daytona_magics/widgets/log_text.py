"""Lines of a log as text and styles: what a terminal would show of them, and nothing a terminal would do.

A line is kept as text with SGR sequences (colours, bold, underline) and no other escapes. What overwrites
itself is folded when it arrives: a progress bar that drew itself a thousand times by carriage returns is its
last picture. A colour that was switched on in an earlier line is put in front of each line it lasts for, so
that a line can be drawn without those before it.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from typing import Any

#: One SGR sequence, as :class:`~daytona_magics.notebook.terminal.TerminalFilter` lets it pass.
SGR = re.compile(r"\x1b\[([0-9;:]*)m")
_LINK = re.compile(r"\x1b\]8;[^\x07\x1b]*(?:\x07|\x1b\\)")
_ESCAPE = re.compile(r"(?:\x1b\[|\x9b)([0-9;:]*)([A-Za-z])")
_MOVES = re.compile(r"[\r\b]|(?:\x1b\[|\x9b)[0-9;:]*[A-KGKDC]")
#: Columns of a line that is drawn over; what is written further right is not folded.
COLUMNS = 8192
#: Overwritings of a line that are looked at; those before them are hidden by them.
OVERDRAWN = 64
#: The colours of a terminal where there is no theme (a saved notebook): readable on light and on dark.
PALETTE = (
    *("#555555", "#c62828", "#2e7d32", "#9a6700", "#1565c0", "#8e24aa", "#00838f", "#757575"),
    *("#757575", "#e53935", "#388e3c", "#b07d00", "#1e88e5", "#ab47bc", "#0097a7", "#9e9e9e"),
)
BOLD, FAINT, ITALIC, UNDERLINE, INVERSE, STRIKE = 1, 2, 4, 8, 16, 32
_ON = {1: BOLD, 2: FAINT, 3: ITALIC, 4: UNDERLINE, 7: INVERSE, 9: STRIKE, 21: UNDERLINE}
_OFF = {22: BOLD | FAINT, 23: ITALIC, 24: UNDERLINE, 27: INVERSE, 29: STRIKE}

Colour = int | str | None


@dataclass(frozen=True, slots=True)
class Style:
    """How characters look.

    Attributes:
        fore, back: one of the terminal's 16 colours by number, any other as ``#rrggbb``; None for the
        default.
        flags: BOLD, FAINT, ITALIC, UNDERLINE, INVERSE, STRIKE.
    """

    fore: Colour = None
    back: Colour = None
    flags: int = 0

    def after(self, parameters: str) -> Style:
        """The style after an SGR sequence with these parameters.

        In:  Style().after("1;38;5;196")
        Out: Style(fore='#ff0000', back=None, flags=1)
        """
        numbers = [int(part) if part.isdecimal() and len(part) < 4 else 0 for part in _split(parameters)]
        style, at = self, 0
        while at < len(numbers):
            number = numbers[at]
            if number in (38, 48):
                colour, used = _extended(numbers[at + 1 : at + 5])
                style = replace(style, fore=colour) if number == 38 else replace(style, back=colour)
                at += used
            else:
                style = style._simple(number)
            at += 1
        return style

    def _simple(self, number: int) -> Style:
        if number == 0:
            return PLAIN
        if number in _ON:
            return replace(self, flags=self.flags | _ON[number])
        if number in _OFF:
            return replace(self, flags=self.flags & ~_OFF[number])
        if 30 <= number <= 37 or 90 <= number <= 97:
            return replace(self, fore=number - 30 if number < 40 else number - 82)
        if 40 <= number <= 47 or 100 <= number <= 107:
            return replace(self, back=number - 40 if number < 50 else number - 92)
        if number == 39:
            return replace(self, fore=None)
        return replace(self, back=None) if number == 49 else self

    def sequence(self) -> str:
        """The SGR sequence that makes this style out of none; "" for none."""
        if self == PLAIN:
            return ""
        parts = [str(number) for number in (1, 2, 3, 4, 7, 9) if self.flags & _ON[number]]
        for colour, low, extended in ((self.fore, 30, 38), (self.back, 40, 48)):
            if isinstance(colour, int):
                parts.append(str(low + colour if colour < 8 else low + 52 + colour))
            elif colour is not None:
                red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
                parts.append(f"{extended};2;{red};{green};{blue}")
        return f"\x1b[{';'.join(parts)}m"

    def css(self) -> str:
        """As an inline style for a page without style sheets."""
        fore, back = (PALETTE[one] if isinstance(one, int) else one for one in (self.fore, self.back))
        if self.flags & INVERSE:
            fore, back = back or "Canvas", fore or "CanvasText"
        rules = [f"color:{fore}"] if fore else []
        rules += [f"background:{back}"] if back else []
        rules += ["font-weight:bold"] if self.flags & BOLD else []
        rules += ["font-style:italic"] if self.flags & ITALIC else []
        line = ("underline " if self.flags & UNDERLINE else "") + (
            "line-through" if self.flags & STRIKE else ""
        )
        rules += [f"text-decoration:{line.strip()}"] if line else []
        return ";".join(rules)


PLAIN = Style()


def _split(parameters: str) -> list[str]:
    """The numbers of an SGR sequence; ``4:3`` (a kind of underline) counts as ``4``."""
    parts: list[str] = []
    for part in parameters.split(";"):
        subs = part.split(":")
        if subs[0] in ("38", "48"):
            # With colons a colour space, usually empty, comes before the three colours.
            parts += subs if len(subs) < 6 else [*subs[:2], *subs[3:6]]
        else:
            parts.append("0" if subs[0] == "4" and subs[1:2] == ["0"] else subs[0])
    return parts


def _extended(numbers: list[int]) -> tuple[Colour, int]:
    """The colour after 38 or 48, and how many numbers it took."""
    if numbers[:1] == [5] and len(numbers) > 1:
        number = min(numbers[1], 255)
        if number < 16:
            return number, 2
        if number >= 232:
            grey = 8 + 10 * (number - 232)
            return f"#{grey:02x}{grey:02x}{grey:02x}", 2
        cube = [0 if one == 0 else 55 + 40 * one for one in _cube(number - 16)]
        return "#" + "".join(f"{one:02x}" for one in cube), 2
    if numbers[:1] == [2] and len(numbers) > 3:
        return "#" + "".join(f"{min(one, 255):02x}" for one in numbers[1:4]), 4
    return None, len(numbers)


def _cube(number: int) -> tuple[int, int, int]:
    return number // 36, number // 6 % 6, number % 6


def runs(line: str) -> tuple[str, list[tuple[int, int, Style]]]:
    """A line's text, and the stretches of it that have a style.

    In:  runs("a\\x1b[1mb\\x1b[0mc")
    Out: ('abc', [(1, 2, Style(fore=None, back=None, flags=1))])
    """
    if "\x1b" not in line:
        return line, []
    parts, found, style, length, at = [], [], PLAIN, 0, 0
    for match in SGR.finditer(line):
        piece = line[at : match.start()]
        if piece and style != PLAIN:
            found.append((length, length + len(piece), style))
        parts.append(piece)
        length, at, style = length + len(piece), match.end(), style.after(match[1])
    piece = line[at:]
    if piece and style != PLAIN:
        found.append((length, length + len(piece), style))
    return "".join([*parts, piece]), found


def text(line: str) -> str:
    """A line without its styles."""
    return SGR.sub("", line) if "\x1b" in line else line


def carried(style: Style, line: str) -> Style:
    """The style that lasts at the end of a line that began with ``style``."""
    for match in SGR.finditer(line):
        style = style.after(match[1])
    return style


def unlinked(line: str) -> str:
    """Without hyperlinks: their text stays."""
    return _LINK.sub("", line) if "\x1b]" in line else line


def overwrites(line: str) -> bool:
    """Whether something in the line moves over what is there already."""
    return _MOVES.search(line) is not None


def folded(line: str) -> tuple[str, str]:
    """What a terminal shows of a line that overwrites itself, and a shorter line that ends in the same way.

    The second is what further text of the line goes behind: it knows where the next character is written.

    In:  folded("abc\\r10%\\r2")
    Out: ('20%', '20%\\r2')
    """
    pieces = line.split("\r")
    if "\x1b" not in line and "\b" not in line:
        shown = pieces[-1]
        for piece in reversed(pieces[:-1]):
            shown += piece[len(shown) :]
        return shown, shown if len(pieces[-1]) == len(shown) else f"{shown}\r{pieces[-1]}"
    return _drawn(pieces if len(pieces) <= OVERDRAWN else ["", *pieces[-OVERDRAWN:]])


def _drawn(pieces: list[str]) -> tuple[str, str]:
    """Draw pieces over each other on one row of cells."""
    cells: list[tuple[Style, str]] = []
    style, column = PLAIN, 0
    for piece in pieces:
        column = at = 0
        while at < len(piece):
            if piece[at] in "\x1b\x9b" and (match := _ESCAPE.match(piece, at)):
                at = match.end()
                if match[2] == "m":
                    style = style.after(match[1])
                else:
                    column = _moved(cells, column, match[2], match[1])
                continue
            char, at = piece[at], at + 1
            if char == "\b":
                column = max(0, column - 1)
            elif column < COLUMNS:
                if column >= len(cells):
                    cells += [(PLAIN, " ")] * (column - len(cells) + 1)
                cells[column] = (style, char)
                column += 1
    shown = _written(cells, style)
    # Drawn once more up to where the next character goes.
    blanks = [(PLAIN, " ")] * (column - len(cells))
    rest = "" if column == len(cells) else f"\x1b[0m\r{_written([*cells[:column], *blanks], style)}"
    return shown, shown + rest


def _moved(cells: list[tuple[Style, str]], column: int, kind: str, parameters: str) -> int:
    """Erase in the row (K), or move along it (C, D, G); up and down are not of this line."""
    number = int(parameters) if parameters.isdecimal() else 0
    if kind == "K":
        if number == 0:
            del cells[column:]
        elif number == 2:
            cells.clear()
        else:
            cells[: column + 1] = [(PLAIN, " ")] * min(column + 1, len(cells))
        return column
    step = max(1, min(number, COLUMNS))
    return {"C": min(COLUMNS, column + step), "D": max(0, column - step), "G": step - 1}.get(kind, column)


def _written(cells: list[tuple[Style, str]], last: Style) -> str:
    out, now = [], PLAIN
    for style, char in cells:
        if style != now:
            out.append(_change(now, style))
            now = style
        out.append(char)
    return "".join([*out, _change(now, last)])


def _change(before: Style, after: Style) -> str:
    if before == after:
        return ""
    return ("" if before == PLAIN else "\x1b[0m") + after.sequence()


def wire(line: str, marks: list[tuple[int, int]]) -> list[Any]:
    """A line as a page draws it: its text, its styles and what was found in it, in the page's own units.

    A page counts in UTF-16; Python counts characters.
    """
    plain, styled = runs(line)
    styles: list[list[Any]] = [[start, end, one.fore, one.back, one.flags] for start, end, one in styled]
    found: list[list[Any]] = [[start, end] for start, end in marks]
    if (styles or found) and not plain.isascii() and max(plain) > "\uffff":
        places = [0]
        for char in plain:
            places.append(places[-1] + (2 if char > "\uffff" else 1))
        for stretch in [*styles, *found]:
            stretch[0], stretch[1] = places[stretch[0]], places[stretch[1]]
    return [plain, styles, found]


def markup(line: str) -> str:
    """A line as HTML that needs no style sheet and no script."""
    plain, styled = runs(line)
    out, at = [], 0
    for start, end, style in styled:
        css = style.css()
        inside = html.escape(plain[start:end])
        out += [html.escape(plain[at:start]), f'<span style="{css}">{inside}</span>' if css else inside]
        at = end
    return "".join([*out, html.escape(plain[at:])])
