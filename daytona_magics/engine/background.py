"""Work that goes on after its request was answered, and that the engine's end waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from daytona_magics.engine.log import log


class Background:
    """Tasks that nobody awaits; a failure is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start ``work``."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def finished(self) -> None:
        """Return when nothing runs any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", exc_info=error)
