"""What is remembered of sandboxes, and who is told when it changes.

A change is on disk before anybody hears of it. Whoever calls holds the sandbox's lock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from daytona_magics.engine.log import log
from daytona_magics.engine.sandbox import Sandbox
from daytona_magics.engine.store.database import Database, StoreError
from daytona_magics.engine.store.records import SandboxRecord

Event = Callable[[str, SandboxRecord, str], Awaitable[None]]
"""``(event name, record after the change, state before it)``"""


class Rows:
    """The rows of the sandboxes.

    Args:
        database: opened.

    Attributes:
        on_event: told of every creation and change of state.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.on_event: Event | None = None

    async def set_state(self, sandbox: Sandbox, state: str, *, desired: str = "") -> None:
        """Remember another state and tell it.

        Raises:
            sqlite3.Error: it cannot be written; nothing has changed then.
        """
        old, now = sandbox.record.state, time.time()
        changed = replace(sandbox.record, state=state, updated_at=now)
        changed.desired_state = desired or changed.desired_state
        changed.stopped_at = now if state == "stopped" else None
        await self.database.update(changed)
        sandbox.record = changed
        log.info("sandbox %s: %s -> %s", changed.id, old, state)
        await self.tell("sandbox.state.updated", changed, old)

    async def set_stopped(self, sandbox: Sandbox) -> None:
        """The processes are gone: that is so even if it cannot be written (a restart comes to the same)."""
        try:
            await self.set_state(sandbox, "stopped", desired="stopped")
        except (sqlite3.Error, StoreError) as error:
            log.error("sandbox %s has stopped, which cannot be written: %s", sandbox.record.id, error)
            sandbox.record = replace(
                sandbox.record, state="stopped", desired_state="stopped", stopped_at=time.time()
            )

    async def tell(self, event: str, record: SandboxRecord, old: str) -> None:
        """Tell the listener; what is on disk has happened, heard or not."""
        if self.on_event is not None:
            try:
                await self.on_event(event, record, old)
            except Exception as error:  # noqa: BLE001  a deaf listener changes nothing
                log.error("%s of sandbox %s could not be told", event, record.id, exc_info=error)
