"""Signed addresses of a preview: no more of them than somebody knows of, and none is left."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.config import SandboxConfig
from daytona_magics.sandboxes import previewing
from daytona_magics.sandboxes.previewing import Seen, Signed
from daytona_magics.widgets import Preview
from daytona_magics.widgets.live import CallError
from daytona_magics.widgets.preview import MOST_DOORS


class Endpoint:
    """Signs addresses when it is told to, and knows which are good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.good: list[str] = []
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self._count = 0
        monkeypatch.setattr(previewing, "sign", self._sign)
        monkeypatch.setattr(previewing, "revoke", self._revoke)

    async def _sign(self, sandbox: Any, port: int, seconds: int) -> Signed:
        self._count += 1
        token = f"token{self._count}"
        self.asked.set()
        await self.may.wait()
        self.good.append(token)
        return Signed(port, f"http://{port}-{token}.localhost/", token, time.time() + seconds)

    async def _revoke(self, sandbox: Any, signed: Signed) -> None:
        self.good.remove(signed.token)


class Eye:
    """Sees what port and path it was made and asked for, when it may."""

    may: asyncio.Event

    def __init__(self, sandbox: Any, port: int, *, marked: bool) -> None:
        self.port, self.closed = port, False

    async def look(self, path: str, *, files: bool) -> Seen:
        await Eye.may.wait()
        assert not self.closed, "nobody looks any more with one that is closed"
        return Seen(200, title=f"{self.port} {path}")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def seeing(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    monkeypatch.setattr(previewing, "Eye", Eye)
    Eye.may = asyncio.Event()
    Eye.may.set()
    return Eye.may


def preview() -> Preview:
    binding: Any = SimpleNamespace(
        config=SandboxConfig(display="static"),
        sandbox=SimpleNamespace(id="sb", name="sb", public=False),
        endpoint=None,
        ran=0,
    )
    made = Preview(3000, binding=binding)

    async def started(*, ask: bool = False) -> Any:
        return binding.sandbox

    made._started = started  # type: ignore[method-assign]
    return made


def events(widget: Preview) -> list[dict[str, Any]]:
    return [event for _, event, _ in widget._events]


async def test_two_views_at_once_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    opening = [asyncio.ensure_future(widget.call_open({}, [])) for _ in range(3)]
    await endpoint.asked.wait()
    endpoint.may.set()
    assert len({said["url"] for said in await asyncio.gather(*opening)}) == 1
    assert len(endpoint.good) == 1
    renewed = await widget.call_open({"renew": 1}, [])
    assert endpoint.good == ["token2"] and "token2" in renewed["url"]
    # The other view is told that its own has ended, and does not end the new one when it wants another, too.
    assert events(widget) == [{"name": "renewed", "port": 3000, "number": 2}]
    assert (await widget.call_open({"renew": 1}, []))["url"] == renewed["url"]
    assert endpoint.good == ["token2"] and len(events(widget)) == 1
    widget.released()
    await asyncio.gather(*widget._closing)
    assert endpoint.good == []


async def test_two_views_at_different_places_keep_out_of_each_others_way(
    monkeypatch: pytest.MonkeyPatch, seeing: asyncio.Event
) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    endpoint.may.set()
    seeing.clear()
    places = [(3000, "/"), (4000, "/docs"), (3000, "/two")]
    opening = [
        asyncio.ensure_future(widget.call_open({"port": port, "path": path}, [])) for port, path in places
    ]
    await asyncio.sleep(0)
    seeing.set()
    told = await asyncio.gather(*opening)
    for (port, path), said in zip(places, told, strict=True):
        assert (said["port"], said["path"], said["title"]) == (port, path, f"{port} {path}")
        assert said["url"].startswith(f"http://{port}-")
    assert sorted(endpoint.good) == ["token1", "token2"], "one for each port, and both go on"
    assert "port 3000 in sandbox sb: /two" in widget.record()[0] and "“3000 /two”" in widget.record()[0]
    widget.released()
    await asyncio.gather(*widget._closing)
    assert endpoint.good == []


async def test_of_many_ports_and_of_another_sandbox_the_old_addresses_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    endpoint.may.set()
    for port in range(3000, 3000 + MOST_DOORS + 2):
        await widget.call_open({"port": port}, [])
    await asyncio.gather(*widget._closing)
    assert endpoint.good == [f"token{number}" for number in range(3, MOST_DOORS + 3)]
    widget.binding.sandbox.id = "another"  # type: ignore[union-attr]
    await widget.call_open({}, [])
    await asyncio.gather(*widget._closing)
    assert endpoint.good == [f"token{MOST_DOORS + 3}"]


async def test_one_that_is_made_while_the_widget_ends_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    opening = [asyncio.ensure_future(widget.call_open({}, [])) for _ in range(2)]
    await endpoint.asked.wait()
    widget.released()
    endpoint.may.set()
    await asyncio.gather(*widget._closing)
    later = (await asyncio.gather(*opening, return_exceptions=True))[1]
    assert endpoint.good == [] and isinstance(later, CallError)
