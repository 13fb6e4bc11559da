"""A sandbox that does not end: what hangs in the kernel is named, and its end is noticed when it comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daytona_magics.engine.launch import sandbox as sandbox_module
from daytona_magics.engine.launch.launcher import Launcher, LaunchError, SandboxProcess, SandboxSpec
from daytona_magics.engine.limits import processes
from tests.engine_process import wait_until

FREEZER = Path("/sys/fs/cgroup/freezer")
UID = 345_678


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup in which processes are not there for any signal."""
    if os.geteuid() != 0 or not (FREEZER / "cgroup.procs").exists():
        pytest.skip("only root can freeze processes, and this test knows the freezer of version 1")
    folder = FREEZER / f"dm-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    (folder / "freezer.state").write_text("THAWED")
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), "nothing is frozen")
    folder.rmdir()


@pytest.fixture
async def box() -> AsyncIterator[SandboxProcess]:
    """A sandbox without a process namespace of its own, in which something sleeps."""
    folder = Path("/tmp") / f"dm-ending-{os.getpid()}"
    folder.mkdir(mode=0o711)
    launcher = Launcher(isolation="L1", stderr_dir=folder / "err", private=(folder,))
    try:
        await launcher.start()
        launcher.prepare_home(folder / "home", UID)
        made = await launcher.spawn(SandboxSpec("box", folder / "home", UID, "box"))
        await made.toolbox.execute("setsid sleep 300 > /dev/null 2>&1 &")
        yield made
    finally:
        await launcher.stop()
        launcher.remove_home(folder)


def sleeper_of(box: SandboxProcess) -> int:
    def found() -> list[int]:
        return [pid for pid in processes.below(processes.parent_of(box.pid)) if _name(pid) == "sleep"]

    wait_until(lambda: len(found()) == 1, "the process in the sandbox sleeps")
    return found()[0]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


async def test_what_hangs_is_named_and_waited_for(
    freezer: Path, box: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The keeper says after 5 s what hangs.
    monkeypatch.setattr(sandbox_module, "KILL_TIMEOUT", 6.5)
    pid = sleeper_of(box)
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    with pytest.raises(LaunchError, match=rf"sleep \(pid {pid}, state D\) waits in the kernel"):
        await box.kill()
    assert box.alive
    (freezer / "freezer.state").write_text("THAWED")
    await asyncio.wait_for(box.kill(), 30)
    assert not box.alive and not Path(f"/proc/{pid}").exists()


async def test_what_does_not_hang_ends_at_once(freezer: Path, box: SandboxProcess) -> None:
    pid = sleeper_of(box)
    (freezer / "cgroup.procs").write_text(str(pid))
    await box.kill()
    assert not box.alive and not Path(f"/proc/{pid}").exists()
