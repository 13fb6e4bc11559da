"""What of an output is shown, how fast, and that every byte of it is counted once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from daytona_magics.notebook import countdown, flow, status
from daytona_magics.notebook.flow import Flow, Limits, Pace
from daytona_magics.runtime.events import Clear, Display, Event, Gap, Result, Stream
from daytona_magics.runtime.records import Look

LIMIT = 10_000


@dataclass
class Copy:
    """A sandbox's copy, scripted."""

    tail: str = ""
    lost: int = 0
    answers: bool = True
    name: str = "3f9ac014"
    calls: list[str] = field(default_factory=list)

    def skim(self) -> None:
        self.calls.append("skim")

    def look(self, tail: int, within: float) -> Look | None:
        self.calls.append(f"look {tail}")
        text = self.tail[-tail:]
        look = Look("3f9a", "main", "python", "Cell", "done", lost=self.lost, tail=text, tail_bytes=len(text))
        return look if self.answers else None

    def release(self) -> None:
        self.calls.append("release")


def text(size: int) -> Stream:
    return Stream("stdout", "x" * size, size)


def shown(made: Flow, *events: Event) -> list[bool]:
    return [made.admits(event) for event in events]


def test_the_rest_of_a_long_output_is_counted_and_pointed_to(capsys: pytest.CaptureFixture[str]) -> None:
    copy = Copy("y" * 200_000)
    made = Flow(Limits(LIMIT), copy)
    assert shown(made, text(6000), text(4000), text(1), text(500)) == [True, True, False, False]
    assert copy.calls == ["skim"], "once"
    assert shown(made, Gap(100_000, 7, kept=True), Gap(70, 1)) == [False, False]
    assert (made.shown, made.hidden, made.lost) == (10_000, 100_571, 70)
    assert made.close() == "y" * flow.TAIL
    told = capsys.readouterr().out
    assert "110,571 bytes were printed: 10,000 are shown above, the last 64.0 KiB below." in told
    assert "70 bytes of the middle are lost" in told and "The rest is kept" in told
    assert "`%sandbox logs 3f9ac014 --to FILE` fetches it" in told


def test_the_end_never_repeats_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    copy = Copy("x" * 200_000)
    made = Flow(Limits(LIMIT), copy)
    shown(made, text(LIMIT), text(300))
    assert len(made.close()) == 300 and copy.calls[-1] == "look 300"
    assert "All of it is kept" in capsys.readouterr().out


def test_a_sandbox_that_does_not_answer_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    made = Flow(Limits(LIMIT), Copy(answers=False), quiet=True)
    shown(made, text(LIMIT + 1))
    assert made.close() == "" and "10,001 bytes were printed: 0 are shown above." in capsys.readouterr().out


@pytest.mark.parametrize("size", [flow.KEEP_ABOVE, flow.KEEP_ABOVE + 1])
def test_a_copy_that_is_not_needed_is_released(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Copy()
    made = Flow(Limits(1 << 20), copy)
    shown(made, text(size))
    assert made.close() == "" and capsys.readouterr().out == ""
    assert copy.calls == (["release"] if size > flow.KEEP_ABOVE else [])


def test_without_a_limit_everything_is_shown() -> None:
    assert all(shown(Flow(Limits(0)), *[text(1 << 20)] * 100))


def test_what_is_overwritten_or_cleared_takes_no_room() -> None:
    made = Flow(Limits(LIMIT))
    bar = Stream("stderr", "\r" + "#" * 99, 100)
    both = Stream("stderr", "".join(f"\r{i:99d}" for i in range(50)), 5000)
    assert all(shown(made, *[both] * 100)), "50 lines of 100 bytes, of which one stays"
    assert all(shown(Flow(Limits(LIMIT)), *[bar] * 1000)), "one line, written a thousand times"
    assert not all(shown(Flow(Limits(LIMIT)), *[bar, Stream("stderr", "\n", 1)] * 101))
    made = Flow(Limits(LIMIT))
    assert all(shown(made, *[text(9000), Clear()] * 100))
    windows = Flow(Limits(LIMIT))
    assert not all(shown(windows, *[Stream("stdout", "x" * 98 + "\r\n", 100)] * 101)), "a line's end is none"


def test_displays_have_their_own_room(capsys: pytest.CaptureFixture[str]) -> None:
    copy = Copy()
    made = Flow(Limits(LIMIT), copy)
    assert shown(
        made, text(LIMIT), Display({}, size=9000), Display({}, size=2000), Display({}, size=900)
    ) == [
        True,
        True,
        False,
        True,
    ]
    assert shown(made, Display({}, update=True, size=100), Display({}, update=True, size=20_000)) == [
        True,
        False,
    ]
    assert shown(made, Result({}, size=9000), Result({}, size=LIMIT + 1)) == [True, False]
    assert made.close() == ""
    told = capsys.readouterr().out
    assert "2 displays were not shown" in told and "`%sandbox logs 3f9ac014 --all`" in told


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("piece", ["x" * 65536, "\n" * 65536, "\x1b[1m" * 9999, "é" * 20_000, "x\n", ""])
def test_a_server_drops_nothing(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rule: more than 1 MB/s of stream messages, or 1,000 messages/s, over any 3 s are dropped."""
    clock = Clock()
    monkeypatch.setattr(flow, "time", clock)
    pace = Pace(800_000)
    sent: list[tuple[float, int]] = []
    while clock.now < 1010:
        clock.now += pace.delay()
        size = len(json.dumps({"text": piece}, ensure_ascii=False).encode()) + 650
        pace.spend(piece, 1)
        sent.append((clock.now, size if piece else 0))
        clock.now += 1e-5
    times = [when for when, _ in sent]
    for start in range(0, len(sent), max(1, len(sent) // 50)):
        window = [size for when, size in sent if times[start] <= when < times[start] + 3]
        assert sum(window) < 3_000_000 and len(window) < 3000
    if len(piece) > 10:
        assert sum(size for _, size in sent) > 6_000_000, "and it is no slower than it needs to be"


def test_the_time_left_is_said_only_when_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), []
    monkeypatch.setattr(countdown, "time", clock)
    monkeypatch.setattr(status.StatusLine, "show", lambda self, text: said.append(text))
    assert countdown.Countdown(0).next() is None
    assert countdown.Countdown(9).next() is None, "it is over before anything is worth saying"
    assert countdown.Countdown(100, quiet=True).next() is None
    made = countdown.Countdown(100)
    made.tick()
    assert made.next() == 50 and not said
    clock.now += 50
    made.tick()
    assert said == ["still running; its timeout of 100 s stops it in 50 s"] and made.next() == 1
    clock.now += 51
    made.tick()
    assert said[-1] == "the timeout of 100 s is over; the sandbox stops the cell" and made.next() is None
