"""One cell in several sandboxes: events of all of them in, one section for each out.

Like the pump of a single cell (:mod:`.pump`), this runs on the kernel's main thread and reads one queue. A
notebook shows, live, one line for each sandbox, with its seconds and the last thing it printed; that view is
of bounded size and goes away. What a sandbox printed, displayed and returned is shown whole, under a heading,
in the order in which the sandboxes were named: as soon as it has ended and everybody before it has. A
terminal shows each line as it comes, with the sandbox's name before it.

An interrupt goes to every sandbox in which the cell still runs, each press one step up that sandbox's ladder
(:mod:`.ladder`). One that cannot be told, or breaks down, is that sandbox's error; the others go on. An end
that overtakes the answer to its interrupt is held until the answer is there, as for a single cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from daytona_magics.errors import ProtocolError, SandboxInterrupted
from daytona_magics.notebook.asking import Answer, Answers, Questions, Reply
from daytona_magics.notebook.ladder import ANSWER_WITHIN, Interrupt, Ladder, Told
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.notebook.pump import Start
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


class _Part:
    """One sandbox's part of the cell.

    Attributes:
        held: its end, which waits for the answers to its interrupts, and until when.
    """

    def __init__(self, run: Run, section: Section, queue: SimpleQueue[Any]) -> None:
        self.run, self.section, self._queue = run, section, queue
        self.ladder = Ladder(run.interrupt, self.put)
        self.answers = Answers(run.answer)
        self.held: tuple[events.Done, float] | None = None

    def put(self, what: Any) -> None:
        """Hand something over to the main thread."""
        self._queue.put((self, what))

    def end(self, done: events.Done) -> None:
        """The cell has ended there; what its interrupts did is known, or will not be."""
        self.held = None
        self.section.end(done, self.ladder.outcome())

    def patience(self) -> float | None:
        """Seconds until something must be done even if nothing is heard of it; None when nothing must."""
        if self.section.ended:
            return None
        return self.held[1] - time.monotonic() if self.held is not None else self.ladder.patience()


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
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._sections = [
            Section(run.name, run.owner, len(runs), capture=capture, trust=trust, timeout=timeout)
            for run in runs
        ]
        self._parts = [
            _Part(run, section, self._queue) for run, section in zip(runs, self._sections, strict=True)
        ]
        self._capture, self._quiet = capture, quiet
        self._terminal = None if capture or in_kernel() is not None else Terminal()
        self._view = View(self._sections, quiet=quiet or self._terminal is not None)
        self._questions: Questions | None = None
        self._asking: Section | None = None
        self._serial = self._asked = 0
        self._pressed_once = False

    def run(self) -> Results:
        """Run the cell everywhere; the outcomes carry the errors.

        Raises:
            SandboxInterrupted: somebody pressed; what became of the cell in each sandbox is in the message.
        """
        with Presses(self._queue) as presses:
            if not presses.possible and not self._quiet:
                note("This cell runs on a thread that the kernel's interrupt does not reach.")
            self._questions = Questions(presses)
            futures = []
            for part in self._parts:
                future = loop_thread().submit(part.run.start(self._sink(part), part.section.window))
                futures.append(future)
                future.add_done_callback(self._ending(part))
            try:
                self._until_done()
            except BaseException:
                for future in futures:
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

    def _sink(self, part: _Part) -> Callable[[events.Event], None]:
        section = part.section

        def came(event: events.Event) -> None:
            part.put(event)
            if isinstance(event, events.InputOver):
                section.over = max(section.over, event.number)
            # Only the end of the cell that asks, or of its question, takes the box away.
            if self._asking is section and self._questions is not None:
                if isinstance(event, events.Done):
                    self._questions.saw(event)
                elif section.over >= self._asked:
                    self._questions.saw(events.InputOver(self._serial))

        return came

    def _ending(self, part: _Part) -> Callable[[Future[events.Done]], None]:
        def ended(future: Future[events.Done]) -> None:
            if not future.cancelled():
                error = future.exception()
                part.put(error if error is not None else future.result())

        return ended

    def _until_done(self) -> None:
        while not all(section.ended for section in self._sections):
            try:
                item = self._queue.get(timeout=self._patience())
            except Empty:
                item = None
            if isinstance(item, Press):
                self._pressed(item.number)
            elif item is not None:
                self._take(*item)
            # Not only when nothing came: others may print without an end.
            if self._pressed_once:
                self._see_what_is_due()
            self._view.refresh()

    def _patience(self) -> float | None:
        ends = [self._view.patience, *(part.patience() for part in self._parts)]
        known = [end for end in ends if end is not None]
        return max(0.0, min(known)) if known else None

    def _see_what_is_due(self) -> None:
        for part in self._parts:
            if part.section.ended:
                continue
            if part.held is not None:
                if time.monotonic() >= part.held[1]:
                    self._end(part, part.held[0])
                continue
            self._climb(part, part.ladder.check)
            self._say(part, part.ladder.take_step(only_if_due=True))

    def _take(self, part: _Part, what: Any) -> None:
        section = part.section
        if section.ended:
            return
        if isinstance(what, Told):
            self._told(part, what)
        elif isinstance(what, BaseException):
            self._fail(part, what)
        elif isinstance(what, events.Done):
            if part.ladder.unanswered:
                part.held = (what, time.monotonic() + ANSWER_WITHIN)
            else:
                self._end(part, what)
        elif isinstance(what, events.Input):
            self._ask(part, what)
            section.window.consumed(what)
        else:
            section.take(what)
            if self._terminal is not None:
                self._terminal.take(section, what)
            section.window.consumed(what)

    def _end(self, part: _Part, done: events.Done) -> None:
        part.end(done)
        self._release()

    def _fail(self, part: _Part, error: BaseException) -> None:
        part.section.fail(error)
        self._release()

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

    def _ask(self, part: _Part, question: events.Input) -> None:
        assert self._questions is not None
        section = part.section
        try:
            part.answers.room()
        except ProtocolError as error:
            self._fail(part, error)
            return
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
            part.answers.send(question.number, got)

    # -- interrupts --------------------------------------------------------------------------------------

    def _pressed(self, number: int) -> None:
        self._pressed_once = True
        for part in self._parts:
            if not part.section.ended and part.held is None:
                self._say(part, part.ladder.take_step())
                self._climb(part, part.ladder.press, number)

    def _told(self, part: _Part, told: Told) -> None:
        if part.held is None:
            self._climb(part, part.ladder.heard, told)
            return
        part.ladder.heard_late(told)
        if not part.ladder.unanswered:
            self._end(part, part.held[0])

    def _climb(self, part: _Part, step: Callable[..., None], *given: Any) -> None:
        """Do something on a sandbox's ladder; that nobody waits for it any more is that sandbox's error."""
        try:
            step(*given)
        except SandboxInterrupted as error:
            self._fail(part, error)

    def _say(self, part: _Part, step: str) -> None:
        """What a press did while the cell goes on stands where its last line would."""
        if step and not part.section.ended:
            part.section.tail.append(step)
            if self._terminal is not None and not self._quiet:
                note(f"{part.section.name}: {step}")

    def _how_it_ended(self) -> str:
        said: dict[str, list[str]] = {}
        for section in self._sections:
            error = section.outcome.error
            how = str(error) if isinstance(error, SandboxInterrupted) else "had ended before"
            said.setdefault(how, []).append(section.name)
        return "; ".join(f"{', '.join(names)}: {how}" for how, names in said.items())


__all__ = ["Run", "Several"]
