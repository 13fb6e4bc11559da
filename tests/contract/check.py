"""Checks a JSON value against the facts (:mod:`tests.contract.facts`) and through the SDK's own models."""

from __future__ import annotations

import importlib
import re
from typing import Any

from tests.coverage.drift import sdk_models

_CLIENTS = {
    "api": ("daytona_api_client", "daytona_api_client_async"),
    "toolbox": ("daytona_toolbox_api_client", "daytona_toolbox_api_client_async"),
}
_PRIMITIVES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
}


def with_models(schemas: dict[str, Any], area: str) -> dict[str, Any]:
    """The schemas with the fields that only the SDK's models have (they are in ``drift.toml``)."""
    merged = dict(schemas)
    for name, fields in sdk_models(_CLIENTS[area][0]).items():
        if isinstance(described := schemas.get(name), dict):
            known = {field.rstrip("!") for field in described}
            more = {field + "!" * needed: "any" for field, needed in fields.items() if field not in known}
            merged[name] = described | more
    return merged


def problems(value: Any, kind: Any, schemas: dict[str, Any], where: str = "") -> list[str]:
    """What of ``value`` is not as ``kind`` says, one text each.

    A null counts as missing where the field is not required, as the SDK's models have it.

    Example:
        >>> problems({"a": 1, "c": 2}, {"a!": "string", "b!": "integer"}, {})
        ['.a: 1 is no string', '.b: missing', '.c: not described']
    """
    if isinstance(kind, dict):
        return _fields(value, kind, schemas, where)
    if isinstance(kind, list):
        return _each(value, list, kind[0], schemas, where)
    if kind.endswith("?"):
        return [] if value is None else problems(value, kind[:-1], schemas, where)
    if kind == "any":
        return []
    if kind.startswith("="):
        return [] if value in kind[1:].split("|") else [f"{where}: {value!r} is not among the values"]
    if kind.startswith("["):
        return _each(value, list, kind[1:-1], schemas, where)
    if kind.startswith("{"):
        return _each(value, dict, kind[1:-1], schemas, where)
    if kind in _PRIMITIVES:
        fits = isinstance(value, _PRIMITIVES[kind]) and (kind == "boolean") == isinstance(value, bool)
        return [] if fits else [f"{where}: {value!r} is no {kind}"]
    return problems(value, schemas[kind], schemas, where)


def _fields(value: Any, kind: dict[str, Any], schemas: dict[str, Any], where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    found = []
    described = {name.rstrip("!"): of for name, of in kind.items()}
    for name, of in described.items():
        needed = f"{name}!" in kind
        if value.get(name) is not None:
            found += problems(value[name], of, schemas, f"{where}.{name}")
        elif needed and not (name in value and str(of).endswith("?")):
            found.append(f"{where}.{name}: missing")
    return found + [f"{where}.{name}: not described" for name in value if name not in described]


def _each(value: Any, outer: type, kind: Any, schemas: dict[str, Any], where: str) -> list[str]:
    if not isinstance(value, outer):
        return [f"{where}: {value!r} is no {outer.__name__}"]
    inner = value.values() if isinstance(value, dict) else value
    return [problem for item in inner for problem in problems(item, kind, schemas, f"{where}[]")]


def through_models(value: Any, kind: Any, area: str) -> list[str]:
    """What the SDK's models of both clients make of ``value`` wrongly, where ``kind`` names a model.

    A model swallows values of enumerations that it does not know, which is a mistake here; what it parses
    must be written back the same.
    """
    name = re.fullmatch(r"\[?(\w+)\]?", kind) if isinstance(kind, str) else None
    found = []
    for client in _CLIENTS[area]:
        model = getattr(importlib.import_module(client), name[1], None) if name else None
        if not hasattr(model, "from_dict"):
            continue
        for item in value if isinstance(value, list) else [value]:
            try:
                parsed = model.from_dict(item)
            except ValueError as error:
                found.append(f"{client}.{model.__name__}: {error}")
                continue
            found += [f"{client}.{model.__name__}{problem}" for problem in _lost(item, parsed.to_dict())]
    return found


def _lost(sent: Any, back: Any, where: str = "") -> list[str]:
    """Where a model's own writing differs from what it read."""
    if isinstance(sent, dict) and hasattr(back, "to_dict"):
        back = back.to_dict()
    if isinstance(sent, dict) and isinstance(back, dict):
        return [
            problem
            for name, value in sent.items()
            if value is not None
            for problem in _lost(value, back.get(name), f"{where}.{name}")
        ]
    if isinstance(sent, list) and isinstance(back, list) and len(sent) == len(back):
        return [
            problem for one, other in zip(sent, back, strict=True) for problem in _lost(one, other, where)
        ]
    back = getattr(back, "value", back)
    if sent == back or (isinstance(sent, str) and hasattr(back, "isoformat")):
        return []
    return [f"{where}: {sent!r} became {back!r}"]
