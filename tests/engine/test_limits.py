"""Limits in detail: sizes, resizing, counting files, cgroups of version 2, what an engine leaves behind."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from daytona import DaytonaError, Resources

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.limits import cgroups, disk, processes, resources
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.limits.notices import Notices, memory
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.toolbox import trees
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from tests.engine_process import IsolatedEngine, isolated_engine, wait_until

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
    for closed in (0o400, 0):
        (tmp_path / "deeper").chmod(closed)
        assert disk.used(tmp_path) >= before + 100 * block
        assert (tmp_path / "deeper").stat().st_mode & 0o777 == closed
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


#: Fills a file in memory that is mapped nowhere, as large as its argument says, and tells what became of it.
MEMORY_FILE = """
import os, sys, time
if not os.fork():
    handle = os.memfd_create("held")
    for _ in range(int(sys.argv[1])):
        os.write(handle, bytes(1 << 20))
    time.sleep(3)
    os._exit(0)
print("ended by", os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_cgroups_can_be_left_alone() -> None:
    with isolated_engine(DAYTONA_MAGICS_CGROUPS="off") as engine:
        from daytona import Daytona

        client = Daytona(engine.config())
        assert not (engine.state / "cgroups.json").exists()
        # Without them files in memory are no process's memory for the kernel; the watchdog counts them.
        sandbox = client.create(snapshot_of(memory=1))
        run = f"python3 -IS -c {shlex.quote(MEMORY_FILE)}"
        assert sandbox.process.exec(f"{run} 256").result == "ended by 0\n"
        said = sandbox.process.exec(f"{run} 1500").result
        assert said.startswith("ended by -9\n") and "more than its 1 GiB of memory" in said, said


# -- into a cgroup

FORKER = """
import os, time
for _ in range(150):
    if os.fork() == 0:
        time.sleep(300)
        os._exit(0)
    time.sleep(0.0005)
print("all", flush=True)
time.sleep(300)
"""


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[cgroups.Cgroups]:
    made = cgroups.Cgroups(tmp_path)
    made.open(memory=1 << 34, processes=4096)
    if not made.controllers:
        made.close()
        pytest.skip(f"nobody but root can rely on cgroups: {made.reason}")
    yield made
    made.close()


@contextmanager
def forker() -> Iterator[tuple[int, Any]]:
    """A process that starts others all the time: its number, and what waits until it has started all."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", FORKER], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: len(processes.below(process.pid)) >= 20, "some processes are there")
            assert process.stdout is not None
            yield process.pid, process.stdout.readline
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_what_was_started_while_it_was_moved_is_moved_too(groups: cgroups.Cgroups) -> None:
    for name, complete in (("all", True), ("first", False)):
        group = groups.make(name, cpus=None, memory=1 << 33, processes=2048)
        assert group is not None
        with forker() as (first, wait):
            if complete:
                group.attach_all(first, lambda first=first: [first, *processes.below(first)])  # type: ignore[misc]
            else:
                # Positive control: moving the first alone leaves behind what it had started.
                group.attach(first)
            assert wait() == b"all\n"
            everything = {first, *processes.below(first)}
            assert len(everything) == 151
            for folder in dict.fromkeys(group.folders.values()):
                inside = {int(word) for word in (folder / "cgroup.procs").read_text().split()}
                assert (inside == everything) is complete, folder
        groups.drop(group)


def test_what_cannot_be_moved_is_an_error(groups: cgroups.Cgroups) -> None:
    group = groups.make("never", cpus=None, memory=1 << 33, processes=2048)
    assert group is not None
    with forker() as (first, wait):
        assert wait() == b"all\n"
        nobody = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
        with pytest.raises(OSError, match="faster than they can be moved"):
            group.attach_all(first, lambda: [first, nobody])
    groups.drop(group)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_sandbox_that_gets_no_group_is_kept_to_its_limits(
    refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = Limiter(tmp_path)
    limiter.open()
    try:
        if not limiter._cgroups.controllers:
            pytest.skip(f"nobody but root can rely on cgroups: {limiter._cgroups.reason}")
        if refused:
            busy = OSError(errno.EBUSY, "nothing is moved today")
            monkeypatch.setattr(cgroups.Group, "attach_all", Mock(side_effect=busy))
        record = SandboxRecord(id="box", name="box", state="", home=str(tmp_path / "box/home"))
        record.cpu, record.memory = 1, 1
        # In the keeper's place: all that is below it is the sandbox.
        keeper = ["sh", "-c", "sleep 300 & echo $!; wait"]
        with subprocess.Popen(keeper, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            await limiter.started(record, cast(Any, SimpleNamespace(id="box", pid=pid, alive=True)))
            assert limiter._dog is not None
            watched = limiter._dog.get("box")
            assert watched is not None
            limit = resource.prlimit(pid, resource.RLIMIT_DATA)
            if refused:
                assert watched.group is None and watched.count
                assert limit == (GIB, GIB) and len(os.sched_getaffinity(pid)) == 1
            else:
                assert watched.group is not None and watched.group.pids() == [pid]
                assert limit == (-1, -1) and len(os.sched_getaffinity(pid)) == os.cpu_count()
            os.killpg(process.pid, signal.SIGKILL)
        limiter.ended("box")
    finally:
        await limiter.close()


async def test_nothing_is_asked_of_a_sandbox_before_it_is_bounded() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        toolbox = Toolbox(near)
        bounded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        toolbox.hold(bounded)
        asked = asyncio.ensure_future(toolbox.begin("execute"))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
        with pytest.raises(BlockingIOError):
            far.recv(100)
        bounded.set_result(None)
        with await asked:
            assert b'"open"' in far.recv(100)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(RuntimeError("no limits"))
        toolbox.hold(failed)
        with pytest.raises(ToolboxError, match="kept to its limits: no limits"):
            await toolbox.begin("execute")
        with pytest.raises(BlockingIOError):
            far.recv(100)
