"""Scenarios of a sandbox's life: what is kept and what is gone after each change of its state."""

from __future__ import annotations

from typing import Any

from tests.contract.walk import Walk, walks
from tests.contract.walk_sandbox import again, made, reaches

COUNT = b"""
import time
n = 0
while True:
    n += 1
    open("n", "w").write(str(n))
    time.sleep(0.05)
"""

#: Starts a process that holds a lock: its number may be another one's later, and is not in /proc at L2.
RUN = "exec 9> running; flock 9; sleep 1000 > /dev/null 2>&1 & exec 9>&-"


async def marked(w: Walk, **params: Any) -> Any:
    """A sandbox with a file and a running process."""
    box = await made(w, **params)
    await w.sh(f"echo kept > file; {RUN}", box)
    return box


async def runs(w: Walk, box: Any) -> bool:
    """Whether the marked process runs."""
    done = await w(box.process.exec, "flock -n running true")
    return bool(done.exit_code == 1)


async def _kept(w: Walk, box: Any) -> None:
    """The file is there and the process is not."""
    assert await w.sh("cat file", box) == "kept"
    assert not await runs(w, box)


@walks("Daytona.stop", "Daytona.start", "Sandbox.stop", "Sandbox.start")
async def stopping(w: Walk) -> None:
    """a stopped sandbox runs nothing; started again its files are there and its processes are not"""
    box = await marked(w)
    assert await runs(w, box)
    await w(w.client.stop, box)
    await reaches(w, box, "stopped")
    await w.fails("DaytonaError", box.process.exec, "true")
    await w(w.client.start, box)
    await reaches(w, box, "started")
    await _kept(w, box)
    await w.sh(RUN, box)
    assert await runs(w, box)
    await w(box.stop, force=True)
    await reaches(w, box, "stopped")
    await w(box.start)
    await _kept(w, box)
    await w(w.client.delete, box)


@walks("Sandbox.wait_for_sandbox_start", "Sandbox.wait_for_sandbox_stop", "Sandbox.delete")
async def waiting(w: Walk) -> None:
    """a client that only waits sees what another one did; a deleted sandbox is gone"""
    box = await made(w)
    watcher = await again(w, box)
    await w(box.stop)
    await w(watcher.wait_for_sandbox_stop)
    await reaches(w, watcher, "stopped")
    await w(box.start)
    await w(watcher.wait_for_sandbox_start)
    await reaches(w, watcher, "started")
    assert await w.sh("echo up", watcher) == "up"
    await w(box.delete, wait=True)
    assert box.state == "destroyed"
    await w.fails("DaytonaNotFoundError", w.client.get, box.id)


@walks("Sandbox.pause")
async def pausing(w: Walk) -> None:
    """a counting program stands still while paused, and counts on from its memory after the start"""
    box = await made(w)
    await w(box.fs.upload_file, COUNT, "count.py")
    await w.sh("setsid python3 count.py > /dev/null 2>&1 & echo $! > pid", box)
    await w.until(lambda: w.sh("cat n 2>/dev/null; true", box), "it counts")
    await w(box.pause)
    await reaches(w, box, "paused")
    await w(box.start)
    await reaches(w, box, "started")
    assert await w.sh("kill -0 $(cat pid) && echo alive", box) == "alive"
    counted = int(await w.sh("cat n", box) or 0)

    async def counts_on() -> bool:
        return int(await w.sh("cat n", box) or 0) > counted

    await w.until(counts_on, "it counts on")
    await w(w.client.delete, box)


@walks("Sandbox.archive")
async def archiving(w: Walk) -> None:
    """an archived sandbox starts again with its files and without its processes; a running one is refused"""
    box = await marked(w)
    await w.fails("DaytonaError", box.archive)
    await w(box.stop)
    await w(box.archive)

    await reaches(w, box, "archived")
    await w(box.start)
    await _kept(w, box)
    await w(w.client.delete, box)


@walks("Sandbox.fork")
async def forking(w: Walk) -> None:
    """the fork has the files, under its own name, and what either writes afterwards the other does not see"""
    box = await marked(w, labels={"forked": w.flavour})
    fork = await w(box.fork, name=f"fork-{w.flavour}")
    assert fork.id != box.id and fork.name == f"fork-{w.flavour}"
    assert await w.sh("cat file", fork) == "kept"
    await w.sh("echo mine > file", fork)
    await w.sh("echo other > new", box)
    assert await w.sh("cat file", box) == "kept"
    assert await w.sh("ls new", fork, code=2)
    await w(w.client.delete, fork)
    await w(w.client.delete, box)


@walks("Sandbox.recover")
async def recovering(w: Walk) -> None:
    """a sandbox whose archive could not be read is in error, and has its files again once that is mended"""
    box = await marked(w)
    await w.fails("DaytonaError", box.recover)
    await w(box.stop)
    await w(box.archive)
    archive = w.engine.state / "archives" / f"{box.id}.tar.gz"
    aside = archive.rename(archive.with_name(f"{box.id}.aside"))
    archive.mkdir()
    await w.fails("DaytonaError", box.start)
    broken = await reaches(w, box, "error")
    assert broken.recoverable and broken.error_reason
    archive.rmdir()
    aside.rename(archive)
    await w(broken.recover)
    await reaches(w, broken, "started")
    await _kept(w, broken)
    await w(w.client.delete, broken)
