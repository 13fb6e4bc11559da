"""Tabs of a terminal that two views use at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.config import SandboxConfig
from daytona_magics.widgets import Terminal
from daytona_magics.widgets.live import CallError
from daytona_magics.widgets.terminal import Tab

SIZE = {"tab": 1, "cols": 80, "rows": 24}


@pytest.fixture
def terminal() -> Terminal:
    binding: Any = SimpleNamespace(config=SandboxConfig(display="static"), sandbox=None, endpoint=None, ran=0)
    return Terminal(binding=binding)


def shell(state: str) -> Any:
    return SimpleNamespace(state=state, said="", code=0, cols=80, rows=24, session=state)


async def test_a_shell_that_two_views_start_anew_is_one(terminal: Terminal) -> None:
    opened: list[Any] = []

    async def connect(tab: Tab, cols: int, rows: int) -> None:
        await asyncio.sleep(0)
        opened.append(shell("running"))
        tab.shell = opened[-1]

    terminal._connect = connect  # type: ignore[method-assign]
    terminal._tabs[1] = Tab(1, "one", shell=shell("ended"))
    both = await asyncio.gather(*(terminal.call_restart(SIZE, []) for _ in "ab"), return_exceptions=True)
    assert len(opened) == 1 and [type(one) for one in both] == [type(None), CallError]
    assert terminal._tabs[1].shell is opened[0]


async def test_a_shell_that_cannot_be_started_anew_stays_as_it_was(terminal: Terminal) -> None:
    async def connect(tab: Tab, cols: int, rows: int) -> None:
        raise CallError("failed", "no")

    terminal._connect = connect  # type: ignore[method-assign]
    terminal._tabs[1] = Tab(1, "one", shell=(before := shell("ended")))
    with pytest.raises(CallError):
        await terminal.call_restart(SIZE, [])
    assert terminal._tabs[1].shell is before


async def test_a_tab_that_is_closed_while_it_opens_says_why_it_failed(terminal: Terminal) -> None:
    async def connect(tab: Tab, cols: int, rows: int) -> None:
        terminal._tabs.clear()
        raise CallError("failed", "the sandbox has ended")

    terminal._connect = connect  # type: ignore[method-assign]
    with pytest.raises(CallError, match="the sandbox has ended"):
        await terminal.call_open({"cols": 80, "rows": 24}, [])
