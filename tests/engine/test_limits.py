"""Limits in detail: sizes, resizing, counting files, cgroups of version 2, what an engine leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from daytona import DaytonaError, Resources

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.limits import cgroups, disk, resources
from daytona_magics.engine.limits.notices import Notices, memory
from daytona_magics.engine.toolbox import trees
from tests.engine_process import IsolatedEngine, isolated_engine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("there", "asked", "snapshot", "expected"),
    [
        (resources.Capacity(4, 16 * GIB, 100 * GIB), {}, None, (4, 8, 10)),
        (resources.Capacity(1, GIB // 2, GIB // 2), {}, None, (1, 1, 1)),
        (resources.Capacity(2, 15 * GIB + 1, 9 * GIB), {"memory": 16}, None, (2, 16, 4)),
        (resources.Capacity(8, 64 * GIB, 90 * GIB), {"disk": 50}, (2, 4, 8), (2, 4, 50)),
        (resources.Capacity(1, 2 * GIB, 5 * GIB), {}, (4, 8, 10), (1, 2, 5)),
    ],
)
def test_sizes(there: Any, asked: Any, snapshot: Any, expected: Any) -> None:
    assert resources.decide(there, asked, snapshot) == expected


@pytest.mark.parametrize("asked", [{"cpu": 3}, {"memory": 3}, {"disk": 6}])
def test_more_than_there_is(asked: Any) -> None:
    with pytest.raises(ApiError, match="this machine has") as caught:
        resources.decide(resources.Capacity(2, 2 * GIB, 5 * GIB), asked, None)
    assert caught.value.status == 400


def test_resizing(daytona: Any) -> None:
    sandbox = daytona.create(snapshot_of(memory=1))
    try:
        sandbox.resize(Resources(memory=2))
        assert sandbox.memory == 2
        for refused, words in (
            (Resources(memory=1), "only grow"),
            (Resources(disk=sandbox.disk + 1), "stop the sandbox"),
            (Resources(memory=900_000), "this machine has"),
        ):
            with pytest.raises(DaytonaError, match=words):
                sandbox.resize(refused)
        sandbox.stop()
        sandbox.resize(Resources(cpu=1, memory=1, disk=sandbox.disk + 1))
        sandbox.start()
        assert (sandbox.cpu, sandbox.memory) == (1, 1)
        assert sandbox.process.exec("echo well").result == "well\n"
    finally:
        daytona.delete(sandbox)


def snapshot_of(memory: int) -> Any:
    from daytona import CreateSandboxFromSnapshotParams

    return CreateSandboxFromSnapshotParams(snapshot={1: "daytona-small", 4: "daytona-medium"}[memory])


def test_files_are_counted_whatever_they_are(tmp_path: Path) -> None:
    block = os.stat(tmp_path).st_blksize
    (tmp_path / "one").write_bytes(b"x" * block)
    os.link(tmp_path / "one", tmp_path / "again")
    # A hole takes nothing, and what a link leads to is not the sandbox's.
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "out").symlink_to("/usr")
    before = disk.used(tmp_path)
    assert block <= before < 10 * block
    # Deeper than a path can be long, and closed.
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    file_ = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file_, b"y" * 100 * block)
    os.close(file_)
    os.close(here)
    (tmp_path / "deeper").chmod(0)
    assert disk.used(tmp_path) >= before + 100 * block
    assert (tmp_path / "deeper").stat().st_mode & 0o777 == 0
    # Python's own way of removing a tree stops at its recursion limit.
    trees.remove_tree(tmp_path / "deeper")


def test_version_2_below_the_nearest_that_passes_the_controllers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files stand for a kernel that has its controllers in version 2, which the tests' machine has not."""
    mount = tmp_path / "cgroup"
    own = mount / "user.slice" / "app.scope"
    own.mkdir(parents=True)
    for folder, passed in ((mount, "cpu memory pids"), (own.parent, "memory pids"), (own, "")):
        (folder / "cgroup.subtree_control").write_text(passed)
    root, path = "/", "/user.slice/app.scope"
    monkeypatch.setattr(cgroups, "_mounts", lambda: [(root, mount, "cgroup2", [])])
    real = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: f"0::{path}\n" if str(self) == "/proc/self/cgroup" else real(self, *a, **k),
    )
    found = cgroups._places()
    assert found == {"memory": [own.parent, mount], "cpu": [mount], "pids": [own.parent, mount]}


def test_what_happens_again_is_told_once() -> None:
    notices = Notices()
    notices.add("memory", lambda count: memory(GIB, "python3, pid 7", count), 1, (7, 2))
    notices.add("memory", lambda count: memory(GIB, "python3, pid 8", count), 2, (8, 2))
    (told,) = notices.about(0.0, 2, failed=False)
    assert told.count == 3 and "3 of its largest processes" in told.text
    # Somebody else's command is told nothing, whether it failed or not.
    assert notices.about(0.0, 99, failed=True) == []
    assert notices.about(told.at + 1, 2, failed=True) == []


def test_an_engine_leaves_no_cgroups(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.client_env()
    memo = fresh_engine.state / "cgroups.json"
    made = [Path(text) for text in json.loads(memo.read_text())]
    if os.geteuid() == 0 and Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        assert made and all(path.is_dir() for path in made)
    fresh_engine.kill()
    assert fresh_engine.command("env").returncode == 0
    assert [Path(text) for text in json.loads(memo.read_text())] == made
    fresh_engine.command("stop")
    assert not memo.exists() and not any(path.exists() for path in made)


def test_cgroups_can_be_left_alone() -> None:
    with isolated_engine(DAYTONA_MAGICS_CGROUPS="off") as engine:
        engine.client_env()
        assert not (engine.state / "cgroups.json").exists()
