"""The engine's log: JSON lines with the id of their request, secrets masked by type, rotated (5 × 2 MB).

A line has ``time`` (UTC), ``level``, ``message``, and where they apply ``request``, ``sandbox`` (id or name,
as it was asked for) and ``error`` (a traceback). :mod:`.logs` reads them.
"""

from __future__ import annotations

import errno
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
#: The sandbox a request is for, as its path names it.
request_sandbox: ContextVar[str] = ContextVar("request_sandbox", default="")

NAME, MAX_BYTES, OLDER = "engine.log", 2_000_000, 4

_SECRETS: set[str] = set()
_NAMES = r"token|signature|api_?key|signing_?key|auth_?key|password|passwd|secret"
_PATTERNS = (
    # Headers; what a name says is one, in JSON, in a query or in an assignment.
    (re.compile(r"(?i)(bearer\s+|basic\s+)[^\s\"'&,}]+"), r"\1***"),
    (re.compile(rf"(?i)((?:{_NAMES})\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'&,}}\\]+"), r"\1***"),
    # https://user:password@host: a git login, a proxy, an index.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,15}://)[^\s/@\"'<>]+@"), r"\1***@"),
    # A sandbox's id has 20 letters, the token of a preview 26.
    (re.compile(r"(/p/|/signed-preview-url/|\b[0-9]{1,5}-)[a-z0-9]{26}\b"), r"\1***"),
    (re.compile(r"\b(?=[a-z]{0,25}[0-9])[a-z0-9]{26}\b"), "***"),
    # Keys of the engine and of sandboxes (hexadecimal), signatures of files' URLs.
    (re.compile(r"\b[0-9a-f]{64}\b"), "***"),
    (re.compile(r"\bv1_[A-Za-z0-9_-]{43}"), "***"),
)


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
        >>> masked("proxy http://me:pw@proxy.example:3128")
        'proxy http://***@proxy.example:3128'
    """
    for secret in _SECRETS:
        text = text.replace(secret, "***")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": masked(record.getMessage()),
        }
        if rid := request_id.get():
            entry["request"] = masked(rid)
        if sandbox := request_sandbox.get():
            entry["sandbox"] = masked(sandbox)
        if record.exc_info:
            entry["error"] = masked("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(entry)


_FULL_SECONDS = 10.0
_said_full = 0.0


def _is_malformed(error: BaseException) -> bool:
    """Whether a client has sent what is no HTTP."""
    # Here, because the engine logs before it has read all of itself.
    from aiohttp import http_exceptions, web

    return isinstance(error, http_exceptions.HttpProcessingError | web.RequestPayloadError)


def _calm(record: logging.LogRecord) -> bool:
    """One line instead of tracebacks for a request that is no HTTP, and for descriptors that are used up."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and _is_malformed(error):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = "a malformed request was refused: %s", (" ".join(str(error).split())[:300],)
        record.exc_info = None
    if error is None and record.name.startswith("engineio"):
        # Of what a client said wrong, which it is told.
        record.levelno, record.levelname = logging.INFO, "INFO"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        # While that lasts asyncio says so a hundred times a second.
        global _said_full
        if record.created - _said_full < _FULL_SECONDS:
            return False
        _said_full = record.created
        record.exc_info = None
    return True


def open_log(folder: Path) -> Path:
    """Send the engine's log, and warnings of the libraries it uses, to ``folder/engine.log``."""
    path = folder / NAME
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=MAX_BYTES, backupCount=OLDER, encoding="utf-8"
    )
    handler.setFormatter(_Lines())
    handler.addFilter(_calm)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    return path
