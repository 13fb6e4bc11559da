"""Starting a sandbox's process with all that belongs to it: its files, its way out, its system, its limits.

`Starter` knows nothing of states and rows; it turns what is remembered of a sandbox into a running process,
and takes away again what was made for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.folders import make_system
from daytona_magics.engine.launch.launcher import Launcher, LaunchError, SandboxProcess, SandboxSpec
from daytona_magics.engine.launch.system import SystemLayers
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.proxy.egress import Egress
from daytona_magics.engine.proxy.policy import BadList, Policy
from daytona_magics.engine.proxy.settings import Access
from daytona_magics.engine.store.records import SandboxRecord


class Starter:
    """Starts the processes of sandboxes.

    Args:
        launcher: makes them.
        egress: their ways out.
        folder: state folder.

    Attributes:
        limiter: what bounds the sandboxes.
        system: what makes their /usr, /etc and /var writable.
    """

    def __init__(self, launcher: Launcher, egress: Egress, folder: Path) -> None:
        self.launcher = launcher
        self.egress = egress
        self.limiter = Limiter(folder)
        self.system = SystemLayers(launcher, folder)

    def prepare_home(self, record: SandboxRecord) -> None:
        """Make the folder of a new sandbox and its home in it; to be called in a thread.

        Raises:
            ApiError: 503.
        """
        try:
            folder = folder_of(record)
            folder.mkdir(exist_ok=True)
            # The sandbox's uid passes through to its home.
            folder.chmod(0o711 if record.uid is not None else 0o700)
            self.launcher.prepare_home(Path(record.home), record.uid)
        except OSError as error:
            raise ApiError(503, f"the sandbox's folder could not be made: {error}") from error
        except LaunchError as error:
            raise ApiError(503, f"the sandbox could not be created: {error}") from error

    def policy(self, record: SandboxRecord) -> Policy:
        """What a sandbox may reach.

        Raises:
            ApiError: 400 for settings that are wrong, or that cannot be enforced here.
        """
        try:
            policy = Policy.of(record.options)
        except BadList as error:
            raise ApiError(400, str(error)) from error
        if self.launcher.level == "L0" and (policy.block_all or policy.has_lists):
            raise ApiError(400, "at isolation level L0 nothing can limit what a sandbox reaches")
        return policy

    async def spawn(self, record: SandboxRecord) -> SandboxProcess:
        """Start the process of a sandbox; when this fails, nothing of it is left running.

        Raises:
            ApiError: 400, 503 with the reason.
        """
        layers = await self._prepare_system(record)
        access = self._admit(record)
        spec = SandboxSpec(
            id=record.id,
            home=Path(record.home),
            uid=record.uid,
            hostname=record.id,
            env={**access.environment, **record.env, "DAYTONA_SANDBOX_ID": record.id},
            proxy_port=access.port,
            limits=self.limiter.limits(record, self.launcher.level),
            system=folder_of(record) / "system",
            layers=layers,
        )
        if record.uid is None and os.geteuid() == 0 and self.launcher.level != "L0":
            raise ApiError(
                400, f"sandbox {record.name} was created without isolation and has no uid; delete it"
            )
        enclosing: list[asyncio.Task[None]] = []

        def enclose(process: SandboxProcess) -> None:
            enclosing.append(asyncio.ensure_future(self.limiter.started(record, process)))

        process: SandboxProcess | None = None
        try:
            # Joining cgroups may take as long as all the rest. Until then the toolbox is asked for nothing,
            # and so nothing of the user runs.
            process = await self.launcher.spawn(spec, enclose)
            process.toolbox.hold(asyncio.gather(*enclosing))
            self.egress.open(record.id, process.proxy)
        except BaseException as error:
            if process is not None:
                with contextlib.suppress(LaunchError):
                    await process.kill()
            await asyncio.gather(*enclosing, return_exceptions=True)
            self.ended(record.id)
            if isinstance(error, LaunchError):
                raise ApiError(503, f"the sandbox could not be started: {error}") from error
            raise
        return process

    def ended(self, id: str) -> None:
        """Take away what was made for a process that has ended."""
        self.egress.shut(id)
        self.limiter.ended(id)

    async def _prepare_system(self, record: SandboxRecord) -> Path | None:
        """What the sandbox's system is written over; None when it is read-only."""
        layers = await self.system.current()
        if layers is not None:
            try:
                await asyncio.to_thread(make_system, folder_of(record) / "system", record.uid)
            except OSError as error:
                raise ApiError(503, f"the sandbox's system folder could not be made: {error}") from error
        return layers

    def _admit(self, record: SandboxRecord) -> Access:
        """Make the sandbox's way out."""
        policy, level = self.policy(record), self.launcher.level
        if level == "L0":
            return Access({}, None)
        return self.egress.admit(
            record.id,
            policy,
            own_network=level in ("L3", "L2"),
            outbound=record.options.get("outboundProxyUrl") or "",
        )


def folder_of(record: SandboxRecord) -> Path:
    """Everything on disk that belongs to one sandbox."""
    return Path(record.home).parent
