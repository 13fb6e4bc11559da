"""One execution for a program: its output is kept instead of shown, and nobody is asked anything.

Everything happens on the loop thread. Where a cell has a person who presses the stop button, a program
cancels: the code in the sandbox is then interrupted, step by step, before the cancellation goes on, so that
whoever sees it cancelled knows that it does not run any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from daytona_magics.errors import ProtocolError, SandboxError
from daytona_magics.notebook import sinks
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.notebook.outcome import CellOutput, failure
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime import events
from daytona_magics.runtime.channel import Channel
from daytona_magics.runtime.records import ExecRequest
from daytona_magics.sandboxes import executing
from daytona_magics.sandboxes.binding import Binding

#: Called with "stdout" or "stderr" and a piece of text, as it comes, on the loop thread.
OnOutput = Callable[[str, str], object]
#: What a question is answered with; None when it is not.
Answer = Callable[[events.Input], "str | None"]
#: Seconds given to each step of an interrupt.
STEP = 2.0
NO_INPUT = "nobody can be asked: this code was run by a program"


class Collector:
    """Takes the events of one execution.

    Attributes:
        variables: what it gave back, None without.
    """

    def __init__(
        self,
        channel: Channel,
        request: ExecRequest,
        on_output: OnOutput | None,
        answer: Answer | None = None,
    ) -> None:
        self.window = events.FlowWindow()
        self.variables: events.Variables | None = None
        self._channel, self._request, self._on_output, self._answer = channel, request, on_output, answer
        self._captured = sinks.Captured(False)
        self._error: events.Error | None = None
        self._value: RemoteValue | None = None
        self._lost = 0
        self._answers: set[asyncio.Future[Any]] = set()

    def take(self, event: events.Event) -> None:
        """One event, on the loop thread."""
        self._handle(event)
        self.window.consumed(event)

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.Stream):
            self._captured.stream(event.name, event.text)
            if self._on_output is not None:
                self._on_output(event.name, event.text)
        elif isinstance(event, events.Display):
            self._captured.display(event)
        elif isinstance(event, events.Result):
            self._value = RemoteValue(event.data, event.metadata)
        elif isinstance(event, events.Error) and not event.passing:
            self._error = events.Error(event.ename, clean(event.evalue), tuple(map(clean, event.traceback)))
        elif isinstance(event, events.Gap):
            self._lost += event.bytes
        elif isinstance(event, events.Input):
            self._reply(event)
        elif isinstance(event, events.Variables):
            if self.variables is not None:
                raise ProtocolError("the sandbox sent variables twice")
            self.variables = event

    def _reply(self, question: events.Input) -> None:
        text = self._answer(question) if self._answer is not None else None
        answer = self._channel.answer(
            self._request.id, question.number, text or "", error=NO_INPUT if text is None else ""
        )
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def outcome(self, done: events.Done) -> CellOutput:
        """What it left behind."""
        self._captured.flush()
        found = self._captured.outcome()
        found.cut += self._lost
        found.result, found.seconds = self._value, done.seconds
        found.exit_code = None if self._request.language in ("python", "fresh") else done.exit_code
        found.error = failure(done, self._error, timeout=self._request.timeout, told="")
        return found


async def collect(
    tie: Binding,
    channel: Channel,
    request: ExecRequest,
    on_output: OnOutput | None = None,
    answer: Answer | None = None,
) -> tuple[CellOutput, events.Variables | None]:
    """Run code to its end; returns what it left, and the variables it gave.

    Args:
        on_output: hears text as it comes; what it raises ends the execution, and is raised here.
        answer: answers what the code asks; without it, and for None, the code is told that nobody can.

    Raises:
        SandboxUnreachable, SandboxGone, ProtocolError: the way to the sandbox broke for good.
        asyncio.CancelledError: this was cancelled; the code was interrupted, and has ended if that worked.
    """
    collector = Collector(channel, request, on_output, answer)
    broken: list[BaseException] = []

    def sink(event: events.Event) -> None:
        try:
            if not broken:
                collector.take(event)
            else:
                collector.window.consumed(event)
        except Exception as error:  # noqa: BLE001 - a callback's error is raised to whoever passed it
            broken.append(error)
            running.cancel()

    running = asyncio.ensure_future(executing.execute(tie, channel, request, sink, collector.window))
    try:
        done = await asyncio.shield(running)
    except asyncio.CancelledError:
        await _interrupt(channel, request, None if broken else running)
        if broken:
            raise broken[0] from None
        raise
    return collector.outcome(done), collector.variables


async def _interrupt(
    channel: Channel, request: ExecRequest, running: asyncio.Future[events.Done] | None
) -> None:
    """Interrupt what nobody waits for any more, and go one step further while it runs."""
    for level in (1, 2, 3):
        with contextlib.suppress(SandboxError, asyncio.TimeoutError):
            await channel.interrupt(request.id, level)
        if running is None:
            return
        await asyncio.wait([running], timeout=STEP)
        if running.done():
            running.cancelled() or running.exception()
            return
    if running is not None:
        running.cancel()
