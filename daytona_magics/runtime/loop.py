"""One background thread with an asyncio loop, shared by everything in the process that talks to sandboxes.

A magic is synchronous code on the kernel's main thread; ``AsyncDaytona`` and the channels live on a loop of
their own so that connections outlive cells, and so that an interrupt reaches the waiting main thread in about
a millisecond. The thread is

- lazy: it starts with the first coroutine;
- a daemon: it never keeps an interpreter from exiting;
- fork-aware: a forked child (multiprocessing, ``os.fork``) has no such thread, so it gets a fresh one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Where lock waits cannot be interrupted by signals (Windows), waiting is cut into pieces this long, seconds.
_TICK = 0.1 if sys.platform == "win32" else None


class LoopThread:
    """An asyncio loop running in a daemon thread. Use :func:`loop_thread` to get the process's one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._exiting = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; started when needed."""
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._start()
            assert self._loop is not None
            return self._loop

    @property
    def inside(self) -> bool:
        """Whether the caller runs on the loop's own thread, where :meth:`run` would wait for itself."""
        return self._thread is threading.current_thread()

    def submit(self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop; returns at once.

        In:  loop_thread().submit(asyncio.sleep(0, "done")).result()
        Out: 'done'
        """
        return asyncio.run_coroutine_threadsafe(coro, self.loop)

    def start(self, make: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """Run a coroutine that tells its end itself; costs half of :meth:`submit`.

        Args:
            make: makes the coroutine, on the loop's thread, and may do there what is in a hurry; raises
                nothing.

        Returns:
            what cancels it, from any thread, and never before its first step; whoever keeps it keeps the
            coroutine running.
        """
        loop = self.loop
        task: list[asyncio.Task[None]] = []
        loop.call_soon_threadsafe(lambda: task.append(loop.create_task(make())))

        def cancel() -> None:
            # Behind what makes the task, and then behind the task's first step.
            loop.call_soon_threadsafe(loop.call_soon, lambda: task[0].cancel())

        return cancel

    def run(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for its result.

        Args:
            coro: what to run.
            timeout: seconds to wait, None for ever.

        Raises:
            TimeoutError: it took longer; the coroutine is cancelled.
            KeyboardInterrupt: pressed while waiting; the coroutine is cancelled, and not waited for.
            RuntimeError: called on the loop's own thread.
        """
        if self.inside:
            coro.close()
            raise RuntimeError("LoopThread.run() was called on the loop's own thread; await the coroutine")
        future = self.submit(coro)
        try:
            return self._wait(future, timeout)
        except BaseException:
            # Also when the wait was interrupted or timed out: what nobody waits for must not go on.
            future.cancel()
            raise

    def _wait(self, future: concurrent.futures.Future[T], timeout: float | None) -> T:
        if _TICK is None or timeout is not None:
            try:
                return future.result(timeout)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                raise TimeoutError(f"no answer within {timeout:g} s") from None
        while True:
            done, _ = concurrent.futures.wait([future], timeout=_TICK)
            if done:
                return future.result()

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(self._on_loop_exception)
        ready = threading.Event()

        def main() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(ready.set)
            loop.run_forever()

        thread = threading.Thread(target=main, name="daytona-magics-loop", daemon=True)
        thread.start()
        ready.wait()
        self._loop, self._thread = loop, thread

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # At interpreter exit objects die in any order; what they have to say then helps nobody.
        if not self._exiting:
            loop.default_exception_handler(context)

    def _mark_exiting(self) -> None:
        self._exiting = True


_shared = LoopThread()


def loop_thread() -> LoopThread:
    """The process's loop thread.

    In:  loop_thread().run(asyncio.sleep(0, 42))
    Out: 42
    """
    return _shared


def _forget_after_fork() -> None:
    # The child has a copy of the parent's loop, whose selector it must not touch, and no thread to run it.
    global _shared
    _shared = LoopThread()


def _at_exit() -> None:
    _shared._mark_exiting()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_at_exit)
