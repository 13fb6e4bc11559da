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


def preview() -> Preview:
    binding: Any = SimpleNamespace(
        config=SandboxConfig(display="static"),
        sandbox=SimpleNamespace(id="sb", name="sb", public=False),
        endpoint=None,
        ran=0,
    )
    made = Preview(3000, binding=binding)

    async def look(given: dict[str, Any], *, files: bool) -> Any:
        return binding.sandbox, Seen(200)

    made._look = look  # type: ignore[method-assign]
    return made


async def test_two_views_at_once_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    opening = [asyncio.ensure_future(widget.call_open({}, [])) for _ in range(3)]
    await endpoint.asked.wait()
    endpoint.may.set()
    assert len({said["url"] for said in await asyncio.gather(*opening)}) == 1
    assert len(endpoint.good) == 1
    renewed = await widget.call_open({"renew": True}, [])
    assert endpoint.good == ["token2"] and "token2" in renewed["url"]
    widget.released()
    await widget._ending
    assert endpoint.good == []


async def test_one_that_is_made_while_the_widget_ends_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, widget = Endpoint(monkeypatch), preview()
    opening = [asyncio.ensure_future(widget.call_open({}, [])) for _ in range(2)]
    await endpoint.asked.wait()
    widget.released()
    endpoint.may.set()
    await widget._ending
    later = (await asyncio.gather(*opening, return_exceptions=True))[1]
    assert endpoint.good == [] and isinstance(later, CallError)
