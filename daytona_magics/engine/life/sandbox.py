"""One sandbox as the engine holds it: what is remembered of it, its process, its terminals, its activity."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import SandboxProcess
from daytona_magics.engine.life.states import USABLE
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.toolbox.client import Toolbox

if TYPE_CHECKING:
    from daytona_magics.engine.api.pty_session import PtySession

ISOLATION_LABEL = "daytona-magics/isolation"


class Sandbox:
    """One sandbox: its record, its process while it is started, its terminals."""

    def __init__(self, record: SandboxRecord) -> None:
        self.record = record
        self.process: SandboxProcess | None = None
        self.ptys: dict[str, PtySession] = {}
        self.lock = asyncio.Lock()
        self.active_at = time.monotonic()
        self.in_use = 0

    @property
    def toolbox(self) -> Toolbox:
        """The toolbox of a started sandbox.

        Raises:
            ApiError: 400 when it is not started.
        """
        return self.started.toolbox

    @property
    def started(self) -> SandboxProcess:
        """The process of a started sandbox.

        Raises:
            ApiError: 400 when it is not started.
        """
        if self.process is None or self.record.state not in USABLE:
            raise ApiError(400, f"Sandbox {self.record.name} is not started (state: {self.record.state})")
        return self.process

    def touch(self) -> None:
        """Something was done with the sandbox: its auto-stop starts over."""
        self.active_at = time.monotonic()
        self.record.last_activity_at = time.time()

    @contextmanager
    def used(self) -> Iterator[None]:
        """While inside, the sandbox counts as active."""
        self.in_use += 1
        self.touch()
        try:
            yield
        finally:
            self.in_use -= 1
            self.touch()
