"""One real sandbox per test, at the best isolation level of this machine or at a level by name."""

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daytona_magics.engine.launch.launcher import Launcher, LaunchError, Limits, SandboxProcess, SandboxSpec
from daytona_magics.engine.toolbox import trees
from tests import uids


@pytest.fixture
async def launcher(request: pytest.FixtureRequest) -> AsyncIterator[Launcher]:
    """At the level given by ``parametrize("launcher", [...], indirect=True)``."""
    with tempfile.TemporaryDirectory(prefix="dm-") as folder:
        found = Launcher(isolation=getattr(request, "param", None), stderr_dir=Path(folder))
        try:
            await found.start()
        except LaunchError as error:
            if os.environ.get("CI", "").lower() in ("true", "1"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield found
        await found.stop()


@pytest.fixture
async def box(launcher: Launcher) -> AsyncIterator[SandboxProcess]:
    with tempfile.TemporaryDirectory(prefix="dm-") as folder:
        uid = uids.uid(1_700_000) if os.geteuid() == 0 else None
        # Below L3 the sandbox's user passes through it.
        Path(folder).chmod(0o711)
        home = Path(folder) / "a home with 'quotes' and \"spaces\""
        launcher.prepare_home(home, uid)
        trees.remove_tree(home / ".venv")  # These tests count what is in a home.
        limits = Limits(tmp_size=16 << 20, processes=200)
        spec = SandboxSpec("box", home, uid, "box", {"GREETING": "hello"}, limits)
        found = await launcher.spawn(spec)
        yield found
        await found.kill()
        launcher.remove_home(home)
        assert not home.exists()
