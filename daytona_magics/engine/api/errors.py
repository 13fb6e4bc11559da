"""Errors as the platform words them.

The SDK picks its exception class from ``(source, code)``, else from the status; without ``source`` no typed
error is raised, so every refusal of the engine carries one: the REST API's, or the daemon's for toolbox
routes.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from datetime import datetime, timezone
from typing import Any

from aiohttp import http_exceptions, web

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.log import log
from daytona_magics.engine.toolbox.client import ToolboxError

_USED_UP = {
    errno.EMFILE: (503, "it has as many files and connections open as it may; stop some sandboxes"),
    errno.ENFILE: (503, "this machine has as many files open as it may"),
    errno.ENOSPC: (507, "the disk is full; delete files or sandboxes"),
    errno.EDQUOT: (507, "the disk quota is used up; delete files or sandboxes"),
}
API, DAEMON, PROXY = "DAYTONA_API", "DAYTONA_DAEMON", "DAYTONA_PROXY"


def error_body(request: web.BaseRequest, error: ApiError) -> dict[str, Any]:
    """The platform's JSON body for ``error``."""
    source = error.source or (DAEMON if request.path.startswith("/toolbox/") else API)
    return {
        "statusCode": error.status,
        "message": error.message,
        "code": error.code,
        "source": source,
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "path": request.path,
        "method": request.method,
    }


def as_api_error(error: Exception) -> ApiError:
    """Any exception of a handler as the refusal the client sees; unexpected ones are logged, not shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ToolboxError):
        return ApiError(error.status, error.message, error.code, DAEMON)
    if isinstance(error, web.HTTPException):
        return ApiError(error.status, error.text or error.reason)
    if isinstance(error, web.RequestPayloadError | http_exceptions.HttpProcessingError):
        return ApiError(400, f"the request body cannot be read: {error}", "INVALID_REQUEST_BODY")
    if isinstance(error, OSError) and error.errno in _USED_UP:
        status, what = _USED_UP[error.errno]
        log.error("%s: %s", what, error)
        return ApiError(status, f"the embedded engine cannot do this now: {what}")
    log.error("unexpected error", exc_info=error)
    if isinstance(error, sqlite3.Error):
        return ApiError(503, f"the embedded engine cannot write its database: {error}")
    return ApiError(500, f"the embedded engine failed ({type(error).__name__}); its log has the details")


def error_response(request: web.BaseRequest, error: Exception) -> web.Response:
    """The answer for ``error``."""
    known = as_api_error(error)
    return web.json_response(error_body(request, known), status=known.status)


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object.

    Raises:
        ApiError: 400 when it is not a JSON object.
    """
    try:
        text = await request.text()
        value = json.loads(text, parse_constant=_no_number) if text.strip() else {}
        if "\\ud" in text.lower():
            # Half of a surrogate pair is legal JSON but no text: nothing could store or send it.
            json.dumps(value, ensure_ascii=False).encode()
    # Also a charset nobody knows, bytes that are not of it, and lists in lists without end.
    except (ValueError, LookupError, RecursionError) as error:
        raise ApiError(400, f"the request body is not JSON: {error}", "INVALID_REQUEST_BODY") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the request body is not a JSON object", "INVALID_REQUEST_BODY")
    return value


def _no_number(name: str) -> float:
    """NaN and Infinity are read by Python's parser, and by hardly any other."""
    raise ValueError(f"{name} is no number")
