"""Mimebundles from a sandbox, made harmless for the notebook page.

The page runs with the rights of the person looking at it, and the sandbox is hostile. So every bundle is
rebuilt from an allow-list of mimetypes before it is published:

- HTML goes through nh3 with table markup, classes and a checked set of inline CSS; HTML that needs
  ``<style>`` or a script runs in a frame of its own without the page's origin, which reports its height;
- SVG becomes an ``<img>`` with a data URL (no script runs in an image);
- JavaScript, widget views and unknown mimetypes are dropped; text loses its dangerous terminal escapes;
- display ids get a prefix, so a sandbox can update only its own displays.

The setting ``trust`` turns this off for people who trust what they run.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from typing import Any

from daytona_magics.notebook.terminal import clean as clean_text

_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_PLAIN = frozenset({"text/plain"})
_DATA = re.compile(
    r"application/(json|geo\+json|vnd\.plotly\.v1\+json|vnd\.vega(lite)?\.v\d+(\.\d+)?\+json|vnd\.dataresource\+json)\Z"
)
_NEEDS_FRAME = re.compile(
    r"<\s*(style|script|link|iframe|canvas|video|audio|object|embed|form|input|button)\b", re.I
)
#: The style block pandas puts into every table; it only aligns cells, and the page aligns them as well.
_PANDAS_STYLE = re.compile(r"<style scoped>\s*(?:\.dataframe [^<{}]*\{[^<{}]*\}\s*)*</style>")
_TAGS = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "blockquote",
        "br",
        "caption",
        "center",
        "cite",
        "code",
        "col",
        "colgroup",
        "dd",
        "del",
        "details",
        "dfn",
        "div",
        "dl",
        "dt",
        "em",
        "figcaption",
        "figure",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "i",
        "img",
        "ins",
        "kbd",
        "li",
        "mark",
        "ol",
        "p",
        "pre",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "summary",
        "sup",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "time",
        "tr",
        "tt",
        "u",
        "ul",
        "var",
        "wbr",
    ]
)
_ATTRIBUTES = {
    "*": {"class", "style", "title", "align", "valign", "dir", "lang"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "table": {"border", "cellpadding", "cellspacing", "width"},
    "td": {"colspan", "rowspan", "width", "headers"},
    "th": {"colspan", "rowspan", "width", "scope"},
    "col": {"span", "width"},
    "colgroup": {"span"},
    "ol": {"start"},
    "details": {"open"},
}
_STYLES = frozenset(
    [
        "background-color",
        "border",
        "border-bottom",
        "border-collapse",
        "border-color",
        "border-left",
        "border-radius",
        "border-right",
        "border-spacing",
        "border-style",
        "border-top",
        "border-width",
        "color",
        "font-family",
        "font-size",
        "font-style",
        "font-variant",
        "font-weight",
        "height",
        "letter-spacing",
        "line-height",
        "margin",
        "margin-bottom",
        "margin-left",
        "margin-right",
        "margin-top",
        "max-height",
        "max-width",
        "min-height",
        "min-width",
        "opacity",
        "overflow",
        "overflow-x",
        "overflow-y",
        "padding",
        "padding-bottom",
        "padding-left",
        "padding-right",
        "padding-top",
        "text-align",
        "text-decoration",
        "text-indent",
        "text-transform",
        "vertical-align",
        "white-space",
        "width",
        "word-break",
        "word-wrap",
    ]
)
_DATA_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*\Z", re.I)
_MARKUP = re.compile(r"<(?!https?://[^>\s]*>|mailto:[^>\s]*>)[a-zA-Z/!?]")
_BAD_SCHEME = re.compile(r"(javascript|vbscript)\s*:", re.I)
_BAD_TEX = re.compile(r"\\(href|require|style|class|cssId|html|include|unicode|data)\b")

_FRAME_POLICY = (
    "default-src 'none'; img-src data: blob:; media-src data: blob:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"
)
_FRAME_SCRIPT = (
    "<script>(()=>{const tell=()=>parent.postMessage({daytonaMagicsHeight:"
    "Math.ceil(document.documentElement.getBoundingClientRect().height)},'*');"
    "new ResizeObserver(tell).observe(document.documentElement);addEventListener('load',tell)})()</script>"
)
#: Runs in the page: one listener per page; a frame may set nothing but its own height, within bounds.
_PAGE_SCRIPT = (
    "<script>(()=>{if(window.__daytonaMagicsFrames)return;window.__daytonaMagicsFrames=true;"
    "addEventListener('message',e=>{const h=e.data&&e.data.daytonaMagicsHeight;"
    "if(typeof h!=='number'||!(h>=0))return;"
    "for(const f of document.querySelectorAll('iframe.daytona-magics-frame'))"
    "if(f.contentWindow===e.source)f.style.height=Math.min(Math.max(h,24),4000)+'px'})})()</script>"
)


def safe_bundle(
    data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, *, trust: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rebuild a mimebundle from what may be shown.

    Args:
        data: mimetype to value, as the sandbox sent it.
        metadata: its metadata; only image sizes are kept.
        trust: pass everything through unchanged.

    Returns:
        data and metadata for ``publish``; data is empty when nothing in it may be shown.

    In:  safe_bundle({"text/html": "<b onclick=x>1</b>", "application/javascript": "x"})
    Out: ({'text/html': '<b>1</b>'}, {})
    """
    if trust:
        return dict(data), dict(metadata or {})
    safe: dict[str, Any] = {}
    for mimetype, value in data.items():
        text = value if isinstance(value, str) else None
        if mimetype in _PLAIN and text is not None:
            safe[mimetype] = clean_text(text)
        elif mimetype in _IMAGES and text is not None and re.fullmatch(r"[A-Za-z0-9+/=\s]*", text):
            safe[mimetype] = text
        elif mimetype == "text/html" and text is not None:
            safe[mimetype] = safe_html(text)
        elif mimetype == "image/svg+xml" and text is not None:
            safe.setdefault("text/html", svg_image(text))
        elif mimetype in ("text/markdown", "text/latex") and text is not None:
            # Rendered by the page with its own rights: shown only where it is text and nothing else.
            if _text_only(text, latex=mimetype == "text/latex"):
                safe[mimetype] = text
            else:
                safe.setdefault("text/plain", clean_text(text))
        elif _DATA.match(mimetype):
            safe[mimetype] = value
    return safe, _sizes(metadata or {}, safe)


