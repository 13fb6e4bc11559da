"""Pause, archive and fork when things go wrong: a killed engine, a full disk, somebody else who deletes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from daytona import Daytona
from daytona.common.errors import DaytonaNotFoundError

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life import lifecycle
from daytona_magics.engine.life.registry import MEMORY_LOST
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.store.database import Database
from tests import scraps
from tests.engine_house import House, folder
from tests.engine_process import IsolatedEngine, isolated_engine, wait_until

_MUCH = """
import os
os.makedirs("many", exist_ok=True)
for n in range(2500):
    open(f"many/{n}", "w").write(str(n))
open("noise", "wb").write(os.urandom(12 << 20))
"""
_SUM = "cat many/* noise | sha256sum; ls many | wc -l"


class Crashing:
    """An engine that is killed at the worst moments, and one sandbox in it."""

    def __init__(self, engine: IsolatedEngine) -> None:
        self.engine = engine
        self.daytona = Daytona(engine.config())
        sandbox = self.daytona.create()
        assert sandbox.process.code_run(_MUCH).exit_code == 0
        self.id, self.sum = sandbox.id, sandbox.process.exec(_SUM).result

    @property
    def sandbox(self) -> Any:
        return self.daytona.get(self.id)

    def crash(self, act: Callable[[], Any], moment: Callable[[], bool], what: str) -> None:
        """Kill the engine when ``moment`` has come during ``act``, and start it again."""
        before = self.sandbox.state
        thread = threading.Thread(target=lambda: _ignoring_its_end(act))
        thread.start()
        wait_until(moment, f"{what} (from {before})")
        self.engine.kill()
        thread.join()
        self.engine.client_env()

    def check(self, sandbox: Any = None) -> None:
        """The files are as they were."""
        sandbox = sandbox or self.sandbox
        sandbox.start()
        assert sandbox.process.exec(_SUM).result == self.sum
        sandbox.stop()


def _ignoring_its_end(act: Callable[[], Any]) -> None:
    try:
        act()
    except Exception as error:
        print(error)


def test_killed_in_the_middle_of_everything() -> None:
    with isolated_engine() as engine:
        house = Crashing(engine)
        homes, archives, trash = (engine.state / name for name in ("sandboxes", "archives", "trash"))

        fork = house.sandbox.fork
        house.crash(fork, lambda: len(list(homes.glob("*/home/many"))) == 2, "files are copied")
        assert house.sandbox.state == "stopped"
        assert [s.id for s in house.daytona.list()] == [house.id]
        wait_until(lambda: [p.name for p in homes.iterdir()] == [house.id], "the half fork is gone")
        house.check()

        archive = house.sandbox.archive
        house.crash(archive, lambda: bool(list(archives.glob("*.part"))), "files are packed")
        assert (house.sandbox.state, list(archives.iterdir())) == ("stopped", [])
        house.check()

        house.sandbox.archive()
        wait_until(lambda: house.sandbox.state == "archived", "it is archived")
        start = house.sandbox.start
        house.crash(start, lambda: bool(list(homes.glob(".*.part/home/many"))), "files are unpacked")
        assert house.sandbox.state == "archived"
        wait_until(lambda: list(homes.iterdir()) == [], "the half folder is gone")
        house.check()
        assert list(archives.iterdir()) == []

        sandbox = house.sandbox
        sandbox.start()
        sandbox.pause()
        engine.kill()
        engine.client_env()
        assert (house.sandbox.state, house.sandbox.error_reason) == ("stopped", MEMORY_LOST)
        house.check()
        # It has been said, and the next start has made good for it.
        assert house.sandbox.error_reason is None

        delete = house.sandbox.delete
        house.crash(delete, lambda: bool(list(trash.iterdir())), "it is being deleted")
        with pytest.raises(DaytonaNotFoundError):
            _ = house.sandbox
        wait_until(lambda: not [*trash.iterdir(), *homes.iterdir()], "nothing of it is left", timeout=60)


def test_what_lost_its_files_says_so() -> None:
    with isolated_engine() as engine:
        daytona = Daytona(engine.config())
        sandbox, archived = daytona.create(), daytona.create()
        archived.stop()
        archived.archive()
        engine.kill()
        scraps.remove(engine.state / "sandboxes" / sandbox.id)
        (engine.state / "archives" / f"{archived.id}.tar.gz").unlink()
        engine.client_env()
        for one in (sandbox, archived):
            found = daytona.get(one.id)
            assert (found.state, found.recoverable) == ("error", False)
            assert "files are gone" in found.error_reason
            with pytest.raises(Exception, match="not recoverable"):
                found.recover()
            with pytest.raises(Exception, match="in error state"):
                found.start()
            found.delete()
        assert list(daytona.list()) == []


class Small(House[Database, Launcher]):
    """Sandboxes on a disk of their own."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, Database(base), Launcher(stderr_dir=base / "stderr"))
        self.states: list[str] = []

    async def create_full(self, megabytes: int, **body: object) -> Sandbox:
        """A sandbox with so many megabytes of noise."""
        sandbox = await self.create(**body)
        await sandbox.toolbox.execute(f"head -c {megabytes << 20} /dev/urandom > noise; echo kept > file")
        return sandbox

    def fill(self, free: int) -> None:
        """Leave ``free`` megabytes of the disk."""
        (self.base / "ballast").unlink(missing_ok=True)
        left = shutil.disk_usage(self.base).free - (free << 20)
        with (self.base / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, left)

    async def kept(self, sandbox: Sandbox) -> bool:
        return (await sandbox.toolbox.execute("cat file")).output == b"kept\n"


