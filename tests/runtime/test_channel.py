"""What a channel does after a cut, against guests played by the test: never lose, never run twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daytona_magics.errors import EndpointError, ProtocolError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime import channel as channel_module
from daytona_magics.runtime import line as line_module
from daytona_magics.runtime.channel import Channel, ExecRequest, new_id
from daytona_magics.runtime.events import Done, Event, Reconnected, Reconnecting, Stream
from daytona_magics.runtime.link import Link
from daytona_magics.runtime.transport import PtyError, PtySocket

from .scripted import ScriptedSocket


class Sandbox:
    """A sandbox whose control plane answers what the test says."""

    id = "sb-1"
    toolbox_proxy_url = "http://127.0.0.1:1/toolbox"
    state: Any = SimpleNamespace(value="started")
    error_reason = None

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.missing = False
        self.process = SimpleNamespace(kill_pty_session=self._kill)

    async def _kill(self, session: str, request_timeout: float | None = None) -> None:
        self.deleted.append(session)

    async def refresh_data(self, request_timeout: float | None = None) -> None:
        if self.missing:
            raise PtyErrorLike(404)


class PtyErrorLike(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status_code = status


class World:
    """A channel whose lines are scripted: ``lines`` holds what the next attaches get."""

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self.channel = Channel(cast(Any, self.sandbox), api_key="secret-key", reconnect_for=1.0)
        self.lines: list[ScriptedSocket | Exception] = []
        self.events: list[Event] = []
        self.request = ExecRequest(new_id(), "main", "python", "1")
        cast(Any, self.channel)._attacher.attach = self._attach

    async def _attach(self, first: bool) -> Link:
        if not self.lines:
            raise PtyError("nobody there")
        line = self.lines.pop(0)
        if isinstance(line, Exception):
            raise line
        link = Link(cast(PtySocket, line))
        await link.hello(1, False)
        return link

    def line(self, boot: str = "boot-1") -> ScriptedSocket:
        self.lines.append(ScriptedSocket(boot))
        return cast(ScriptedSocket, self.lines[-1])

    def run(self) -> asyncio.Future[Done]:
        return asyncio.ensure_future(self.channel.execute(self.request, self.events.append))

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Stream))

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(line_module, "DELAYS", (0.01, 0.02, 0.05))
    made = World()
    yield made
    await made.channel.close()


async def test_a_cell_runs_and_is_forgotten(world: World) -> None:
    line = world.line()
    running = world.run()
    request = await line.asked("execute")
    assert (request["id"], request["code"], "timeout" in request) == (world.request.id, "1", False)
    line.reply(request, stream=1, state="running", known=False)
    line.out(1, 1, b"hi")
    line.done(1, 2)
    done = await running
    assert world.events == [Stream("stdout", "hi"), done]
    assert (await line.asked("forget"))["id"] == world.request.id


async def test_retained_output_is_kept_until_forgotten(world: World) -> None:
    line = world.line()
    running = world.run()
    request = await line.asked("execute")
    world.channel.retain(world.request.id)
    line.reply(request, stream=1, state="running", known=False)
    line.done(1, 1)
    await running
    forgetting = asyncio.ensure_future(world.channel.forget(world.request.id))
    line.reply(await line.asked("forget"))
    await forgetting


async def test_after_a_cut_it_is_followed_not_run_again(world: World) -> None:
    first, second = world.line(), world.line()
    running = world.run()
    first.reply(await first.asked("execute"), stream=1, state="running", known=False)
    first.out(1, 1, b"one ")
    first.out(1, 2, b"two ")
    first.drop()
    request = await second.asked("subscribe")
    assert (request["id"], request["after"]) == (world.request.id, 2)
    second.reply(request, stream=5, state="running")
    second.out(5, 3, b"three")
    second.done(5, 4)
    await running
    assert world.text == "one two three"
    assert (world.count(Reconnecting), world.count(Reconnected)) == (1, 1)
    assert world.sandbox.deleted == ["scripted"]


async def test_an_unacknowledged_cell_is_sent_again_to_the_same_boot(world: World) -> None:
    first, second = world.line(), world.line()
    running = world.run()
    await first.asked("execute")
    first.drop()
    request = await second.asked("execute")
    assert request["id"] == world.request.id
    second.reply(request, stream=1, state="running", known=False)
    second.done(1, 1)
    assert (await running).status == "ok"


async def test_a_cell_whose_acknowledgement_was_lost_is_followed(world: World) -> None:
    first, second = world.line(), world.line()
    running = world.run()
    await first.asked("execute")
    first.drop()
    second.reply(await second.asked("execute"), stream=1, state="running", known=True)
    request = await second.asked("subscribe")
    assert request["after"] == 0
    second.reply(request, stream=1, state="done", last=2)
    second.out(1, 1, b"all")
    second.done(1, 2)
    await running
    assert world.text == "all"


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_another_boot_never_runs_it(world: World, acknowledged: bool) -> None:
    first, second = world.line(), world.line("boot-2")
    running = world.run()
    request = await first.asked("execute")
    if acknowledged:
        first.reply(request, stream=1, state="running", known=False)
        first.out(1, 1, b"one")
        await asyncio.sleep(0.02)
    first.drop()
    known = "was started there" if acknowledged else "not known whether it ran"
    with pytest.raises(SandboxUnreachable, match=f"started anew.*{known}"):
        await running
    assert second.requests.empty()


async def test_a_guest_that_forgot_the_cell_is_told_apart(world: World) -> None:
    first, second = world.line(), world.line()
    running = world.run()
    first.reply(await first.asked("execute"), stream=1, state="running", known=False)
    first.drop()
    second.refuse(await second.asked("subscribe"), "unknown-execution")
    with pytest.raises(SandboxError, match="knows no execution"):
        await running


async def test_giving_up_says_what_is_known(world: World) -> None:
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    line.drop()
    with pytest.raises(SandboxUnreachable, match=r"nobody there.*was started there"):
        await asyncio.wait_for(running, 5)
    assert world.count(Reconnecting) > 5


async def test_a_cell_that_could_not_be_sent_did_not_run(world: World) -> None:
    with pytest.raises(SandboxUnreachable, match="did not run"):
        await asyncio.wait_for(world.run(), 5)


@pytest.mark.parametrize(
    ("state", "status", "kind", "words"),
    [
        ("stopped", 409, SandboxUnreachable, "is stopped"),
        ("archived", 404, SandboxUnreachable, "is archived"),
        ("destroyed", 404, SandboxGone, "was deleted"),
        ("missing", 404, SandboxGone, "no longer exists"),
        ("started", 401, EndpointError, "refuses our key"),
    ],
)
async def test_what_cannot_come_back_is_not_waited_for(
    world: World, state: str, status: int, kind: type[SandboxError], words: str
) -> None:
    world.channel.reconnect_for = 60
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    world.sandbox.state = SimpleNamespace(value=state)
    world.sandbox.missing = state == "missing"
    world.lines.append(PtyError("refused", status))
    line.drop()
    with pytest.raises(kind, match=words):
        await asyncio.wait_for(running, 2)


async def test_a_line_that_breaks_each_time_ends_in_an_error(world: World) -> None:
    world.channel.reconnect_for = 60
    lines = [world.line() for _ in range(40)]
    running = world.run()
    for line in lines:
        line.drop()
    with pytest.raises(SandboxUnreachable, match="breaks at once"):
        await asyncio.wait_for(running, 10)


async def test_two_cells_share_one_reconnect(world: World) -> None:
    first, second = world.line(), world.line()
    other = ExecRequest(new_id(), "other", "bash", "true")
    events: list[Event] = []
    running = [world.run(), asyncio.ensure_future(world.channel.execute(other, events.append))]
    for stream in (1, 2):
        first.reply(await first.asked("execute"), stream=stream, state="running", known=False)
    first.drop()
    for stream in (1, 2):
        second.reply(await second.asked("subscribe"), stream=stream, state="running")
        second.done(stream, 1)
    assert [done.status for done in await asyncio.gather(*running)] == ["ok", "ok"]
    assert world.lines == []


async def test_one_id_runs_once_here_too(world: World) -> None:
    line = world.line()
    running = world.run()
    await line.asked("execute")
    with pytest.raises(SandboxError, match="already"):
        await world.channel.execute(world.request, print)
    running.cancel()


async def test_an_answer_without_a_stream_is_refused(world: World) -> None:
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=0, known=False)
    with pytest.raises(ProtocolError, match="stream"):
        await asyncio.wait_for(running, 2)


async def test_interrupting_before_sending_runs_nothing(world: World) -> None:
    world.channel.reconnect_for = 60
    running = world.run()
    await asyncio.sleep(0.05)
    said = await world.channel.interrupt(world.request.id, 1)
    assert "not been sent" in said
    done = await asyncio.wait_for(running, 0.2)
    line = world.line()
    assert (done.status, world.events[-1]) == ("interrupted", done)
    await asyncio.sleep(0.05)
    assert line.requests.empty()


async def test_an_interrupt_says_what_it_did(world: World) -> None:
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    telling = asyncio.ensure_future(world.channel.interrupt(world.request.id, 2))
    request = await line.asked("interrupt")
    assert (request["id"], request["level"]) == (world.request.id, 2)
    line.reply(request, did="ended 2 processes", worker="kept", processes=2)
    assert await telling == "ended 2 processes"
    line.done(1, 1)
    await running


async def test_an_interrupt_that_cannot_be_told_fails_in_two_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "INTERRUPT_WITHIN", 0.1)
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    with pytest.raises(SandboxUnreachable, match="may be running"):
        await asyncio.wait_for(world.channel.interrupt(world.request.id, 1), 1)
    running.cancel()


async def test_cancelling_leaves_the_line_usable(world: World) -> None:
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    line.out(1, 1, b"unwanted")
    asking = asyncio.ensure_future(world.channel.status())
    line.reply(await line.asked("status"), contexts=[], executions=[])
    assert await asking == {"contexts": [], "executions": []}


async def test_questions_survive_a_cut(world: World) -> None:
    first, second = world.line(), world.line()
    asking = asyncio.ensure_future(world.channel.reset(["main"]))
    await first.asked("reset")
    first.drop()
    request = await second.asked("reset")
    assert request["contexts"] == ["main"]
    second.reply(request)
    await asking


async def test_closing_ends_what_is_followed_and_deletes_the_terminal(world: World) -> None:
    line = world.line()
    running = world.run()
    line.reply(await line.asked("execute"), stream=1, state="running", known=False)
    await asyncio.sleep(0.02)
    await world.channel.close()
    with pytest.raises(SandboxUnreachable, match="closed"):
        await running
    assert world.sandbox.deleted == ["scripted"]
    with pytest.raises(SandboxUnreachable, match="closed"):
        await world.channel.open()


async def test_the_key_is_cut_out_of_errors(world: World) -> None:
    world.channel.reconnect_for = 0.05
    world.lines = [RuntimeError("bad header: secret-key")] * 9  # type: ignore[assignment]
    with pytest.raises(SandboxUnreachable) as caught:
        await world.channel.open()
    assert "secret-key" not in str(caught.value)
    assert "***" in str(caught.value)
