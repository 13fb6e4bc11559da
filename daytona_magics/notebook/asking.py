"""The person at the notebook answers a question of the running cell.

The kernel's own ``input()`` and ``getpass`` show the box, on the thread that runs the magic. While they wait,
the stop button raises a ``KeyboardInterrupt`` in them, which counts as a press like any other. When the cell
ends meanwhile (a time-out), or whoever asked does not wait any more, the loop thread sends this thread a
SIGINT that means "over" and is no press.
"""

from __future__ import annotations

import builtins
import getpass
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any

from daytona_magics.errors import ProtocolError
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime.events import Done, Input, InputOver
from daytona_magics.runtime.loop import loop_thread

#: Answers on their way to the sandbox at once; a cell waits for each of them, so our guest has one.
MOST_ANSWERS = 16


class _Over(BaseException):
    """The question is no longer asked. Not an Exception: the kernel's loop around its box swallows those."""


@dataclass(frozen=True)
class Answer:
    """What came of a question: ``text``, or why there is none, or ``end`` of the input."""

    text: str = ""
    error: str = ""
    end: bool = False


Reply = Callable[[int, Answer], Coroutine[Any, Any, bool]]


class Answers:
    """Answers on their way to the sandbox.

    Args:
        reply: given the number of a question and its answer, returns the coroutine that hands it over; None
            where nobody can answer.
    """

    def __init__(self, reply: Reply | None) -> None:
        self._reply = reply
        self._going: set[Future[bool]] = set()

    def room(self) -> None:
        """See whether one more question may be asked.

        Raises:
            ProtocolError: the sandbox asks on and on without taking answers.
        """
        if len(self._going) >= MOST_ANSWERS:
            raise ProtocolError("the sandbox asks for input without waiting for the answers")

    def send(self, number: int, answer: Answer) -> None:
        """Hand over the answer to question ``number``."""
        if self._reply is None:
            return
        future = loop_thread().submit(self._reply(number, answer))
        self._going.add(future)
        future.add_done_callback(self._arrived)

    def _arrived(self, future: Future[bool]) -> None:
        self._going.discard(future)
        if not future.cancelled():
            # Whatever kept it from arriving is told by the cell's own end.
            future.exception()


class Questions:
    """Asks, one question at a time.

    Args:
        presses: the presses of this cell, whose handler is told what a signal means while a box is open.
    """

    def __init__(self, presses: Presses) -> None:
        self._presses = presses
        self._thread = threading.get_ident()
        self._open = False
        self._number = 0  # of the question that is shown
        self._gone = 0  # number of the last question that is not asked any more
        self._over = False  # a signal of ours is on its way; a second one could be one with it
        self._lock = threading.Lock()
        presses.judge = self._judge

    def ask(self, question: Input) -> Answer | Press | None:
        """Show the box and wait.

        Returns:
            the answer; a press when it was interrupted; None when it is not asked any more.
        """
        prompt = clean(question.prompt)
        before = self._presses.count
        try:
            try:
                with self._lock:
                    if question.number <= self._gone:
                        return None
                    self._open, self._number = True, question.number
                if question.password:
                    return Answer(getpass.getpass(prompt))
                return Answer(str(builtins.input(prompt)))
            finally:
                self._close()
        except _Over:
            return None
        except KeyboardInterrupt:
            if self._presses.count == before:
                self._presses.count += 1
            return Press(self._presses.count)
        except EOFError:
            return Answer(end=True)
        except Exception as error:  # noqa: BLE001 - a front end without input; each has its own class for it
            return Answer(error=str(error) or "this front end takes no input")
        finally:
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._open = False

    def saw(self, event: Any) -> None:
        """Look at what comes in (on the loop thread): the end of cell or question takes the box away."""
        if not isinstance(event, Done | InputOver) or not self._presses.possible:
            return
        with self._lock:
            if isinstance(event, InputOver):
                self._gone = max(self._gone, event.number)
            late = isinstance(event, InputOver) and event.number < self._number
            if not self._open or self._over or late:
                return
            self._over = True
        signal.pthread_kill(self._thread, signal.SIGINT)

    def _judge(self, frame: FrameType | None) -> bool:
        """What a SIGINT means; True when it is a press to be queued. Raises into an open box."""
        if self._over:
            self._over = False
            if self._open:
                raise _Over
            return False
        if self._open:
            self._presses.count += 1
            raise KeyboardInterrupt
        return True
