"""The processes of sandboxes as the life cycle sees them: begun, ended, stopped where they stand, found dead.

Whoever calls holds the sandbox's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import LaunchError, SandboxProcess
from daytona_magics.engine.life.freezing import FreezeError, Frozen, end_kindly, freeze
from daytona_magics.engine.life.rows import Rows
from daytona_magics.engine.life.sandbox import ISOLATION_LABEL, Sandbox
from daytona_magics.engine.life.starting import Starter
from daytona_magics.engine.log import log

#: Seconds that programs have to end by themselves when their sandbox is stopped.
KIND_SECONDS = 1.0


class Runner:
    """Starts and ends the processes of sandboxes.

    Args:
        on_exit: called on the loop with a sandbox and its process when that has ended, by itself or not.
    """

    def __init__(
        self, starter: Starter, rows: Rows, on_exit: Callable[[Sandbox, SandboxProcess], None]
    ) -> None:
        self._starter = starter
        self._rows = rows
        self._on_exit = on_exit
        self._frozen: dict[str, Frozen] = {}

    async def spawn(self, sandbox: Sandbox) -> None:
        """Start the process of a sandbox and say so; when this fails, nothing of it is left running."""
        # One that could not be ended earlier; there are never two in the same home.
        await self.kill(sandbox)
        await self._begin(sandbox, await self._starter.spawn(sandbox.record))

    async def adopt(self, sandbox: Sandbox, process: SandboxProcess) -> None:
        """Begin with a process that runs already under the sandbox's id; else like `spawn`."""
        self._starter.egress.apply(sandbox.record.id, self._starter.policy(sandbox.record))
        await self._begin(sandbox, process)

    async def _begin(self, sandbox: Sandbox, process: SandboxProcess) -> None:
        record = sandbox.record
        sandbox.process = process
        sandbox.process.add_exit_callback(lambda process: self._on_exit(sandbox, process))
        sandbox.touch()
        # The engine may run at another level than when the sandbox was created.
        record.labels = {**record.labels, ISOLATION_LABEL: self._starter.launcher.level}
        try:
            await self._rows.set_state(sandbox, "started", desired="started")
        except BaseException:
            await self.kill(sandbox)
            raise

    async def end(self, sandbox: Sandbox) -> None:
        """Let programs end by themselves (SIGTERM, one second), then kill what is left. Raises as `kill`."""
        if sandbox.process is not None and sandbox.record.id not in self._frozen:
            await asyncio.to_thread(end_kindly, sandbox.process.pid, KIND_SECONDS)
        await self.kill(sandbox)

    async def kill(self, sandbox: Sandbox) -> None:
        """End the processes of a sandbox, if there are any.

        Raises:
            ApiError: 500 when they do not end; ``sandbox.process`` stays, so that it can be tried again.
        """
        if sandbox.process is not None:
            try:
                await sandbox.process.kill()
            except LaunchError as error:
                log.error("%s", error)
                raise ApiError(500, f"the sandbox could not be ended: {error}") from error
            sandbox.process = None
            self._frozen.pop(sandbox.record.id, None)
            self._starter.ended(sandbox.record.id)
        for pty in list(sandbox.ptys.values()):
            await pty.close()

    async def pause(self, sandbox: Sandbox) -> None:
        """Stop all processes of a sandbox where they stand.

        Raises:
            ApiError: 409 when they cannot be stopped; they run on.
        """
        process = sandbox.started
        await self._rows.set_state(sandbox, "pausing", desired="paused")
        try:
            frozen = await asyncio.to_thread(freeze, process.pid)
        except FreezeError as error:
            await self._rows.settle(sandbox, "started")
            raise ApiError(409, f"the sandbox could not be paused: {error}") from error
        try:
            await self._rows.set_state(sandbox, "paused", desired="paused")
        except BaseException:
            await asyncio.to_thread(frozen.thaw)
            await self._rows.settle(sandbox, "started")
            raise
        self._frozen[sandbox.record.id] = frozen

    async def resume(self, sandbox: Sandbox) -> None:
        """Let a paused sandbox go on."""
        await self._rows.set_state(sandbox, "resuming", desired="started")
        await asyncio.to_thread(self._frozen.pop(sandbox.record.id).thaw)
        sandbox.touch()
        await self._rows.settle(sandbox, "started")
