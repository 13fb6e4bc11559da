"""Rules of the binding that a real engine would take minutes to show, with a scripted endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from daytona import (
    DaytonaConflictError,
    DaytonaConnectionError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaTimeoutError,
)
from daytona.common.errors import DaytonaConnectionTimeoutError

from daytona_magics.config import SandboxConfig
from daytona_magics.errors import EndpointError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.channel import ExecRequest
from daytona_magics.runtime.events import Done, FlowWindow
from daytona_magics.sandboxes import attaching, executing, labels, making
from daytona_magics.sandboxes import binding as bindings
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.identity import Identity

WHO = Identity("k" * 16, "", "h" * 12, "sandbox", False)
REQUEST = ExecRequest("id", "ctx", "python", "1")


class Sandbox:
    """An SDK sandbox whose endpoint answers as told."""

    id, name = "abc", "lab"

    def __init__(self, state: str = "started", error: Exception | None = None) -> None:
        self.state, self.error = state, error
        self.labels = {"code-toolbox-language": "python", "team": "a"}
        self.beats = 0
        self.hangs, self.running = False, 0
        self.written: list[dict[str, str]] = []

    async def refresh_data(self, request_timeout: float | None = None) -> None:
        if self.error is not None:
            raise self.error

    async def refresh_activity(self) -> None:
        self.beats += 1
        if self.hangs:
            self.running += 1
            try:
                await asyncio.sleep(60)
            finally:
                self.running -= 1
        if self.beats == 1:
            raise DaytonaError("a missed beat is no reason to fail")

    async def set_labels(self, wanted: dict[str, str]) -> None:
        self.written.append(wanted)
        self.labels = wanted


class Channel:
    closed = False

    def __init__(self, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.error, self.seconds = error, seconds

    async def begin(self, *_: Any, **__: Any) -> Done:
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Done("ok")

    async def close(self) -> None:
        self.closed = True


def binding(sandbox: Sandbox, channel: Channel, **settings: Any) -> Any:
    made: Any = Binding(SandboxConfig(**settings), lambda: WHO)
    made.sandbox, made.channel = sandbox, channel
    return made


async def run(made: Any) -> Done:
    return await executing.execute(made, made.channel, REQUEST, lambda event: None, FlowWindow())


async def test_a_long_cell_gives_signs_of_activity_and_a_missed_one_does_no_harm() -> None:
    box = Sandbox()
    assert (await run(binding(box, Channel(seconds=0.35), heartbeat=0.1))).status == "ok"
    beats = box.beats
    assert beats >= 2
    await asyncio.sleep(0.25)
    assert box.beats == beats, "no signs once the cell has ended"


async def test_a_sign_that_hangs_is_given_up_and_ends_with_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BEAT_WITHIN", 0.05)
    box = Sandbox()
    box.hangs = True
    most: list[int] = []

    async def watch() -> None:
        while True:
            most.append(box.running)
            await asyncio.sleep(0.01)

    watching = asyncio.ensure_future(watch())
    await run(binding(box, Channel(seconds=0.4), heartbeat=0.02))
    watching.cancel()
    assert box.beats >= 2 and max(most) == 1
    await asyncio.sleep(0.02)
    assert box.running == 0


@pytest.mark.parametrize(
    ("box", "kind", "words"),
    [
        (Sandbox("stopped"), SandboxUnreachable, "lab is stopped: the cell was ended, variables were lost"),
        (Sandbox("destroyed"), SandboxGone, "no longer exists"),
        (Sandbox("started", DaytonaNotFoundError("no")), SandboxGone, "abc.* no longer exists.*started"),
        (Sandbox("started"), SandboxUnreachable, "the first reason"),
        (Sandbox("started", DaytonaConnectionError("x")), SandboxUnreachable, "the first reason"),
    ],
)
async def test_a_broken_channel_is_explained_by_the_state_of_the_sandbox(
    box: Sandbox, kind: type, words: str
) -> None:
    made = binding(box, Channel(SandboxUnreachable("the first reason")))
    with pytest.raises(kind, match=words):
        await run(made)
    assert made.channel is None, "the next cell opens a new one"
    assert made.gone is (kind is SandboxGone)


async def test_a_gone_sandbox_stays_gone_until_somebody_decides() -> None:
    made = binding(Sandbox("destroyed"), Channel(SandboxUnreachable("x")))
    with pytest.raises(SandboxGone):
        await run(made)
    for _ in range(2):
        with pytest.raises(SandboxGone, match="lab"):
            await made.ready(SimpleNamespace(progress=print, note=print))
    await made.unbind()
    assert not made.gone


async def test_labels_are_merged_and_written_only_when_they_change() -> None:
    box = Sandbox()
    await labels.merge(box, labels.ours(WHO, "ctx"))
    assert box.labels["team"] == "a" and box.labels["code-toolbox-language"] == "python"
    assert box.labels[labels.KERNEL] == WHO.kernel
    await labels.merge(box, labels.ours(WHO, "ctx"))
    assert len(box.written) == 1


async def test_only_failed_connections_are_tried_again() -> None:
    calls: list[int] = []
    said: list[str] = []

    async def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise DaytonaConnectionError("refused")
        return "answer"

    assert await sdk.retrying(flaky, said.append, (0.0, 0.0, 0.0)) == "answer"
    assert len(calls) == 3 and len(said) == 2

    for error in (DaytonaNotFoundError("no"), DaytonaError("odd"), ValueError("ours")):
        calls.clear()

        async def refused(error: Exception = error) -> None:
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            await sdk.retrying(refused, said.append, (0.0,))
        assert len(calls) == 1


def test_errors_of_the_sdk_come_out_as_ours() -> None:
    from daytona import DaytonaAuthenticationError

    assert isinstance(sdk.translate(DaytonaAuthenticationError("bad")), EndpointError)
    assert isinstance(sdk.translate(DaytonaConnectionError("x")), SandboxUnreachable)
    translated = sdk.translate(DaytonaError("many\nlines"), "creating")
    assert isinstance(translated, SandboxError) and str(translated) == "creating: many lines"
    own = KeyError("x")
    assert sdk.translate(own) is own


async def test_the_client_takes_nothing_from_files_and_traces_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    from opentelemetry import trace

    from daytona_magics.sandboxes.endpoint import Endpoint

    (tmp_path / ".env").write_text(
        "DAYTONA_TARGET=mars\nDAYTONA_API_URL=https://evil.example\nDAYTONA_OTEL_ENABLED=true\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYTONA_OTEL_ENABLED", "true")
    before = trace.get_tracer_provider()
    client: Any = sdk.open_client(Endpoint("self-hosted", "http://127.0.0.1:9/api", "r", "key"))
    try:
        assert (client._api_url, client._api_key, client._target) == ("http://127.0.0.1:9/api", "key", None)
        assert client._tracer_provider is None and trace.get_tracer_provider() is before
        assert not [w for w in recwarn if "evil" in str(w.message)]
    finally:
        await client.close()


class Ears:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, text: str) -> None:
        """Not looked at."""

    def note(self, text: str) -> None:
        self.notes.append(text)


class TestHint:
    """The word about an earlier kernel's sandbox never holds up or fails the first cell."""

    async def first_use(
        self, monkeypatch: pytest.MonkeyPatch, look: Callable[[], Awaitable[Any]]
    ) -> tuple[float, list[str]]:
        made: Any = Binding(SandboxConfig(endpoint="https://daytona.example/api"), lambda: WHO)
        made.client = object()

        async def nothing(*_: Any) -> None:
            """There is no sandbox of this kernel."""

        async def create(*_: Any) -> None:
            made.sandbox = Sandbox()

        monkeypatch.setattr(made, "rediscover", nothing)
        monkeypatch.setattr(making, "create", create)
        monkeypatch.setattr(attaching, "earlier", lambda *_: look())
        ears = Ears()
        start = time.monotonic()
        await made.usable(ears)
        return time.monotonic() - start, ears.notes

    async def test_it_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def found() -> Any:
            return SimpleNamespace(name="old-1")

        _, notes = await self.first_use(monkeypatch, found)
        assert notes == ["`%sandbox use old-1` continues the sandbox of an earlier kernel of this notebook."]

    @pytest.mark.parametrize("error", [DaytonaConnectionError("x"), DaytonaError("y"), OSError("z")])
    async def test_a_failure_is_none_of_the_cell(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def fails() -> Any:
            raise error

        seconds, notes = await self.first_use(monkeypatch, fails)
        assert notes == [] and seconds < 0.4

    async def test_slowness_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cancelled: list[bool] = []

        async def slow() -> Any:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        seconds, notes = await self.first_use(monkeypatch, slow)
        await asyncio.sleep(0)
        assert notes == [] and seconds < 3 and cancelled == [True]

    async def test_it_is_asked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        class Client:
            async def list(self, query: Any) -> AsyncIterator[Any]:
                calls.append(1)
                raise DaytonaConnectionError("refused")
                yield

        made: Any = Binding(SandboxConfig(), lambda: replace(WHO, notebook="n" * 16))
        with pytest.raises(DaytonaConnectionError):
            await attaching.earlier(made, cast(Any, Client()))
        assert calls == [1]


class Endpoint:
    """An endpoint in which creations go wrong as told: ``outcomes`` of create, in order."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.boxes: dict[str, Any] = {}
        self.deleted: list[str] = []
        self.unreachable = 0

    async def create(self, params: Any, timeout: float) -> Any:
        arrives, error = self.outcomes.pop(0)
        if arrives:
            if params.name in self.boxes:
                raise DaytonaConflictError("name taken", status_code=409)
            self.put(params.name, dict(params.labels))
        if isinstance(error, float):
            await asyncio.sleep(error)
        elif error is not None:
            raise error
        return self.boxes[params.name]

    def put(self, name: str, tags: dict[str, str]) -> Any:
        async def delete(timeout: float = 60, wait: bool = False) -> None:
            self.deleted.append(name)
            del self.boxes[name]

        async def wait_for_sandbox_start(timeout: float = 60) -> None:
            self.boxes[name].state = "started"

        self.boxes[name] = SimpleNamespace(
            name=name,
            labels=tags,
            state="creating",
            delete=delete,
            wait_for_sandbox_start=wait_for_sandbox_start,
        )
        return self.boxes[name]

    async def get(self, name: str) -> Any:
        if self.unreachable:
            self.unreachable -= 1
            raise DaytonaConnectionError("refused")
        if name not in self.boxes:
            raise DaytonaNotFoundError("no", status_code=404)
        return self.boxes[name]


LOST = DaytonaConnectionError("reset by peer")
LATE = DaytonaTimeoutError("too slow")


class TestCreation:
    """Whatever happens to its requests, a creation ends in its own sandbox or in nothing."""

    @pytest.fixture(autouse=True)
    def no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sdk.retrying, "__defaults__", ((0.0, 0.0),))
        monkeypatch.setattr(making, "AGAIN_AFTER", 0.0)

    async def run(self, endpoint: Endpoint) -> Any:
        params = SimpleNamespace(name="lab", labels={labels.CREATION: "word"})
        return await making._Creation(cast(Any, endpoint), params, 60, Ears()).run()

    @pytest.mark.parametrize("late", [LATE, DaytonaConnectionTimeoutError("no answer")])
    async def test_one_that_takes_too_long_is_removed(self, late: Exception) -> None:
        endpoint = Endpoint((True, late))
        with pytest.raises(SandboxError, match="within 60 s and was removed"):
            await self.run(endpoint)
        assert endpoint.deleted == ["lab"] and endpoint.boxes == {} and endpoint.outcomes == []

    async def test_one_that_fails_half_way_is_removed_and_tried_once_more(self) -> None:
        endpoint = Endpoint((True, DaytonaError("state: error")), (True, DaytonaError("state: error")))
        with pytest.raises(SandboxError, match="state: error"):
            await self.run(endpoint)
        assert endpoint.boxes == {} and endpoint.deleted == ["lab", "lab"] and endpoint.outcomes == []

    async def test_a_failure_that_does_not_come_back_costs_one_pause(self) -> None:
        endpoint = Endpoint((True, DaytonaError("state: error")), (True, None))
        assert (await self.run(endpoint)).name == "lab" and endpoint.deleted == ["lab"]

    async def test_what_was_refused_is_not_tried_again(self) -> None:
        endpoint = Endpoint((False, DaytonaError("quota", status_code=403)), (True, None))
        with pytest.raises(SandboxError, match="quota"):
            await self.run(endpoint)
        assert len(endpoint.outcomes) == 1

    async def test_what_cannot_be_removed_is_named(self) -> None:
        endpoint = Endpoint((True, LATE))
        endpoint.unreachable = 9
        with pytest.raises(SandboxError, match="took too long, but sandbox lab could not be removed"):
            await self.run(endpoint)

    async def test_a_lost_answer_is_looked_up_and_its_start_waited_for(self) -> None:
        endpoint = Endpoint((True, LOST))
        assert (await self.run(endpoint)).state == "started"
        assert endpoint.deleted == []

    async def test_a_name_taken_by_our_own_lost_request_is_ours(self) -> None:
        endpoint = Endpoint((True, LOST), (True, None))
        endpoint.unreachable = 1
        assert (await self.run(endpoint)).state == "started"
        assert endpoint.outcomes == [] and endpoint.deleted == []

    async def test_a_lost_request_is_made_again(self) -> None:
        endpoint = Endpoint((False, LOST), (True, None))
        assert (await self.run(endpoint)).name == "lab"

    @pytest.mark.parametrize("outcomes", [[(True, None)], [(False, LOST), (True, None)]])
    async def test_somebody_elses_sandbox_of_that_name_is_left_alone(self, outcomes: list[Any]) -> None:
        endpoint = Endpoint(*outcomes)
        theirs = endpoint.put("lab", {})
        with pytest.raises(SandboxError, match="name taken"):
            await self.run(endpoint)
        assert endpoint.boxes == {"lab": theirs} and endpoint.deleted == []

    @pytest.mark.parametrize("taken", [False, True])
    async def test_a_cancelled_one_removes_its_own_and_nothing_else(self, taken: bool) -> None:
        endpoint = Endpoint((not taken, 0.05 if not taken else DaytonaError("late refusal")))
        if taken:
            endpoint.put("lab", {labels.CREATION: "another"})
        task = asyncio.ensure_future(self.run(endpoint))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, SandboxError)):
            await task
        assert ("lab" in endpoint.boxes) is taken


@pytest.mark.parametrize(("record", "said"), [({"pid": 1}, "asking"), (None, "starting")])
async def test_waiting_names_what_really_takes_time(
    record: dict[str, int] | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[str] = []
    tell = SimpleNamespace(progress=progress.append, note=progress.append)
    binding = Binding(SandboxConfig(endpoint="embedded"), lambda: WHO)
    found = bindings.endpoints.Endpoint("embedded", "http://127.0.0.1:1/api", "test", "key")
    monkeypatch.setattr(bindings.places, "live_record", lambda: record)
    monkeypatch.setattr(bindings.endpoints, "connect", lambda config: found)
    monkeypatch.setattr(attaching, "own", _nothing)
    await binding.rediscover(tell)
    assert progress == [f"{said} the embedded engine", "looking for this kernel's sandbox"]
    await binding.disconnect()


async def _nothing(*_: object) -> None:
    """No sandbox is found."""
