"""The ladder of an interrupt: what each press does to a cell in one sandbox, and what is said of it.

Each press climbs one step (see :mod:`daytona_magics.runtime.channel`): SIGINT to the cell; then the processes
it started are ended; then its worker. Every step says what it did. The cell fails with a
``KeyboardInterrupt`` subclass once it has really ended over there; if the sandbox cannot be told within 2 s,
or does not obey the last step within 5 s, whoever waits stops waiting and says exactly that. It never hangs.

A ladder belongs to one cell in one sandbox. The loop thread hands what the sandbox answers to the queue that
the pump reads anyway, so everything here happens on the main thread. The end of a cell may overtake the
answer to the press that ended it; the pump waits for it (:data:`ANSWER_WITHIN`), because only the answer
says what was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from daytona_magics.errors import SandboxInterrupted, SandboxUnreachable
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime.loop import loop_thread

#: Seconds: for the sandbox to be told of an interrupt; for the last step of the ladder to be obeyed; before a
#: step is reported while the cell goes on; for an interrupt's answer that the cell's end has overtaken.
TELL_WITHIN, OBEY_WITHIN, SAY_AFTER, ANSWER_WITHIN = 2.0, 5.0, 0.3, 0.5
#: Highest step of the ladder; a press beyond it stops waiting.
TOP = 3
#: What is said when nothing else is known of an interrupt.
AS_IT_ENDED = "interrupted as it ended"

_NEXT = {
    1: " Variables are alive. Press again to end the processes it started.",
    2: " Variables are alive. Press again to end its worker.",
    3: " Variables are lost, files kept.",
}

Interrupt = Callable[[int], Coroutine[Any, Any, str]]


@dataclass(frozen=True)
class Told:
    """An interrupt's answer: what it did, or why the sandbox could not be told."""

    level: int
    did: str = ""
    error: BaseException | None = None


class Ladder:
    """The presses of one cell in one sandbox.

    Args:
        interrupt: given a step (1, 2, 3), returns the coroutine that takes it in the sandbox.
        hear: called with each answer, on the loop thread; hands it to the queue of whoever waits.

    Attributes:
        unanswered: presses whose answers have not come.
        did: what each answered press did.
    """

    def __init__(self, interrupt: Interrupt, hear: Callable[[Told], None]) -> None:
        self._interrupt, self._hear = interrupt, hear
        self.unanswered = 0
        self.did: list[str] = []
        self._deadline: float | None = None
        self._why = ""
        self._step: tuple[str, float] | None = None

    def press(self, number: int) -> None:
        """Take the step of the ``number``-th press.

        Raises:
            SandboxInterrupted: the ladder has no further step; nobody waits for the cell any more.
        """
        if number > TOP:
            raise SandboxInterrupted(
                "stopped waiting; the cell may still be running in the sandbox: `%sandbox reset` ends it"
            )
        # The channel gives up by itself after 2 s; the extra moment lets its reason arrive.
        self._deadline = time.monotonic() + TELL_WITHIN + 0.3
        self._why = "the sandbox could not be told within 2 s; the cell may still be running there"
        self.unanswered += 1
        future = loop_thread().submit(self._interrupt(number))
        future.add_done_callback(lambda done: self._hear(_told(number, done)))

    def heard(self, told: Told) -> None:
        """An answer has come, and the cell has not ended.

        Raises:
            SandboxInterrupted: the sandbox could not be told.
        """
        self.unanswered -= 1
        if told.error is not None:
            raise SandboxInterrupted(
                f"the sandbox could not be told ({told.error}); the cell may still be running there"
            ) from None
        self.did.append(clean(told.did).rstrip("."))
        self._deadline = time.monotonic() + OBEY_WITHIN if told.level >= TOP else None
        self._why = (
            "the cell was told to end and its worker killed, but the sandbox has not confirmed it for 5 s"
        )
        # Usually the cell ends at once and its error says all this; otherwise it is said while waiting.
        text = f"Interrupt {told.level}: {self.did[-1]}.{_NEXT[told.level]}"
        self._step = (text, time.monotonic() + SAY_AFTER)

    def heard_late(self, told: Told) -> None:
        """An answer has come that the cell's end had overtaken."""
        self.unanswered -= 1
        self.did.append(clean(told.did).rstrip(".") or AS_IT_ENDED)

    def outcome(self) -> str:
        """What the presses did, now that the cell has ended; "" when there was none."""
        if self.unanswered:
            return AS_IT_ENDED
        return self.did[-1] if self.did else ""

    def take_step(self, *, only_if_due: bool = False) -> str:
        """What is to be said of the last step while the cell goes on, once; "" when there is nothing."""
        if self._step is None or (only_if_due and time.monotonic() < self._step[1]):
            return ""
        text, self._step = self._step[0], None
        return text

    def patience(self) -> float | None:
        """Seconds until a step is to be said or waiting has no sense any more; None when nothing is due."""
        ends = [] if self._deadline is None else [self._deadline]
        if self._step is not None:
            ends.append(self._step[1])
        return min(ends) - time.monotonic() if ends else None

    def check(self) -> None:
        """See whether waiting still has a sense.

        Raises:
            SandboxInterrupted: the sandbox was not told, or has not obeyed, in time; it says which.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise SandboxInterrupted(self._why) from None


def _told(level: int, done: Future[str]) -> Told:
    if done.cancelled():
        return Told(level, error=SandboxUnreachable("cancelled"))
    error = done.exception()
    return Told(level, error=error) if error is not None else Told(level, done.result())
