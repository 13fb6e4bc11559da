"""Which public methods the SDK has, found by looking: nothing here knows their names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from pydantic import BaseModel

#: Where the SDK's clients, sandboxes, services and handles are.
WALKED = ("daytona._sync", "daytona._async", "daytona.handle")
FLAVOURS = ("sync", "async")

#: Classes with public methods elsewhere in the SDK that ask nothing of an engine, and why. A class that is
#: neither here nor walked is a finding.
NOT_WALKED = {
    "CancelEvent": "what a caller hands in",
    "Chart": "a value",
    "DaytonaError": "an error",
    "Image": "writes a Dockerfile; the engine refuses to build it (see SnapshotService.create)",
    "Secret": "a value",
    "Snapshot": "a value",
    "Volume": "a value",
    "WarmPool": "a value",
}


def _classes(package: str) -> Iterator[type]:
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        module = importlib.import_module(info.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and not name.startswith("_"):
                yield kind


def _own(kind: type) -> set[str]:
    """Public methods and properties that a class itself defines, without what pydantic puts into it."""
    kinds = (staticmethod, classmethod, property)
    return {
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
        if not hasattr(BaseModel, name)
    }


def named(kind: type, method: str) -> str:
    """``Class.method``, the same for both flavours."""
    return f"{kind.__name__.removeprefix('Async')}.{method}"


def public_methods() -> dict[str, set[str]]:
    """``Class.method`` to the flavours (``sync``, ``async``) that have it."""
    found: dict[str, set[str]] = {}
    for package in WALKED:
        for kind in _classes(package):
            flavour = "async" if kind.__name__.startswith("Async") else "sync"
            for method in _own(kind):
                found.setdefault(named(kind, method), set()).add(flavour)
    return found


def unknown_classes() -> set[str]:
    """Classes of the SDK with public methods that are neither walked nor named in ``NOT_WALKED``."""
    exported = importlib.import_module("daytona")
    others = {kind for kind in _classes("daytona.common") if _own(kind)}
    for name in exported.__all__:
        kind = getattr(exported, name)
        if inspect.isclass(kind) and kind.__module__.startswith("daytona.") and _own(kind):
            others.add(kind)
    return {kind.__name__ for kind in others if not kind.__module__.startswith(WALKED)} - set(NOT_WALKED)
