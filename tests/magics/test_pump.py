"""The pump and the status wait, with scripted cells on the real loop thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daytona_magics.errors import (
    CellTimeout,
    ExitCodeError,
    RemoteError,
    SandboxInterrupted,
    SandboxUnreachable,
    WorkerDied,
)
from daytona_magics.notebook import ladder, sinks, status
from daytona_magics.notebook import pump as pumping
from daytona_magics.notebook.asking import Answer
from daytona_magics.notebook.outcome import failure
from daytona_magics.notebook.pump import Pump
from daytona_magics.notebook.results import Results
from daytona_magics.notebook.several import Run, Several
from daytona_magics.notebook.status import wait
from daytona_magics.runtime.events import (
    Clear,
    Display,
    Done,
    Error,
    Event,
    FlowWindow,
    Gap,
    Notice,
    Reconnected,
    Reconnecting,
    Result,
    Stream,
)

Sink = Callable[[Event], None]
OK = Done("ok")


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Cell:
    """A scripted cell: what it emits, and what each interrupt does."""

    def __init__(self, *events: Event, end: Done = OK, endless: bool = False) -> None:
        self.events, self.end, self.endless = events, end, endless
        self.levels: list[int] = []
        self.over: asyncio.Event | None = None
        self.obeys = 1
        self.error: Exception | None = None
        self.delay = 0.0
        self.window: FlowWindow | None = None
        self.started, self.told = threading.Event(), False

    async def start(self, sink: Sink, window: FlowWindow) -> Done:
        self.over, self.window = asyncio.Event(), window
        if self.told:
            self.over.set()
        self.started.set()
        for event in self.events:
            window.handed(event)
            sink(event)
        if self.endless:
            await self.over.wait()
        return self.end

    async def interrupt(self, level: int) -> str:
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        self.levels.append(level)
        if level >= self.obeys:
            self.obey()
        return f"did step {level}."

    def obey(self) -> None:
        """End it; of several cells one may be told to before it has begun."""
        self.told = True
        if self.over is not None:
            self.over.set()

    def run(self, **options: Any) -> Any:
        return Pump(self.start, self.interrupt, owner="box", **options).run()

    def press_soon(self, *delays: float) -> None:
        def later() -> None:
            # Before, an interrupt would be the test's own.
            self.started.wait(60)
            for delay in delays:
                time.sleep(delay)
                press()

        threading.Thread(target=later, daemon=True).start()


class Overtaking(Cell):
    """Its end comes before the interrupt's answer, by ``delay`` seconds."""

    async def interrupt(self, level: int) -> str:
        self.levels.append(level)
        self.obey()
        await asyncio.sleep(self.delay)
        return f"did step {level}."


async def nobody_asks(number: int, answer: Answer) -> bool:
    raise AssertionError((number, answer))


def together(cells: dict[str, Cell]) -> Results:
    runs = [Run(name, name, cell.start, cell.interrupt, nobody_asks) for name, cell in cells.items()]
    return Several(runs, capture=True).run()


def test_streams_are_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    Cell(
        Stream("stdout", "a"),
        Stream("stderr", "e"),
        Stream("stdout", "b\n"),
        Stream("stdout", "\x1b]0;t\x07c"),
    ).run()
    assert capsys.readouterr() == ("ab\nc", "e")


def test_every_event_is_given_back_to_the_flow_window() -> None:
    cell = Cell(*[Stream("stdout", "x" * 100)] * 50, Notice("n"), Display({"text/plain": "d"}))
    cell.run(capture=True, quiet=True)
    assert cell.window is not None and cell.window.outstanding == 0


