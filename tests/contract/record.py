"""Remembers what the engine answered to the SDK's generated clients, as it was on the wire."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import urlsplit

from tests.contract.reach import CLIENTS


class Exchange(NamedTuple):
    """One request and its answer.

    Attributes:
        area: ``api`` or ``toolbox``.
        operation: ``METHOD /path`` below the area, with values in it.
        body: the JSON value; None when there is none, ``...`` when it is something else.
    """

    area: str
    operation: str
    status: int
    body: Any


def exchange(method: str, url: str, status: int, content_type: str, data: bytes) -> Exchange:
    """An exchange of a raw request."""
    path = urlsplit(url).path
    if path.startswith("/toolbox/"):
        area, path = "toolbox", "/" + path.split("/", 3)[3]
    else:
        area, path = "api", path.removeprefix("/api")
    body = None
    if data:
        body = json.loads(data) if content_type.startswith("application/json") else ...
    return Exchange(area, f"{method} {path}", status, body)


@contextmanager
def recording() -> Iterator[list[Exchange]]:
    """While inside, everything that the four generated clients hear is added to the list."""
    heard: list[Exchange] = []
    with ExitStack() as stack:
        for client in CLIENTS:
            rest = importlib.import_module(f"{client}.rest").RESTClientObject
            wrap = _asynchronous if client.endswith("_async") else _synchronous
            stack.enter_context(patch.object(rest, "request", wrap(rest.request, heard)))
        yield heard


def _synchronous(request: Any, heard: list[Exchange]) -> Any:
    def recorded(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        answer = request(self, method, url, *args, **kwargs)
        data = answer.read()
        heard.append(exchange(method, url, answer.status, answer.getheader("content-type") or "", data))
        return answer

    return recorded


def _asynchronous(request: Any, heard: list[Exchange]) -> Any:
    async def recorded(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        answer = await request(self, method, url, *args, **kwargs)
        data = await answer.read()
        heard.append(exchange(method, url, answer.status, answer.getheader("content-type") or "", data))
        return answer

    return recorded


def template(operation: str, known: list[str] | set[str]) -> str | None:
    """The known ``METHOD /path/{name}`` that an operation with values is; one without names comes first."""
    method, _, path = operation.partition(" ")
    parts = path.split("/")
    fits = []
    for candidate in known:
        other_method, _, other = candidate.partition(" ")
        others = other.split("/")
        if other_method != method or len(others) != len(parts):
            continue
        if all(o == p or re.fullmatch(r"\{.*\}", o) for o, p in zip(others, parts, strict=True)):
            fits.append(candidate)
    return min(fits, key=lambda fit: fit.count("{"), default=None)
