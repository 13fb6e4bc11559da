"""One cell in several sandboxes: events of all of them in, one section for each out.

Like the pump of a single cell (:mod:`.pump`), this runs on the kernel's main thread and reads one queue. A
notebook shows, live, one line for each sandbox, with its seconds and the last thing it printed; that view is
of bounded size and goes away. What a sandbox printed, displayed and returned is shown whole, under a heading,
in the order in which the sandboxes were named: as soon as it has ended and everybody before it has. A
terminal shows each line as it comes, with the sandbox's name before it.

An interrupt goes to every sandbox in which the cell still runs, each press one step up the ladder. One that
cannot be told, or breaks down, is that sandbox's error; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from daytona_magics.errors import SandboxInterrupted, SandboxUnreachable
from daytona_magics.notebook.asking import Answer, Questions
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.notebook.pump import OBEY_WITHIN, TELL_WITHIN, TOP, Interrupt, Reply, Start
from daytona_magics.notebook.results import Results
from daytona_magics.notebook.sections import Section, Terminal, View
from daytona_magics.notebook.status import in_kernel, note
from daytona_magics.runtime import events
from daytona_magics.runtime.loop import loop_thread


@dataclass(frozen=True)
class Run:
    """The cell in one sandbox.

    Attributes:
        name: of the sandbox.
        owner: id of the sandbox; the prefix of its display ids.
        start, interrupt, answer: as of :class:`~.pump.Pump`.
    """

    name: str
    owner: str
    start: Start
    interrupt: Interrupt
    answer: Reply


@dataclass(frozen=True)
class _Item:
    section: Section
    what: Any


@dataclass(frozen=True)
class _Told:
    level: int
    did: str = ""
    error: BaseException | None = None


class Several:
    """Runs one cell in several sandboxes to its end, on the calling thread.

    Args:
        runs: the cell in each sandbox, in the order of the sections.
        timeout: the cell's limit in seconds, for messages; 0 for none.
        capture: keep the output instead of showing it.
        quiet: no view and no notices of ours.
        trust: show mimebundles as they come.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        timeout: float = 0.0,
        capture: bool = False,
        quiet: bool = False,
        trust: bool = False,
    ) -> None:
        self._runs = list(runs)
        self._sections = [
            Section(run.name, run.owner, len(runs), capture=capture, trust=trust, timeout=timeout)
            for run in runs
        ]
        self._capture, self._quiet = capture, quiet
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._terminal = None if capture or in_kernel() is not None else Terminal()
        self._view = View(self._sections, quiet=quiet or self._terminal is not None)
        self._questions: Questions | None = None
        self._asking: Section | None = None
        self._serial = self._asked = 0
        self._answers: set[Future[bool]] = set()
        self._futures: list[Future[events.Done]] = []
        self._unanswered = 0
        self._deadline: float | None = None
        self._presses = 0

    def run(self) -> Results:
        """Run the cell everywhere; the outcomes carry the errors.

        Raises:
            SandboxInterrupted: somebody pressed; what became of the cell in each sandbox is in the message.
        """
        with Presses(self._queue) as presses:
            if not presses.possible and not self._quiet:
                note("This cell runs on a thread that the kernel's interrupt does not reach.")
            self._questions = Questions(presses)
            for section, run in zip(self._sections, self._runs, strict=True):
                future = loop_thread().submit(run.start(self._sink(section), section.window))
                self._futures.append(future)
                future.add_done_callback(self._ending(section))
            try:
                self._until_done()
            except BaseException:
                for future in self._futures:
                    future.cancel()
                raise
            finally:
                self._view.close()
                for section in self._sections:
                    self._show(section)
        results = Results(
            {section.name: section.outcome for section in self._sections}, shown=not self._capture
        )
        if presses.count:
            raise SandboxInterrupted(self._how_it_ended())
        return results

    def _sink(self, section: Section) -> Callable[[events.Event], None]:
        def came(event: events.Event) -> None:
            self._queue.put(_Item(section, event))
            if isinstance(event, events.InputOver):
                section.over = max(section.over, event.number)
            # Only the end of the cell that asks, or of its question, takes the box away.
            if self._asking is section and self._questions is not None:
                if isinstance(event, events.Done):
                    self._questions.saw(event)
                elif section.over >= self._asked:
                    self._questions.saw(events.InputOver(self._serial))

        return came

    def _ending(self, section: Section) -> Callable[[Future[events.Done]], None]:
        def ended(future: Future[events.Done]) -> None:
            if not future.cancelled():
                error = future.exception()
                self._queue.put(_Item(section, error if error is not None else future.result()))

        return ended

    def _until_done(self) -> None:
        while not all(section.ended for section in self._sections):
            try:
                item = self._queue.get(timeout=self._patience())
            except Empty:
                self._view.refresh()
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._stop_waiting("the sandbox has not confirmed that the cell ended")
                continue
            if isinstance(item, Press):
                self._pressed(item.number)
            else:
                self._take(item.section, item.what)
            self._view.refresh()

    def _patience(self) -> float | None:
        ends = [self._view.patience] if self._view.patience is not None else []
        if self._deadline is not None:
            ends.append(self._deadline - time.monotonic())
        return max(0.0, min(ends)) if ends else None

    def _take(self, section: Section, what: Any) -> None:
        if isinstance(what, _Told):
            self._told(section, what)
        elif section.ended:
            return
        elif isinstance(what, BaseException):
            section.fail(what)
            self._release()
        elif isinstance(what, events.Done):
            section.end(what)
            self._release()
        elif isinstance(what, events.Input):
            self._ask(section, what)
            section.window.consumed(what)
        else:
            section.take(what)
            if self._terminal is not None:
                self._terminal.take(section, what)
            section.window.consumed(what)

    def _release(self) -> None:
        """Show every section that has ended and has nobody before it that has not."""
        for section in self._sections:
            if not section.ended:
                return
            self._show(section)

    def _show(self, section: Section) -> None:
        if section.released:
            return
        section.released = True
        if self._terminal is not None:
            self._terminal.end(section)
        elif not self._capture:
            section.show()

    def _ask(self, section: Section, question: events.Input) -> None:
        assert self._questions is not None
        run = self._runs[self._sections.index(section)]
        self._view.refresh(now=True)
        # Each sandbox counts its own questions; the one box needs numbers that only rise.
        self._serial, self._asked, self._asking = self._serial + 1, question.number, section
        prompt = f"[{section.name}] {question.prompt}"
        try:
            if section.over >= question.number or section.ended:
                return
            got = self._questions.ask(replace(question, number=self._serial, prompt=prompt))
        finally:
            self._asking = None
        if isinstance(got, Press):
            self._pressed(got.number)
        elif isinstance(got, Answer):
            future = loop_thread().submit(run.answer(question.number, got))
            self._answers.add(future)
            future.add_done_callback(self._answered)

    def _answered(self, future: Future[bool]) -> None:
        self._answers.discard(future)
        if not future.cancelled():
            # Whatever kept it from arriving is told by the cell's own end.
            future.exception()

    # -- interrupts --------------------------------------------------------------------------------------

    def _pressed(self, number: int) -> None:
        if number > TOP:
            self._stop_waiting("stopped waiting; the cell may still be running in the sandbox")
            return
        self._deadline = time.monotonic() + TELL_WITHIN + 0.3
        for section, run in zip(self._sections, self._runs, strict=True):
            if section.ended:
                continue
            self._unanswered += 1
            future = loop_thread().submit(run.interrupt(number))
            future.add_done_callback(self._telling(section, number))

    def _telling(self, section: Section, level: int) -> Callable[[Future[str]], None]:
        def told(future: Future[str]) -> None:
            error: BaseException | None
            error = SandboxUnreachable("cancelled") if future.cancelled() else future.exception()
            did = "" if error is not None else future.result()
            self._queue.put(_Item(section, _Told(level, did, error)))

        return told

    def _told(self, section: Section, told: _Told) -> None:
        self._unanswered -= 1
        if not section.ended:
            if told.error is not None:
                section.fail(
                    SandboxInterrupted(
                        f"the sandbox could not be told ({told.error}); the cell may still be running there"
                    )
                )
                self._release()
            else:
                section.did = told.did
        if not self._unanswered:
            self._deadline = time.monotonic() + OBEY_WITHIN if told.level >= TOP else None

    def _stop_waiting(self, why: str) -> None:
        for section in self._sections:
            if not section.ended:
                section.fail(SandboxInterrupted(f"{why}: `%sandbox reset` ends it"))
        self._release()

    def _how_it_ended(self) -> str:
        said: dict[str, list[str]] = {}
        for section in self._sections:
            error = section.outcome.error
            how = str(error) if isinstance(error, SandboxInterrupted) else "had ended before"
            said.setdefault(how, []).append(section.name)
        return "; ".join(f"{', '.join(names)}: {how}" for how, names in said.items())


__all__ = ["Run", "Several"]