def test_captured(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Cell(
        Stream("stdout", "gone"),
        Clear(),
        Stream("stdout", "o"),
        Stream("stderr", "e"),
        Display({"text/html": "<b onclick=x>b</b>"}),
        Result({"text/plain": "5"}),
        end=Done("ok", seconds=2.5),
    ).run(capture=True)
    assert (outcome.stdout, outcome.stderr, repr(outcome.result), outcome.seconds) == ("o", "e", "5", 2.5)
    assert outcome.displays[0].data["text/html"] == "<b>b</b>"
    assert outcome.ok and "result 5" in repr(outcome) and str(outcome) == "o"
    assert capsys.readouterr() == ("", "")


def test_what_is_more_than_a_capture_keeps_is_counted_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "CAPTURE_LIMIT", 1 << 20)
    piece = Stream("stdout", "x" * 60_000)
    picture = Display({"image/png": "A" * 1000}, size=1000)
    for quiet in (False, True):
        outcome = Cell(
            *[piece] * 30, Stream("stderr", "late"), picture, Result({"text/plain": "5"}), end=OK
        ).run(capture=True, quiet=quiet)
        kept = len(outcome.stdout)
        assert (1 << 20) - 70_000 < kept <= 1 << 20 and kept % 60_000 == 0
        assert outcome.cut == 30 * 60_000 - kept + len("late"), "kept and counted is everything printed"
        assert outcome.stderr == "" and outcome.displays == [] and outcome.cut_displays == 1
        assert repr(outcome.result) == "5"
        missing = f"{outcome.cut:,} characters and 1 display"
        assert f"{missing} cut" in repr(outcome)
        assert capsys.readouterr().out == f"--out keeps 1 MiB of a cell's output; cut: {missing}\n"


def test_a_capture_forgets_what_was_cleared_and_is_whole_below_its_limit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "CAPTURE_LIMIT", 1 << 20)
    piece = Stream("stdout", "x" * 60_000)
    outcome = Cell(*[piece] * 30, Clear(), *[piece] * 10).run(capture=True)
    assert len(outcome.stdout) == 600_000 and outcome.missing == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("events", "end", "kind", "words"),
    [
        ((Error("KeyError", "'x'", ("line",)),), Done("error", 1), RemoteError, "'x'"),
        ((), Done("error", 4), ExitCodeError, "exit code 4"),
        ((), Done("timeout"), CellTimeout, "timeout of 3 s; variables are alive"),
        ((), Done("timeout", worker="new", limit=9), CellTimeout, "timeout of 3 s; variables are alive"),
        ((), Done("died", None, 11, worker="new"), WorkerDied, "SIGSEGV"),
        ((), Done("died", 3, worker="new"), WorkerDied, "exit code 3"),
        ((), Done("interrupted", worker="killed"), SandboxInterrupted, "variables were lost"),
    ],
)
def test_ends_become_errors(events: tuple[Event, ...], end: Done, kind: type, words: str) -> None:
    error = Cell(*events, end=end).run(timeout=3, quiet=True).error
    assert isinstance(error, kind) and words in str(error)


def test_the_error_has_the_remote_name_and_clean_lines() -> None:
    error = (
        Cell(Error("KeyError", "x\x1b]52;c;A\x07", ("\x1b[31ma\x1b]0;t\x07",)), end=Done("error")).run().error
    )
    assert type(error).__name__ == "KeyError" and str(error) == "x"
    assert error._render_traceback_() == ["\x1b[31ma"]


def test_missing_output_is_said_once_with_its_sum(capsys: pytest.CaptureFixture[str]) -> None:
    flood = [event for _ in range(300) for event in (Gap(1000, 2), Stream("stdout", "x"))]
    for options in ({}, {"capture": True, "quiet": True}):
        Cell(*flood).run(**options)
        shown = capsys.readouterr().out
        assert shown.count("missing here") == 1 and "300,000 bytes of output are missing here" in shown


def test_what_comes_behind_an_error_is_kept_for_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cell(
        Display({"text/plain": "before"}),
        Error("ValueError", "v", ("line",)),
        Display({"text/plain": "behind"}),
        Result({"text/plain": "value"}),
        end=Done("error", 1),
    )
    pump = Pump(cell.start, cell.interrupt, owner="box")
    outcome = pump.run()
    assert outcome.result is None and pump.behind
    shown = capsys.readouterr().out
    assert "before" in shown and "behind" not in shown and "value" not in shown
    pump.show_behind()
    shown = capsys.readouterr().out
    assert shown.index("behind") < shown.index("value") and not pump.behind


def test_what_comes_behind_an_error_has_a_limit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumping, "BEHIND_LIMIT", 10_000)
    flood = [Display({"text/plain": "d"}, size=3000) for _ in range(50)]
    cell = Cell(Error("ValueError", "v"), *flood, end=Done("error", 1))
    pump = Pump(cell.start, cell.interrupt, owner="box")
    pump.run()
    assert len(pump._behind) == 3 and cell.window is not None and cell.window.outstanding == 0


