"""A sandbox kept ready, so that the next one asked for in the same way is there at once.

A client that expects to ask for another sandbox says how it makes one ready for its use: a file, and a
command that is run with it. Some time later, when nobody waits, one is started as any other is, the file is
written and the command run in it. It is given to the first creation that names the same key and asks for
nothing that could not be had any more; then it gets the name, labels and settings that are asked for.

Until then nobody is shown it. In the database it is one that is being created: an engine that was killed
removes it, like others half made, at its next start.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.launcher import LaunchError, SandboxProcess
from daytona_magics.engine.life.registry import Registry
from daytona_magics.engine.life.starting import Starter
from daytona_magics.engine.log import log
from daytona_magics.engine.store.database import StoreError
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.toolbox.client import ToolboxError

#: Seconds until one is made: whoever asks for it is using another one just then.
AFTER = 0.5
#: Seconds its command may take.
COMMAND_SECONDS = 30.0


@dataclass(frozen=True)
class Recipe:
    """How a client makes a sandbox ready for its use.

    Attributes:
        key: stands for all the rest; who names it gets what the rest makes.
        path: where the file is written, from the home.
        data: the file.
        command: fed to the sandbox's shell; must end with 0.
    """

    key: str
    path: str
    data: bytes
    command: str


@dataclass(frozen=True)
class Spare:
    """A sandbox that is ready: its row so far, its process, the layer of its system, for whom it is."""

    record: SandboxRecord
    process: SandboxProcess
    layers: Path | None
    key: str


class Spares:
    """The one spare sandbox of the engine.

    Args:
        registry: has a row for it.
        starter: starts it.
    """

    def __init__(self, registry: Registry, starter: Starter) -> None:
        self._registry = registry
        self._starter = starter
        self._recipe: Recipe | None = None
        self._ready: Spare | None = None
        self._making: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._closed = os.environ.get("DAYTONA_MAGICS_SPARE") == "0"

    def want(self, key: str, recipe: Recipe | None = None) -> bool:
        """Have one made by this recipe, in place of one by another; False when none is known by the key."""
        if self._closed or self._starter.launcher.level == "L0":
            return True
        if recipe is not None:
            self._recipe = recipe
        if self._recipe is None or self._recipe.key != key:
            return False
        if not self.ready(key) and (self._making is None or self._making.done()):
            self._making = asyncio.ensure_future(self._make(self._recipe))
        return True

    def ready(self, key: str) -> bool:
        """Whether there is one for who names this key, and who asks for nothing special."""
        spare = self._ready
        return spare is not None and spare.key == key and self._is_usual(spare)

    def _is_usual(self, spare: Spare) -> bool:
        """Whether it still is what a creation without wishes gets: defaults and system layers may change."""
        usual = SandboxRecord("", "", "creating", "", cpu=0, memory=0, disk=0)
        try:
            self._starter.limiter.give(usual, None)
        except ApiError:
            # There is no room for another one.
            return True
        return spare.layers == self._starter.system.newest and _sizes(spare.record) == _sizes(usual)

    def take(self, template: SandboxRecord, key: str) -> Spare | None:
        """The spare, for somebody who names its key and asks for what it can become; it is theirs now."""
        spare = self._ready
        if spare is None or spare.key != key or not spare.process.alive:
            return None
        special = template.env or template.options.get("outboundProxyUrl")
        other = _sizes(template) != _sizes(spare.record) or spare.layers != self._starter.system.newest
        if special or other:
            return None
        self._ready = None
        return spare

    async def give_back(self, spare: Spare) -> None:
        """It was not taken after all."""
        if self._ready is None and spare.process.alive and not self._closed:
            self._ready = spare
        else:
            await self._end(spare.record, spare.process)

    async def let_go(self) -> bool:
        """End the one there is, as room is needed; False when there is none."""
        if self._ready is None:
            return False
        spare, self._ready = self._ready, None
        await self._end(spare.record, spare.process)
        return True

    async def close(self) -> None:
        """Make no more, and end the one there is."""
        self._closed = True
        for task in (self._renewing, self._making):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.let_go()

    async def _make(self, recipe: Recipe) -> None:
        await self.let_go()
        await asyncio.sleep(AFTER)
        try:
            record = SandboxRecord("", "", "creating", "", cpu=0, memory=0, disk=0)
            self._starter.limiter.give(record, None)
            record = await self._registry.set_aside(record)
        except (ApiError, sqlite3.Error, StoreError) as error:
            log.info("no spare sandbox is made: %s", error)
            return
        process: SandboxProcess | None = None
        try:
            await asyncio.to_thread(self._starter.prepare_home, record)
            # Asked for before the start: one on older layers than it says would be given away with them.
            layers = await self._starter.system.current()
            process = await self._starter.spawn(record)
            await process.toolbox.upload(recipe.path, _whole(recipe.data))
            done = await process.toolbox.execute(recipe.command, timeout=COMMAND_SECONDS)
            if done.exit_code:
                raise ApiError(500, f"its command ended with {done.exit_code}")
        except (ApiError, ToolboxError) as error:
            log.warning("a spare sandbox could not be made ready: %s", error)
            await self._end(record, process)
        except BaseException:
            await self._end(record, process)
            raise
        else:
            self._ready = Spare(record, process, layers, recipe.key)
            process.add_exit_callback(self._lost)
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.ensure_future(self._renew(recipe.key))

    async def _renew(self, key: str) -> None:
        """The first sandboxes of an engine may be on layers that are still made whole: one more, then."""
        await asyncio.shield(self._starter.system.whole())
        if self._ready is not None:
            self.want(key)

    def _lost(self, process: SandboxProcess) -> None:
        """It ended before anybody wanted it."""
        if self._ready is not None and self._ready.process is process:
            spare, self._ready = self._ready, None
            self._making = asyncio.ensure_future(self._end(spare.record, spare.process))

    async def _end(self, record: SandboxRecord, process: SandboxProcess | None) -> None:
        if process is not None:
            try:
                await process.kill()
            except LaunchError as error:
                # It keeps its row and its files; the next start of an engine removes them.
                log.error("the spare sandbox could not be ended: %s", error)
                return
            self._starter.ended(record.id)
        self._registry.forget_aside(record)


def _sizes(record: SandboxRecord) -> tuple[float, float, float]:
    return record.cpu, record.memory, record.disk


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
