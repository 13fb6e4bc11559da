"""The watchdog: a task of the engine that keeps sandboxes within their memory, disk and processes.

A tick costs three small reads: the memory and the threads of the machine, the free space of the file system.
A sandbox is looked at when one of them has changed enough for it to matter, and otherwise often while it
works and seldom while it is idle; what a look costs decides how soon the next one may be. Files are counted
in a thread, and only when the file system has lost space that a sandbox at work may have taken.

Where the kernel enforces memory (a cgroup), the watchdog finds out whom it has ended. Where it does not, the
watchdog ends the largest processes itself. Either way it leaves a notice for the person. When the machine
itself, or its container, is about to run out, the largest process of all sandboxes goes first.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from daytona_magics.engine.limits import disk, notices, processes
from daytona_magics.engine.limits.processes import Process
from daytona_magics.engine.limits.room import NEARLY_ALL, Room
from daytona_magics.engine.limits.watched import Watched
from daytona_magics.engine.log import log

#: Seconds between ticks: nothing happens and the kernel bounds memory; or does not; sandboxes work; memory
#: is short.
BOUNDED_TICK, TICK, BUSY_TICK, SHORT_TICK = 0.5, 0.25, 0.1, 0.02
#: Changes of the machine's free memory and disk, in bytes, and of its threads, that call for a look.
_STEP, _THREADS = 32 << 20, 64
#: Seconds the machine gets to take back the memory of a process that was ended.
_RELIEF = 0.2
#: Seconds that asking for shared memory may take.
_SHARES_SECONDS = 0.25
#: A process smaller than this is not worth ending for the machine's sake.
_WORTH = 16 << 20
#: Bytes a full sandbox may still write until its writers are ended.
_SLACK = 16 << 20
#: Seconds that telling it may delay the stop. Multiple of its disk above which nobody's writing is spared.
_TOLD_SECONDS, _PATIENCE = 0.3, 2
#: Free space, as a share of the file system and in bytes, below which sandboxes stop writing.
_LEAST_SPACE, _MOST_SPACE = 0.02, 512 << 20


class Watchdog:
    """Watches the started sandboxes.

    Args:
        folder: the state folder.
        room: what is left on the machine.
        usage: memory and threads of all sandboxes, where the kernel counts them (`Cgroups.usage`).
    """

    def __init__(self, folder: Path, room: Room, usage: Callable[[], tuple[int, int] | None]) -> None:
        self._folder = folder
        self._room = room
        self._all: dict[str, Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._usage = usage
        self._pending: set[str] = set()
        self._memory, self._threads, self._space = 0, 0, disk.free(folder)
        total = os.statvfs(folder)
        self._least_space = int(min(total.f_blocks * total.f_frsize * _LEAST_SPACE, _MOST_SPACE))
        self._relieved = 0.0
        self._hurry = False

    def add(self, sandbox_id: str, watched: Watched) -> None:
        """Watch a sandbox from now on."""
        watched.space = disk.free(self._folder)
        self._all[sandbox_id] = watched

    def remove(self, sandbox_id: str) -> Watched | None:
        """It has ended."""
        self._pending.discard(sandbox_id)
        return self._all.pop(sandbox_id, None)

    def get(self, sandbox_id: str) -> Watched | None:
        """What is known of a started sandbox."""
        return self._all.get(sandbox_id)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            busy = any(watched.busy for watched in self._all.values())
            idle = TICK if self._usage() is None else BOUNDED_TICK
            await asyncio.sleep(SHORT_TICK if self._hurry else BUSY_TICK if busy else idle)
            if self._all:
                try:
                    await self.tick()
                except Exception as error:  # noqa: BLE001  whatever it is, it must not stop watching
                    log.error("the watchdog could not look", exc_info=error)

    async def tick(self) -> None:
        """Look at the machine, and at the sandboxes for which it is time."""
        memory, threads, space = self._room.memory(), self._room.threads(), disk.free(self._folder)
        self._hurry = memory < 2 * self._room.reserve
        # What others on the machine do is of no interest where sandboxes are counted for themselves.
        taken, running = self._usage() or (self._room.total - memory, threads)
        changed = taken - self._memory > _STEP or running - self._threads > _THREADS
        changed = changed or self._space - space > _STEP
        if changed:
            self._pending.update(self._all)
            self._memory, self._threads, self._space = taken, running, space
        else:
            # What has come back may go again; a slow change adds up until it counts.
            self._memory, self._threads = min(self._memory, taken), min(self._threads, running)
            self._space = max(self._space, space)
        now = time.monotonic()
        for sandbox_id, watched in list(self._all.items()):
            if now >= watched.due or (sandbox_id in self._pending and now >= watched.earliest):
                self._pending.discard(sandbox_id)
                await self.look(sandbox_id)
        if memory < self._room.reserve:
            await self._relieve(memory)
        if threads > self._room.most_threads * NEARLY_ALL:
            self._thin_out()
        for watched in list(self._all.values()):
            self._check_disk(watched, space)

    def settle(self, sandbox_id: str) -> None:
        """Find out what the kernel has ended up to now, so that nobody is told of it later."""
        watched = self._all.get(sandbox_id)
        if watched is not None and watched.group is not None and watched.group.has_killed():
            before = watched.found
            watched.look(time.monotonic())
            self._ask_kernel(watched, before)

    async def look(self, sandbox_id: str) -> None:
        """Sample one sandbox and act on what is found."""
        watched = self._all.get(sandbox_id)
        if watched is None:
            return
        begin = time.perf_counter()
        before = watched.found
        watched.look(time.monotonic())
        self._ask_kernel(watched, before)
        if watched.threads > watched.most and watched.count:
            self._end_all(watched)
        elif watched.threads >= NEARLY_ALL * watched.most:
            watched.notices.add("processes", lambda _: notices.processes(watched.most, False))
        if watched.rss > watched.memory and not watched.bounded:
            await self._check_memory(watched)
        if watched.group is not None:
            watched.group.stand_back(watched.steady)
        watched.looked(time.monotonic(), time.perf_counter() - begin)
        await asyncio.sleep(0)

    def _ask_kernel(self, watched: Watched, before: list[Process]) -> None:
        """Has the kernel ended something for want of memory?  The largest that is missing now was it.

        One that is still being taken apart is still there: it is the largest of all, by the kernel's choice.
        """
        killed = watched.group.killed() if watched.group is not None else 0
        if not killed:
            return
        alive = {process.pid for process in watched.found}
        missing = [p for p in before if p.pid not in alive and p.pid != watched.box.pid]
        missing = [process for process in missing if process.rss > watched.memory // 128]
        # One that came and went between two looks is not known, and nobody else shall be named for it.
        suspects = missing or [p for p in watched.victims[:1] if p.rss > watched.memory // 32]
        name = max(suspects, key=lambda process: process.rss).name if suspects else ""
        pids = [pid for process in suspects for pid in watched.chain(process)]
        text = functools.partial(notices.memory, watched.memory, name)
        watched.notices.add("memory", text, killed, pids)
        log.info("the kernel ended %d processes of sandbox %s for memory", killed, watched.box.id)
        self._deliver(watched)

    async def _check_memory(self, watched: Watched) -> None:
        """More than the limit in memory, if shared pages count for each: end processes if it is so."""
        sizes = await asyncio.to_thread(_shares, watched.victims, watched.memory)
        excess = sum(size for _, size in sizes) - watched.memory
        if excess <= 0:
            return
        ended: list[Process] = []
        told = ""
        pids: list[int] = []
        for process, size in sorted(sizes, key=lambda pair: pair[1], reverse=True):
            chain, named = watched.chain(process), watched.named(process)
            if excess <= 0:
                break
            if processes.end(process):
                told = told or named
                pids += chain
                ended.append(process)
                excess -= size
        if ended:
            text = functools.partial(notices.memory, watched.memory, told)
            watched.notices.add("memory", text, len(ended), pids)
            log.info("ended %d processes of sandbox %s for memory", len(ended), watched.box.id)
            self._deliver(watched)

    def _end_all(self, watched: Watched) -> None:
        """Too many processes where the kernel does not count them: end all but the first."""
        watched.notices.add("processes", lambda _: notices.processes(watched.most, True))
        for process in watched.victims:
            processes.end(process)
        # What has been started meanwhile is found at once.
        watched.due = watched.earliest = 0.0
        self._deliver(watched)

    async def _relieve(self, left: int) -> None:
        """The machine is short of memory: end the largest process of all sandboxes."""
        now = time.monotonic()
        if now - self._relieved < _RELIEF:
            return
        self._relieved = now
        largest: tuple[int, Watched, Process] | None = None
        for watched in list(self._all.values()):
            watched.look(now)
            for process in watched.victims[:1]:
                if largest is None or process.size > largest[0]:
                    largest = (process.size, watched, process)
            await asyncio.sleep(0)
        if largest is None or largest[0] < _WORTH:
            return
        _, watched, process = largest
        named, chain = watched.named(process), watched.chain(process)
        if processes.end(process):
            watched.notices.add("machine", lambda _: notices.machine(left, named), 1, chain)
            log.warning("ended a process of sandbox %s: the machine is short of memory", watched.box.id)
            self._deliver(watched)

    def _thin_out(self) -> None:
        """The machine is short of processes: those of the sandbox that has most are ended."""
        most = max(self._all.values(), key=lambda watched: watched.threads, default=None)
        if most is not None and most.threads > _THREADS:
            log.warning("ended the processes of sandbox %s: the machine is short of them", most.box.id)
            self._end_all(most)

    # -- disk

    def _check_disk(self, watched: Watched, space: int) -> None:
        """Count the files of a sandbox if the answer may matter."""
        now = time.monotonic()
        if watched.counting or now < watched.count_after:
            return
        if not watched.worked and not watched.full:
            return
        lost = max(0, watched.space - space)
        matters = (
            lost > max(2 * _STEP, (watched.disk - watched.used) // 4) or watched.used + lost > watched.disk
        )
        if matters or watched.full or space < self._least_space:
            watched.counting, watched.worked = True, False
            self._task(self._count(watched, space))

    async def recount(self, watched: Watched) -> None:
        """Count the files of a full sandbox at once: somebody wants to know whether it still is."""
        if not watched.counting:
            watched.counting = True
            await self._count(watched, disk.free(self._folder))

    async def _count(self, watched: Watched, space: int) -> None:
        begin = time.monotonic()
        try:
            used = await asyncio.to_thread(disk.used, watched.folder)
        except OSError as error:
            log.info("the files of sandbox %s could not be counted: %s", watched.box.id, error)
            used = watched.used
        finally:
            watched.counting = False
        now = time.monotonic()
        # The nearer to the limit, the less may happen unseen; what does nothing is not looked at again soon.
        least, share = (0.2, 4) if used > 0.5 * watched.disk else (0.2, 25)
        if not watched.busy:
            least, share = 2.0, 100
        watched.count_after = now + min(max(least, (now - begin) * share), 60.0)
        watched.used, watched.space = used, space
        if self._all.get(watched.box.id) is not watched:
            return
        short = space < self._least_space
        if used > watched.disk or (short and watched.busy):
            await self._fill(watched, used, short)
        elif watched.full and used <= 0.98 * watched.disk and space > 1.5 * self._least_space:
            watched.full, watched.why_full = False, ""
            disk.allow_writing(watched.pids())
            self._deliver(watched)

    async def _fill(self, watched: Watched, used: int, short: bool) -> None:
        """Stop a sandbox's writing; end what has found a way to go on."""
        watched.why_full = notices.disk(watched.disk, used) if used > watched.disk else notices.no_space()
        if not watched.full:
            watched.full, watched.full_at, watched.struck = True, used, True
            watched.notices.add("disk", lambda _: watched.why_full)
            log.info("sandbox %s: %s", watched.box.id, watched.why_full)
            # Before anything fails there, so that it can be said why.
            await watched.notices.deliver(watched.box.toolbox, watched.why_full, _TOLD_SECONDS)
        watched.look(time.monotonic())
        # Without the toolbox and the guest's daemon nobody could delete anything. Workers that they start
        # are found at the next count. Somebody may only look like that daemon: patience has an end.
        writers = watched.writers if used < _PATIENCE * watched.disk else watched.victims
        disk.forbid_writing(process.pid for process in writers)
        before, watched.wrote = watched.wrote, {p.pid: processes.written(p.pid) for p in writers}
        if used > watched.full_at + _SLACK:
            self._end_writers(watched, writers, before)
            watched.full_at = used
        else:
            watched.struck = False

    def _end_writers(
        self, watched: Watched, writers: list[Process], before: dict[int, tuple[int, int]]
    ) -> None:
        """End those that have written most since the last count.

        What a process has written becomes its parent's when it ends. So that the parent of one that was just
        stopped does not go, too, only what each has written itself counts at first; a parent whose children
        keep writing goes the next time.
        """
        which = 1 if watched.struck else 0
        growth = {
            pid: max(0, count[which] - before.get(pid, (0, 0))[which]) for pid, count in watched.wrote.items()
        }
        ended = 0
        for process in writers:
            if growth[process.pid] >= max(1 << 20, max(growth.values()) // 2):
                named, chain = watched.named(process), watched.chain(process)
                if processes.end(process):
                    ended += 1
                    watched.notices.add("writer", functools.partial(notices.writer, named), 1, chain)
        watched.struck = ended > 0 and not watched.struck
        if ended:
            log.info("ended %d processes of sandbox %s that went on writing", ended, watched.box.id)
            self._deliver(watched)

    # -- telling

    def _deliver(self, watched: Watched) -> None:
        self._task(watched.notices.deliver(watched.box.toolbox, watched.why_full))

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the watchdog failed", exc_info=error)

    async def close(self) -> None:
        """Wait for what is being done."""
        with suppress(asyncio.CancelledError):
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _shares(found: list[Process], limit: int) -> list[tuple[Process, int]]:
    """Processes with what they really take: the kernel's division of shared pages, where it tells.

    Asking takes a while for each, so it ends when they are certainly within ``limit``, or when time is up;
    then the others are taken to share as much as those that were asked.

    Args:
        found: the largest first.
    """
    sized: list[tuple[Process, int]] = []
    deadline = time.monotonic() + _SHARES_SECONDS
    known, left = 0, sum(process.size for process in found)
    asked = left
    for process in found:
        share = processes.share(process.pid)
        sized.append((process, (process.rss if share is None else share) + process.files))
        known += sized[-1][1]
        left -= process.size
        if known + left <= limit or time.monotonic() > deadline:
            break
    ratio = known / (asked - left) if asked > left else 1.0
    return sized + [(process, int(process.size * ratio)) for process in found[len(sized) :]]
