"""When layers for writable systems are made, and when a trial is spared."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daytona_magics.engine.launch import skeleton, system
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.launch.system import SystemLayers
from tests.engine_process import wait_until

#: Starts a program where nobody can have mounts, as in most containers.
REFUSED = """
import os, sys
from daytona_magics.engine.launch import privileges, seccomp
privileges.load_filter(seccomp.program())
os.execv(sys.executable, [sys.executable, "-I", "-S", sys.argv[1]])
"""


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    """One that is not started yet, in a folder that sandboxes can pass through."""
    folder = Path("/tmp") / f"dm-layers-{os.getpid()}"
    folder.mkdir(mode=0o711)
    made = Launcher(stderr_dir=folder / "err", private=(folder,))
    try:
        yield made
    finally:
        await made.stop()
        made.remove_home(folder)


async def test_the_first_layer_is_made_while_the_launcher_starts(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = launcher._stderr_dir.parent
    layers = SystemLayers(launcher, folder)
    layers.begin()
    # Nothing is tried before there is something to try it with.
    await asyncio.to_thread(
        wait_until, lambda: list((folder / "layers").glob("*-first")), "the quick layer is there", 60
    )
    assert layers._current is None
    await launcher.start()
    if launcher.level != "L3":
        assert await layers.current() is None
        pytest.skip(f"no sandbox has mounts here: {launcher.reason}")
    first = await layers.current()
    assert first is not None and first.name.endswith("-first") and layers.reason == ""
    await layers.close()

    # What was tried once is not tried again, until something else has changed.
    tried: list[Path] = []

    async def no_trial(layer: Path) -> str:
        tried.append(layer)
        return "it does not work any more"

    again = SystemLayers(launcher, folder)
    monkeypatch.setattr(again, "_try", no_trial)
    await again._use(first)
    assert (again._current, again.reason, tried) == (first, "", [])
    monkeypatch.setattr(system, "__version__", "0.0.0")
    await again._use(first)
    assert (again._current, again.reason, tried) == (None, "it does not work any more", [first])


async def test_where_there_is_no_use_for_a_layer_none_is_made(launcher: Launcher) -> None:
    launcher._wanted = "L1"
    layers = SystemLayers(launcher, launcher._stderr_dir.parent)
    layers.begin()
    await launcher.start()
    assert await layers.current() is None and "L3 only" in layers.reason
    await asyncio.wait_for(layers.whole(), 30)
    assert layers._current is None


@pytest.mark.parametrize("refused", [True, False])
def test_the_program_looks_whether_there_can_be_mounts(refused: bool, tmp_path: Path) -> None:
    program = str(Path(skeleton.__file__))
    start = ["-c", REFUSED, program] if refused else ["-I", "-S", program]
    wanted = {
        "target": str(tmp_path / "layer"),
        "first": True,
        "look": True,
        "etc": [],
        "python": "/bin/python3",
    }
    with subprocess.Popen(
        [sys.executable, *start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(wanted))
        process.stdin.close()
        said = process.stdout.readline()
        process.kill()
    if said == "unlikely\n" and not refused:
        pytest.skip("nobody can have mounts here")
    assert said == ("unlikely\n" if refused else "first\n")
    assert (tmp_path / "layer-first").is_dir() is not refused
