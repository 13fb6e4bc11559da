"""Rules of the binding that a real engine would take minutes to show, with a scripted endpoint."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from daytona import DaytonaConnectionError, DaytonaError, DaytonaNotFoundError

from daytona_magics.config import SandboxConfig
from daytona_magics.errors import EndpointError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.channel import ExecRequest
from daytona_magics.runtime.events import Done, FlowWindow
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import labels
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
        self.written: list[dict[str, str]] = []

    async def refresh_data(self, request_timeout: float | None = None) -> None:
        if self.error is not None:
            raise self.error

    async def refresh_activity(self) -> None:
        self.beats += 1
        if self.beats == 1:
            raise DaytonaError("a missed beat is no reason to fail")

    async def set_labels(self, wanted: dict[str, str]) -> None:
        self.written.append(wanted)
        self.labels = wanted


class Channel:
    closed = False

    def __init__(self, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.error, self.seconds = error, seconds

    async def execute(self, *_: Any) -> Done:
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
    return await made.run(made.channel, REQUEST, lambda event: None, FlowWindow())


async def test_a_long_cell_gives_signs_of_activity_and_a_missed_one_does_no_harm() -> None:
    box = Sandbox()
    assert (await run(binding(box, Channel(seconds=0.35), heartbeat=0.1))).status == "ok"
    beats = box.beats
    assert beats >= 2
    await asyncio.sleep(0.25)
    assert box.beats == beats, "no signs once the cell has ended"


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
