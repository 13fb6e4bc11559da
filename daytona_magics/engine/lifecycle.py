"""The life of sandboxes: created, started, stopped, deleted; remembered before anybody is told.

Each sandbox has a lock; a change takes it, writes the database, and only then tells the caller and the event
listeners. What survives a crash is decided at start: a row still ``creating`` was never acknowledged and is
removed, one that ran is ``stopped`` with its files, one that was being deleted is deleted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from daytona_magics.engine.background import Background
from daytona_magics.engine.disposal import Disposal
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import Launcher, SandboxProcess
from daytona_magics.engine.launch.system import SystemLayers
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.log import log
from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.settings import HostNetwork
from daytona_magics.engine.rows import Event, Rows
from daytona_magics.engine.running import Runner
from daytona_magics.engine.sandbox import ISOLATION_LABEL, Sandbox
from daytona_magics.engine.starting import Starter
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.store.uids import UidBlock, find_block

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ACTIVITY_WRITE_SECONDS = 30.0


class Sandboxes:
    """All sandboxes of the engine.

    Args:
        database: opened.
        launcher: started, or one whose start failed.
        folder: state folder; a sandbox has ``sandboxes/ID`` in it, and its home in ``home`` there.
        egress: their ways out.
    """

    def __init__(
        self, database: Database, launcher: Launcher, folder: Path, egress: Egress | None = None
    ) -> None:
        self._database = database
        self._launcher = launcher
        self._starter = Starter(launcher, egress or Egress(HostNetwork()), folder)
        self._rows = Rows(database)
        self._runner = Runner(self._starter, self._rows, self._ended)
        self._background = Background()
        self._disposal = Disposal(folder, database, launcher, self._background)
        self._homes = folder / "sandboxes"
        self._by_id: dict[str, Sandbox] = {}
        self._block: UidBlock | None = None
        self._name_lock = asyncio.Lock()
        self._last_written: dict[str, float] = {}
        self._closing = False
        self.unavailable = ""

    @property
    def isolation(self) -> str:
        """Isolation level of new sandboxes, ``"none"`` when none can be created."""
        return "none" if self.unavailable else self._launcher.level

    @property
    def launcher(self) -> Launcher:
        """What starts the sandboxes; it knows what this machine allows."""
        return self._launcher

    @property
    def on_event(self) -> Event | None:
        """Who is told of every creation and change of state."""
        return self._rows.on_event

    @on_event.setter
    def on_event(self, listener: Event | None) -> None:
        self._rows.on_event = listener

    @property
    def egress(self) -> Egress:
        """The sandboxes' ways out."""
        return self._starter.egress

    @property
    def limiter(self) -> Limiter:
        """What bounds the sandboxes."""
        return self._starter.limiter

    @property
    def system(self) -> SystemLayers:
        """What makes the sandboxes' /usr, /etc and /var writable."""
        return self._starter.system

    @property
    def uid_block(self) -> UidBlock | None:
        """The host uids given to sandboxes; None when they share the engine's."""
        return self._block

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._by_id.values()))

    async def load(self) -> None:
        """Read the database and put every row into a state that can be true after a restart."""
        for folder in (self._homes, self._disposal.trash):
            folder.mkdir(exist_ok=True)
            # Sandbox uids pass through to their homes; they cannot list their neighbours.
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        block = await self._database.get_meta("uid_block")
        if block is not None:
            self._block = UidBlock(*block)
        elif (found := find_block()) is not None:
            self._block = found
            await self._database.set_meta("uid_block", [found.start, found.count])
        for record in await self._database.sandboxes():
            if record.state in ("creating", "destroying", "destroyed"):
                self._disposal.forget(record)
                continue
            if record.state != "stopped":
                record.state, record.desired_state, record.stopped_at = "stopped", "stopped", time.time()
                await self._database.update(record)
            self._by_id[record.id] = Sandbox(record)
        self.system.begin()

    def get(self, id_or_name: str) -> Sandbox:
        """The sandbox of that id, else of that name.

        Raises:
            ApiError: 404.
        """
        found = self._by_id.get(id_or_name)
        if found is None:
            found = next((s for s in self._by_id.values() if s.record.name == id_or_name), None)
        if found is None:
            raise ApiError(404, f"Sandbox with ID or name {id_or_name} not found")
        return found

    async def create(self, template: SandboxRecord) -> Sandbox:
        """Make and start a sandbox; ``template`` has everything but id, home and uid.

        Raises:
            ApiError: 409 when the name is taken, 503 when no sandbox can be started here.
        """
        async with self._name_lock:
            self._check_open()
            self._starter.policy(template)
            record = await self._reserve(template)
            sandbox = self._by_id[record.id] = Sandbox(record)
        async with sandbox.lock:
            try:
                await asyncio.to_thread(self._starter.prepare_home, record)
                await self._rows.tell("sandbox.created", record, record.state)
                await self._runner.spawn(sandbox)
            except BaseException:
                # One that cannot be ended keeps its row and its files until it has ended.
                if sandbox.process is None:
                    del self._by_id[record.id]
                    self._disposal.forget(record)
                raise
        return sandbox

    def _check_open(self) -> None:
        if self._closing:
            raise ApiError(503, "the embedded engine is ending; it starts no more sandboxes")
        if self.unavailable:
            raise ApiError(503, self.unavailable)

    async def _reserve(self, template: SandboxRecord) -> SandboxRecord:
        sandbox_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(20))
        name = template.name or sandbox_id
        if any(name in (s.record.name, s.record.id) for s in self._by_id.values()):
            raise ApiError(409, f"Sandbox with name {name} already exists")
        uid = self._pick_uid()
        labels = {**template.labels, ISOLATION_LABEL: self._launcher.level}
        home = str(self._homes / sandbox_id / "home")
        record = replace(
            template, id=sandbox_id, name=name, state="creating", home=home, uid=uid, labels=labels
        )
        try:
            await self._database.insert(record)
        except sqlite3.IntegrityError as error:
            raise ApiError(409, f"Sandbox with name {name} already exists") from error
        return record

    def _pick_uid(self) -> int | None:
        """A host uid nobody has; None when sandboxes run as the engine's user.

        Raises:
            ApiError: 503 when root has none to give: a sandbox never runs as root.
        """
        if os.geteuid() != 0 or self._launcher.level == "L0":
            return None
        if self._block is None:
            raise ApiError(
                503, "this machine has no free block of user ids for sandboxes (see engine doctor)"
            )
        uid = self._block.pick([*(s.record.uid for s in self._by_id.values()), *self._disposal.uids])
        if uid is None:
            raise ApiError(503, f"all {self._block.count} user ids are in use; delete some sandboxes")
        return uid

    async def start(self, sandbox: Sandbox) -> None:
        """Start a stopped sandbox; nothing happens when it runs."""
        async with sandbox.lock:
            self._check_exists(sandbox)
            if sandbox.record.state == "started":
                return
            self._check_open()
            await self._rows.set_state(sandbox, "starting", desired="started")
            try:
                await self._runner.spawn(sandbox)
            except BaseException:
                if sandbox.process is None:
                    await self._rows.set_stopped(sandbox)
                raise

    async def stop(self, sandbox: Sandbox) -> None:
        """End every process of a sandbox and keep its files; an ephemeral one is deleted."""
        async with sandbox.lock:
            self._check_exists(sandbox)
            if sandbox.record.state == "stopped":
                return
            await self._rows.set_state(sandbox, "stopping", desired="stopped")
            await self._runner.kill(sandbox)
            await self._rows.set_stopped(sandbox)
        if sandbox.record.auto_delete_interval == 0:
            await self.delete(sandbox)

    async def delete(self, sandbox: Sandbox) -> None:
        """End a sandbox and remove its files for good."""
        async with sandbox.lock:
            if self._by_id.get(sandbox.record.id) is not sandbox:
                return
            await self._rows.set_state(sandbox, "destroying", desired="destroyed")
            await self._runner.kill(sandbox)
            old = sandbox.record.state
            # The name is free again at once.
            gone = replace(sandbox.record, state="destroyed", name=f"destroyed {sandbox.record.id}")
            await self._database.update(gone)
            del self._by_id[gone.id]
            self._last_written.pop(gone.id, None)
            sandbox.record.state = "destroyed"
            self._disposal.forget(gone)
        await self._rows.tell("sandbox.state.updated", sandbox.record, old)

    async def change(self, sandbox: Sandbox, change: Callable[[SandboxRecord], None]) -> None:
        """Apply a change of settings; it is on disk when this returns."""
        async with sandbox.lock:
            self._check_exists(sandbox)
            changed = replace(sandbox.record, updated_at=time.time())
            change(changed)
            await self._database.update(changed)
            sandbox.record = changed

    async def set_network(self, sandbox: Sandbox, change: Callable[[SandboxRecord], None]) -> None:
        """Change what a sandbox may reach; it is on disk and in force when this returns.

        Raises:
            ApiError: 400 for a list that is wrong.
        """

        def checked(record: SandboxRecord) -> None:
            change(record)
            self._starter.policy(record)

        await self.change(sandbox, checked)
        self.egress.apply(sandbox.record.id, self._starter.policy(sandbox.record))

    async def write_activity(self) -> None:
        """Remember, now and then, when each sandbox was last active."""
        for sandbox in self:
            last = sandbox.record.last_activity_at
            if last - self._last_written.get(sandbox.record.id, 0.0) < _ACTIVITY_WRITE_SECONDS:
                continue
            self._last_written[sandbox.record.id] = last
            async with sandbox.lock:
                if sandbox.record.id in self._by_id:
                    await self._database.update(sandbox.record)

    async def stop_all(self) -> None:
        """Stop everything because the engine ends; from now on none is created or started.

        What cannot be stopped is logged; the launcher's end takes it along.
        """
        self._closing = True
        # Whoever is making a sandbox right now has put it into the list when it lets go of the lock.
        async with self._name_lock:
            sandboxes = list(self)
        # Stopped ones, too: they may just be starting.
        results = await asyncio.gather(*map(self.stop, sandboxes), return_exceptions=True)
        for sandbox, result in zip(sandboxes, results, strict=True):
            # One that has been deleted meanwhile is no failure.
            if isinstance(result, BaseException) and sandbox.record.id in self._by_id:
                log.error("sandbox %s was not stopped: %s", sandbox.record.id, result)
        await self._background.finished()
        await self.system.close()

    def _check_exists(self, sandbox: Sandbox) -> None:
        if self._by_id.get(sandbox.record.id) is not sandbox:
            raise ApiError(404, f"Sandbox with ID or name {sandbox.record.id} not found")

    def _ended(self, sandbox: Sandbox, process: SandboxProcess) -> None:
        self._background.run(self._died(sandbox, process))

    async def _died(self, sandbox: Sandbox, process: SandboxProcess) -> None:
        async with sandbox.lock:
            # After a kill of ours the process is another one, or none.
            if sandbox.process is not process:
                return
            log.warning("sandbox %s ended by itself", sandbox.record.id)
            await self._runner.kill(sandbox)
            # Its creation or its deletion was given up because it did not end then.
            unwanted = sandbox.record.state in ("creating", "destroying")
            if not unwanted:
                await self._rows.set_stopped(sandbox)
        if unwanted or sandbox.record.auto_delete_interval == 0:
            await self.delete(sandbox)
