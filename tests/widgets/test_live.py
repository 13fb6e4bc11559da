"""The wire between page and kernel: calls, receipts, events kept for views to come, widgets that give way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from daytona_magics.config import SandboxConfig
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.widgets import live
from daytona_magics.widgets.live import CallError, LiveWidget


class Bound:
    """Stands for a binding: these widgets touch no sandbox."""

    sandbox = endpoint = None
    gone = False
    ran = 0
    config = SandboxConfig(display="live")


class Echo(LiveWidget):
    kind = "echo"
    calls = ("echo", "refuse", "fail")

    async def call_echo(self, given: dict[str, Any], buffers: list[bytes]) -> Any:
        return given, buffers

    async def call_refuse(self, given: dict[str, Any], _: list[bytes]) -> None:
        raise CallError("stopped", "the sandbox is stopped", "start it")

    async def call_fail(self, given: dict[str, Any], _: list[bytes]) -> None:
        raise RuntimeError("unforeseen")

    async def secret(self, given: dict[str, Any], _: list[bytes]) -> None:
        raise AssertionError("nobody may call this")


@pytest.fixture
def echo() -> Iterator[tuple[Echo, list[Any], list[Any]]]:
    made = Echo(Bound())  # type: ignore[arg-type]
    down: list[Any] = []
    up: list[Any] = []
    made.send = lambda content, buffers=None: down.append((content, buffers))  # type: ignore[method-assign]
    made._up.send = lambda content, buffers=None: up.append(content)  # type: ignore[method-assign]
    yield made, down, up
    made.close()


def answers(down: list[Any], count: int = 1) -> list[Any]:
    until = time.monotonic() + 30
    while len(down) < count:
        assert time.monotonic() < until, down
        time.sleep(0.005)
    return down


def test_a_call_is_receipted_at_once_and_answered(echo: Any) -> None:
    widget, down, up = echo
    widget._heard(None, {"call": "v-1", "name": "echo", "with": {"a": 1}}, [memoryview(b"xyz")])
    assert up == [{"got": "v-1"}]
    assert answers(down) == [({"reply": "v-1", "value": {"a": 1}}, [b"xyz"])]


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("refuse", "stopped", "the sandbox is stopped"),
        ("fail", "failed", "RuntimeError: unforeseen"),
        ("secret", "refused", "cannot 'secret'"),
        ("close", "refused", "cannot 'close'"),
        ("__init__", "refused", "cannot '__init__'"),
    ],
)
def test_only_what_is_named_can_be_called_and_failures_are_told(
    echo: Any, name: str, code: str, text: str
) -> None:
    widget, down, _ = echo
    widget._heard(None, {"call": "v-1", "name": name}, [])
    error = answers(down)[0][0]["error"]
    assert error["code"] == code and text in error["text"]


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "x",
        {},
        {"call": 7, "name": "echo"},
        {"call": "x" * 65, "name": "echo"},
        {"call": "v", "name": 3},
    ],
)
def test_nonsense_is_ignored(echo: Any, message: Any) -> None:
    widget, down, up = echo
    widget._heard(None, message, [])
    widget._heard(None, {"call": "v-2", "name": "echo", "with": "no object"}, [])
    assert answers(down) == [({"reply": "v-2", "value": {}}, [])] and up == [{"got": "v-2"}]


def test_too_much_at_once_is_refused(echo: Any) -> None:
    widget, down, _ = echo
    widget._heard(None, {"call": "v", "name": "echo"}, [memoryview(bytes(live.MOST_SENT + 1))])
    assert answers(down)[0][0]["error"]["code"] == "refused"


def test_a_later_view_gets_what_was_kept_and_hears_of_what_was_not(
    echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget, down, _ = echo
    monkeypatch.setattr(live, "KEPT_EVENTS", 3)

    async def emit() -> None:
        for number in range(5):
            widget.emit("tick", value=number)

    loop_thread().run(emit())
    assert [content["event"] for content, _ in down] == [1, 2, 3, 4, 5]
    down.clear()
    widget._heard(None, {"hello": 0}, [])
    answers(down, 4)
    assert [content for content, _ in down] == [
        {"missed": 2, "until": 2},
        *({"event": number, "name": "tick", "value": number - 1} for number in (3, 4, 5)),
    ]
    down.clear()
    widget._heard(None, {"hello": 4}, [])
    assert [content["event"] for content, _ in answers(down)] == [5]


def test_events_are_kept_within_bytes(echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widget, _, _ = echo
    monkeypatch.setattr(live, "KEPT_BYTES", 1000)

    async def emit() -> None:
        for _ in range(50):
            widget.emit("text", text="x" * 100)

    loop_thread().run(emit())
    assert len(widget._events) < 10


def test_of_too_many_widgets_the_oldest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_living", type(live._living)())
    monkeypatch.setattr(live, "MOST_LIVE", 2)
    made = [Echo(Bound()) for _ in range(3)]  # type: ignore[arg-type]
    # Its views stay, with the record and the reason.
    assert [one._ended.get("text") for one in made] == ["Echo of sandbox (none yet)", None, None]
    assert "oldest" in made[0]._ended["why"] and made[0]._up is None
    for one in made:
        one.close()
    assert not live._living


def test_what_a_notebook_keeps_is_readable() -> None:
    widget = Echo(Bound())  # type: ignore[arg-type]
    data, _ = widget._repr_mimebundle_()
    assert data["text/plain"] == "Echo of sandbox (none yet)" == repr(widget)
    assert data["text/html"] == "<p>Echo of sandbox (none yet)</p>"
    widget.close()
