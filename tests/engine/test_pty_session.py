"""A terminal that is killed, closed or resized while its program is being started."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daytona_magics.engine.api.models import parse_create
from daytona_magics.engine.api.pty_session import PtySession
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.toolbox.client import PtyProcess, Toolbox


@pytest.fixture
async def toolbox() -> AsyncIterator[Toolbox]:
    base = Path(tempfile.mkdtemp(prefix="dm-"))
    base.chmod(0o711)
    database, launcher = Database(base), Launcher(stderr_dir=base / "stderr")
    await database.open()
    await launcher.start()
    sandboxes = Sandboxes(database, launcher, base)
    await sandboxes.load()
    yield (await sandboxes.create(parse_create({}))).toolbox
    await sandboxes.stop_all()
    await launcher.stop()
    await database.close()
    shutil.rmtree(base)


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
