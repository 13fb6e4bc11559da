"""Which operations the SDK reaches, read off its code.

Every method of a generated client names its HTTP method and path; the SDK's own modules use those methods as
attributes of objects whose classes they import. An attribute that a generated class of an imported name has
counts as reached, so the answer is never too small.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import daytona

CLIENTS = {
    "daytona_api_client": "api",
    "daytona_api_client_async": "api",
    "daytona_toolbox_api_client": "toolbox",
    "daytona_toolbox_api_client_async": "toolbox",
}
#: Opened by the SDK without a generated method.
BY_HAND = {"toolbox": {"GET /process/pty/create-connect"}, "api": set[str]()}

_CALL = re.compile(r"method='([A-Z]+)',\s*resource_path='([^']+)'")
_VARIANT = re.compile(r"_(with_http_info|without_preload_content|serialize)$")


@cache
def generated(client: str) -> dict[tuple[str, str], str]:
    """``METHOD /path`` by class and method of a generated client."""
    package = importlib.util.find_spec(f"{client}.api")
    assert package and package.submodule_search_locations
    found = {}
    for file in sorted(Path(package.submodule_search_locations[0]).glob("*_api.py")):
        text = file.read_text()
        owner = re.findall(r"^class (\w+)", text, re.M)
        assert len(owner) == 1, file
        starts = [*re.finditer(r"^    def _(\w+)_serialize\(", text, re.M)]
        for start in starts:
            call = _CALL.search(text, start.end())
            assert call, f"{file}: {start[1]}"
            found[owner[0], start[1]] = f"{call[1]} {call[2]}"
    return found


@cache
def reached() -> dict[str, dict[str, frozenset[str]]]:
    """Area (``api`` or ``toolbox``) to operation to the modules of the SDK that reach it."""
    root = Path(daytona.__file__).parent
    found: dict[str, dict[str, set[str]]] = {area: {} for area in CLIENTS.values()}
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text())
        classes = [
            (node.module.partition(".")[0], alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in CLIENTS
            for alias in node.names
        ]
        used = {
            _VARIANT.sub("", node.attr).lstrip("_")
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
        }
        for client, name in classes:
            for (owner, method), operation in generated(client).items():
                if owner == name and method in used:
                    where = found[CLIENTS[client]].setdefault(operation, set())
                    where.add(str(file.relative_to(root)))
    for area, operations in BY_HAND.items():
        for operation in operations:
            found[area].setdefault(operation, set()).update({"_sync/process.py", "_async/process.py"})
    return {
        area: {operation: frozenset(where) for operation, where in sorted(operations.items())}
        for area, operations in found.items()
    }
