"""Requests at the interpreter's exit: executors are closed and the loop thread cannot be relied on by then.

So they are plain HTTP of the standard library, from the main thread, and each has its bound in time.
"""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPResponse
from typing import Any, cast

from daytona_magics.runtime.transport import is_loopback


def headers(endpoint: Any) -> dict[str, str]:
    """What an endpoint wants to hear of who asks; the value is secret."""
    found = {"Authorization": f"Bearer {endpoint.api_key}"}
    if getattr(endpoint, "organization", ""):
        found["X-Daytona-Organization-ID"] = endpoint.organization
    return found


def send(request: urllib.request.Request, within: float) -> HTTPResponse:
    """Send a request; to an engine on this machine past every proxy.

    Args:
        within: seconds for the connection and for each answer on it.

    Raises:
        URLError, OSError: it failed, or was refused (HTTPError).
    """
    url = request.full_url
    handlers: list[Any] = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    return cast(HTTPResponse, urllib.request.build_opener(*handlers).open(request, timeout=within))
