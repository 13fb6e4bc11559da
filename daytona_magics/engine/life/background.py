"""Work that goes on after its request was answered, and that the engine's end waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from daytona_magics.engine.life.copies.walk import Aborted
from daytona_magics.engine.log import log


class Works:
    """Long work on sandboxes, at most one on each, that can be given up."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[threading.Event, asyncio.Event]] = {}

    @contextmanager
    def begin(self, sandbox_id: str) -> Iterator[Callable[[], None]]:
        """While inside, the work goes on.

        Yields:
            What threads call now and then; it raises `Aborted` when the work was given up.
        """
        aborted, ended = threading.Event(), asyncio.Event()
        self._running[sandbox_id] = (aborted, ended)

        def proceed() -> None:
            if aborted.is_set():
                raise Aborted("it was given up")

        try:
            yield proceed
        finally:
            del self._running[sandbox_id]
            ended.set()

    async def give_up(self, sandbox_id: str) -> None:
        """End the work on a sandbox, if there is any; returns when it has ended."""
        if (found := self._running.get(sandbox_id)) is not None:
            found[0].set()
            await found[1].wait()


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

    async def patient(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        """Wait for ``work``, but no longer than ``seconds``; it goes on.

        Raises:
            Exception: what it raised meanwhile; later it is only logged.
        """
        failures: list[Exception] = []

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                log.warning("%s", error)
                failures.append(error)

        await asyncio.wait({self.run(guarded())}, timeout=seconds)
        if failures:
            raise failures[0]

    async def finished(self) -> None:
        """Return when nothing runs any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", exc_info=error)
