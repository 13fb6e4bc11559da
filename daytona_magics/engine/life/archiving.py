"""Archived sandboxes: files packed into one, and back.

The state says what is the truth on disk at every moment, so that a crash loses nothing: while ``archiving``
the folder is, and an archive is only half of one; when ``archived`` the archive is; while ``restoring`` it is
the archive until the whole folder has appeared under its name.
"""

from __future__ import annotations

import asyncio
import errno

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.background import Background, Works
from daytona_magics.engine.life.copies.pack import Damaged, TooDeep, pack, sync, unpack
from daytona_magics.engine.life.copies.walk import Aborted
from daytona_magics.engine.life.disposal import Disposal
from daytona_magics.engine.life.rows import Rows
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.life.starting import folder_of
from daytona_magics.engine.life.states import check_state
from daytona_magics.engine.log import log

#: Seconds a request waits for an archive; then it is answered with the state on the way.
PATIENCE = 5.0
FULL = "the disk of this machine is full; free some space"


class Archives:
    """Packs and unpacks the files of sandboxes."""

    def __init__(self, rows: Rows, disposal: Disposal, background: Background, works: Works) -> None:
        self._rows = rows
        self._disposal = disposal
        self._background = background
        self._works = works

    async def archive(self, sandbox: Sandbox, patience: float = PATIENCE) -> None:
        """Pack a stopped sandbox's files and free their space; goes on when ``patience`` (seconds) is over.

        Raises:
            ApiError: 400 and 409 for other states, 507 when the disk is full.
        """
        async with sandbox.lock:
            if sandbox.record.state == "archived":
                return
            check_state(sandbox.record, "stopped", "archive")
            await self._rows.set_state(sandbox, "archiving", desired="archived")
        await self._background.patient(self._pack(sandbox), patience)

    async def _pack(self, sandbox: Sandbox) -> None:
        record = sandbox.record
        archive = self._disposal.archive_of(record)
        try:
            with self._works.begin(record.id) as proceed:
                await asyncio.to_thread(pack, folder_of(record), record.uid, archive, proceed)
        except (OSError, TooDeep, Damaged, Aborted) as error:
            refusal = _refusal("archived", error)
            async with sandbox.lock:
                await self._rows.settle(sandbox, "stopped", reason=refusal.message)
            raise refusal from error
        async with sandbox.lock:
            try:
                await self._rows.set_state(sandbox, "archived", desired="archived")
            except BaseException:
                archive.unlink(missing_ok=True)
                await self._rows.settle(sandbox, "stopped")
                raise
        self._disposal.discard(folder_of(record))

    async def unpack(self, sandbox: Sandbox) -> None:
        """Bring the files of a sandbox that is ``restoring`` back; the archive is still there.

        Raises:
            ApiError: the sandbox is in the state ``error`` then, or archived again when it was given up.
        """
        record = sandbox.record
        folder = folder_of(record)
        part = folder.with_name(f".{folder.name}.part")
        try:
            with self._works.begin(record.id) as proceed:
                await asyncio.to_thread(
                    unpack, self._disposal.archive_of(record), folder, record.uid, proceed
                )
        except (OSError, Damaged, Aborted) as error:
            if part.exists():
                self._disposal.discard(part)
            refusal = _refusal("restored", error)
            async with sandbox.lock:
                if isinstance(error, Aborted):
                    await self._rows.settle(sandbox, "archived")
                else:
                    helps = not isinstance(error, Damaged | FileNotFoundError)
                    await self._rows.settle(sandbox, "error", reason=refusal.message, recoverable=helps)
            raise refusal from error

    def unpacked(self, sandbox: Sandbox) -> None:
        """The row says that the files are in their folder: the archive is not needed any more."""
        self._disposal.archive_of(sandbox.record).unlink(missing_ok=True)
        sync(self._disposal.archives)


def _refusal(what: str, error: Exception) -> ApiError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ApiError(507, f"the sandbox could not be {what}: {FULL}", "DISK_FULL")
    if isinstance(error, Aborted):
        return ApiError(409, f"the sandbox was not {what}: {error}")
    log.error("a sandbox could not be %s", what, exc_info=error)
    return ApiError(500, f"the sandbox could not be {what}: {error}")
