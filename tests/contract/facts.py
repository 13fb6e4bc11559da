"""The platform's published API as compact facts: writes ``facts.json`` beside this file.

    python -m tests.contract.facts API.json TOOLBOX.json

The two files are the platform's OpenAPI documents (Apache-2.0). What is kept is what a test can check:
methods, paths, names and types of fields, statuses. A type is written as a text:

    string integer number boolean any    as in JSON
    Name                                 another entry of ``schemas``
    [T] {T}                              an array; an object whose values are T
    T?                                   T or null
    =a|b                                 one of these texts

An object is written as its fields, ``name!`` if required, and an array of such objects as a list of one. Of
the control plane only what a client of sandboxes could ask for is kept; accounts, billing and the operators'
own routes are not.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = HERE / "facts.json"

_METHODS = ("get", "put", "post", "delete", "patch")
_AREAS = re.compile(
    r"/(sandbox|config|health|regions|shared-regions|snapshots|volumes|secret|warm-pools"
    r"|object-storage|docker-registry|preview)(/|$)"
)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2].rpartition(".")[2]


def kind(schema: dict[str, Any] | None) -> Any:
    """A schema of an OpenAPI document in the notation above."""
    if not schema:
        return "any"
    found = _kind(schema)
    return f"{found}?" if schema.get("nullable") and isinstance(found, str) else found


def _kind(schema: dict[str, Any]) -> Any:
    for several in ("allOf", "oneOf", "anyOf"):
        if len(schema.get(several, [])) == 1:
            return _kind(schema[several][0])
    if "$ref" in schema:
        return _name(schema["$ref"])
    if "enum" in schema:
        return "=" + "|".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        items = kind(schema["items"])
        return f"[{items}]" if isinstance(items, str) else [items]
    if schema.get("properties"):
        needed = schema.get("required", [])
        return {name + "!" * (name in needed): kind(of) for name, of in schema["properties"].items()}
    if schema.get("type") == "object" or "additionalProperties" in schema:
        values = schema.get("additionalProperties")
        inner = kind(values) if isinstance(values, dict) else "any"
        return f"{{{inner}}}" if isinstance(inner, str) else "{any}"
    return schema.get("type") or "any"


def _content(holder: dict[str, Any]) -> Any:
    """Type of a body: of JSON its schema, else the media type; empty when there is none."""
    if "schema" in holder:  # version 2
        found = kind(holder["schema"])
        return "" if found == "Empty" else found
    content = holder.get("content") or {}
    if "application/json" in content:
        return kind(content["application/json"].get("schema"))
    return next(iter(content), "")


def _request(operation: dict[str, Any]) -> Any:
    if "requestBody" in operation:
        return _content(operation["requestBody"])
    bodies = [p for p in operation.get("parameters", []) if p["in"] == "body"]
    return _content(bodies[0]) if bodies else ""


def _query(operation: dict[str, Any]) -> list[str]:
    return [
        p["name"] + "!" * bool(p.get("required"))
        for p in operation.get("parameters", [])
        if p["in"] == "query"
    ]


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if query := _query(operation):
        found["query"] = query
    if request := _request(operation):
        found["request"] = request
    found["responses"] = {status: _content(of) for status, of in operation["responses"].items()}
    return found


def _names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_names, value.values()))
    if isinstance(value, list):
        return set().union(*map(_names, value))
    return set(re.findall(r"\b[A-Z]\w*", value)) if isinstance(value, str) and value[:1] != "=" else set()


def facts(document: dict[str, Any], area: re.Pattern[str] | None = None) -> dict[str, Any]:
    """Operations and the schemas they need, of one document."""
    described = document.get("definitions") or document["components"]["schemas"]
    schemas = {_name(name): kind(schema) for name, schema in described.items()}
    operations = {
        f"{method.upper()} {path}": _operation(operation)
        for path, of_path in document["paths"].items()
        if area is None or area.match(path)
        for method, operation in of_path.items()
        if method in _METHODS
    }
    needed, more = set(), _names(operations)
    while more:
        needed |= more
        more = set().union(*(_names(schemas[name]) for name in more)) - needed
    return {
        "operations": dict(sorted(operations.items())),
        "schemas": {name: schemas[name] for name in sorted(needed)},
    }


def as_json(tables: dict[str, Any]) -> str:
    """JSON with one operation or schema a line."""
    parts = []
    for table, sections in tables.items():
        inner = []
        for section, entries in sections.items():
            lines = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
            inner.append(f"  {json.dumps(section)}: {{\n{lines}\n  }}")
        parts.append(f" {json.dumps(table)}: {{\n" + ",\n".join(inner) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load() -> dict[str, Any]:
    """The facts as written."""
    read: dict[str, Any] = json.loads(FACTS.read_text())
    return read


def main() -> None:
    """Write the file."""
    api, toolbox = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    FACTS.write_text(as_json({"api": facts(api, _AREAS), "toolbox": facts(toolbox)}))


if __name__ == "__main__":
    main()
