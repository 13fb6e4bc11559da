"""Sandboxes whose life goes wrong: an unwritable database, processes that do not end, a closing engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch import sandbox as launch_sandbox
from daytona_magics.engine.launch.launcher import Launcher, LaunchError, SandboxProcess, SandboxSpec
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.records import SandboxRecord
from tests.engine_house import House, folder


class FullDisk(Database):
    """A database in which some states cannot be written."""

    refused: tuple[str, ...] = ()

    async def update(self, record: SandboxRecord) -> None:
        if record.state in self.refused:
            raise sqlite3.OperationalError("database or disk is full")
        await super().update(record)


class CountingLauncher(Launcher):
    """Remembers what it started."""

    def __init__(self, stderr_dir: Path) -> None:
        super().__init__(stderr_dir=stderr_dir)
        self.spawned: list[SandboxProcess] = []
        self.before_spawn: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def spawn(
        self, spec: SandboxSpec, on_process: Callable[[SandboxProcess], None] | None = None
    ) -> SandboxProcess:
        if spec.id in ("probe", "system-trial"):
            return await super().spawn(spec)
        await self.before_spawn()
        self.spawned.append(await super().spawn(spec, on_process))
        return self.spawned[-1]


class Faulty(House[FullDisk, CountingLauncher]):
    """A database that refuses, a launcher that counts."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, FullDisk(base), CountingLauncher(base / "stderr"))

    @property
    def running(self) -> list[SandboxProcess]:
        return [process for process in self.launcher.spawned if process.alive]

    async def in_database(self) -> dict[str, str]:
        return {record.id: record.state for record in await self.database.sandboxes()}


@pytest.fixture
async def house() -> AsyncIterator[Faulty]:
    with folder() as base:
        house = Faulty(base)
        async with house.opened():
            yield house


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def keeper_of(process: SandboxProcess) -> int:
    """The process that holds the sandbox's namespaces and ends it."""
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


# -- the database cannot be written


async def test_a_creation_that_cannot_be_written_leaves_nothing_running(house: Faulty) -> None:
    house.database.refused = ("started",)
    with pytest.raises(sqlite3.OperationalError):
        await house.create()
    assert len(house.launcher.spawned) == 1
    assert house.running == []
    assert list(house.sandboxes) == []
    await house.sandboxes.stop_all()
    assert await house.in_database() == {}
    assert list((house.base / "sandboxes").iterdir()) == []


@pytest.mark.parametrize("refused", [("started",), ("started", "stopped")])
async def test_a_start_that_cannot_be_written_leaves_nothing_running(
    house: Faulty, refused: tuple[str, ...]
) -> None:
    sandbox = await house.create()
    await house.sandboxes.stop(sandbox)
    house.database.refused = refused
    with pytest.raises(sqlite3.OperationalError):
        await house.sandboxes.start(sandbox)
    assert house.running == []
    assert (sandbox.record.state, sandbox.process) == ("stopped", None)
    house.database.refused = ()
    await house.sandboxes.start(sandbox)
    assert len(house.running) == 1


async def test_an_end_that_cannot_be_written_is_an_end(house: Faulty) -> None:
    ended, stopped = await house.create(), await house.create()
    house.database.refused = ("stopped",)
    await house.launcher.spawned[0].kill()
    await eventually(lambda: ended.record.state == "stopped")
    await house.sandboxes.stop(stopped)
    assert stopped.record.state == "stopped"
    house.database.refused = ()
    for sandbox in (ended, stopped):
        await house.sandboxes.start(sandbox)
        assert (await sandbox.toolbox.execute("echo again")).output == b"again\n"


async def test_a_listener_that_fails_changes_nothing(house: Faulty) -> None:
    async def deaf(event: str, record: SandboxRecord, old: str) -> None:
        raise RuntimeError("deaf")

    house.sandboxes.on_event = deaf
    sandbox = await house.create()
    await house.sandboxes.stop(sandbox)
    await house.sandboxes.start(sandbox)
    assert await house.in_database() == {sandbox.record.id: "started"}
    await house.sandboxes.delete(sandbox)
    assert house.running == []


