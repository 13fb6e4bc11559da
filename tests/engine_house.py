"""The engine's parts in the test's own process: sandboxes with their database and launcher, no interfaces.

For what cannot be caused from outside: a database that refuses, a launcher that counts, a clock put forward.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from daytona_magics.engine.api.models import parse_create
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.store.database import Database
from tests import layers, scraps

D = TypeVar("D", bound=Database)
L = TypeVar("L", bound=Launcher)


class House(Generic[D, L]):
    """Sandboxes with their parts, in a folder."""

    def __init__(self, base: Path, database: D, launcher: L) -> None:
        self.base = base
        self.database, self.launcher = database, launcher
        self.sandboxes = Sandboxes(database, launcher, base)

    async def create(self, **body: object) -> Sandbox:
        """A sandbox made of the body of a request."""
        return await self.sandboxes.create(parse_create(body))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run it; the layer of its system is there from the beginning."""
        await self.database.open()
        await self.launcher.start()
        await self.sandboxes.load()
        await self.sandboxes.system.current()
        yield
        await self.sandboxes.stop_all()
        await self.launcher.stop()
        await self.database.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that sandboxes' users can pass through, removed afterwards."""
    base = Path(tempfile.mkdtemp(prefix="dm-"))
    base.chmod(0o711)
    layers.lend(base)
    yield base
    layers.take_back(base)
    scraps.remove(base)


def plain(base: Path) -> House[Database, Launcher]:
    """Nothing special about it."""
    return House(base, Database(base), Launcher(stderr_dir=base / "stderr"))
