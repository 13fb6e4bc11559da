"""What there is to fuzz: every route of the engine, with what the SDK's generated clients say of it.

The routes are those of the real application, so none can be forgotten. Names of query parameters and the JSON
schemas of bodies are read from the SDK's clients (``daytona_api_client``, ``daytona_toolbox_api_client``),
which is what real requests are made of; a route that no client calls is tried with bodies of any shape.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from daytona_magics.engine.api.context import Context
from daytona_magics.engine.api.guard import Guard
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.activity import Activity
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.server import build_app
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.folder import StateFolder

_CLIENTS = (("/api", "daytona_api_client"), ("/toolbox/{sandbox}", "daytona_toolbox_api_client"))
_PARAMETER = re.compile(r"\{[^}]*\}")
_FUNCTION = re.compile(r"    def _(\w+)_serialize\(")
_CALL = re.compile(r"method='([A-Z]+)',\s*resource_path='([^']+)'")
_QUERY = re.compile(r"_query_params\.append\(\('([^']+)'")
_BODY = re.compile(r"_body_params = (\w+)\n")
#: Ends the engine, which is not what is asked here.
_LEFT_OUT = {"/api/engine/stop"}


@dataclass(frozen=True)
class Operation:
    """A route: ``path`` is a template, ``body`` the JSON schema of what it takes, empty when not known."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations(folder: Path) -> list[Operation]:
    """Every route of the engine. ``folder`` is a scratch folder; nothing is started in it."""
    known = _of_clients()
    sandboxes = Sandboxes(Database(folder), Launcher(stderr_dir=folder), folder)
    state = StateFolder(folder, folder, "", False)
    app, _ = build_app(Context(sandboxes, Activity(), state, "", ""), Guard("key", 1))
    found = {}
    for route in app.router.routes():
        if route.resource is None or route.method == "HEAD":
            continue
        path = route.resource.canonical
        for method in ("GET", "PUT") if route.method == "*" else (route.method,):
            if path not in _LEFT_OUT:
                query, body = known.get((method, _PARAMETER.sub("{}", path)), ((), {}))
                found[method, path] = Operation(method, path, query, body)
    return [found[key] for key in sorted(found)]


def _of_clients() -> dict[tuple[str, str], tuple[tuple[str, ...], dict[str, Any]]]:
    """Names of query parameters and schema of the body by method and path (parameters without names)."""
    found = {}
    for prefix, package in _CLIENTS:
        api = importlib.import_module(f"{package}.api")
        for info in pkgutil.iter_modules(api.__path__):
            module = importlib.import_module(f"{package}.api.{info.name}")
            (owner,) = (c for n, c in inspect.getmembers(module, inspect.isclass) if n.endswith("Api"))
            pieces = _FUNCTION.split(inspect.getsource(module))
            for name, source in zip(pieces[1::2], pieces[2::2], strict=True):
                call = _CALL.search(source)
                if call is not None:
                    key = (call[1], _PARAMETER.sub("{}", prefix + call[2]))
                    found[key] = (tuple(_QUERY.findall(source)), _schema(getattr(owner, name), source))
    return found


def _schema(method: Any, source: str) -> dict[str, Any]:
    body = _BODY.search(source)
    if body is None:
        return {}
    return TypeAdapter(typing.get_type_hints(method)[body[1]]).json_schema(by_alias=True)