# -- processes that do not end


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_sandbox, "KILL_TIMEOUT", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_what_does_not_end_is_reported_and_never_doubled(house: Faulty) -> None:
    sandbox = await house.create()
    (process,) = house.running
    keeper = keeper_of(process)
    os.kill(keeper, signal.SIGSTOP)
    try:
        with pytest.raises(LaunchError, match=r"has not ended 0\.3 s after"):
            await process.kill()
        for attempt in (house.sandboxes.stop, house.sandboxes.start):
            with pytest.raises(ApiError, match="could not be ended"):
                await attempt(sandbox)
        assert house.launcher.spawned == [process]
    finally:
        os.kill(keeper, signal.SIGCONT)
    await eventually(lambda: sandbox.record.state == "stopped")
    await house.sandboxes.start(sandbox)
    assert len(house.running) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_failed_creation_that_does_not_end_goes_when_it_ends(house: Faulty) -> None:
    house.database.refused = ("started",)
    spawn = house.launcher.spawn
    keepers: list[int] = []

    async def stuck(spec: SandboxSpec, *more: Any) -> SandboxProcess:
        process = await spawn(spec, *more)
        keepers.append(keeper_of(process))
        os.kill(keepers[0], signal.SIGSTOP)
        return process

    house.launcher.spawn = stuck  # type: ignore[method-assign]
    try:
        with pytest.raises(ApiError, match="could not be ended"):
            await house.create()
        # Its files are in use.
        assert len(list((house.base / "sandboxes").iterdir())) == 1
    finally:
        os.kill(keepers[0], signal.SIGCONT)
    await eventually(lambda: list(house.sandboxes) == [])
    assert house.running == []
    assert list((house.base / "sandboxes").iterdir()) == []


# -- the engine ends


async def test_nothing_is_started_once_the_engine_ends(house: Faulty) -> None:
    sandbox = await house.create()
    await house.sandboxes.stop(sandbox)
    await house.sandboxes.stop_all()
    with pytest.raises(ApiError, match="is ending"):
        await house.create()
    with pytest.raises(ApiError, match="is ending"):
        await house.sandboxes.start(sandbox)
    assert house.running == []


async def test_what_is_being_started_when_the_engine_ends_is_stopped(house: Faulty) -> None:
    stopped = await house.create()
    await house.sandboxes.stop(stopped)
    waiting, go = 0, asyncio.Event()

    async def wait() -> None:
        nonlocal waiting
        waiting += 1
        await go.wait()

    house.launcher.before_spawn = wait
    creating = asyncio.ensure_future(house.create())
    starting = asyncio.ensure_future(house.sandboxes.start(stopped))
    await eventually(lambda: waiting == 2)
    ending = asyncio.ensure_future(house.sandboxes.stop_all())
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(creating, starting, ending)
    assert house.running == []
    assert set((await house.in_database()).values()) == {"stopped"}


async def test_a_create_that_waits_for_its_row_when_the_engine_ends_is_stopped(house: Faulty) -> None:
    creating = asyncio.ensure_future(house.create())
    await asyncio.sleep(0)
    await house.sandboxes.stop_all()
    await asyncio.gather(creating, return_exceptions=True)
    assert house.running == []


@pytest.mark.usefixtures("impatient")
async def test_one_that_cannot_be_stopped_does_not_keep_the_others(
    house: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stuck, last = [await house.create() for _ in range(3)]
    assert stuck.process is not None
    keeper = keeper_of(stuck.process)
    os.kill(keeper, signal.SIGSTOP)
    try:
        # The deletion has the lock first; the stop finds nothing any more.
        deleting = asyncio.ensure_future(house.sandboxes.delete(gone))
        await asyncio.sleep(0)
        await house.sandboxes.stop_all()
        await deleting
        assert last.record.state == "stopped"
        assert house.running == [stuck.process]
        messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert any(f"sandbox {stuck.record.id} was not stopped" in message for message in messages)
        assert not any(gone.record.id in message for message in messages)
    finally:
        os.kill(keeper, signal.SIGCONT)
    await eventually(lambda: house.running == [])
