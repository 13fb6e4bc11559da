"""Forks: another sandbox that begins with a copy of the files.

All of the parent stands still while its files are copied, so the copy is of one moment. Memory is not copied:
the processes of the fork begin anew. Who was forked from whom is remembered as long as the parent exists, and
it cannot be deleted before its forks.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.archiving import FULL
from daytona_magics.engine.life.background import Works
from daytona_magics.engine.life.copies.plant import clone
from daytona_magics.engine.life.copies.walk import Aborted
from daytona_magics.engine.life.freezing import FreezeError, freeze
from daytona_magics.engine.life.rows import Rows
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.life.starting import folder_of
from daytona_magics.engine.life.states import check_state
from daytona_magics.engine.log import log
from daytona_magics.engine.store.records import SandboxRecord


class Forks:
    """Copies the files of started sandboxes."""

    def __init__(self, rows: Rows, works: Works) -> None:
        self._rows = rows
        self._works = works

    @staticmethod
    def template(parent: SandboxRecord, name: str) -> SandboxRecord:
        """What a fork inherits: everything but its identity and its links."""
        now = time.time()
        options = {key: value for key, value in parent.options.items() if key != "linkedSandbox"}
        return replace(
            parent,
            id="",
            name=name,
            state="creating",
            desired_state="started",
            parent_id=parent.id,
            env=dict(parent.env),
            options=options,
            created_at=now,
            updated_at=now,
            last_activity_at=now,
            signing_key=None,
        )

    async def copy(
        self, parent: Sandbox, reserve: Callable[[], Awaitable[Sandbox]], forget: Callable[[Sandbox], None]
    ) -> Sandbox:
        """Make a sandbox with a copy of the parent's files; it is not started.

        Args:
            reserve: makes its row.
            forget: takes it back when it cannot be copied.

        Raises:
            ApiError: 400 when the parent is not started, 409 while it changes, 507 when the disk is full.
        """
        async with parent.lock:
            check_state(parent.record, "started", "fork")
            child = await reserve()
            try:
                await self._rows.set_state(parent, "forking", desired="started")
            except BaseException:
                forget(child)
                raise
        try:
            await self._copy(parent, child)
        except BaseException as error:
            forget(child)
            if isinstance(error, OSError | FreezeError | Aborted):
                raise _refusal(error) from error
            raise
        finally:
            async with parent.lock:
                # It may have ended meanwhile.
                if parent.record.state == "forking":
                    await self._rows.settle(parent, "started")
        return child

    async def _copy(self, parent: Sandbox, child: Sandbox) -> None:
        process = parent.started
        source, target = folder_of(parent.record), folder_of(child.record)
        with self._works.begin(parent.record.id) as proceed:

            def go_on() -> None:
                proceed()
                if not process.alive:
                    raise Aborted("it ended")

            def copy() -> None:
                frozen = freeze(process.pid)
                try:
                    _make_folder(target, child.record.uid)
                    clone(source, target, (parent.record.uid, child.record.uid), go_on)
                finally:
                    frozen.thaw()

            await asyncio.to_thread(copy)
            go_on()


def _make_folder(folder: Path, uid: int | None) -> None:
    folder.mkdir()
    # The sandbox's uid passes through to its home.
    folder.chmod(0o711 if uid is not None else 0o700)


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ApiError(507, f"the sandbox could not be forked: {FULL}", "DISK_FULL")
    if isinstance(error, Aborted | FreezeError):
        return ApiError(409, f"the sandbox could not be forked: {error}")
    log.error("a sandbox could not be forked", exc_info=error)
    return ApiError(500, f"the sandbox could not be forked: {error}")


def children(of: SandboxRecord, among: Iterable[Sandbox]) -> list[Sandbox]:
    """The forks of a sandbox that exist, oldest first."""
    return [other for other in among if other.record.parent_id == of.id]
