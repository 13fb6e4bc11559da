"""What happens by itself: auto-stop, -pause, -archive and -delete, time to live, and the engine's own end.

Inactivity is measured with the monotonic clock, which stands still while the machine sleeps; how long a
sandbox has been stopped and when its time is up are matters of the calendar, and are made up for at the next
start.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.activity import Activity
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.log import log

TICK_SECONDS = 2.0
RETRY_SECONDS = 600.0


def due(sandbox: Sandbox, monotonic: float, wall: float) -> str:
    """What is due for a sandbox: ``"stop"``, ``"pause"``, ``"archive"``, ``"delete"`` or ``""``.

    Args:
        monotonic: now, in ``time.monotonic`` seconds.
        wall: now, in seconds since 1970.
    """
    record = sandbox.record
    if record.destroy_at is not None and wall >= record.destroy_at:
        return "delete"
    if record.state == "started" and not sandbox.in_use:
        idle = monotonic - sandbox.active_at
        for what, minutes in (("stop", record.auto_stop_interval), ("pause", record.auto_pause_interval)):
            if minutes > 0 and idle >= minutes * 60:
                return what
    if record.state in ("stopped", "archived") and record.stopped_at is not None:
        rested = wall - record.stopped_at
        if 0 <= record.auto_delete_interval * 60 <= rested:
            return "delete"
        if record.state == "stopped" and 0 < record.auto_archive_interval * 60 <= rested:
            return "archive"
    return ""


class Janitor:
    """Looks after the sandboxes every few seconds.

    Args:
        monotonic, wall: the clocks.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        activity: Activity,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sandboxes = sandboxes
        self._activity = activity
        self._monotonic = monotonic
        self._wall = wall
        self._next_try: dict[str, float] = {}

    async def sweep(self) -> None:
        """Do once what is due; what fails is tried again after some minutes."""
        self._next_try = {id: at for id, at in self._next_try.items() if at > self._monotonic()}
        for sandbox in self._sandboxes:
            what = due(sandbox, self._monotonic(), self._wall())
            if not what or sandbox.record.id in self._next_try:
                continue
            log.info("sandbox %s: automatic %s", sandbox.record.id, what)
            try:
                await self._do(sandbox, what)
            except (ApiError, sqlite3.Error, OSError) as error:
                log.warning("sandbox %s: automatic %s failed: %s", sandbox.record.id, what, error)
                self._next_try[sandbox.record.id] = self._monotonic() + RETRY_SECONDS
        self._sandboxes.metrics.tick(self._sandboxes)
        try:
            await self._sandboxes.write_activity()
        except sqlite3.Error as error:
            # A full disk must not end the engine, and with it everybody's variables.
            log.error("the last activity of sandboxes cannot be written: %s", error)

    async def _do(self, sandbox: Sandbox, what: str) -> None:
        if what == "stop":
            await self._sandboxes.stop(sandbox)
        elif what == "pause":
            await self._sandboxes.pause(sandbox)
        elif what == "archive":
            # Large ones must not keep the others waiting.
            await self._sandboxes.archive(sandbox, patience=0.0)
        else:
            await self._sandboxes.delete(sandbox)

    async def run(self) -> None:
        """Sweep until cancelled; ask the engine to end when nobody uses it."""
        while True:
            await self.sweep()
            if self._activity.is_over(self._sandboxes.awake):
                log.info("nobody used the engine for %.0f s; it ends", self._activity.idle_seconds)
                self._activity.stop.set()
            await asyncio.sleep(min(TICK_SECONDS, max(self._activity.idle_seconds / 4, 0.05)))
