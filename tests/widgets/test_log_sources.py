"""Logs that are followed again after a break: everything once, whatever broke, and a full disk is said."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from daytona_magics.errors import SandboxUnreachable
from daytona_magics.runtime.events import (
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
    weight,
)
from daytona_magics.widgets import log_feed, log_store
from daytona_magics.widgets.log_feed import Feed, Writer
from daytona_magics.widgets.log_intake import Intake
from daytona_magics.widgets.log_sources import JobSource, Source
from daytona_magics.widgets.log_store import NOTE, STDOUT, LogStore

RAISED = Error("ValueError", "no", ("ValueError: no",))
ENDED = Done("error", exit_code=3, seconds=1.0)


def text(said: bytes, name: Any = "stdout") -> Stream:
    return Stream(name, said.decode("utf-8", "surrogateescape"), len(said))


class Broken:
    """Stands for a way that breaks: each follower gets one of these lists of events."""

    open = started = True

    def __init__(self, *times: Sequence[Event | Exception]) -> None:
        self.times = list(times)

    async def channel(self) -> Broken:
        return self

    async def follow(
        self, id: str, sink: Callable[[Event], None], *, window: FlowWindow, errors: str
    ) -> Done:
        for event in self.times.pop(0):
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Done):
                return event
            sink(event)
        raise AssertionError("no end")


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.said = ""
        self.notes: list[str] = []
        self.states: list[str] = []

    def text(self, kind: int, text: str, done: Any = None, *, live: bool = True) -> None:
        self.said += text
        if done is not None:
            done()

    def note(self, text: str, done: Any = None) -> None:
        self.notes.append(text)
        if done is not None:
            done()

    def says(self, state: str, text: str = "") -> None:
        self.states.append(state)

    def end(self) -> None:
        self.said += "|"


LOST = SandboxUnreachable("the line broke")
WHOLE = b"one\xff two \xc3\xa9 three\nfour"


# Never within a character: a channel keeps the first half of one until it has the other.
@pytest.mark.parametrize("first", [at for at in range(len(WHOLE) + 1) if at != 10])
@pytest.mark.parametrize("second", (0, 5, 11, len(WHOLE)))
def test_what_a_job_said_is_given_once_wherever_it_broke(first: int, second: int) -> None:
    cut = [text(one) for one in (WHOLE[:4], WHOLE[4:15], WHOLE[15:])]
    way = Broken(
        [text(WHOLE[:first]), LOST], [text(WHOLE[:second]), LOST], [*cut, RAISED, LOST], [*cut, RAISED, ENDED]
    )
    heard, source = Heard(), JobSource("0" * 32, "job")

    async def follow() -> str:
        while True:
            try:
                return await source.follow(way, heard)  # type: ignore[arg-type]
            except SandboxUnreachable:
                continue

    assert asyncio.run(follow()) == "exit code 3 after 1.0 s"
    assert heard.said.replace("\ufffd", "") == WHOLE.decode("utf-8", "ignore") + "ValueError: no\n"


def test_what_is_no_text_waits_for_the_disk_too() -> None:
    """Else a sandbox that raises, notes or shows without an end would fill the kernel's memory."""
    events = [RAISED, Notice("kept"), Result({"text/plain": "42"}, size=4000), text(b"said")]
    windows: list[FlowWindow] = []
    written: list[Callable[[], None]] = []

    class Slow(Heard):
        def text(self, kind: int, text: str, done: Any = None, *, live: bool = True) -> None:
            written.append(done)

        def note(self, text: str, done: Any = None) -> None:
            written.append(done)

    class Way(Broken):
        async def follow(self, id: str, sink: Any, *, window: FlowWindow, errors: str) -> Done:
            windows.append(window)
            for event in events:
                window.handed(event)
                sink(event)
            return ENDED

    asyncio.run(JobSource("0" * 32, "job").follow(Way(), Slow()))  # type: ignore[arg-type]
    assert windows[0].outstanding == sum(map(weight, events))
    for done in written:
        done()
    assert windows[0].outstanding == 0