@pytest.fixture
async def house() -> AsyncIterator[Small]:
    with folder() as base:
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=0711", "tmpfs", base], check=True)
        house = Small(base)
        async with house.opened():
            yield house
        if os.geteuid() == 0:
            subprocess.run(["umount", base], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
async def test_a_full_disk(house: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PATIENCE", 60.0)
    sandbox = await house.create_full(12)
    house.fill(40)
    with pytest.raises(ApiError, match="disk of this machine is full") as caught:
        await house.sandboxes.fork(sandbox, "")
    assert caught.value.status == 507
    assert (sandbox.record.state, [*house.sandboxes]) == ("started", [sandbox])
    assert await house.kept(sandbox)

    await house.sandboxes.stop(sandbox)
    with pytest.raises(ApiError, match="disk of this machine is full"):
        await house.sandboxes.archive(sandbox, 60.0)
    assert sandbox.record.state == "stopped"
    assert "full" in (sandbox.record.error_reason or "")
    assert list((house.base / "archives").iterdir()) == []

    (house.base / "ballast").unlink()
    await house.sandboxes.archive(sandbox, 60.0)
    await asyncio.wait_for(house.sandboxes._background.finished(), 30)
    house.fill(40)
    with pytest.raises(ApiError, match="disk of this machine is full"):
        await house.sandboxes.start(sandbox)
    assert (sandbox.record.state, sandbox.record.recoverable) == ("error", True)
    # What an engine that starts now would make of it.
    (row,) = await house.database.sandboxes()
    assert (row.state, row.recoverable) == ("error", True)
    with pytest.raises(ApiError, match="disk of this machine is full"):
        await house.sandboxes.recover(sandbox)
    (house.base / "ballast").unlink()
    await house.sandboxes.recover(sandbox)
    assert (sandbox.record.state, sandbox.record.error_reason) == ("started", None)
    assert await house.kept(sandbox)


async def test_deleted_while_it_is_archived(house: Small) -> None:
    sandbox = await house.create_full(20)
    await house.sandboxes.stop(sandbox)
    await house.sandboxes.archive(sandbox, 0.0)
    assert sandbox.record.state == "archiving"
    for refused in (house.sandboxes.start, house.sandboxes.archive, house.sandboxes.stop):
        with pytest.raises(ApiError, match="state change in progress") as caught:
            await refused(sandbox)
        assert caught.value.status == 409
    # Settings do not wait for it.
    await house.sandboxes.change(sandbox, lambda record: setattr(record, "public", True))
    assert sandbox.record.state == "archiving"
    await house.sandboxes.delete(sandbox)
    await house.sandboxes._background.finished()
    assert [*house.sandboxes] == await house.database.sandboxes() == []
    assert [*(house.base / "archives").iterdir(), *(house.base / "sandboxes").iterdir()] == []


async def test_ended_while_it_is_forked(house: Small) -> None:
    sandbox = await house.create_full(1)
    await sandbox.toolbox.execute("mkdir many; cd many; seq 20000 | xargs touch")
    forking = asyncio.ensure_future(house.sandboxes.fork(sandbox, ""))
    while len([*(house.base / "sandboxes").glob("*/home")]) < 2:
        await asyncio.sleep(0.001)
    assert sandbox.record.state == "forking"
    for refused in (house.sandboxes.stop, house.sandboxes.pause, house.sandboxes.delete):
        with pytest.raises(ApiError) as caught:
            await refused(sandbox)
        assert caught.value.status == 409
    assert sandbox.process is not None
    await sandbox.process.kill()
    with pytest.raises(ApiError, match="could not be forked: it ended"):
        await forking
    await house.sandboxes._background.finished()
    assert sandbox.record.state == "stopped"
    assert [s.record.id for s in house.sandboxes] == [sandbox.record.id]
    await house.sandboxes.start(sandbox)
    assert await house.kept(sandbox)


async def test_the_engine_ends_while_files_are_copied(house: Small) -> None:
    archived, parent = await house.create_full(20), await house.create_full(1)
    paused = await house.create_full(1)
    await parent.toolbox.execute("mkdir many; cd many; seq 20000 | xargs touch")
    await house.sandboxes.stop(archived)
    await house.sandboxes.pause(paused)
    await house.sandboxes.archive(archived, 0.0)
    forking = asyncio.ensure_future(house.sandboxes.fork(parent, ""))
    while parent.record.state != "forking":
        await asyncio.sleep(0.001)
    await house.sandboxes.stop_all()
    with pytest.raises(ApiError):
        await forking
    states = {row.id: (row.state, row.error_reason) for row in await house.database.sandboxes()}
    assert states[parent.record.id] == ("stopped", None)
    assert states[paused.record.id] == ("stopped", MEMORY_LOST)
    assert states[archived.record.id][0] == "stopped"
    assert len(states) == 3
    assert not any(sandbox.process for sandbox in house.sandboxes)
