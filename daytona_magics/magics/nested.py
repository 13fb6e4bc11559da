"""``asyncio.run(main())`` in a cell of this machine, by nest-asyncio2, and the way back.

A kernel runs cells inside of a running event loop, so ``asyncio.run`` refuses there. nest-asyncio2 makes the
loops of a process enterable again; it has no way back, so what it replaces is noted before and put back
after. It is applied only when somebody asks for it, because it makes all of asyncio in the process slower.
(nest_asyncio, which it continues, loses messages of ipykernel 7 while a nested loop runs.)
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.futures
import asyncio.tasks
import sys
from typing import Any

_MISSING = object()
#: What is replaced, besides methods of loops: in which object, and which attributes.
_PATCHED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (asyncio, ("Task", "Future", "get_event_loop", "run", "_nest_patched", "_nest_asyncio2")),
    (asyncio.tasks, ("Task", "_CTask")),
    (asyncio.futures, ("Future", "_CFuture")),
    (asyncio.events, ("_get_event_loop", "get_event_loop")),
)

_before: list[tuple[Any, str, Any]] = []


def active() -> bool:
    """Whether it is applied, by us or by somebody else."""
    return hasattr(asyncio, "_nest_patched")


def ours() -> bool:
    """Whether it was applied here."""
    return bool(_before)


def apply() -> None:
    """Make event loops of this process enterable again. Idempotent.

    Raises:
        ImportError: nest-asyncio2 is missing.
        RuntimeError: the older nest_asyncio is active, which loses messages.
    """
    import nest_asyncio2

    if _before:
        return
    places = [*_PATCHED, *_of_loops()]
    noted = [(owner, name, vars(owner).get(name, _MISSING)) for owner, names in places for name in names]
    nest_asyncio2.apply(error_on_mispatched=True)
    _before.extend(noted)


def undo() -> None:
    """Put back what :func:`apply` replaced. Idempotent."""
    for owner, name, value in _before:
        if value is not _MISSING:
            setattr(owner, name, value)
        elif name in vars(owner):
            delattr(owner, name)
    _before.clear()


def _of_loops() -> list[tuple[Any, tuple[str, ...]]]:
    """The classes of loops and policy here, with what nest-asyncio2 puts into them."""
    methods = (
        "run_forever",
        "run_until_complete",
        "_run_once",
        "_check_running",
        "_check_runnung",
        "_num_runs_pending",
        "_is_proactorloop",
        "_nest_deferred",
        "_nest_patched",
        "_nest_asyncio2",
    )
    found: list[tuple[Any, tuple[str, ...]]] = []
    loops = {asyncio.SelectorEventLoop}
    try:
        loops.add(type(asyncio.get_running_loop()))  # type: ignore[arg-type]
    except RuntimeError:
        loops.add(asyncio.SelectorEventLoop)
    found += [(loop, methods) for loop in loops]
    if sys.version_info < (3, 14):
        found.append((type(asyncio.get_event_loop_policy()), ("get_event_loop",)))
    tornado = sys.modules.get("tornado.concurrent")
    if tornado is not None:
        found.append((tornado, ("Future", "FUTURES")))
    return found
