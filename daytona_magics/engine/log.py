"""The engine's log: JSON lines with the id of their request, secrets masked, rotated (5 × 2 MB)."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import time
import traceback
from contextvars import ContextVar
from pathlib import Path

log = logging.getLogger("daytona_magics.engine")
request_id: ContextVar[str] = ContextVar("request_id", default="")

_SECRETS: set[str] = set()
_BEARER = re.compile(
    r"(?i)(bearer\s+|(?:token|signature|api_?key|password)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,}]+"
)
# A sandbox's id has 20 letters, the token of a preview 26.
_PREVIEW = re.compile(r"(/p/|/signed-preview-url/|\b[0-9]{1,5}-)[a-z0-9]{26}\b")


def hide(secret: str) -> None:
    """Mask ``secret`` wherever it would appear in the log."""
    _SECRETS.add(secret)


def unhide(secret: str) -> None:
    """``secret`` is none any more."""
    _SECRETS.discard(secret)


def masked(text: str) -> str:
    """``text`` with known secrets, and what looks like a credential, replaced by ``***``.

    Example:
        >>> masked("Authorization: Bearer abc")
        'Authorization: Bearer ***'
    """
    for secret in _SECRETS:
        text = text.replace(secret, "***")
    return _PREVIEW.sub(r"\1***", _BEARER.sub(r"\1***", text))


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": masked(record.getMessage()),
        }
        if rid := request_id.get():
            entry["request"] = rid
        if record.exc_info:
            entry["error"] = masked("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(entry)


def open_log(folder: Path) -> Path:
    """Send the engine's log, and warnings of the libraries it uses, to ``folder/engine.log``."""
    path = folder / "engine.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=2_000_000, backupCount=4, encoding="utf-8")
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    return path
