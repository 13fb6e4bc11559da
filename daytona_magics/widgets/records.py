"""What of a widget stays in a notebook: a record, as text and as HTML, readable without a kernel.

A page shows a stored widget whose kernel is gone as "model not found", whatever else its output holds. So a
live widget leaves two outputs: its record, and the view. While the view is drawn the page hides the record
(by a class that names the view); a notebook that is opened later, converted or read elsewhere shows it.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import printable

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Characters of a record, as text and as HTML.
TEXT_LIMIT, HTML_LIMIT = 64 << 10, 512 << 10
#: What a key or a token of the platform looks like, and a signed address's part that opens it.
_SECRET = re.compile(r"\b(?:dtn|dme)_[A-Za-z0-9_-]{16,}|\bBearer\s+\S{8,}|(?<=[?&]token=)[^&\s\"'<>]+", re.I)


def cleaned(record: tuple[str, str], binding: Binding) -> tuple[str, str]:
    """A record within its bounds, without anything secret.

    Args:
        record: text, and HTML whose parts from a sandbox are escaped.
        binding: whose key must not be in it.
    """
    text, markup = (_without_secrets(one, binding) for one in record)
    if len(text) > TEXT_LIMIT:
        text = f"{text[:TEXT_LIMIT]}\n… {len(text) - TEXT_LIMIT:,} more characters"
    if len(markup) > HTML_LIMIT:
        # Cut markup would be broken markup.
        markup = preformatted(text)
    return text, markup


def preformatted(text: str) -> str:
    """Text as HTML that keeps its lines."""
    return f"<pre>{html.escape(printable(text))}</pre>"


def _without_secrets(text: str, binding: Binding) -> str:
    key = getattr(getattr(binding, "endpoint", None), "api_key", "")
    if key:
        text = text.replace(key, "***")
    return _SECRET.sub("***", text)


def publish(publisher: Any, record: tuple[str, str], view: dict[str, Any], key: str) -> None:
    """Show the two outputs of a live widget.

    Args:
        publisher: the shell's display publisher.
        record: text and HTML.
        view: the mimebundle of the view alone.
        key: by which the view's page finds the record.
    """
    publisher.publish(_bundle(record, key), transient=_place(key))
    publisher.publish(view)


def renew(publisher: Any, record: tuple[str, str], key: str) -> None:
    """Put another record in the place of the one that :func:`publish` showed; the view is left as it is."""
    publisher.publish(_bundle(record, key), transient=_place(key), update=True)


def _bundle(record: tuple[str, str], key: str) -> dict[str, str]:
    text, markup = record
    return {"text/plain": text, "text/html": f'<div class="dm-record dm-record-{key}">{markup}</div>'}


def _place(key: str) -> dict[str, str]:
    return {"display_id": f"dm-record-{key}"}
