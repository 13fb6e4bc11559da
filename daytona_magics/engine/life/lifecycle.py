"""The life of sandboxes: created, started, stopped, paused, archived, forked, deleted.

Each sandbox has a lock; a change takes it, writes the database, and only then tells the caller and the event
listeners (`rows`). What takes as long as the files are large goes on without the lock; the state then keeps
others out (`states`). What survives a crash is decided at start (`registry`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import Launcher, SandboxProcess
from daytona_magics.engine.launch.system import SystemLayers
from daytona_magics.engine.life import forking
from daytona_magics.engine.life.archiving import PATIENCE, Archives
from daytona_magics.engine.life.background import Background, Works
from daytona_magics.engine.life.disposal import Disposal
from daytona_magics.engine.life.metrics import Metrics
from daytona_magics.engine.life.registry import MEMORY_LOST, Registry
from daytona_magics.engine.life.rows import Event, Rows
from daytona_magics.engine.life.running import Runner
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.life.spares import Spares
from daytona_magics.engine.life.starting import Starter
from daytona_magics.engine.life.states import LONG, RESTING, check_settled, check_state
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.log import log
from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.settings import HostNetwork
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.store.uids import UidBlock

_ACTIVITY_WRITE_SECONDS = 30.0


class Sandboxes:
    """All sandboxes of the engine.

    Args:
        database: opened.
        launcher: started, or one whose start failed.
        folder: state folder.
        egress: their ways out.

    Attributes:
        spares: what keeps one ready.
        unavailable: why none can be started, "" while they can.
    """

    def __init__(
        self, database: Database, launcher: Launcher, folder: Path, egress: Egress | None = None
    ) -> None:
        self._database = database
        self._launcher = launcher
        self._starter = Starter(launcher, egress or Egress(HostNetwork()), folder)
        self._rows = Rows(database)
        self._runner = Runner(self._starter, self._rows, self._ended)
        self._background, self._works = Background(), Works()
        self._disposal = Disposal(folder, database, launcher, self._background)
        self._registry = Registry(database, launcher, folder, self._disposal)
        self.spares = Spares(self._registry, self._starter)
        self.egress.peers = self._registry.links.reach
        self._archives = Archives(self._rows, self._disposal, self._background, self._works)
        self._forks = forking.Forks(self._rows, self._works)
        self.metrics = Metrics(self.limiter)
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
        return self._registry.uid_block

    @property
    def awake(self) -> int:
        """How many sandboxes the engine has to stay for: those with processes, or with a change going on."""
        return sum(s.process is not None or s.record.state not in RESTING for s in self)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(self._registry)

    async def load(self) -> None:
        """Read the database and put every row into a state that can be true after a restart."""
        await self._registry.load()
        self.system.begin()

    def get(self, id_or_name: str) -> Sandbox:
        """The sandbox of that id, else of that name.

        Raises:
            ApiError: 404.
        """
        return self._registry.get(id_or_name)

    async def create(self, template: SandboxRecord, key: str = "") -> Sandbox:
        """Make and start a sandbox; ``template`` has everything but id, home and uid.

        Args:
            key: the spare sandbox that would do, too (`spares`).

        Raises:
            ApiError: 409 when the name is taken, 503 when no sandbox can be started here.
        """
        async with self._registry.lock:
            self._check_open()
            self._starter.policy(template)
            if (spare := self.spares.take(template, key)) is None:
                sandbox = await self._registry.reserve(template)
            else:
                try:
                    sandbox = await self._registry.adopt(spare.record, template)
                except BaseException:
                    await self.spares.give_back(spare)
                    raise
        async with sandbox.lock:
            if spare is not None:
                await self._begin(sandbox, spare.process)
                return sandbox
            try:
                await asyncio.to_thread(self._starter.prepare_home, sandbox.record)
            except BaseException:
                self._registry.forget(sandbox)
                raise
            await self._begin(sandbox)
        return sandbox

    async def _begin(self, sandbox: Sandbox, process: SandboxProcess | None = None) -> None:
        """Start a sandbox whose files are there for the first time, unless its ``process`` is there, too."""
        try:
            await self._rows.tell("sandbox.created", sandbox.record, sandbox.record.state)
            if process is None:
                await self._runner.spawn(sandbox)
            else:
                await self._runner.adopt(sandbox, process)
        except BaseException:
            # One that cannot be ended keeps its row and its files until it has ended.
            if sandbox.process is None:
                self._registry.forget(sandbox)
            raise

    def _check_open(self) -> None:
        if self._closing:
            raise ApiError(503, "the embedded engine is ending; it starts no more sandboxes")
        if self.unavailable:
            raise ApiError(503, self.unavailable)

    async def start(self, sandbox: Sandbox) -> None:
        """Start a stopped sandbox, let a paused one go on, bring an archived one back; a started one runs."""
        async with sandbox.lock:
            self._registry.check(sandbox)
            state = sandbox.record.state
            if state == "started":
                return
            check_settled(sandbox.record)
            self._check_open()
            if state == "paused":
                await self._runner.resume(sandbox)
                return
            if state == "error":
                raise ApiError(400, f"Sandbox is in error state: {sandbox.record.error_reason}")
            if state != "archived":
                await self._start(sandbox)
                return
            await self._rows.set_state(sandbox, "restoring", desired="started")
        await self._background.patient(self._bring_back(sandbox, start=True), PATIENCE)

    async def _start(self, sandbox: Sandbox) -> None:
        await self._rows.set_state(sandbox, "starting", desired="started")
        try:
            await self._runner.spawn(sandbox)
        except BaseException:
            if sandbox.process is None:
                await self._rows.settle(sandbox, "stopped")
            raise

    async def _bring_back(self, sandbox: Sandbox, *, start: bool) -> None:
        await self._archives.unpack(sandbox)
        async with sandbox.lock:
            await self._rows.set_state(sandbox, "stopped", desired="started" if start else "stopped")
            self._archives.unpacked(sandbox)
            if start:
                self._check_open()
                await self._start(sandbox)

    async def recover(self, sandbox: Sandbox, *, start: bool = True) -> None:
        """Try again what brought a sandbox into the state ``error``.

        Raises:
            ApiError: 400 when it is in another state, or nothing can help.
        """
        async with sandbox.lock:
            self._registry.check(sandbox)
            check_settled(sandbox.record)
            if sandbox.record.state != "error":
                raise ApiError(
                    400, f"Sandbox must be in error state to recover (state: {sandbox.record.state})"
                )
            if not sandbox.record.recoverable:
                raise ApiError(400, f"Sandbox is not recoverable: {sandbox.record.error_reason}")
            self._check_open()
            await self._rows.set_state(sandbox, "restoring", desired="started")
        await self._background.patient(self._bring_back(sandbox, start=start), PATIENCE)

    async def stop(self, sandbox: Sandbox, *, force: bool = False) -> None:
        """End every process of a sandbox and keep its files; an ephemeral one is deleted.

        Args:
            force: SIGKILL at once; else programs are asked to end and have a second for it.
        """
        async with sandbox.lock:
            self._registry.check(sandbox)
            if sandbox.record.state == "stopped":
                return
            check_settled(sandbox.record)
            if sandbox.record.state in RESTING:
                raise ApiError(400, f"Sandbox is not started (state: {sandbox.record.state})")
            paused = sandbox.record.state == "paused"
            await self._rows.set_state(sandbox, "stopping", desired="stopped")
            await (self._runner.kill(sandbox) if force else self._runner.end(sandbox))
            await self._rows.settle(
                sandbox, "stopped", reason=MEMORY_LOST if paused and self._closing else ""
            )
        if sandbox.record.auto_delete_interval == 0:
            await self.delete(sandbox)

    async def pause(self, sandbox: Sandbox) -> None:
        """Stop all processes of a started sandbox where they stand; memory is kept.

        Raises:
            ApiError: 400 and 409 for other states.
        """
        async with sandbox.lock:
            self._registry.check(sandbox)
            if sandbox.record.state == "paused":
                return
            check_state(sandbox.record, "started", "pause")
            await self._runner.pause(sandbox)

    async def archive(self, sandbox: Sandbox, patience: float = PATIENCE) -> None:
        """Pack a stopped sandbox's files (`Archives.archive`)."""
        self._registry.check(sandbox)
        await self._archives.archive(sandbox, patience)

    async def fork(self, parent: Sandbox, name: str) -> Sandbox:
        """Start another sandbox with a copy of the files of a started one (`Forks.copy`)."""

        async def reserve() -> Sandbox:
            async with self._registry.lock:
                self._registry.check(parent)
                self._check_open()
                child = await self._registry.reserve(forking.Forks.template(parent.record, name))
                # Nobody else touches it before it is whole.
                await child.lock.acquire()
                return child

        def forget(child: Sandbox) -> None:
            self._registry.forget(child)
            child.lock.release()

        child = await self._forks.copy(parent, reserve, forget)
        try:
            await self._begin(child)
        finally:
            child.lock.release()
        return child

    def forks(self, sandbox: Sandbox) -> list[Sandbox]:
        """The forks of a sandbox, oldest first."""
        return forking.children(sandbox.record, self)

    def ancestors(self, sandbox: Sandbox) -> list[Sandbox]:
        """What a sandbox was forked from: its parent first, the origin last."""
        known = {other.record.id: other for other in self}
        found: list[Sandbox] = []
        at: Sandbox | None = sandbox
        while at is not None and (at := known.get(at.record.parent_id or "")) is not None:
            found.append(at)
        return found

    async def delete(self, sandbox: Sandbox) -> None:
        """End a sandbox and remove its files for good, and those linked to it.

        Raises:
            ApiError: 409 when it has forks, or one is being made.
        """
        while True:
            async with sandbox.lock:
                if sandbox not in self._registry:
                    return
                if forks := self.forks(sandbox):
                    names = ", ".join(fork.record.name for fork in forks)
                    raise ApiError(
                        409, f"Sandbox has active fork children and cannot be deleted before them: {names}"
                    )
                if sandbox.record.state not in LONG:
                    old = await self._delete(sandbox)
                    break
            await self._interrupt(sandbox)
        await self._rows.tell("sandbox.state.updated", sandbox.record, old)
        for other in self:
            if other.record.options.get("linkedSandbox") == sandbox.record.id:
                await self.delete(other)

    async def _delete(self, sandbox: Sandbox) -> str:
        await self._rows.set_state(sandbox, "destroying", desired="destroyed")
        await self._runner.kill(sandbox)
        old = sandbox.record.state
        # The name is free again at once.
        gone = replace(sandbox.record, state="destroyed", name=f"destroyed {sandbox.record.id}")
        await self._database.update(gone)
        self._registry.drop(sandbox)
        self._last_written.pop(gone.id, None)
        sandbox.record.state = "destroyed"
        self._disposal.forget(gone)
        return old

    async def change(self, sandbox: Sandbox, change: Callable[[SandboxRecord], None]) -> None:
        """Apply a change of settings; it is on disk when this returns."""
        async with sandbox.lock:
            self._registry.check(sandbox)
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
                if sandbox in self._registry:
                    await self._database.update(sandbox.record)

    async def stop_all(self) -> None:
        """Stop everything because the engine ends; from now on none is created or started.

        What cannot be stopped is logged; the launcher's end takes it along.
        """
        self._closing = True
        # Whoever is making a sandbox right now has put it into the list when it lets go of the lock.
        async with self._registry.lock:
            sandboxes = list(self)
        # Stopped ones, too: they may just be starting.
        results = await asyncio.gather(*map(self._stop_for_good, sandboxes), return_exceptions=True)
        for sandbox, result in zip(sandboxes, results, strict=True):
            # One that has been deleted meanwhile is no failure.
            if isinstance(result, BaseException) and sandbox in self._registry:
                log.error("sandbox %s was not stopped: %s", sandbox.record.id, result)
        await self.spares.close()
        await self._background.finished()
        await self.system.close()

    async def _stop_for_good(self, sandbox: Sandbox) -> None:
        await self._interrupt(sandbox)
        async with sandbox.lock:
            # One that is being made holds it.
            resting = sandbox.record.state in RESTING
        if not resting:
            await self.stop(sandbox)

    async def _interrupt(self, sandbox: Sandbox) -> None:
        """Have a long change of a sandbox given up; returns when it is in another state."""
        while sandbox.record.state in LONG:
            await self._works.give_up(sandbox.record.id)
            # It may just be about to begin, or to say that it has ended.
            await asyncio.sleep(0.01)

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
                await self._rows.settle(sandbox, "stopped")
        if unwanted or sandbox.record.auto_delete_interval == 0:
            await self.delete(sandbox)
