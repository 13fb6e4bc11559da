"""The main-thread pump: events of a running cell in, notebook output out.

The channel lives on the loop thread and puts events into a queue; the thread that runs the magic (the
kernel's main thread) takes them out and prints, displays, and interrupts. So output always belongs to the
cell that is running, ``%%capture`` works, and nothing of the kernel is patched or pumped.

**Interrupts** (:mod:`.ladder`). Each press climbs one step and says what it did; the cell fails with a
``KeyboardInterrupt`` subclass once it has really ended over there, or cannot be waited for any longer.

**Flow** (:mod:`.flow`). What may not be shown yet, because a server would drop it, waits in a short backlog,
which the flow window bounds; a press is taken past it, and what then still waits is left to the spool.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from daytona_magics.errors import SandboxInterrupted, SandboxUnreachable
from daytona_magics.notebook import offers, sinks
from daytona_magics.notebook.asking import Answers, Questions, Reply
from daytona_magics.notebook.countdown import Countdown
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.notebook.flow import Flow
from daytona_magics.notebook.ladder import ANSWER_WITHIN, AS_IT_ENDED, Interrupt, Ladder, Told
from daytona_magics.notebook.outcome import CellOutput, failure
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.notebook.status import StatusLine, note
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime import events
from daytona_magics.runtime.loop import loop_thread

#: Seconds between two counts of output that is missing.
SAY_MISSING_EVERY = 1.0
#: Bytes of outputs kept to be shown behind an error.
BEHIND_LIMIT = 64 << 20

Start = Callable[[Callable[[events.Event], None], events.FlowWindow], Coroutine[Any, Any, events.Done]]


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class Pump:
    """Runs one cell to its end on the calling thread.

    Args:
        start: called on the loop thread with a sink and a flow window, returns the coroutine that runs the
            cell.
        interrupt: given a step of the ladder (1, 2, 3), returns the coroutine that interrupts it.
        answer: given the number of a question and its answer, returns the coroutine that hands it over.
        owner: id of the sandbox; the prefix of its display ids.
        timeout: the cell's limit in seconds, for messages; 0 for none.
        capture: keep the output instead of showing it.
        quiet: no notices of ours.
        trust: show mimebundles as they come.
        flow: how much is shown and how fast; None for everything, at once.
        detach: what is said when an interrupt only ends the watching; "": it interrupts the cell.
    """

    def __init__(
        self,
        start: Start,
        interrupt: Interrupt,
        answer: Reply | None = None,
        *,
        owner: str,
        timeout: float = 0.0,
        capture: bool = False,
        quiet: bool = False,
        trust: bool = False,
        flow: Flow | None = None,
        detach: str = "",
    ) -> None:
        self._detach = detach
        self._start, self._answers = start, Answers(answer)
        self._owner, self._timeout, self._quiet, self._trust = owner, timeout, quiet, trust
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._output = sinks.Captured(trust) if capture else sinks.Shown(owner, trust)
        self._flow = None if capture else flow
        self._window = events.FlowWindow(largest=self._flow.limits.show if self._flow is not None else 0)
        self._backlog: deque[Any] = deque()  # came, and may not be shown yet
        self._countdown = Countdown(timeout, quiet=quiet)
        self._status = StatusLine(quiet=quiet)
        self._error: events.Error | None = None
        self._result: RemoteValue | None = None
        self._shown = False  # whether the result was shown already
        self._missing, self._missing_said, self._missing_line = 0, 0.0, StatusLine(quiet=quiet)
        self._behind: list[events.Display | events.Result] = []  # what came after the error
        self._questions: Questions | None = None
        self._capture = capture
        self._offers = None if quiet or capture else offers.Offers()
        self._offered = False  # whether a port was offered
        self.cleared = False  # whether the cell took away what was shown before
        self._ladder = Ladder(interrupt, self._queue.put)

    def run(self) -> CellOutput:
        """Run the cell; returns its outcome, with ``error`` set when it failed. Raises nothing of the cell's.

        Raises:
            SandboxUnreachable, SandboxGone, ProtocolError: the way to the sandbox broke for good.
        """
        with Presses(self._queue) as presses:
            if not presses.possible and not self._quiet:
                note(
                    "This cell runs on a thread that the kernel's interrupt does not reach; "
                    "--timeout limits it."
                )
            self._questions = Questions(presses)
            cancel = loop_thread().start(self._begin)
            try:
                done = self._until_done()
                self._countdown.close()
                self._show_end()
                self._hear_answers()
            except BaseException:
                cancel()
                raise
            finally:
                self._output.flush()
                self._status.close()
                self._countdown.close()
                if self._missing and self._capture:
                    # Also when we were asked to be quiet: what is kept must not look whole.
                    note(_missing(self._missing))
                elif self._missing:
                    self._missing_line.become(_missing(self._missing))
        outcome = self._output.outcome()
        if outcome.missing:
            # Also when we were asked to be quiet: a captured output that is not whole must not look whole.
            note(f"--out keeps {sinks.CAPTURE_LIMIT >> 20} MiB of a cell's output; cut: {outcome.missing}")
        outcome.seconds, outcome.exit_code = done.seconds, done.exit_code
        told = self._ladder.outcome() or (AS_IT_ENDED if presses.count else "")
        outcome.error = failure(done, self._error, timeout=self._timeout, told=told)
        if outcome.error is not None:
            self._show_result()
        outcome.result = None if self._shown else self._result
        return outcome

    def _came(self, event: events.Event) -> None:
        """An event came (on the loop thread)."""
        self._queue.put(event)
        assert self._questions is not None
        self._questions.saw(event)

    def _begin(self) -> Coroutine[Any, Any, None]:
        """Start the cell (on the loop thread); returns what carries it to its end."""
        try:
            return self._carry(self._start(self._came, self._window))
        except Exception as error:  # noqa: BLE001 - handed over to the waiting thread, every kind of it
            return self._carry(_raising(error))

    async def _carry(self, running: Coroutine[Any, Any, events.Done]) -> None:
        """Wait for the end of the cell, which is put behind its events."""
        try:
            self._queue.put(await running)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - handed over to the waiting thread, every kind of it
            self._queue.put(_Failed(error))

    def _until_done(self) -> events.Done:
        while True:
            try:
                item = self._next()
            except Empty:
                self._output.settle()
                self._countdown.tick()
                self._say(self._ladder.take_step(only_if_due=True))
                self._ladder.check()
                continue
            if isinstance(item, events.Done):
                return item
            if isinstance(item, _Failed):
                self._give_up(item.error)
            elif isinstance(item, Press):
                self._pressed(item.number)
            elif isinstance(item, Told):
                self._ladder.heard(item)
            else:
                self._handle(item)
                self._window.consumed(item)
            if self._queue.empty():
                self._output.settle()

    def _next(self) -> Any:
        """What comes next: a press and its answer as soon as they are there, events in their order and pace.

        Raises:
            Empty: something must be done although nothing happened.
        """
        pace = self._flow.pace if self._flow is not None else None
        if pace is None:
            return self._queue.get(timeout=self._patience())
        while True:
            wait = pace.delay()
            if self._backlog and not wait:
                return self._backlog.popleft()
            patience = self._patience()
            if self._backlog:
                patience = wait if patience is None else min(wait, patience)
            item = self._queue.get(timeout=patience)
            if isinstance(item, Press | Told):
                if isinstance(item, Press) and self._backlog and self._flow is not None:
                    self._flow.stop()
                return item
            if not wait and not self._backlog:
                return item
            self._backlog.append(item)

    def _show_end(self) -> None:
        if self._flow is not None:
            self._output.flush()
            end = self._flow.close()
            if end:
                self._output.stream("stdout", end)

    def _patience(self) -> float | None:
        """Seconds until something must be done even if nothing happens; None for as long as it takes."""
        ends = [sinks.FLUSH_EVERY] if self._output.pending else []
        ends += [left for left in (self._ladder.patience(), self._countdown.next()) if left is not None]
        return max(0.0, min(ends)) if ends else None

    # -- events ----------------------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        if self._flow is None:
            self._show(event)
        elif self._flow.admits(event):
            before = self._output.messages
            self._show(event)
            if self._flow.pace is not None:
                text = event.text if isinstance(event, events.Stream) else ""
                self._flow.pace.spend(text, self._output.messages - before)

    def _show(self, event: events.Event) -> None:
        if self._keep_behind(event):
            return
        if isinstance(event, events.Stream | events.Display | events.Clear):
            self._show_result()
        if isinstance(event, events.Stream):
            self._output.stream(event.name, event.text)
            if self._offers is not None:
                self._offer(self._offers.seen(event.name, event.text))
        elif isinstance(event, events.Display):
            self._output.display(event)
        elif isinstance(event, events.Result):
            self._result = RemoteValue(event.data, event.metadata, trust=self._trust)
        elif isinstance(event, events.Error):
            lines = tuple(clean(line) for line in event.traceback)
            error = events.Error(event.ename, clean(event.evalue), lines)
            if event.passing:
                self._show_result()
                self._output.error(error)
            else:
                self._error = error
        elif isinstance(event, events.Clear):
            self.cleared = True
            self._output.clear(event.wait)
        elif isinstance(event, events.Input):
            self._ask(event)
        elif isinstance(event, events.Page):
            self._output.page(clean(event.text))
        elif isinstance(event, events.Notice):
            self._say(clean(event.text))
        elif isinstance(event, events.Gap):
            self._miss(event.bytes)
        elif isinstance(event, events.Reconnecting):
            self._status.show(f"connection lost, trying again … {event.seconds:.0f} s (the cell runs on)")
        elif isinstance(event, events.Reconnected):
            self._status.become(
                f"the connection was lost for {event.seconds:.1f} s; the output since then follows"
            )

    def _offer(self, ports: list[int]) -> None:
        for port in ports:
            # Who only watches a job does not keep its server from anything.
            more = "" if self._detach or self._offered else f" {offers.BUSY}"
            self._offered = True
            self._say(offers.hint(port) + more)

    def _miss(self, count: int) -> None:
        """Output is missing here; said where it begins, in one line that counts."""
        self._output.flush()
        self._missing += count
        now = time.monotonic()
        if now >= self._missing_said + SAY_MISSING_EVERY:
            self._missing_said = now
            self._missing_line.show(_missing(self._missing))

    def _keep_behind(self, event: events.Event) -> bool:
        """Whether this is an output to be shown behind the cell's error, which comes when the cell has ended.

        Figures and a value whose display failed are. More than a hostile guest sends is not kept.
        """
        if self._error is None or self._capture or not isinstance(event, events.Display | events.Result):
            return False
        if sum(map(events.weight, [*self._behind, event])) > BEHIND_LIMIT:
            return False
        self._behind.append(event)
        return True

    def show_behind(self) -> None:
        """Show what the cell sent after its error; for whoever has shown the error."""
        from IPython import get_ipython

        behind, self._behind = self._behind, []
        for event in behind:
            if isinstance(event, events.Display):
                self._output.display(event)
            else:
                # Between cells sys.displayhook is not the shell's.
                hook = getattr(get_ipython(), "displayhook", sys.displayhook)
                hook(RemoteValue(event.data, event.metadata, trust=self._trust))

    @property
    def behind(self) -> bool:
        """Whether :meth:`show_behind` has something to show."""
        return bool(self._behind)

    def _show_result(self) -> None:
        """Show the value before what comes after it; usually nothing does, and it is the magic's value."""
        if self._result is not None and not self._shown and not self._capture:
            self._shown = True
            self._output.flush()
            sys.displayhook(self._result)

    def _ask(self, question: events.Input) -> None:
        assert self._questions is not None
        if self._detach:
            # Who only watches cannot know whether it was answered long ago.
            self._output.stream("stdout", clean(question.prompt) + "\n")
            return
        self._output.flush()
        self._answers.room()
        got = self._questions.ask(question)
        if isinstance(got, Press):
            self._pressed(got.number)
        elif got is not None:
            self._answers.send(question.number, got)

    def _say(self, text: str) -> None:
        if text and not self._quiet:
            self._output.flush()
            note(text)

    # -- interrupts ------------------------------------------------------------------------------------

    def _pressed(self, number: int) -> None:
        if self._detach:
            raise SandboxInterrupted(self._detach)
        self._say(self._ladder.take_step())
        self._ladder.press(number)

    def _hear_answers(self) -> None:
        """The cell may end before the answer to the interrupt that ended it has arrived."""
        until = time.monotonic() + ANSWER_WITHIN
        while self._ladder.unanswered and (left := until - time.monotonic()) > 0:
            try:
                item = self._queue.get(timeout=left)
            except Empty:
                break
            if isinstance(item, Told):
                self._ladder.heard_late(item)

    def _give_up(self, error: BaseException) -> None:
        did = self._ladder.did
        if did and isinstance(error, SandboxUnreachable):
            raise SandboxInterrupted(f"{'; '.join(did)}; then the connection broke ({error})") from None
        raise error


async def _raising(error: Exception) -> events.Done:
    raise error


def _missing(count: int) -> str:
    return f"{count:,} bytes of output are missing here: they came faster than they could be shown or kept"
