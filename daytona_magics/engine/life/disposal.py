"""Removing what deleted sandboxes leave behind: their files, their logs, and last their rows.

The folder is renamed into ``trash`` first, so that no answer waits for a large tree. The row, and with it the
uid, goes when the files are gone: no sandbox ever gets a uid that owns another's files.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from daytona_magics.engine.launch.launcher import Launcher, LaunchError
from daytona_magics.engine.life.background import Background
from daytona_magics.engine.life.starting import folder_of
from daytona_magics.engine.log import log
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.records import SandboxRecord


class Disposal:
    """The trash of a state folder.

    Args:
        folder: the state folder.
        background: where removing goes on.

    Attributes:
        trash: what is being removed.
        archives: packed files of archived sandboxes.
        uids: host uids whose files are not gone yet.
    """

    def __init__(self, folder: Path, database: Database, launcher: Launcher, background: Background) -> None:
        self.trash = folder / "trash"
        self.archives = folder / "archives"
        self.uids: set[int] = set()
        self._stderr = folder / "stderr"
        self._database = database
        self._launcher = launcher
        self._background = background

    def forget(self, record: SandboxRecord) -> None:
        """Remove the files and then the row of a sandbox nobody knows any more, in the background."""
        if record.uid is not None:
            self.uids.add(record.uid)
        folder, trash = folder_of(record), self.trash / record.id
        if folder.exists():
            folder.rename(trash)
        self._background.run(self._remove(record, trash))

    def archive_of(self, record: SandboxRecord) -> Path:
        """Where the packed files of a sandbox are when it is archived."""
        return self.archives / f"{record.id}.tar.gz"

    def discard(self, folder: Path) -> None:
        """Remove a folder in the background, and no row."""
        trash = self.trash / f"{folder.name}.{secrets.token_hex(4)}"
        folder.rename(trash)
        self._background.run(self._empty(trash))

    def sweep(self, homes: Path, known: set[str]) -> None:
        """Remove what an engine that was killed left half made or half removed.

        Args:
            known: ids of the sandboxes that have rows; `forget` removes what is left of those.
        """
        for part in homes.glob(".*.part"):
            self.discard(part)
        for part in self.archives.glob("*.part"):
            part.unlink()
        for trash in self.trash.iterdir():
            if trash.name not in known:
                self._background.run(self._empty(trash))

    async def _empty(self, trash: Path) -> None:
        try:
            await asyncio.to_thread(self._launcher.remove_home, trash)
        except (OSError, LaunchError) as error:
            log.error("%s could not be removed: %s", trash, error)

    async def _remove(self, record: SandboxRecord, trash: Path) -> None:
        try:
            await asyncio.to_thread(self._launcher.remove_home, trash)
            await asyncio.to_thread(self.archive_of(record).unlink, missing_ok=True)
        except (OSError, LaunchError) as error:
            # The row stays, so the uid is not reused and the next start tries again.
            log.error("the files of sandbox %s could not be removed: %s", record.id, error)
            return
        (self._stderr / f"{record.id}.err").unlink(missing_ok=True)
        await self._database.remove(record.id)
        if record.uid is not None:
            self.uids.discard(record.uid)
