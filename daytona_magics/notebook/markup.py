"""HTML and SVG from a sandbox, made harmless: sanitised, framed, or turned into an image."""

from __future__ import annotations

import base64
import html
import re

#: Tags, or attributes, that are sanitised in one text; one that has more is framed.
MAX_PARTS = 50_000
_NEEDS_FRAME = re.compile(
    r"<\s*(style|script|link|iframe|canvas|video|audio|object|embed|form|input|button)\b", re.I
)
#: The style block pandas and polars put into every table; it only aligns, and the page aligns them as well.
_TABLE_STYLE = re.compile(r"<style(?: scoped)?>\s*(?:\.dataframe [^<{}]*\{[^<{}]*\}\s*){0,20}</style>")
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
_DATA_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=]*\Z", re.I)
_SPACE = re.compile(r"[\x00-\x20]+")

_FRAME_POLICY = (
    "default-src 'none'; img-src data: blob:; media-src data: blob:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; base-uri 'none'; form-action 'none'"
)
#: Elements that make a browser go somewhere and that no policy stops.
_GOING = re.compile(r"<(?=(?:meta|link|base)\b)", re.I)
_FRAME_SCRIPT = (
    "<script>(()=>{const tell=()=>parent.postMessage({daytonaMagicsHeight:"
    "Math.ceil(document.documentElement.getBoundingClientRect().height)},'*');"
    "new ResizeObserver(tell).observe(document.documentElement);addEventListener('load',tell)})()</script>"
)
#: Says in the frame what its policy kept it from loading; else a chart that needs a server is a blank.
_FRAME_NOTE = (
    "<script>(()=>{const seen=new Set();addEventListener('securitypolicyviolation',e=>{"
    "const from=String(e.blockedURI).split(/[?#]/)[0].slice(0,200);"
    "if(!/^(https?|wss?):/.test(from)||seen.has(from)||seen.size>=5)return;seen.add(from);"
    "const p=document.createElement('p');p.style.cssText='color:#666;font:12px system-ui,sans-serif';"
    "p.textContent='not loaded, because output of a sandbox loads nothing: '+from"
    "+' (for a sandbox you trust: %config SandboxConfig.trust = True)';"
    "(document.body||document.documentElement).append(p)})})()</script>"
)
#: Runs in the page: one listener per page; a frame may set nothing but its own height, within bounds.
_PAGE_SCRIPT = (
    "<script>(()=>{if(window.__daytonaMagicsFrames)return;window.__daytonaMagicsFrames=true;"
    "addEventListener('message',e=>{const h=e.data&&e.data.daytonaMagicsHeight;"
    "if(typeof h!=='number'||!(h>=0))return;"
    "for(const f of document.querySelectorAll('iframe.daytona-magics-frame'))"
    "if(f.contentWindow===e.source)f.style.height=Math.min(Math.max(h,24),4000)+'px'})})()</script>"
)


def safe_html(text: str) -> str:
    """Sanitise HTML, or frame it when it needs styles or scripts of its own.

    In:  safe_html('<p onclick="x()">hi <script>alert(1)</script></p>')[:7]
    Out: '<iframe'
    """
    text = _TABLE_STYLE.sub("", text)
    if _NEEDS_FRAME.search(text) or _takes_long(text):
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


def _takes_long(text: str) -> bool:
    """Whether sanitising may take long: it takes quadratic time in nested tags and in a tag's attributes."""
    if text.count("<") > MAX_PARTS:
        return True
    # An attribute behind a ">" that ends no tag has a quotation mark between the two.
    tags = re.sub(r">[^<>\"']*<", "><", text)
    return sum(1 for _ in re.finditer(r"[\s/=]+", tags)) > MAX_PARTS


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Images only embedded; links only to the web and to mail; no class of the notebook's own page."""
    # Browsers drop line ends and tabs inside an address; a scheme must not hide behind them.
    address = _SPACE.sub("", value)
    if name == "src":
        if _DATA_IMAGE.match(address):
            return address
        return _ELSEWHERE if re.match(r"https?:", address, re.I) else None
    if name == "href":
        return value if re.match(r"(https?|mailto):", address, re.I) else None
    if name == "class":
        kept = [
            word for word in value.split() if not word.startswith(("jp-", "lm-", "p-", "cm-", "daytona-"))
        ]
        return " ".join(kept) or None
    if name == "style" and re.search(r"url\s*\(|expression|@import|\\", value, re.I):
        return None
    return value


def framed(text: str) -> str:
    """Put HTML into a self-sizing frame that has neither the page's origin, cookies nor storage.

    Its policy lets it load nothing: no image, script, font or request goes out. One way out is left, because
    no browser closes it: a script may send the frame itself to an address, and with it what the sandbox put
    into the frame, which is all it can see. ``<meta>``, ``<link>`` and ``<base>`` are disarmed. What was not
    loaded is named in the frame.
    """
    text = _GOING.sub("<x-", text)
    inner = (
        '<!doctype html><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_FRAME_POLICY}">'
        f'{_FRAME_NOTE}<base target="_blank"><style>html{{color-scheme:light;background:#fff}}'
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


#: Stands where an image at an address would have been loaded.
_ELSEWHERE = re.search(  # type: ignore[union-attr]
    r'src="([^"]*)"',
    svg_image(
        '<svg xmlns="http://www.w3.org/2000/svg" width="230" height="20"><text x="2" y="14" fill="gray" '
        'font-family="sans-serif" font-size="12">(an image at an address, not loaded)</text></svg>'
    ),
).group(1)