def _text_only(text: str, *, latex: bool) -> bool:
    decoded = re.sub(r"[\x00-\x20]+(?=[a-z]*\s*:)", "", html.unescape(text), flags=re.I)
    risky = (
        _BAD_SCHEME.search(decoded)
        or _BAD_SCHEME.search(re.sub(r"\s+", "", decoded))
        or _BAD_TEX.search(text)
    )
    return not risky and (latex or not _MARKUP.search(text))


def _sizes(metadata: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for mimetype in data:
        described = metadata.get(mimetype)
        if isinstance(described, Mapping):
            sizes = {
                key: described[key]
                for key in ("width", "height")
                if isinstance(described.get(key), int | float) and not isinstance(described.get(key), bool)
            }
            if sizes:
                kept[mimetype] = sizes
    if metadata.get("needs_background") in ("light", "dark"):
        kept["needs_background"] = metadata["needs_background"]
    return kept


def safe_html(text: str) -> str:
    """Sanitise HTML, or frame it when it needs styles or scripts of its own.

    In:  safe_html('<p onclick="x()">hi <script>alert(1)</script></p>')[:7]
    Out: '<iframe'
    """
    text = _PANDAS_STYLE.sub("", text)
    if _NEEDS_FRAME.search(text):
        return framed(text)
    import nh3

    return nh3.clean(
        text,
        tags=set(_TAGS),
        clean_content_tags={"script", "style", "template", "noscript"},
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=_attribute,
        url_schemes={"https", "http", "mailto", "data"},
        url_relative="deny",
        filter_style_properties=set(_STYLES),
        set_tag_attribute_values={"a": {"target": "_blank"}, "img": {"referrerpolicy": "no-referrer"}},
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Data URLs only as images; images only embedded or over https; no class of the notebook's own page."""
    scheme = value.strip().lower()
    if name == "src":
        return value if scheme.startswith("https:") or _DATA_IMAGE.match(value.strip()) else None
    if name == "href" and scheme.startswith("data:"):
        return None
    if name == "class":
        kept = [
            word for word in value.split() if not word.startswith(("jp-", "lm-", "p-", "cm-", "daytona-"))
        ]
        return " ".join(kept) or None
    if name == "style" and re.search(r"url\s*\(|expression|@import|\\", value, re.I):
        return None
    return value


def framed(text: str) -> str:
    """Put HTML into a self-sizing frame that has neither the page's origin nor the network."""
    inner = (
        '<!doctype html><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_FRAME_POLICY}">'
        '<base target="_blank"><style>html{color-scheme:light;background:#fff}'
        "body{margin:4px;font:13px/1.4 system-ui,sans-serif}"
        f"table{{border-collapse:collapse}}</style>{text}{_FRAME_SCRIPT}"
    )
    return (
        f'<iframe class="daytona-magics-frame" sandbox="allow-scripts" referrerpolicy="no-referrer" '
        f'title="output of the sandbox" srcdoc="{html.escape(inner, quote=True)}" '
        f'style="width:100%;height:150px;border:0"></iframe>{_PAGE_SCRIPT}'
    )


def svg_image(text: str) -> str:
    """An SVG as an image: it is drawn, and nothing in it runs.

    In:  svg_image("<svg xmlns='http://www.w3.org/2000/svg'/>")[:31]
    Out: '<img src="data:image/svg+xml;ba'
    """
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return (
        f'<img src="data:image/svg+xml;base64,{encoded}" alt="drawing of the sandbox" style="max-width:100%">'
    )


def safe_transient(transient: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Give a display id of the sandbox a prefix, so that it never meets one of the host's.

    In:  safe_transient({"display_id": "a"}, "box")
    Out: {'display_id': 'daytona-magics:box:a'}
    """
    display_id = transient.get("display_id")
    if not isinstance(display_id, str | int):
        return {}
    return {"display_id": f"daytona-magics:{owner}:{str(display_id)[:200]}"}


class RemoteValue:
    """The value of a sandboxed cell's last expression, as the notebook shows it.

    Only its *picture* is here (text, image, table); the object itself stays in the sandbox. ``repr`` is the
    remote text, so ``Out[n]`` and ``_`` read as usual.

    Attributes:
        data: the sanitised mimebundle.
        metadata: its metadata.
    """

    def __init__(
        self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, *, trust: bool = False
    ):
        self.data, self.metadata = safe_bundle(data, metadata, trust=trust)

    def __repr__(self) -> str:
        plain = self.data.get("text/plain")
        if isinstance(plain, str):
            return plain
        return f"<value in the sandbox: {', '.join(self.data) or 'not shown'}>"

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data = dict(self.data)
        data.setdefault("text/plain", repr(self))
        return data, self.metadata

    def json(self) -> Any:
        """The value read from its JSON picture, or from its text when that is a JSON literal."""
        if "application/json" in self.data:
            return self.data["application/json"]
        return json.loads(repr(self))
