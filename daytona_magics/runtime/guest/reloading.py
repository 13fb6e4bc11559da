"""``%autoreload``: modules whose files have changed are loaded again before a cell runs.

Reloading alone leaves old objects behind: a function that was imported by name, an instance of a class. So
what the module defined before is brought to its new code in place: functions get the new code, classes the
new attributes. What has no counterpart any more stays as it was.
"""

from __future__ import annotations

import importlib
import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CODE = ("__code__", "__defaults__", "__kwdefaults__", "__doc__", "__dict__", "__annotations__")
_OWN = frozenset(("__dict__", "__weakref__", "__doc__", "__module__", "__slots__"))


class Reloader:
    """Watches the files of imported modules.

    Attributes:
        mode: "0" nothing, "1" what ``%aimport`` named, "2" everything but what it excluded.
    """

    def __init__(self) -> None:
        self.mode = "0"
        self.wanted: set[str] = set()
        self.excluded: set[str] = set()
        self._seen: dict[str, float] = {}
        self._failed: dict[str, float] = {}

    def look(self, force: bool = False) -> None:
        """Before a cell: load again what has changed.

        An error in a changed file is printed once, and the module stays as it was.
        """
        if self.mode == "0" and not force:
            return
        for name, module in list(sys.modules.items()):
            changed = _changed(module)
            if not changed or name == "__main__":
                continue
            before = self._seen.setdefault(name, changed)
            if changed == before or self._failed.get(name) == changed or not self._watched(name, force):
                continue
            try:
                reload(module)
                self._seen[name] = changed
            except Exception as error:
                self._failed[name] = changed
                print(
                    "[autoreload of %s failed: %s: %s]" % (name, type(error).__name__, error), file=sys.stderr
                )

    def _watched(self, name: str, force: bool) -> bool:
        if self.mode == "1" and not force:
            return name in self.wanted
        return name not in self.excluded


def _changed(module: Any) -> float:
    """When the file of a module was changed, 0 when it has none."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or not path.endswith(".py") or not isinstance(module, types.ModuleType):
        return 0.0
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def reload(module: types.ModuleType) -> None:
    """Load a module again, and bring what it defined before to its new code."""
    before = dict(module.__dict__)
    # A file changed twice within a second would be found unchanged by its cached byte code.
    cached = getattr(module, "__cached__", None)
    if isinstance(cached, str) and os.path.exists(cached):
        os.unlink(cached)
    importlib.reload(module)
    for name, old in before.items():
        new = module.__dict__.get(name)
        if getattr(old, "__module__", None) == module.__name__:
            update(old, new)


def update(old: Any, new: Any) -> None:
    """Bring a function or a class to the code of its successor."""
    if old is new or type(old) is not type(new):
        return
    if isinstance(old, types.FunctionType):
        if len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
            for name in _CODE:
                setattr(old, name, getattr(new, name))
    elif isinstance(old, type):
        for name, value in list(new.__dict__.items()):
            if name not in _OWN:
                kept = old.__dict__.get(name)
                if isinstance(kept, types.FunctionType) and isinstance(value, types.FunctionType):
                    update(kept, value)
                else:
                    setattr(old, name, value)
        for name in [n for n in old.__dict__ if n not in new.__dict__ and n not in _OWN]:
            delattr(old, name)
