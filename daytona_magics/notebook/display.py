"""Mimebundles from a sandbox, made harmless for the notebook page.

The page runs with the rights of the person looking at it, and the sandbox is hostile. So every bundle is
rebuilt from an allow-list of mimetypes before it is published:

- HTML goes through nh3 with table markup, classes and a checked set of inline CSS; HTML that needs
  ``<style>`` or a script runs in a frame of its own without the page's origin, which reports its height;
- images are data: one at an address would make the reader's browser ask for it, with what it knows;
- SVG becomes an ``<img>`` with a data URL (no script runs in an image, and it loads nothing);
- charts drawn by the page pass when they are data only (see :mod:`daytona_magics.notebook.specs`);
- JavaScript, widget views and unknown mimetypes are dropped; text loses its dangerous terminal escapes;
- display ids get a prefix, so a sandbox can update only its own displays.

Where nothing but text is left of a bundle, the text says what is missing. The setting ``trust`` turns all
this off for people who trust what they run. Every pattern here takes linear time: a sandbox must not be able
to hang the kernel with a text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from daytona_magics.errors import printable
from daytona_magics.notebook import specs
from daytona_magics.notebook.markup import safe_html, svg_image
from daytona_magics.notebook.terminal import clean as clean_text

_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_PLAIN = frozenset({"text/plain"})
#: Values the page draws itself. None: not shown.
_DATA: dict[str, Callable[[Any], Any]] = {
    "application/json": lambda value: value,
    "application/geo+json": specs.without_markup,
    "application/vnd.dataresource+json": specs.without_markup,
    "application/vnd.plotly.v1+json": specs.plotly_figure,
}
_MARKUP = re.compile(r"<(?!https?://[^<>\s]*>|mailto:[^<>\s]*>)[a-zA-Z/!?]")
_PICTURE = r"data:image/(?:png|jpeg|gif|webp);base64,"
#: An image of Markdown that is not embedded; a link to data that is not an image.
_FOREIGN_IMAGE = re.compile(rf"!\[(?![^\[\]]{{0,1000}}\]\({_PICTURE}[A-Za-z0-9+/=]*\))", re.I)
_BAD_SCHEME = re.compile(rf"(javascript|vbscript):|\](?:\(<?|:<?)data:(?!{_PICTURE[5:]})", re.I)
#: What Markdown and browsers drop inside an address.
_IGNORED = re.compile(r"[\x00-\x20\\]+")
#: Character references so long that reading them takes long; none of Unicode's needs it.
_LONG_REFERENCE = re.compile(r"&#x?[0-9a-f]{9}", re.I)
_BAD_TEX = re.compile(
    r"\\(href|require|style|class|cssId|html|include|unicode|data|bbox|mmlToken|enclose|texttip|csname)"
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
    missing: list[str] = []
    for mimetype, value in data.items():
        if not _add(safe, mimetype, value):
            missing.append(mimetype)
    if missing and set(safe) <= _PLAIN:
        text, said = safe.get("text/plain", ""), _not_shown(missing)
        safe["text/plain"] = f"{text}\n{said}" if text else said
    return safe, _sizes(metadata or {}, safe)


def _add(safe: dict[str, Any], mimetype: str, value: Any) -> bool:
    """Add what may be shown of one value; False when that is nothing, or only its text."""
    if mimetype in _DATA:
        shown = _DATA[mimetype](value)
        if shown is not None:
            safe[mimetype] = shown
        return shown is not None
    if not isinstance(value, str):
        return False
    if mimetype in _PLAIN:
        safe.setdefault(mimetype, clean_text(value))
    elif mimetype in _IMAGES and re.fullmatch(r"[A-Za-z0-9+/=\s]*", value):
        safe[mimetype] = value
    elif mimetype == "text/html":
        safe[mimetype] = safe_html(value)
    elif mimetype == "image/svg+xml":
        safe.setdefault("text/html", svg_image(value))
    elif mimetype == "text/markdown":
        # Rendered by the page with its own rights: shown only where it is text and nothing else.
        if not _text_only(value, latex=False):
            safe["text/plain"] = clean_text(value)
            return False
        safe[mimetype] = value
    elif mimetype == "text/latex":
        if not _text_only(value, latex=True):
            safe.setdefault("text/plain", clean_text(value))
            return False
        safe[mimetype] = value
    else:
        return False
    return True


def _not_shown(mimetypes: list[str]) -> str:
    named = ", ".join(printable(mimetype, line=True)[:100] for mimetype in mimetypes[:3])
    more = f" and {len(mimetypes) - 3} more" if len(mimetypes) > 3 else ""
    return (
        f"(not shown: {named}{more}; it could act with your rights or load addresses. "
        "For a sandbox you trust: %config SandboxConfig.trust = True)"
    )


def _text_only(text: str, *, latex: bool) -> bool:
    if _LONG_REFERENCE.search(text) or _BAD_TEX.search(text):
        return False
    if not latex and (_MARKUP.search(text) or _FOREIGN_IMAGE.search(text)):
        return False
    return not _BAD_SCHEME.search(_IGNORED.sub("", html.unescape(text)))


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
