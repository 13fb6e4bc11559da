"""One event loop for all cells of a worker, as a notebook has one.

Every cell that may have to do with asyncio runs inside of this loop, so that ``asyncio.create_task`` works in
it, and tasks go on while later cells ``await`` and between cells. ``asyncio.run`` works in a cell too, where
a notebook refuses it: it gets a loop of its own while this one stands still.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    from typing import Any, Callable


class Tasks:
    """The loop, made when a cell first needs it (importing asyncio takes 60 ms).

    Attributes:
        running: whether a cell's code is running inside of it.
    """

    def __init__(self) -> None:
        self._loop: Any = None
        self._context: contextvars.Context | None = None
        self.running = False

    def wanted(self, code: str) -> bool:
        """Whether a cell with this text is run inside of the loop."""
        return self._loop is not None or "asyncio" in sys.modules or "asyncio" in code

    def _ready(self) -> Any:
        import asyncio

        if self._loop is None:
            asyncio.run = _nested(asyncio.run)
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self._loop

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function while the loop is running."""

        ended: list[tuple[Any, BaseException | None]] = []

        async def call() -> None:
            # Nothing is raised through the loop: it has its own ideas about some exceptions.
            try:
                ended.append((function(), None))
            except BaseException as error:
                ended.append((None, error))

        self.complete(call())
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    def complete(self, coroutine: Any) -> Any:
        """Run a coroutine to its end; an interrupt cancels it first."""
        import asyncio
        import contextvars

        loop = self._ready()
        # One context for all cells: a variable set in one is set in the next.
        self._context = self._context or contextvars.copy_context()
        if sys.version_info >= (3, 11):
            task = loop.create_task(coroutine, context=self._context)
        else:
            task = loop.create_task(coroutine)
        self.running = True
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
        finally:
            self.running = False

    def between_cells(self, fd: int) -> None:
        """Let tasks go on until something can be read from a descriptor; returns at once without tasks."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        import asyncio

        if not asyncio.all_tasks(loop):
            return
        try:
            loop.add_reader(fd, loop.stop)
            loop.run_forever()
        finally:
            loop.remove_reader(fd)


def _nested(run: Callable[..., Any]) -> Callable[..., Any]:
    """``asyncio.run`` that works while the notebook's loop is running."""
    import asyncio
    import functools

    # Up to Python 3.11 the current task is kept for each loop apart, which needs no exchange.
    exchange = getattr(asyncio.tasks, "_swap_current_task", lambda loop, task: None)

    @functools.wraps(run)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        outer = asyncio._get_running_loop()
        if outer is None:
            return run(*arguments, **options)
        task = exchange(outer, None)
        asyncio._set_running_loop(None)
        try:
            return run(*arguments, **options)
        finally:
            asyncio._set_running_loop(outer)
            exchange(outer, task)
            asyncio.set_event_loop(outer)

    return wrapped
