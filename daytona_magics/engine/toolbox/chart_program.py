"""Runs a program that draws with matplotlib so that every figure it shows comes back as data.

The engine sends this file's text and then one line that calls `main` with the program; the sandbox's Python
reads it from its standard input. ``plt.show()`` then prints each open figure as one line: the marker, and
JSON with the picture and what was drawn. Standard library and the sandbox's matplotlib; Python 3.8 or newer.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
import traceback
from collections.abc import Iterable
from typing import Any


def main(code: str, marker: str) -> None:
    """Run `code` as the program of this process."""
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    try:
        _hook(marker)
    except ImportError:
        sys.stderr.flush()  # Without matplotlib the program says so itself, or only mentions it.
    try:
        exec(compile(code, "<stdin>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - shown as Python shows it, less the frame of this program
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace and trace.tb_next)
        sys.exit(1)


def _hook(marker: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.axes
    import matplotlib.pyplot as plt

    draw_boxes = matplotlib.axes.Axes.bxp

    def bxp(axes: Any, bxpstats: Any, *args: Any, **kwargs: Any) -> Any:
        # What a box stands for cannot be read back from its lines.
        axes.__dict__.setdefault("_boxes", []).extend(bxpstats)
        return draw_boxes(axes, bxpstats, *args, **kwargs)

    def show(*args: Any, **kwargs: Any) -> None:
        for number in plt.get_fignums():
            line = json.dumps({"type": "chart", "value": describe_figure(plt.figure(number))})
            sys.stdout.write(marker + line + "\n")
        sys.stdout.flush()
        plt.close("all")

    setattr(matplotlib.axes.Axes, "bxp", bxp)  # noqa: B010 - a method is replaced, on purpose
    setattr(plt, "show", show)  # noqa: B010


def describe_figure(figure: Any) -> dict[str, Any]:
    """A figure as the platform describes it: one chart, or a composite of several."""
    charts = [describe(axes) for axes in figure.axes]
    if len(charts) == 1:
        chart = charts[0]
    else:
        title = figure._suptitle.get_text() if figure._suptitle else ""
        chart = {"type": "composite_chart", "title": title, "elements": charts}
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    chart["png"] = base64.b64encode(picture.getvalue()).decode("ascii")
    return chart


def describe(axes: Any) -> dict[str, Any]:
    """What one pair of axes shows: its kind, its labels and its data."""
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer
    from matplotlib.patches import Wedge

    chart = {"title": axes.get_title(), "x_label": axes.get_xlabel(), "y_label": axes.get_ylabel()}
    boxes = axes.__dict__.get("_boxes")
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    clouds = [cloud for cloud in axes.collections if isinstance(cloud, PathCollection)]
    if boxes:
        chart.update(type="box_and_whisker", elements=[_box(stats) for stats in boxes])
    elif wedges:
        chart = {"title": chart["title"], "type": "pie", "elements": _pie(axes, wedges)}
    elif bars:
        chart.update(type="bar", elements=_bars(axes, bars))
    elif clouds or axes.lines:
        drawn: list[Any] = [(cloud, cloud.get_offsets()) for cloud in clouds] or [
            (line, line.get_xydata()) for line in axes.lines
        ]
        elements = [{"label": _label(artist), "points": _points(data)} for artist, data in drawn]
        chart.update(type="scatter" if clouds else "line", elements=elements, **_ticks(axes))
    else:
        chart.update(type="unknown", elements=[])
    return chart


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _label(artist: Any) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _points(data: Iterable[Any]) -> list[list[float | None]]:
    points = ([_number(x), _number(y)] for x, y in data)
    return [point for point in points if None not in point]


def _ticks(axes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"x_scale": axes.get_xscale(), "y_scale": axes.get_yscale()}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        ticks = [_number(tick) for tick in axis.get_majorticklocs()]
        found[name + "_ticks"] = [tick for tick in ticks if tick is not None]
        found[name + "_tick_labels"] = [label.get_text() for label in axis.get_majorticklabels()]
    return found


def _bars(axes: Any, containers: list[Any]) -> list[dict[str, Any]]:
    elements = []
    for container in containers:
        upright = getattr(container, "orientation", "vertical") != "horizontal"
        axis = axes.xaxis if upright else axes.yaxis
        labels = axis.get_majorticklabels()
        places = [round(float(place), 6) for place in axis.get_majorticklocs()]
        names = {place: label.get_text() for place, label in zip(places, labels)}  # noqa: B905 - Python 3.8
        for bar in container:
            middle = bar.get_x() + bar.get_width() / 2 if upright else bar.get_y() + bar.get_height() / 2
            value = bar.get_height() if upright else bar.get_width()
            name = names.get(round(float(middle), 6)) or format(middle, "g")
            elements.append({"label": name, "group": _label(container), "value": format(value, ".12g")})
    return elements


def _pie(axes: Any, wedges: list[Any]) -> list[dict[str, Any]]:
    texts = [text.get_text() for text in axes.texts]
    labels = [_label(wedge) for wedge in wedges]
    if not any(labels) and len(texts) >= len(wedges):
        labels = texts[: len(wedges)]
    return [
        {"label": label, "angle": _number(abs(wedge.theta2 - wedge.theta1)), "radius": _number(wedge.r)}
        for label, wedge in zip(labels, wedges)  # noqa: B905 - Python 3.8
    ]


def _box(stats: dict[str, Any]) -> dict[str, Any]:
    names = {
        "min": "whislo",
        "first_quartile": "q1",
        "median": "med",
        "third_quartile": "q3",
        "max": "whishi",
    }
    box = {name: _number(stats[key]) for name, key in names.items()}
    outliers = [_number(value) for value in stats.get("fliers", ())]
    return {"label": str(stats.get("label", "")), "outliers": [v for v in outliers if v is not None], **box}
