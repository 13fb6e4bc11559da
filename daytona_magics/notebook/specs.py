"""Charts and data that the page itself draws from JSON: which of them may pass.

A renderer runs in the page, with the rights of the person looking at it: whatever address a chart names is
fetched with them, and a second address can carry the answer away. So a chart passes only when it is made of
data: nothing in it may be an address or be able to become one.

Vega and Vega-Lite never pass: their expressions make strings while they draw, so no look at the JSON can say
which addresses will be asked for. Their picture or text form is shown instead.
"""

from __future__ import annotations

import re
from typing import Any

#: Keys under which a figure, its map layers or its images name something to load.
_LOADING = frozenset(
    ["geojson", "glyphs", "href", "image", "source", "sources", "sprite", "src", "style", "tiles", "url"]
)
_WORD = re.compile(r"[A-Za-z][A-Za-z -]{0,40}\Z")
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]*\Z", re.IGNORECASE)
#: In any text: an address, a CSS function that loads one, TeX, and every ``<`` that could begin a tag other
#: than these few; also one at the very end, because a template may put two texts together.
_ACTIVE = re.compile(
    r"//|:/|url\s*\(|image-set|\\[a-z]|javascript\s*:|<(?!/?(?:br|b|i|em|sub|sup|extra)\s{0,9}/?>|[\s\d=.,-])",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[<&]")
#: Settings of a figure that offer to send it somewhere.
_SENDING = frozenset(["showLink", "sendData", "showEditInChartStudio", "showSendToCloud"])


def plotly_figure(value: Any) -> dict[str, Any] | None:
    """A plotly figure that consists of data: it loads nothing, links to nothing, typesets nothing.

    Args:
        value: the figure as the sandbox sent it.

    Returns:
        its data, layout and frames, and of its settings the plain switches; None if it may not be shown.

    In:  plotly_figure({"data": [{"y": [1]}]}), plotly_figure({"layout": {"images": [{"source": "/x"}]}})
    Out: ({'data': [{'y': [1]}]}, None)
    """
    if not isinstance(value, dict):
        return None
    figure = {key: value[key] for key in ("data", "layout", "frames") if key in value}
    if not _loads_nothing(figure):
        return None
    settings = value.get("config")
    if isinstance(settings, dict):
        figure["config"] = {
            key: setting
            for key, setting in settings.items()
            if isinstance(setting, bool | int | float) and key not in _SENDING
        }
    return figure


def _loads_nothing(figure: dict[str, Any]) -> bool:
    waiting: list[tuple[str, Any]] = [("", figure)]
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, str):
            if key in _LOADING or key.endswith("url"):
                if not (_PICTURE.match(item) or (key == "style" and _WORD.match(item))):
                    return False
            elif key != "bdata" and _ACTIVE.search(item):
                return False
        elif isinstance(item, dict):
            for name, inner in item.items():
                if _ACTIVE.search(name):
                    return False
                waiting.append((name.lower(), inner))
        elif isinstance(item, list):
            waiting += [(key, inner) for inner in item]
    return True


def without_markup(value: Any) -> Any:
    """The same value if no text in it could be taken for HTML, else None: a map shows them in its popups.

    In:  without_markup({"name": "a"}), without_markup([{"name": "<img src=x>"}])
    Out: ({'name': 'a'}, None)
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if _MARKUP.search(item):
                return None
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return value
