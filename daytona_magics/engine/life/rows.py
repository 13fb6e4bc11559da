"""What is remembered of sandboxes, and who is told when it changes.

A change is on disk before anybody hears of it. Whoever calls holds the sandbox's lock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.log import log
from daytona_magics.engine.store.database import Database, StoreError
from daytona_magics.engine.store.records import SandboxRecord

Event = Callable[[str, SandboxRecord, str], Awaitable[None]]
"""``(event name, record after the change, state before it)``"""


# How long a sandbox has been stopped does not start over when it is archived.
_STOPPED = frozenset({"stopped", "archiving", "archived"})
_DESIRED = frozenset({"started", "stopped", "paused", "archived", "destroyed"})


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

    async def set_state(
        self, sandbox: Sandbox, state: str, *, desired: str = "", reason: str = "", recoverable: bool = False
    ) -> None:
        """Remember another state and tell it.

        Args:
            reason: what went wrong, a sentence; ``recoverable``: whether `recover` can help.

        Raises:
            sqlite3.Error: it cannot be written; nothing has changed then.
        """
        old = sandbox.record.state
        changed = _changed(sandbox.record, state, desired, reason, recoverable)
        await self.database.update(changed)
        sandbox.record = changed
        log.info("sandbox %s: %s -> %s", changed.id, old, state)
        await self.tell("sandbox.state.updated", changed, old)

    async def settle(
        self, sandbox: Sandbox, state: str, *, reason: str = "", recoverable: bool = False
    ) -> None:
        """Remember a state that is so, even if it cannot be written (a restart comes to the same)."""
        try:
            await self.set_state(sandbox, state, desired=state, reason=reason, recoverable=recoverable)
        except (sqlite3.Error, StoreError) as error:
            log.error("sandbox %s is %s, which cannot be written: %s", sandbox.record.id, state, error)
            sandbox.record = _changed(sandbox.record, state, state, reason, recoverable)

    async def tell(self, event: str, record: SandboxRecord, old: str) -> None:
        """Tell the listener; what is on disk has happened, heard or not."""
        if self.on_event is not None:
            try:
                await self.on_event(event, record, old)
            except Exception as error:  # noqa: BLE001  a deaf listener changes nothing
                log.error("%s of sandbox %s could not be told", event, record.id, exc_info=error)


def _changed(
    record: SandboxRecord, state: str, desired: str, reason: str, recoverable: bool
) -> SandboxRecord:
    now = time.time()
    changed = replace(record, state=state, updated_at=now, error_reason=reason or None)
    changed.recoverable = recoverable
    if desired in _DESIRED:
        changed.desired_state = desired
    if state not in _STOPPED:
        changed.stopped_at = None
    elif record.state not in _STOPPED or record.stopped_at is None:
        changed.stopped_at = now
    return changed
