"""Sandboxes for attacks: one per isolation level for the whole run, driven from plain functions.

A background thread owns the event loop and the launchers, as the engine's process does in real life.
"""

import asyncio
import concurrent.futures
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.launch.launcher import Launcher, LaunchError, Limits, SandboxProcess, SandboxSpec
from tests import uids

#: In this variable of the test process (and so of everything that inherits its environment) is a secret.
os.environ.setdefault("DM_TEST_SECRET", "secret-" + os.urandom(8).hex())


class Level:
    """A launcher at one isolation level and an event loop in a thread."""

    def __init__(self, isolation: str | None = None, **launcher: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dm-"))
        # Sandbox uids must be able to pass through at L0 as well.
        self.folder.chmod(0o711)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        #: How many sandboxes have been started; the last one's home is ``home{count}``.
        self.count = 0
        self.launcher = Launcher(isolation=isolation, stderr_dir=self.folder / "err", **launcher)
        try:
            self.run(self.launcher.start())
        except LaunchError:
            self.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float = 60) -> Any:
        return self.start(coroutine).result(timeout)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def spawn(self, **options: Any) -> SandboxProcess:
        self.count += 1
        uid = uids.uid(1_900_000 + self.count) if os.geteuid() == 0 else None
        home = self.folder / f"home{self.count}"
        self.launcher.prepare_home(home, uid)
        name = f"box{self.count}"
        spec = SandboxSpec(name, home, uid, name, limits=Limits(**options))
        return self.run(self.launcher.spawn(spec))

    def close(self) -> None:
        self.run(self.launcher.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _open(isolation: str) -> Level:
    try:
        return Level(isolation)
    except LaunchError as error:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def l3() -> Iterator[Level]:
    level = _open("L3")
    yield level
    level.close()


@pytest.fixture(scope="session")
def l0() -> Iterator[Level]:
    level = _open("L0")
    yield level
    level.close()
