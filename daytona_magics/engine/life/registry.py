"""Which sandboxes there are: found by id or name, given a row, an id, a name and a uid of their own.

What survives a crash is decided when the rows are read. One that was being created was never acknowledged
and is removed; one that was being deleted is deleted; one that ran is ``stopped`` with its files, and one
that was paused says why. A sandbox that was being archived is stopped, one that was being restored is
archived, unless its files are back already.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.disposal import Disposal
from daytona_magics.engine.life.links import Links
from daytona_magics.engine.life.sandbox import ISOLATION_LABEL, Sandbox
from daytona_magics.engine.life.starting import folder_of
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.store.uids import UidBlock, find_block

MEMORY_LOST = "it was paused when the embedded engine ended, so its memory is lost; its files are kept"
_FILES_LOST = "its files are gone from the state folder"
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Registry:
    """All sandboxes of the engine.

    Args:
        database: opened.
        folder: state folder; a sandbox has ``sandboxes/ID`` in it, and its home in ``home`` there.

    Attributes:
        lock: held while a name is taken.
        links: who reaches whom by name.
        uid_block: the host uids given to sandboxes; None when they share the engine's.
    """

    def __init__(self, database: Database, launcher: Launcher, folder: Path, disposal: Disposal) -> None:
        self._database = database
        self._launcher = launcher
        self._disposal = disposal
        self._homes = folder / "sandboxes"
        self._by_id: dict[str, Sandbox] = {}
        self._aside: dict[str, SandboxRecord] = {}
        self.lock = asyncio.Lock()
        self.links = Links(self)
        self.uid_block: UidBlock | None = None

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._by_id.values()))

    def __contains__(self, sandbox: object) -> bool:
        return isinstance(sandbox, Sandbox) and self._by_id.get(sandbox.record.id) is sandbox

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

    def check(self, sandbox: Sandbox) -> None:
        """Does it still exist?  Raises ApiError 404."""
        if sandbox not in self:
            raise ApiError(404, f"Sandbox with ID or name {sandbox.record.id} not found")

    def drop(self, sandbox: Sandbox) -> None:
        """It is gone for everybody."""
        if self._by_id.pop(sandbox.record.id, None) is not None:
            self.links.remember(sandbox.record)

    def forget(self, sandbox: Sandbox) -> None:
        """Take back a creation: files and row go."""
        self.drop(sandbox)
        self._disposal.forget(sandbox.record)

    async def reserve(self, template: SandboxRecord) -> Sandbox:
        """A row for a new sandbox; ``template`` has everything but id, home and uid. `lock` is held.

        Raises:
            ApiError: 409 when the name is taken, 503 when there are no uids left.
        """
        self.check_name(template.name)
        record = self._with_place(template)
        await self._write(self._database.insert, record)
        sandbox = self._by_id[record.id] = Sandbox(record)
        return sandbox

    async def set_aside(self, template: SandboxRecord) -> SandboxRecord:
        """A row for a sandbox that nobody is shown, with id, home and uid; raises as `reserve` does."""
        async with self.lock:
            record = self._with_place(template)
            self._aside[record.id] = record
            try:
                await self._write(self._database.insert, record)
            except BaseException:
                del self._aside[record.id]
                raise
            return record

    def forget_aside(self, record: SandboxRecord) -> None:
        """Remove the files and the row of one that was set aside."""
        self._aside.pop(record.id, None)
        self._disposal.forget(record)

    async def adopt(self, aside: SandboxRecord, template: SandboxRecord) -> Sandbox:
        """Have one that was set aside become what ``template`` asks for. `lock` is held.

        Raises:
            ApiError: 409 when the name is taken, also by one that is being removed.
        """
        labels = {**template.labels, ISOLATION_LABEL: self._launcher.level}
        record = replace(
            template,
            id=aside.id,
            name=template.name or aside.id,
            state="creating",
            home=aside.home,
            uid=aside.uid,
            labels=labels,
        )
        self.check_name(template.name)
        await self._write(self._database.update, record)
        del self._aside[aside.id]
        sandbox = self._by_id[record.id] = Sandbox(record)
        return sandbox

    def check_name(self, name: str) -> None:
        """Is it free?  Raises ApiError 409."""
        if any(name in (s.record.name, s.record.id) for s in self._by_id.values()):
            raise ApiError(409, f"Sandbox with name {name} already exists")

    def _with_place(self, template: SandboxRecord) -> SandboxRecord:
        """The template with an id, a home and a uid of its own. Raises ApiError 503."""
        sandbox_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(20))
        labels = {**template.labels, ISOLATION_LABEL: self._launcher.level}
        home = str(self._homes / sandbox_id / "home")
        name, uid = template.name or sandbox_id, self._pick_uid()
        return replace(
            template, id=sandbox_id, name=name, state="creating", home=home, uid=uid, labels=labels
        )

    @staticmethod
    async def _write(how: Callable[[SandboxRecord], Awaitable[None]], record: SandboxRecord) -> None:
        try:
            await how(record)
        except sqlite3.IntegrityError as error:
            raise ApiError(409, f"Sandbox with name {record.name} already exists") from error

    def _pick_uid(self) -> int | None:
        """A host uid nobody has; None when sandboxes run as the engine's user.

        Raises:
            ApiError: 503 when root has none to give: a sandbox never runs as root.
        """
        if os.geteuid() != 0 or self._launcher.level == "L0":
            return None
        if self.uid_block is None:
            raise ApiError(
                503, "this machine has no free block of user ids for sandboxes (see engine doctor)"
            )
        records = (*(s.record for s in self._by_id.values()), *self._aside.values())
        uid = self.uid_block.pick([*(record.uid for record in records), *self._disposal.uids])
        if uid is None:
            raise ApiError(503, f"all {self.uid_block.count} user ids are in use; delete some sandboxes")
        return uid

    async def load(self) -> None:
        """Read the database and put every row into a state that can be true after a restart."""
        for folder in (self._homes, self._disposal.trash, self._disposal.archives):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        if os.geteuid() == 0:
            # Sandbox uids pass through to their homes; they cannot list their neighbours.
            self._homes.chmod(0o711)
        block = await self._database.get_meta("uid_block")
        if block is not None:
            self.uid_block = UidBlock(*block)
        elif (found := find_block()) is not None:
            self.uid_block = found
            await self._database.set_meta("uid_block", [found.start, found.count])
        records = await self._database.sandboxes()
        self._disposal.sweep(self._homes, {record.id for record in records})
        for record in records:
            if record.state in ("creating", "destroying", "destroyed"):
                self._disposal.forget(record)
                continue
            await self._restore(record)
            self._by_id[record.id] = Sandbox(record)

    async def _restore(self, record: SandboxRecord) -> None:
        """Let a row say what is on disk."""
        folder, archive = folder_of(record), self._disposal.archive_of(record)
        there = await asyncio.to_thread(folder.exists)
        packed = await asyncio.to_thread(archive.exists)
        state, reason = "stopped", record.error_reason if record.state == "stopped" else None
        if record.state in ("archived", "restoring", "error") and packed and not there:
            state = "error" if record.state == "error" else "archived"
            reason = record.error_reason
        elif record.state == "archived" and packed:
            # The folder was about to be removed.
            state = "archived"
            self._disposal.discard(folder)
        elif not there:
            state, reason = "error", _FILES_LOST
            record.recoverable = False
        elif packed:
            archive.unlink()
        if record.state in ("paused", "pausing", "resuming") and state == "stopped":
            reason = MEMORY_LOST
        if (record.state, record.error_reason) != (state, reason):
            if record.stopped_at is None:
                record.stopped_at = time.time()
            record.state, record.error_reason = state, reason
            record.desired_state = "archived" if state == "archived" else "stopped"
            await self._database.update(record)
