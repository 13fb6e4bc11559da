"""Live or static, how the sandbox stands, and records: within bounds, escaped, without secrets."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from daytona_magics.config import SandboxConfig
from daytona_magics.errors import SandboxUsageError
from daytona_magics.widgets import display, records, watching
from daytona_magics.widgets.live import LiveWidget

KEY = "5e" * 32


class Bound:
    """Stands for a binding, with a sandbox in any state."""

    ran = 0

    def __init__(self, state: str = "", *, show: str = "static", **fields: Any) -> None:
        self.config = SandboxConfig(display=show)
        self.gone = False
        self.endpoint = types.SimpleNamespace(kind="cloud", api_key=KEY)
        named: dict[str, Any] = {"name": "box", "id": "1", "state": state, "error_reason": None}
        self.sandbox = types.SimpleNamespace(**named) if state else None
        self.__dict__.update(fields)


class Talkative(LiveWidget):
    kind = "talkative"
    says = ""

    def record(self) -> tuple[str, str]:
        return self.says, records.preformatted(self.says)


def shown(said: str) -> dict[str, Any]:
    widget = Talkative(Bound("started"))  # type: ignore[arg-type]
    widget.says = said
    data, _ = widget._repr_mimebundle_()
    assert widget.comm is None and widget._ipython_display_ is None
    widget.close()
    return dict(data)


def test_a_static_widget_is_its_record_and_nothing_else() -> None:
    assert shown("<b> & \x1b[2J") == {
        "text/plain": "<b> & \x1b[2J",
        "text/html": "<pre>&lt;b&gt; &amp; \N{REPLACEMENT CHARACTER}[2J</pre>",
    }


@pytest.mark.parametrize(
    ("secret", "left"),
    [
        (f"key {KEY}", "key ***"),
        ("dtn_0123456789abcdef0123", "***"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: ***"),
        ("https://x.example/?token=abc.def-ghi&a=1", "https://x.example/?token=***&a=1"),
    ],
)
def test_no_secret_gets_into_a_record(secret: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shown(secret)
    assert data["text/plain"] == left and KEY not in data["text/html"]
    # The control: without the guard it is in both.
    monkeypatch.setattr(records, "_without_secrets", lambda text, binding: text)
    assert all(part in shown(secret)["text/plain"] for part in secret.split())


def test_a_record_is_bounded_and_its_markup_whole() -> None:
    data = shown("<" * 300_000)
    assert len(data["text/plain"]) < records.TEXT_LIMIT + 100
    assert data["text/plain"].endswith(f"… {300_000 - records.TEXT_LIMIT:,} more characters")
    assert len(data["text/html"]) < records.HTML_LIMIT + 100
    assert data["text/html"].startswith("<pre>&lt;") and data["text/html"].endswith("</pre>")


def test_the_setting_and_the_environment_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def live(**fields: Any) -> bool:
        return display.is_live(types.SimpleNamespace(config=SandboxConfig(**fields)))  # type: ignore[arg-type]

    monkeypatch.delenv("DAYTONA_MAGICS_DISPLAY", raising=False)
    # A plain program draws nothing.
    assert (live(), live(display="live"), live(display="static")) == (False, True, False)
    monkeypatch.setenv("DAYTONA_MAGICS_DISPLAY", "live")
    assert (live(), live(display="static")) == (True, False)
    monkeypatch.setenv("DAYTONA_MAGICS_DISPLAY", "fancy")
    with pytest.raises(
        SandboxUsageError, match="DAYTONA_MAGICS_DISPLAY is auto, live or static, not 'fancy'"
    ):
        live()


@pytest.mark.parametrize(
    ("state", "fields", "text", "offer"),
    [
        ("", {}, "There is no sandbox yet.", "Create a sandbox"),
        ("started", {}, "", ""),
        ("stopped", {}, "files are kept, variables are lost", "Start it"),
        ("paused", {}, "variables are alive", "Start it"),
        ("starting", {}, "is starting", ""),
        ("error", {}, "%sandbox recover", ""),
        ("started", {"gone": True}, "is gone, with its files", "Create another"),
    ],
)
def test_how_a_sandbox_stands_is_said_in_one_way(
    state: str, fields: dict[str, Any], text: str, offer: str
) -> None:
    now = watching.standing(Bound(state, **fields))  # type: ignore[arg-type]
    assert text in now.text and now.offer == offer and bool(text) == bool(now.text)


def test_an_engine_that_ended_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    binding: Any = Bound("started", endpoint=types.SimpleNamespace(kind="embedded", api_key=KEY))
    monkeypatch.setattr("daytona_magics.engine.places.live_record", dict)
    assert watching.standing(binding).state == "started"
    asked: list[object] = []

    async def ask(tie: object, tell: object) -> None:
        asked.append(tie)

    monkeypatch.setattr("daytona_magics.sandboxes.actions.look", ask)
    assert asyncio.run(watching.asked(binding)).state == "started" and asked == [binding]
    monkeypatch.setattr("daytona_magics.engine.places.live_record", lambda: None)
    assert watching.standing(binding).state == "unreachable"
    # To ask would start another one.
    assert asyncio.run(watching.asked(binding)).state == "unreachable" and asked == [binding]