def test_what_is_missing_is_said_once_and_a_line_that_is_back_is_live() -> None:
    way = Broken(
        [text(b"abc"), LOST],
        # The sandbox made room: what was given already is not missing.
        [Gap(5, 2), Reconnecting(0.0, 1), Reconnected(1.0), text(b"fgh"), LOST],
        [Gap(8, 3), text(b"ij"), ENDED],
    )
    heard, source = Heard(), JobSource("0" * 32, "job")

    async def follow() -> None:
        for _ in range(2):
            with pytest.raises(SandboxUnreachable):
                await source.follow(way, heard)  # type: ignore[arg-type]
        await source.follow(way, heard)  # type: ignore[arg-type]

    asyncio.run(follow())
    assert heard.said == "abcfghij"
    assert heard.notes == ["2 B of output are missing here: they were more than the sandbox keeps"]
    assert heard.states == ["live", "live", "waiting", "live", "live"]


class Faulty(Source):
    """Fails in a way nobody foresaw, then works."""

    def __init__(self) -> None:
        super().__init__("faulty", "faulty")
        self.tries = 0

    async def follow(self, way: Any, sink: Any) -> str:
        self.tries += 1
        if self.tries < 4:
            raise ConnectionResetError("unforeseen")
        sink.text(STDOUT, "here\n")
        return "ended"


def test_a_source_that_fails_is_said_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_feed, "AGAIN", 0.001)
    store, faulty = LogStore(), Faulty()
    writer = Writer(lambda end: None, lambda text: None)

    async def follow() -> None:
        feed = Feed(0, faulty, store, writer, lambda end: None)
        feed.follow(Broken())  # type: ignore[arg-type]
        while feed.state != "ended":
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(follow(), 30))
    writer.close()
    lines = [row.line for row in store.rows(0, store.end)]
    assert lines == ["not followed any more: ConnectionResetError: unforeseen", "here", "ended"]
    store.close()


def test_a_port_that_a_log_names_is_offered_once() -> None:
    store, job = LogStore(), JobSource("1" * 32, "job")
    writer = Writer(lambda end: None, lambda text: None)
    said = b"Local: http://localhost:5173/\n"

    async def follow() -> None:
        feed = Feed(0, job, store, writer, lambda end: None)
        feed.follow(Broken([text(said[:20]), text(said[20:]), text(said), ENDED]))  # type: ignore[arg-type]
        while feed.state != "ended":
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(follow(), 30))
    writer.close()
    rows = list(store.rows(0, store.end))
    offered = [row for row in rows if "%sandbox preview 5173" in row.line]
    assert [row.kind for row in offered] == [NOTE] and sum("localhost" in row.line for row in rows) == 2
    store.close()


def test_a_full_disk_is_said_and_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore()
    intake, real = Intake(store, 0, STDOUT), os.pwrite
    intake.feed("before\n")

    def half(fd: int, data: Any, at: int) -> int:
        if len(data) > 5:
            return real(fd, data[:5], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    writer = Writer(lambda end: None, said.append)
    monkeypatch.setattr(log_store.os, "pwrite", half)
    writer.put(lambda: intake.feed("lost\n"))
    writer.put(lambda: monkeypatch.setattr(log_store.os, "pwrite", real))
    writer.put(lambda: intake.feed("after\n"))
    writer.put(lambda: store.append(0, NOTE, [(b"note", False)]))
    writer.put(lambda: said.append("done"))
    writer.put(writer.close)
    writer._thread.join(30)
    assert said == [
        "this machine's disk took no more (No space left on device): lines are missing here",
        "done",
    ]
    assert [row.line for row in store.rows(0, store.end)] == ["before", "after", "note"]
    assert store.lines == 2
    store.close()
