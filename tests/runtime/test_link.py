"""One connection, against a guest played by the test: order, acknowledgements, heartbeat, forgeries."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from daytona_magics.errors import ProtocolError
from daytona_magics.runtime import decode
from daytona_magics.runtime import link as link_module
from daytona_magics.runtime.events import Display, Done, Event, FlowWindow, Gap, Result, Stream, weight
from daytona_magics.runtime.feed import Feed
from daytona_magics.runtime.guest import frames
from daytona_magics.runtime.link import Link, LinkLost, Refused
from daytona_magics.runtime.transport import PtySocket

from .scripted import ScriptedSocket


class Line:
    """A link with one carried feed on stream 3."""

    def __init__(self, window: FlowWindow | None = None) -> None:
        self.socket = ScriptedSocket()
        self.link = Link(cast(PtySocket, self.socket))
        self.events: list[Event] = []
        self.feed = Feed("e1", self.events.append, window)
        self.feed.acknowledged = True

    async def start(self) -> Line:
        await self.link.hello(2, False)
        self.link.carry(self.feed, 3)
        return self

    async def settled(self) -> None:
        """Everything sent so far was read and flushed."""
        waiting = asyncio.ensure_future(self.link.request("status"))
        request = await self.socket.asked("status")
        self.socket.reply(request)
        await waiting
        await asyncio.sleep(0)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Stream))


async def acknowledged(line: Line, count: int) -> None:
    """Wait until at least so many bytes were acknowledged."""
    deadline = time.monotonic() + 5
    while line.socket.acknowledged < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = await Line().start()
    yield made
    await made.link.abort()


async def test_noise_before_and_between_frames_is_stepped_over(line: Line) -> None:
    line.socket.raw(b"Welcome!\r\n$ \xd7M or not\r\n\xd7")
    line.socket.out(3, 1, b"one ")
    line.socket.raw(b"\x1b[0m\xd7")
    line.socket.out(3, 2, b"two")
    line.socket.done(3, 3)
    assert (await line.feed.done).status == "ok"
    assert line.text == "one two"


async def test_what_arrives_together_becomes_one_event_and_characters_stay_whole(line: Line) -> None:
    for number, byte in enumerate("päper – ✓".encode(), start=1):
        line.socket.out(3, number, bytes([byte]))
    await line.settled()
    assert line.text == "päper – ✓"
    assert len([event for event in line.events if isinstance(event, Stream)]) <= 2


async def test_a_cut_character_at_the_end_is_shown_as_such(line: Line) -> None:
    line.socket.out(3, 1, b"a\xe2\x9c")
    line.socket.done(3, 2)
    await line.feed.done
    assert line.text == "a\N{REPLACEMENT CHARACTER}"
    assert isinstance(line.events[-1], Done)


async def test_a_long_message_comes_in_parts(line: Line) -> None:
    payload = b'{"msg": "result", "data": {"text/plain": "%s"}}' % (b"x" * 20_000)
    for number, (flags, piece) in enumerate(frames.split(payload), start=1):
        line.socket.raw(frames.encode(frames.MESSAGE, 3, number, piece, flags))
    await line.settled()
    assert line.events == [Result({"text/plain": "x" * 20_000})]


async def test_a_gap_is_told_and_the_sequence_goes_on_behind_it(line: Line) -> None:
    line.socket.out(3, 1, b"a")
    line.socket.raw(frames.encode(frames.GAP, 3, 9, b'{"bytes": 500, "frames": 8}'))
    line.socket.out(3, 10, b"b")
    await line.settled()
    assert [e for e in line.events if isinstance(e, Gap)] == [Gap(500, 8)]
    assert line.text == "ab"


async def test_repeated_frames_are_shown_once(line: Line) -> None:
    for number in (1, 2, 1, 2, 3):
        line.socket.out(3, number, b"%d" % number)
    await line.settled()
    assert line.text == "123"


async def test_missing_frames_are_asked_for_as_long_as_that_helps(line: Line) -> None:
    line.socket.out(3, 1, b"1")
    line.socket.out(3, 3, b"3")
    request = await line.socket.asked("subscribe")
    assert (request["id"], request["after"]) == ("e1", 1)
    line.socket.out(3, 4, b"4")  # still under way from before the request
    line.socket.reply(request, stream=3, state="running")
    for number in (2, 3, 4):
        line.socket.out(3, number, b"%d" % number)
    await line.settled()
    assert line.text == "1234"

    line.socket.out(3, 9, b"9")
    request = await line.socket.asked("subscribe")
    assert request["after"] == 4
    line.socket.reply(request, stream=3, state="running")
    line.socket.out(3, 9, b"9")
    with pytest.raises(ProtocolError, match="left out"):
        await asyncio.wait_for(line.feed.done, 2)


async def test_frames_passed_over_must_be_those_that_come_next(line: Line) -> None:
    line.socket.out(3, 1, b"1")
    gap = json.dumps({"bytes": 10, "frames": 2, "kept": True}).encode()
    line.socket.raw(frames.encode(frames.GAP, 3, 3, gap))
    await line.settled()
    assert [e for e in line.events if isinstance(e, Gap)] == [Gap(10, 2, kept=True)]
    # Of these two one was counted already, or never sent: neither may be believed.
    line.socket.raw(frames.encode(frames.GAP, 3, 4, gap))
    request = await line.socket.asked("subscribe")
    assert request["after"] == 3
    line.socket.reply(request, stream=3, state="running")
    line.socket.raw(frames.encode(frames.GAP, 3, 9, gap))
    with pytest.raises(ProtocolError, match="left out"):
        await asyncio.wait_for(line.feed.done, 30)


@pytest.mark.parametrize("largest", [0, 10_000])
async def test_a_display_larger_than_wanted_takes_no_memory(largest: int) -> None:
    events: list[Event] = []
    feed = Feed("e1", events.append, FlowWindow(largest=largest))
    sequence, peak = 0, 0

    def take(body: bytes) -> None:
        nonlocal sequence, peak
        for flags, piece in frames.split(body):
            sequence += 1
            feed.take(frames.Frame(frames.MESSAGE, flags, 3, sequence, piece))
            peak = max(peak, len(feed._parts))

    data = {"text/plain": "x" * 500_000}
    large = json.dumps({"msg": "display", "data": data, "metadata": {}}).encode()
    take(large)
    take(json.dumps({"msg": "display", "data": {"text/plain": "small"}}).encode())
    take(json.dumps({"msg": "notice", "text": "n" * 20_000}).encode())
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["Display", "Display", "Notice"], "what is small, and what is no display, comes whole"
    assert isinstance(events[0], Display) and events[0].size == len(large)
    assert events[0].data == ({} if largest else data) and (peak < 30_000) == bool(largest)
    assert feed.volume == sum(event.size for event in events if isinstance(event, Display))


async def test_frames_of_unknown_streams_are_ignored_and_acknowledged(line: Line) -> None:
    for number in range(1, 20):
        line.socket.out(77, number, b"not ours")
    await line.settled()
    assert line.text == ""
    assert line.socket.acknowledged > 19 * 28


async def test_two_executions_in_one_stream_are_refused(line: Line) -> None:
    with pytest.raises(ProtocolError, match="one stream"):
        line.link.carry(Feed("e2", print), 3)


@pytest.mark.parametrize(
    "data",
    [
        frames.encode(frames.CONTROL, 0, 2, b"[]"),
        frames.encode(frames.STDOUT, 0, 2, b"x"),
        frames.encode(frames.CONTROL, 0, 2, b'{"op": 5}'),
        frames.encode(frames.CONTROL, 0, 2, b'{"op": "reply", "req": "1"}'),
    ],
)
async def test_malformed_control_messages_end_the_line(line: Line, data: bytes) -> None:
    line.socket.raw(data)
    assert "would not" in await asyncio.wait_for(line.link.lost, 2)
    with pytest.raises(ProtocolError):
        await line.feed.done


async def test_a_forged_frame_in_a_stream_fails_that_execution_only(line: Line) -> None:
    other = Feed("e2", print)
    line.link.carry(other, 4)
    line.socket.raw(frames.encode(frames.MESSAGE, 3, 1, b'{"msg": "done", "status": "perfect"}'))
    with pytest.raises(ProtocolError):
        await asyncio.wait_for(line.feed.done, 2)
    line.socket.done(4, 1)
    assert (await asyncio.wait_for(other.done, 2)).status == "ok"


async def test_a_lost_control_frame_ends_the_line(line: Line) -> None:
    line.socket.raw(frames.encode(frames.CONTROL, 0, 5, b'{"op": "reply", "req": 1, "ok": true}'))
    assert "lost" in await asyncio.wait_for(line.link.lost, 2)


async def test_a_message_without_end_is_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daytona_magics.runtime.decode.MAX_MESSAGE", 10_000)
    for number in range(1, 5):
        line.socket.raw(frames.encode(frames.MESSAGE, 3, number, b"x" * 3900, frames.FLAG_MORE))
    with pytest.raises(ProtocolError, match="a message of more than"):
        await asyncio.wait_for(line.feed.done, 2)


async def test_a_refused_request_says_why(line: Line) -> None:
    waiting = asyncio.ensure_future(line.link.request("execute", id="x"))
    line.socket.refuse(await line.socket.asked("execute"), "bad-request")
    with pytest.raises(Refused) as caught:
        await waiting
    assert caught.value.code == "bad-request"


async def test_waiting_requests_fail_when_the_line_ends(line: Line) -> None:
    waiting = asyncio.ensure_future(line.link.request("status"))
    await line.socket.asked("status")
    line.socket.drop()
    with pytest.raises(LinkLost, match="connection closed"):
        await asyncio.wait_for(waiting, 2)


async def test_bytes_are_acknowledged_exactly(line: Line) -> None:
    line.socket.raw(b"noise that counts for nothing")
    sent = 0
    for number in range(1, 11):
        line.socket.out(3, number, b"x" * 3000)
        sent += 3000 + frames.HEADER_SIZE
    await acknowledged(line, sent)
    assert line.socket.acknowledged == line.link._taken < sent + 1000  # the hello is the rest


async def test_a_full_window_holds_acknowledgements_until_consumed() -> None:
    window = FlowWindow(limit=20_000)
    line = await Line(window).start()
    for number in range(1, 11):
        line.socket.out(3, number, b"x" * 3900)
    await asyncio.sleep(0.06)
    before = line.socket.acknowledged
    assert before < 10 * 3900
    assert window.outstanding >= 20_000
    line.socket.answer_pings = True
    for event in list(line.events):
        window.consumed(event)
    await acknowledged(line, 10 * 3900)
    await line.link.abort()


@pytest.mark.parametrize(
    "message",
    [
        {"msg": "display", "data": {"application/json": [["x" * 1000] * 100]}},
        {"msg": "display", "data": {}, "metadata": {"image/png": {"note": "x" * 100_000}}},
        {"msg": "result", "data": {"application/json": {"a": "x" * 100_000}}},
        {"msg": "error", "ename": "E", "evalue": "x" * 100_000, "traceback": []},
        {"msg": "error", "ename": "E", "evalue": "", "traceback": ["x" * 1000] * 100},
        {"msg": "notice", "text": "x" * 100_000},
        {"msg": "notice", "text": "\N{GRINNING FACE}" * 25_000},
    ],
)
def test_every_event_weighs_what_it_holds(message: dict[str, Any]) -> None:
    payload = json.dumps(message, ensure_ascii=False).encode()
    event = decode.event(payload)
    assert event is not None
    window = FlowWindow(limit=90_000)
    window.handed(event)
    assert window.full(lambda: None), weight(event)
    window.consumed(event)
    assert window.outstanding == 0


async def test_tidying_up_is_told_a_moment_later_with_the_acknowledgement(line: Line) -> None:
    line.socket.out(3, 1, b"x")
    await line.settled()
    line.link.tell_soon("forget", id="e1")
    assert line.socket.requests.empty()
    await line.socket.asked("forget")
    assert line.socket.acknowledged == line.link._taken
    line.link.tell_soon("forget", id="e2")
    assert (await line.socket.asked("forget"))["id"] == "e2", "also when there is nothing to acknowledge"


async def flooded(window: FlowWindow) -> Line:
    """A line whose guest has sent 8 MiB without caring for acknowledgements, as far as it was read."""
    line = await Line(window).start()
    for number in range(1, 2049):
        line.socket.out(3, number, b"x" * 4096)
    line.socket.done(3, 2049)
    read = -1
    while line.link._taken != read:
        read = line.link._taken
        await asyncio.sleep(0.05)
    return line


async def test_a_guest_that_ignores_acknowledgements_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PING_AFTER", 0.05)
    monkeypatch.setattr(link_module, "BLACK_HOLE_AFTER", 0.3)
    window = FlowWindow(limit=20_000)
    line = await flooded(window)
    assert 2 << 20 <= window.outstanding <= (2 << 20) + 20_000 + 300_000
    await asyncio.sleep(0.7)
    assert line.link.alive  # that it is not read is not its silence
    shown = 0
    while not line.feed.done.done() or shown < len(line.events):
        for event in line.events[shown:]:
            window.consumed(event)
            shown += 1
        await asyncio.sleep(0.001)
    assert len(line.text) == 8 << 20 and (await line.feed.done).status == "ok"
    await line.link.abort()


async def test_without_the_bound_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "BEYOND", 1 << 40)
    line = await flooded(FlowWindow(limit=20_000))
    assert len(line.text) == 8 << 20
    await line.link.abort()


async def test_a_line_is_read_again_when_who_held_it_up_is_gone() -> None:
    line = await flooded(FlowWindow(limit=20_000))
    waiting = asyncio.ensure_future(line.link.request("status"))
    request = await line.socket.asked("status")
    line.socket.reply(request)
    line.link.release(line.feed)
    assert (await asyncio.wait_for(waiting, 5))["ok"]
    await line.link.abort()


async def test_a_silent_line_is_pinged_and_dropped(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PING_AFTER", 0.05)
    monkeypatch.setattr(link_module, "BLACK_HOLE_AFTER", 0.3)
    await asyncio.sleep(0.8)
    assert line.link.alive and line.socket.pings >= 1  # answered pings keep it
    line.socket.answer_pings = False
    began = time.monotonic()
    assert "no sign of life" in await asyncio.wait_for(line.link.lost, 3)
    assert time.monotonic() - began < 2


async def test_an_idle_line_is_left_alone(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PING_AFTER", 0.05)
    line.socket.done(3, 1)
    await line.feed.done
    await asyncio.sleep(0.7)
    pings = line.socket.pings
    line.socket.answer_pings = False
    await asyncio.sleep(0.4)
    assert line.socket.pings == pings
    assert line.link.alive


async def test_a_sink_that_raises_gets_its_error_back(line: Line) -> None:
    def broken(event: Event) -> Any:
        raise LookupError("sink")

    feed = Feed("e2", broken)
    line.link.carry(feed, 4)
    line.socket.out(4, 1, b"x")
    with pytest.raises(LookupError, match="sink"):
        await asyncio.wait_for(feed.done, 2)
    assert line.link.alive


async def test_noise_is_kept_for_the_reader() -> None:
    socket = ScriptedSocket(boot="")
    link = Link(cast(PtySocket, socket))
    for number in range(30):
        socket.raw(b"line %d\r\n" % number)
    with pytest.raises(LinkLost, match="no hello"):
        await link.hello(0.05, False)
    assert link.noise() == [f"line {number}" for number in range(10, 30)]
    await link.abort()
