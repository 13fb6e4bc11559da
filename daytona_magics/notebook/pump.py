"""The main-thread pump: events of a running cell in, notebook output out.

The channel lives on the loop thread and puts events into a queue; the thread that runs the magic (the
kernel's main thread) takes them out and prints, displays, and interrupts. So output always belongs to the
cell that is running, ``%%capture`` works, and nothing of the kernel is patched or pumped.

**Interrupts.** Each press climbs one step (see :mod:`daytona_magics.runtime.channel`): SIGINT to the cell;
then the processes it started are ended; then its worker. Every step says what it did. The cell fails with a
``KeyboardInterrupt`` subclass once it has really ended over there; if the sandbox cannot be told within 2 s,
or does not obey the last step within 5 s, the pump stops waiting and says exactly that. It never hangs.

**Flow** (:mod:`.flow`). What may not be shown yet, because a server would drop it, waits in a short backlog,
which the flow window bounds; a press is taken past it, and what then still waits is left to the spool.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from daytona_magics.errors import ProtocolError, SandboxInterrupted, SandboxUnreachable
from daytona_magics.notebook import sinks
from daytona_magics.notebook.asking import Answer, Questions
from daytona_magics.notebook.countdown import Countdown
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.notebook.flow import Flow
from daytona_magics.notebook.outcome import CellOutput, failure
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.notebook.status import StatusLine, note
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime import events
from daytona_magics.runtime.loop import loop_thread

#: Seconds: for the sandbox to be told of an interrupt; for the last step of the ladder to be obeyed; before a
#: step is reported while the cell goes on; for an interrupt's answer that the cell's end has overtaken.
TELL_WITHIN, OBEY_WITHIN, SAY_AFTER, ANSWER_WITHIN = 2.0, 5.0, 0.3, 0.5
#: Answers on their way to the sandbox at once; a cell waits for each of them, so our guest has one.
MOST_ANSWERS = 16
#: Seconds between two counts of output that is missing.
SAY_MISSING_EVERY = 1.0
#: Bytes of outputs kept to be shown behind an error.
BEHIND_LIMIT = 64 << 20
#: Highest step of the ladder; a press beyond it stops waiting.
TOP = 3

Start = Callable[[Callable[[events.Event], None], events.FlowWindow], Coroutine[Any, Any, events.Done]]
Interrupt = Callable[[int], Coroutine[Any, Any, str]]
Reply = Callable[[int, Answer], Coroutine[Any, Any, bool]]


@dataclass(frozen=True)
class _Told:
    """An interrupt's answer: what it did, or why it could not be told."""

    level: int
    did: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class Pump:
    """Runs one cell to its end on the calling thread.

    Args:
        start: given a sink and a flow window, returns the coroutine that runs the cell.
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
        self._start, self._interrupt, self._reply = start, interrupt, answer
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
        self._answers: set[Future[bool]] = set()
        self._capture = capture
        self.cleared = False  # whether the cell took away what was shown before
        self._did: list[str] = []
        self._unanswered = 0
        self._deadline: float | None = None
        self._step: tuple[str, float] | None = None
        self._why = ""

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
            future = loop_thread().submit(self._start(self._came, self._window))
            future.add_done_callback(self._ended)
            try:
                done = self._until_done()
                self._countdown.close()
                self._show_end()
                self._hear_answers()
                if presses.count and not self._did:
                    self._did.append("interrupted as it ended")
            except BaseException:
                future.cancel()
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
        outcome.error = failure(
            done, self._error, timeout=self._timeout, told=self._did[-1] if self._did else ""
        )
        if outcome.error is not None:
            self._show_result()
        outcome.result = None if self._shown else self._result
        return outcome

    def _came(self, event: events.Event) -> None:
        """An event came (on the loop thread)."""
        self._queue.put(event)
        assert self._questions is not None
        self._questions.saw(event)

    def _ended(self, future: Future[events.Done]) -> None:
        if not future.cancelled():
            error = future.exception()
            self._queue.put(future.result() if error is None else _Failed(error))

    def _until_done(self) -> events.Done:
        while True:
            try:
                item = self._next()
            except Empty:
                self._output.settle()
                self._countdown.tick()
                self._say_step(only_if_due=True)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    raise SandboxInterrupted(self._why) from None
                continue
            if isinstance(item, events.Done):
                return item
            if isinstance(item, _Failed):
                self._give_up(item.error)
            elif isinstance(item, Press):
                self._pressed(item.number)
            elif isinstance(item, _Told):
                self._told(item)
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
            if isinstance(item, Press | _Told):
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
        ends = [] if self._deadline is None else [self._deadline - time.monotonic()]
        if self._output.pending:
            ends.append(sinks.FLUSH_EVERY)
        if self._step is not None:
            ends.append(self._step[1] - time.monotonic())
        if (left := self._countdown.next()) is not None:
            ends.append(left)
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
        if len(self._answers) >= MOST_ANSWERS:
            raise ProtocolError("the sandbox asks for input without waiting for the answers")
        got = self._questions.ask(question)
        if isinstance(got, Press):
            self._pressed(got.number)
        elif got is not None and self._reply is not None:
            future = loop_thread().submit(self._reply(question.number, got))
            self._answers.add(future)
            future.add_done_callback(self._answered)

    def _answered(self, future: Future[bool]) -> None:
        self._answers.discard(future)
        if not future.cancelled():
            # Whatever kept it from arriving is told by the cell's own end.
            future.exception()

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._output.flush()
            note(text)

    # -- interrupts ------------------------------------------------------------------------------------

    def _pressed(self, number: int) -> None:
        if self._detach:
            raise SandboxInterrupted(self._detach)
        if number > TOP:
            raise SandboxInterrupted(
                "stopped waiting; the cell may still be running in the sandbox: `%sandbox reset` ends it"
            )
        self._say_step()
        # The channel gives up by itself after 2 s; the extra moment lets its reason arrive.
        self._deadline = time.monotonic() + TELL_WITHIN + 0.3
        self._why = "the sandbox could not be told within 2 s; the cell may still be running there"
        self._unanswered += 1
        future = loop_thread().submit(self._interrupt(number))
        future.add_done_callback(lambda done: self._queue.put(_answer(number, done)))

    def _hear_answers(self) -> None:
        """The cell may end before the answer to the interrupt that ended it has arrived."""
        until = time.monotonic() + ANSWER_WITHIN
        while self._unanswered and time.monotonic() < until:
            try:
                item = self._queue.get(timeout=until - time.monotonic())
            except Empty:
                break
            if isinstance(item, _Told):
                self._unanswered -= 1
                self._did.append(clean(item.did).rstrip(".") or "interrupted as it ended")
            elif isinstance(item, Press):
                self._did.append("interrupted as it ended")
        if self._unanswered:
            self._did.append("interrupted as it ended")

    def _told(self, told: _Told) -> None:
        self._unanswered -= 1
        if told.error is not None:
            raise SandboxInterrupted(
                f"the sandbox could not be told ({told.error}); the cell may still be running there"
            ) from None
        self._did.append(clean(told.did).rstrip("."))
        self._deadline = time.monotonic() + OBEY_WITHIN if told.level >= TOP else None
        self._why = (
            "the cell was told to end and its worker killed, but the sandbox has not confirmed it for 5 s"
        )
        more = {
            1: " Variables are alive. Press again to end the processes it started.",
            2: " Variables are alive. Press again to end its worker.",
            3: " Variables are lost, files kept.",
        }
        # Usually the cell ends at once and its error says all this; otherwise it is said while waiting.
        text = f"Interrupt {told.level}: {self._did[-1]}.{more[told.level]}"
        self._step = (text, time.monotonic() + SAY_AFTER)

    def _say_step(self, *, only_if_due: bool = False) -> None:
        if self._step is not None and (not only_if_due or time.monotonic() >= self._step[1]):
            text, self._step = self._step[0], None
            self._say(text)

    def _give_up(self, error: BaseException) -> None:
        if self._did and isinstance(error, SandboxUnreachable):
            raise SandboxInterrupted(f"{'; '.join(self._did)}; then the connection broke ({error})") from None
        raise error


def _missing(count: int) -> str:
    return f"{count:,} bytes of output are missing here: they came faster than they could be shown or kept"


def _answer(level: int, done: Future[str]) -> _Told:
    if done.cancelled():
        return _Told(level, error=SandboxUnreachable("cancelled"))
    error = done.exception()
    return _Told(level, error=error) if error is not None else _Told(level, done.result())
