"""A terminal that is killed, closed or resized while its program is being started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from daytona_magics.engine.api.pty_session import PtySession
from daytona_magics.engine.toolbox.client import PtyProcess, Toolbox
from tests.engine_house import folder, plain


@pytest.fixture
async def toolbox() -> AsyncIterator[Toolbox]:
    with folder() as base:
        house = plain(base)
        async with house.opened():
            yield (await house.create()).toolbox


class Slow:
    """A session whose terminal has been opened but not handed over yet."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox
        self.process: PtyProcess | None = None
        self.opened, self.go, self.ends = asyncio.Event(), asyncio.Event(), 0
        self.session = PtySession(
            "x", cwd="/tmp", envs={}, cols=80, rows=24, lazy=True, start=self._open, on_end=self._ended
        )
        self.starting = asyncio.ensure_future(self.session.start())

    async def _open(self, cols: int, rows: int) -> PtyProcess:
        self.process = await self.toolbox.open_pty(cols=cols, rows=rows)
        self.opened.set()
        await self.go.wait()
        return self.process

    def _ended(self) -> None:
        self.ends += 1

    async def hand_over(self) -> PtyProcess:
        self.go.set()
        await self.starting
        assert self.process is not None
        return self.process

    async def shell_is_gone(self) -> bool:
        """Whether the shell ends within 10 s."""
        assert self.process is not None
        watch = (
            f"for i in $(seq 1000); do kill -0 {self.process.pid_inside} || exit 0; sleep 0.01; done; exit 1"
        )
        return (await self.toolbox.execute(watch)).exit_code == 0


@pytest.mark.parametrize("how", ["kill", "close"])
async def test_what_is_ended_while_it_starts_leaves_nothing(toolbox: Toolbox, how: str) -> None:
    slow = Slow(toolbox)
    await slow.opened.wait()
    assert slow.process is not None
    master = slow.process.master
    await getattr(slow.session, how)()
    process = await slow.hand_over()
    assert process.master == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(master)
    assert await slow.shell_is_gone()
    assert slow.session.end is not None
    assert (slow.session.as_json()["active"], slow.session.end.exit_code, slow.ends) == (False, 137, 1)
    # It stays ended.
    await slow.session.start()
    assert slow.session.as_json()["active"] is False


async def test_a_size_that_changes_while_it_starts_is_kept(toolbox: Toolbox) -> None:
    slow = Slow(toolbox)
    await slow.opened.wait()
    slow.session.resize(111, 33)
    process = await slow.hand_over()
    assert os.get_terminal_size(process.master) == (111, 33)
    await slow.session.kill()
    assert await slow.shell_is_gone()
