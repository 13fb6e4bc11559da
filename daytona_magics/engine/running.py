"""The processes of sandboxes as the life cycle sees them: begun, ended, found dead.

Whoever calls holds the sandbox's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import LaunchError, SandboxProcess
from daytona_magics.engine.log import log
from daytona_magics.engine.rows import Rows
from daytona_magics.engine.sandbox import ISOLATION_LABEL, Sandbox
from daytona_magics.engine.starting import Starter


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

    async def spawn(self, sandbox: Sandbox) -> None:
        """Start the process of a sandbox and say so; when this fails, nothing of it is left running."""
        # One that could not be ended earlier; there are never two in the same home.
        await self.kill(sandbox)
        record = sandbox.record
        sandbox.process = await self._starter.spawn(record)
        sandbox.process.add_exit_callback(lambda process: self._on_exit(sandbox, process))
        sandbox.touch()
        # The engine may run at another level than when the sandbox was created.
        record.labels = {**record.labels, ISOLATION_LABEL: self._starter.launcher.level}
        try:
            await self._rows.set_state(sandbox, "started", desired="started")
        except BaseException:
            await self.kill(sandbox)
            raise

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
            self._starter.ended(sandbox.record.id)
        for pty in list(sandbox.ptys.values()):
            await pty.close()