def test_notices(capsys: pytest.CaptureFixture[str]) -> None:
    Cell(Notice("behind In[3]"), Gap(5000, 2), Reconnecting(0.1, 1), Reconnected(1.5)).run()
    shown = capsys.readouterr().out
    for words in ("behind In[3]", "5,000 bytes", "lost for 1.5 s"):
        assert words in shown
    Cell(Notice("behind In[3]"), Gap(5000, 2), Reconnecting(0.1, 1), Reconnected(1.5)).run(quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("events", [(Gap(5000, 2), Reconnected(1.5)), (Reconnected(1.5), Gap(5000, 2))])
def test_a_reconnect_promises_nothing_it_cannot_know(
    capsys: pytest.CaptureFixture[str], events: tuple[Event, ...]
) -> None:
    Cell(Reconnecting(0.1, 1), *events).run()
    shown = capsys.readouterr().out
    assert "lost for 1.5 s" in shown and "5,000 bytes" in shown
    assert "nothing" not in shown


def test_a_broken_way_is_raised() -> None:
    class Broken(Cell):
        async def start(self, sink: Sink, window: FlowWindow) -> Done:
            raise SandboxUnreachable("gone for good")

    with pytest.raises(SandboxUnreachable, match="gone for good"):
        Broken().run()


class TestLadder:
    def test_the_first_press(self) -> None:
        cell = Cell(endless=True, end=Done("interrupted"))
        cell.press_soon(0.1)
        error = cell.run().error
        assert isinstance(error, KeyboardInterrupt) and type(error).__name__ == "KeyboardInterrupt"
        assert cell.levels == [1] and str(error) == "did step 1; variables are alive"

    def test_each_further_press_climbs(self, capsys: pytest.CaptureFixture[str]) -> None:
        cell = Cell(endless=True, end=Done("interrupted", worker="killed"))
        cell.obeys = 3
        cell.press_soon(0.1, 0.1, 0.1)
        error = cell.run().error
        assert cell.levels == [1, 2, 3] and "variables were lost, files kept" in str(error)
        shown = capsys.readouterr().out
        assert "Interrupt 1: did step 1. Variables are alive." in shown and "Interrupt 2:" in shown

    def test_a_step_is_reported_while_the_cell_goes_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        cell = Cell(endless=True, end=Done("interrupted"))
        cell.obeys = 2
        cell.press_soon(0.1, ladder.SAY_AFTER + 0.4)
        cell.run()
        assert "Press again to end the processes it started" in capsys.readouterr().out

    def test_a_sandbox_that_cannot_be_told(self) -> None:
        cell = Cell(endless=True)
        cell.error = SandboxUnreachable("no route")
        cell.press_soon(0.1)
        with pytest.raises(
            SandboxInterrupted, match=r"could not be told \(no route\); the cell may still be running"
        ):
            cell.run()

    def test_silence_is_given_two_seconds(self) -> None:
        cell = Cell(endless=True)
        cell.delay = 60
        cell.press_soon(0.1)
        start = time.monotonic()
        with pytest.raises(SandboxInterrupted, match="could not be told within 2 s"):
            cell.run()
        assert time.monotonic() - start < 5

    def test_the_last_step_is_given_five_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ladder, "OBEY_WITHIN", 0.3)
        cell = Cell(endless=True)
        cell.obeys = 9
        cell.press_soon(0.1, 0.1, 0.1)
        with pytest.raises(SandboxInterrupted, match="has not confirmed"):
            cell.run()

    def test_a_fourth_press_stops_waiting(self) -> None:
        cell = Cell(endless=True)
        cell.obeys = 9
        cell.press_soon(0.1, 0.1, 0.1, 0.1)
        with pytest.raises(SandboxInterrupted, match="stopped waiting"):
            cell.run()

    @pytest.mark.parametrize("late", [0.2, 60.0], ids=["heard", "never heard"])
    def test_an_end_that_overtakes_the_answer_says_what_was_done(self, late: float) -> None:
        cell = Overtaking(endless=True, end=Done("interrupted"))
        cell.delay = late
        cell.press_soon(0.1)
        did = "did step 1" if late < 1 else ladder.AS_IT_ENDED
        assert str(cell.run().error) == f"{did}; variables are alive"

    def test_several_say_the_same_although_some_ends_overtake_their_answers(self) -> None:
        cells: dict[str, Cell] = {
            name: kind(endless=True, end=Done("interrupted"))
            for name, kind in (("a", Cell), ("b", Overtaking), ("c", Cell), ("d", Overtaking))
        }
        for name, delay in (("b", 0.2), ("c", 0.1), ("d", 60.0)):
            cells[name].delay = delay
        cells["c"].error = SandboxUnreachable("no route")
        cells["a"].press_soon(0.1)
        with pytest.raises(SandboxInterrupted) as caught:
            together(cells)
        assert str(caught.value) == (
            "a, b: did step 1; variables are alive; "
            "c: the sandbox could not be told (no route); the cell may still be running there; "
            f"d: {ladder.AS_IT_ENDED}; variables are alive"
        )

    def test_several_climb_side_by_side_and_nobody_waits_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ladder, "OBEY_WITHIN", 0.3)
        cells = {name: Cell(endless=True, end=Done("interrupted", worker="killed")) for name in "ab"}
        cells["a"].obeys, cells["b"].obeys = 3, 9
        cells["a"].press_soon(0.1, 0.1, 0.1)
        with pytest.raises(SandboxInterrupted, match=r"a: did step 3; .*lost.*; b: .* not confirmed it"):
            together(cells)
        assert cells["a"].levels == cells["b"].levels == [1, 2, 3]

    def test_a_cell_that_ends_well_in_spite_of_the_press_still_stops_run_all(self) -> None:
        cell = Cell(endless=True, end=OK)
        cell.press_soon(0.1)
        assert "ended by itself" in str(cell.run().error)

    def test_the_handler_before_is_back_afterwards(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        Cell().run()
        assert signal.getsignal(signal.SIGINT) is before

    def test_off_the_main_thread_it_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        thread = threading.Thread(target=Cell().run)
        thread.start()
        thread.join(10)
        assert "interrupt does not reach" in capsys.readouterr().out


class TestWait:
    def test_result_notes_and_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def work(tell: Any) -> int:
            tell.progress("step")
            tell.note("a note")
            return 5

        assert wait(work, "working") == 5
        assert capsys.readouterr().out == "a note\n"

        async def fail(tell: Any) -> int:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            wait(fail, "failing")

    @pytest.mark.parametrize(("after", "shown"), [(60.0, 0), (0.1, 1)])
    def test_a_short_wait_shows_nothing(
        self, after: float, shown: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert status.SHOW_AFTER == 1.0
        monkeypatch.setattr(status, "SHOW_AFTER", after)
        lines: list[str] = []
        monkeypatch.setattr(status.StatusLine, "show", lambda self, text: lines.append(text))

        async def work(tell: Any) -> None:
            tell.progress("step")
            for _ in range(100):
                await asyncio.sleep(0.02)
                if shown and lines:
                    break

        wait(work, "working")
        assert bool(lines) == bool(shown) and all(line.startswith("step … ") for line in lines)

    def run_interrupted(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> str:
        threading.Timer(0.1, press).start()
        with pytest.raises(SandboxInterrupted) as caught:
            wait(work, "working", cancelled="cancelled cleanly")
        return str(caught.value)

    def test_a_press_cancels_and_waits_for_the_clean_up(self) -> None:
        cleaned = []

        async def work(tell: Any) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.2)
                cleaned.append(True)

        assert self.run_interrupted(work) == "cancelled cleanly" and cleaned == [True]

    def test_a_clean_up_that_takes_too_long_goes_on_without_us(self) -> None:
        async def work(tell: Any) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)

        start = time.monotonic()
        assert "background" in self.run_interrupted(work)
        assert time.monotonic() - start < 4

    def test_a_press_that_stands_behind_the_end_counts(self) -> None:
        async def work(tell: Any) -> None:
            press()

        with pytest.raises(SandboxInterrupted, match="already done"):
            wait(work, "working")


def test_a_timeout_that_only_the_sandbox_knows_is_named() -> None:
    error = failure(Done("timeout", limit=1.5), None, timeout=0.0, told="")
    assert "timeout of 1.5 s; variables are alive" in str(error)
