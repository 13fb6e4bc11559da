"""Interrupts as items of a queue instead of exceptions at any place.

While the main thread waits for a sandbox, SIGINT (the notebook's stop button, Ctrl-C) is turned into a
:class:`Press` in the queue the waiting loop reads anyway. Nothing is ever torn in half by a
``KeyboardInterrupt``: not an output being printed, not the clean-up after an earlier press. Putting into a
``SimpleQueue`` is allowed in a signal handler, and wakes the reader within a millisecond.

Off the main thread (a JupyterLab subshell, a worker thread) Python delivers no signals: there
:attr:`Presses.possible` is False and the caller tells the reader so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any


@dataclass(frozen=True)
class Press:
    """Somebody asked to interrupt, for the ``number``-th time (1, 2, ...)."""

    number: int


class Presses:
    """Context manager: put a :class:`Press` into ``queue`` for every SIGINT.

    Attributes:
        count: presses so far.
        possible: whether signals reach this thread.
        judge: says whether a SIGINT is a press; may raise instead.
    """

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self._queue = queue
        self._before: Any = None
        self.count = 0
        self.judge: Callable[[FrameType | None], bool] = lambda frame: True
        self.possible = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Presses:
        if self.possible:
            self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if not self.judge(frame):
            return
        self.count += 1
        self._queue.put(Press(self.count))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.possible:
            # None: the handler was not set from Python; Python's own is what a kernel expects.
            signal.signal(
                signal.SIGINT, self._before if self._before is not None else signal.default_int_handler
            )
