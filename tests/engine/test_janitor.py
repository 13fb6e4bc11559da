"""Auto-stop and auto-delete of real sandboxes, with clocks that can be put forward."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.activity import Activity
from daytona_magics.engine.life.janitor import Janitor
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.store.database import Database
from tests.engine_house import House, folder
from tests.engine_process import IsolatedEngine


class Watched(House[Database, Launcher]):
    """Sandboxes, their janitor, and two clocks."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, Database(base), Launcher(stderr_dir=base / "stderr"))
        self.ahead = {"monotonic": 0.0, "wall": 0.0}
        self.janitor = Janitor(
            self.sandboxes,
            Activity(),
            monotonic=lambda: time.monotonic() + self.ahead["monotonic"],
            wall=lambda: time.time() + self.ahead["wall"],
        )

    def exists(self, sandbox: Sandbox) -> bool:
        try:
            self.sandboxes.get(sandbox.record.id)
        except ApiError:
            return False
        return True


@pytest.fixture
async def house() -> AsyncIterator[Watched]:
    with folder() as base:
        house = Watched(base)
        async with house.opened():
            yield house


async def test_auto_stop(house: Watched) -> None:
    sandbox, forever = await house.create(), await house.create(autoStopInterval=0)
    await sandbox.toolbox.execute("echo kept > file")
    house.ahead["monotonic"] = 15 * 60 - 5
    await house.janitor.sweep()
    assert sandbox.record.state == "started"
    # Only the monotonic clock counts: one that is set by hand does not stop anything.
    house.ahead["wall"] = 1e6
    await house.janitor.sweep()
    assert sandbox.record.state == "started"
    house.ahead["monotonic"] = 15 * 60 + 1
    with sandbox.used():
        await house.janitor.sweep()
        assert sandbox.record.state == "started"
    await house.janitor.sweep()
    assert (sandbox.record.state, forever.record.state) == ("stopped", "started")
    await house.sandboxes.start(sandbox)
    assert (await sandbox.toolbox.execute("cat file")).output == b"kept\n"


async def test_activity_puts_auto_stop_off(house: Watched) -> None:
    sandbox = await house.create(autoStopInterval=1)
    house.ahead["monotonic"] = 61
    sandbox.touch()
    sandbox.active_at += 61
    await house.janitor.sweep()
    assert sandbox.record.state == "started"


async def test_auto_delete_and_time_to_live(house: Watched) -> None:
    late, kept = await house.create(autoDeleteInterval=10), await house.create()
    ephemeral, lived = await house.create(autoDeleteInterval=0), await house.create(ttlMinutes=60)
    for sandbox in (late, kept, ephemeral):
        await house.sandboxes.stop(sandbox)
    assert not house.exists(ephemeral)
    house.ahead["wall"] = 9 * 60
    await house.janitor.sweep()
    assert house.exists(late)
    house.ahead["wall"] = 61 * 60
    await house.janitor.sweep()
    assert not house.exists(late)
    assert house.exists(kept)
    # Time to live ends a started sandbox, too.
    assert not house.exists(lived)
    assert lived.process is None


async def test_auto_pause_keeps_memory_and_auto_archive_keeps_files(house: Watched) -> None:
    paused, archived = await house.create(autoPauseInterval=2), await house.create(autoArchiveInterval=60)
    await paused.toolbox.execute("nohup sleep 1000 >/dev/null 2>&1 & echo $! > pid")
    await archived.toolbox.execute("echo kept > file")
    house.ahead["monotonic"] = 121
    await house.janitor.sweep()
    assert (paused.record.state, archived.record.state) == ("paused", "started")
    await house.sandboxes.start(paused)
    assert (await paused.toolbox.execute("kill -0 $(cat pid)")).exit_code == 0
    await house.sandboxes.stop(archived)
    house.ahead["wall"] = 59 * 60
    await house.janitor.sweep()
    assert archived.record.state == "stopped"
    house.ahead["wall"] = 61 * 60
    await house.janitor.sweep()
    # It goes on beside: a large one keeps nobody waiting.
    while archived.record.state == "archiving":
        await asyncio.sleep(0.01)
    assert archived.record.state == "archived"
    await house.sandboxes.start(archived)
    while archived.record.state != "started":
        await asyncio.sleep(0.01)
    assert (await archived.toolbox.execute("cat file")).output == b"kept\n"


async def test_a_parent_outlives_its_time_until_its_forks_are_gone(house: Watched) -> None:
    parent = await house.create(ttlMinutes=60)
    fork = await house.sandboxes.fork(parent, "")
    assert fork.record.destroy_at == parent.record.destroy_at
    await house.sandboxes.change(fork, lambda record: setattr(record, "destroy_at", None))
    house.ahead["wall"] = 61 * 60
    await house.janitor.sweep()
    assert house.exists(parent)
    await house.sandboxes.delete(fork)
    await house.janitor.sweep()
    # What could not be done is not tried all the time.
    assert house.exists(parent)
    house.ahead["monotonic"] += 601
    await house.janitor.sweep()
    assert not house.exists(parent)


async def test_figures_of_a_running_sandbox(house: Watched) -> None:
    sandbox, stopped = await house.create(), await house.create()
    await house.sandboxes.stop(stopped)
    await house.janitor.sweep()
    (sample,) = house.sandboxes.metrics.history(sandbox, 0, time.time())
    assert sample.memory_used > 0
    assert house.sandboxes.metrics.history(stopped, 0, time.time()) == []
    busy = await house.sandboxes.metrics.now(sandbox)
    await sandbox.toolbox.execute("head -c 5000000 /dev/zero > file; timeout 1 sh -c 'while :; do :; done'")
    now = await house.sandboxes.metrics.now(sandbox)
    assert now.disk_used - busy.disk_used >= 5_000_000
    assert 0 < now.cpu_percent <= 100
    with pytest.raises(ApiError, match="not started"):
        await house.sandboxes.metrics.now(stopped)


async def test_what_counts_as_activity(engine: IsolatedEngine, async_daytona: object) -> None:
    daytona = async_daytona
    sandbox = await daytona.create()  # type: ignore[attr-defined]
    base = f"{engine.url}/toolbox/{sandbox.id}"
    skip = {"X-Daytona-Skip-Last-Activity-Update": "true"}

    async def active() -> str:
        return str((await daytona.get(sandbox.id)).last_activity_at)  # type: ignore[attr-defined]

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as http:
        before = await active()
        async with http.get(f"{base}/files", headers=skip) as answer:
            assert answer.status == 200
        async with http.ws_connect(f"{base}/process/pty/create-connect?id=x", headers=skip) as ws:
            await ws.send_str("echo\n")
            await ws.receive()
            await ws.receive()
        assert await active() == before
        async with http.ws_connect(f"{base}/process/pty/x/connect") as ws:
            assert await active() > before
            before = await active()
            await ws.send_str("exit\n")
            async for _ in ws:
                pass
        assert await active() > before
        before = await active()
        async with http.get(f"{base}/files") as answer:
            assert answer.status == 200
        assert await active() > before
    await sandbox.delete()
