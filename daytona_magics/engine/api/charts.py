"""Charts of a code run: the program that makes them, and taking them out of what the program printed.

A program that mentions matplotlib is run by `chart_program`, which prints each shown figure as one line
behind a marker made for this run. The lines are cut from the output; what they hold was made in the sandbox,
so only fields of the types that the platform has are passed on.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from pathlib import Path
from typing import Any

from daytona_magics.engine.toolbox import chart_program

_PROGRAM = Path(chart_program.__file__).read_text(encoding="utf-8")
#: Most charts of one run.
MAX_CHARTS = 100
MAX_ELEMENTS = 10_000
#: Most bytes of one chart, and most lists and objects in it; each costs memory when it is read.
MAX_LINE, MAX_NESTED = 8 << 20, 200_000
#: Most values of all charts of a run.
MAX_VALUES = 1_000_000

_TEXTS = ("type", "title", "x_label", "y_label", "x_scale", "y_scale", "png", "label", "group", "value")
_NUMBERS = ("angle", "radius", "min", "first_quartile", "median", "third_quartile", "max")
_NUMBER_LISTS = ("x_ticks", "y_ticks", "outliers")
_TEXT_LISTS = ("x_tick_labels", "y_tick_labels")


def wrap(code: str) -> tuple[str, str] | None:
    """The program to run in place of `code` and the marker of its charts; None when `code` draws nothing.

    Example:
        >>> wrap("print(1)") is None
        True
    """
    if not re.search(r"\bmatplotlib\b", code):
        return None
    marker = f"dtn_artifact_{secrets.token_hex(8)}:"
    return f"{_PROGRAM}\nmain({code!r}, {marker!r})\n", marker


def split(output: bytes, marker: str) -> tuple[bytes, list[dict[str, Any]]]:
    """What a wrapped program printed without its charts, and the charts.

    Example:
        >>> split(b'a\\nm:{"type": "chart", "value": {"title": "T"}}\\nb\\n', "m:")
        (b'a\\nb\\n', [{'title': 'T'}])
    """
    charts: list[dict[str, Any]] = []
    values = 0

    def take(found: re.Match[bytes]) -> bytes:
        nonlocal values
        values += found[1].count(b",")
        if values > MAX_VALUES or len(charts) >= MAX_CHARTS:
            return b""
        if len(found[1]) > MAX_LINE or found[1].count(b"[") + found[1].count(b"{") > MAX_NESTED:
            return b""
        try:
            message = json.loads(found[1])
        except (ValueError, RecursionError):
            return found[0]
        value = message.get("value") if isinstance(message, dict) else None
        if isinstance(value, dict):
            charts.append(_chart(value, nested=True))
        return b""

    rest = re.sub(re.escape(marker.encode()) + rb"([^\n]*)\n", take, output)
    return rest, charts


def _chart(value: dict[str, Any], *, nested: bool) -> dict[str, Any]:
    """The fields of a chart, or of a chart's element, that have the right types."""
    chart: dict[str, Any] = {name: value[name] for name in _TEXTS if isinstance(value.get(name), str)}
    chart |= {name: value[name] for name in _NUMBERS if _is_number(value.get(name))}
    for name in _NUMBER_LISTS:
        if isinstance(value.get(name), list) and all(map(_is_number, value[name])):
            chart[name] = value[name]
    for name in _TEXT_LISTS:
        if isinstance(value.get(name), list) and all(isinstance(word, str) for word in value[name]):
            chart[name] = value[name]
    points = value.get("points")
    if isinstance(points, list) and all(_is_point(point) for point in points):
        chart["points"] = points
    elements = value.get("elements")
    if nested and isinstance(elements, list):
        inner = [element for element in elements[:MAX_ELEMENTS] if isinstance(element, dict)]
        chart["elements"] = [_chart(element, nested=False) for element in inner]
    return chart


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 63
    return type(value) is float and math.isfinite(value)


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
