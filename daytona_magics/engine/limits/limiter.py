"""The engine's one door to limits: how much a sandbox gets, keeping it there, and saying what is kept.

In : limiter.describe_limits()["memory"]
Out: {'state': 'enforced', 'how': 'cgroup', 'why': ''}
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch.sandbox import Limits, SandboxProcess
from daytona_magics.engine.limits import disk, processes, resources
from daytona_magics.engine.limits.cgroups import Cgroups, Group
from daytona_magics.engine.limits.room import Room, use_all_descriptors
from daytona_magics.engine.limits.watchdog import Watchdog
from daytona_magics.engine.limits.watched import Watched
from daytona_magics.engine.log import log
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.toolbox.client import MAX_OUTPUT, ExecuteResult, ToolboxGone

Piece = TypeVar("Piece", bytes, memoryview)

#: Share of the machine's threads that all sandboxes together may have.
_SHARE_OF_THREADS = 0.8
#: What yields to the notebook where no cgroup shares out the CPU.
_NICE = 5
#: Levels at which a sandbox has a pid namespace, and so a user namespace that counts its processes.
_NAMESPACES = ("L3", "L2")
#: What a command ends with when there was no process to be had: it, or what a shell wanted to start.
_NO_PROCESS = (-1, 254)


class Limiter:
    """Limits of all sandboxes of the engine.

    Args:
        folder: the state folder, locked by this engine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.room = Room()
        self._cgroups = Cgroups(folder)
        self._dog: Watchdog | None = None
        self._task: asyncio.Task[None] | None = None
        self._level = ""
        self._enclosing: set[asyncio.Task[None]] = set()
        self._cpus = resources.capacity(folder).cpus

    def open(self) -> None:
        """Find out what can be enforced here, and start to watch."""
        use_all_descriptors()
        self._cgroups.open(
            memory=self.room.total - self.room.reserve,
            processes=int(self.room.most_threads * _SHARE_OF_THREADS),
        )
        self._dog = Watchdog(self._folder, self.room, self._cgroups.usage)
        self._task = asyncio.ensure_future(self._dog.run())

    async def close(self) -> None:
        """The sandboxes have ended: stop watching, remove what was made."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._dog is not None:
            await self._dog.close()
        await asyncio.gather(*self._enclosing, return_exceptions=True)
        self._cgroups.close()

    # -- how much

    def give(self, record: SandboxRecord, named: tuple[int, int, int] | None) -> None:
        """Set a new sandbox's CPUs, memory and disk, where 0 stands for nothing asked (`resources.decide`).

        Args:
            named: what comes with the snapshot that was named, if one was.

        Raises:
            ApiError: 400 when more is asked for than there is, 503 when the machine is full.
        """
        self.room.check()
        there = self._capacity()
        asked = {"cpu": record.cpu, "memory": record.memory, "disk": record.disk}
        record.cpu, record.memory, record.disk = resources.decide(there, asked, named)

    def resize(self, record: SandboxRecord, asked: Mapping[str, int]) -> None:
        """Set other sizes (`resources.check_resize`, `resources.decide`). Raises ApiError 400."""
        resources.check_resize(record, asked)
        now = {"cpu": record.cpu, "memory": record.memory, "disk": record.disk}
        # What it has is not asked for again: the machine may have become smaller.
        resources.decide(self._capacity(), asked, None)
        wanted = {**now, **asked}
        record.cpu, record.memory, record.disk = wanted["cpu"], wanted["memory"], wanted["disk"]

    def resized(self, record: SandboxRecord) -> None:
        """Have a started sandbox keep to its record's sizes from now on."""
        watched = self._dog.get(record.id) if self._dog is not None else None
        if watched is None:
            return
        watched.memory, watched.disk = self._sizes(record)
        cpus = record.cpu if 0 < record.cpu < self._cpus else None
        if watched.group is not None:
            try:
                watched.group.limit(cpus=cpus, memory=watched.memory, processes=watched.most)
            except OSError as error:
                log.warning("the cgroup of sandbox %s takes no limits: %s", record.id, error)
        if not watched.bounded:
            processes.allow_memory(watched.pids(), watched.memory)
        if watched.group is None or "cpu" not in watched.group.folders:
            for pid in watched.pids():
                _pin(pid, record.cpu)

    def limits(self, record: SandboxRecord, level: str) -> Limits:
        """The limits that the first process of a sandbox sets for itself and all others."""
        self._level = level
        memory, size = self._sizes(record)
        usual = Limits()
        most = usual.processes
        if self._shared_uid(record):
            # The kernel counts all that the user runs; the watchdog counts the sandbox's own.
            most += processes.user_threads() + usual.processes
        return replace(
            usual,
            processes=most,
            file_size=size,
            tmp_size=min(usual.tmp_size, memory // 4),
            data=None if "memory" in self._cgroups.controllers else memory,
            nice=0 if "cpu" in self._cgroups.controllers else _NICE,
        )

    def _capacity(self) -> resources.Capacity:
        return resources.Capacity(self._cpus, self.room.total, disk.free(self._folder))

    def _sizes(self, record: SandboxRecord) -> tuple[int, int]:
        """Bytes of memory and of disk; a record that `give` has not seen may say 0, which is no limit."""
        memory = min(record.memory << 30, self.room.total) if record.memory else self.room.total
        return memory, record.disk << 30 if record.disk else 1 << 62

    def _shared_uid(self, record: SandboxRecord) -> bool:
        return self._level not in _NAMESPACES and record.uid is None

    # -- keeping it there

    async def started(self, record: SandboxRecord, box: SandboxProcess) -> None:
        """A sandbox's first process is there.

        When this returns it is in its cgroup, with all that it has started meanwhile, or kept to its limits
        without one.
        """
        if self._dog is None:
            return
        (memory, size), most = self._sizes(record), Limits().processes
        cpus = record.cpu if 0 < record.cpu < self._cpus else None
        if cpus is not None and "cpu" not in self._cgroups.controllers:
            _pin(box.pid, cpus)
        alone = self._shared_uid(record) or self._level == "L0"
        watched = Watched(
            box=box,
            folder=Path(record.home).parent,
            memory=memory,
            disk=size,
            most=most,
            count=alone and "pids" not in self._cgroups.controllers,
            group=None,
        )
        self._dog.add(record.id, watched)
        if self._cgroups.controllers:
            task = asyncio.ensure_future(self._enclose(record.id, watched, cpus))
            self._enclosing.add(task)
            task.add_done_callback(self._enclosing.discard)
            await asyncio.shield(task)

    async def _enclose(self, sandbox_id: str, watched: Watched, cpus: int | None) -> None:
        def enclose() -> Group | None:
            group = self._cgroups.make(sandbox_id, cpus=cpus, memory=watched.memory, processes=watched.most)
            try:
                if group is not None:
                    group.attach_all(watched.box.pid, watched.pids)
            except OSError:
                if group is not None:
                    self._cgroups.drop(group)
                raise
            return group

        try:
            group = await asyncio.to_thread(enclose)
        except OSError as error:
            if watched.box.alive:
                log.warning("sandbox %s gets no cgroup: %s", sandbox_id, error)
                self._keep_without(watched, cpus)
            return
        if self._dog is not None and self._dog.get(sandbox_id) is watched:
            watched.group = group
        elif group is not None:
            self._cgroups.drop(group)

    def _keep_without(self, watched: Watched, cpus: int | None) -> None:
        """Keep a sandbox to its limits as on a machine that has no cgroups."""
        pids = watched.pids()
        processes.allow_memory(pids, watched.memory)
        watched.count = True
        if cpus is not None:
            for pid in pids:
                _pin(pid, cpus)

    def ended(self, sandbox_id: str) -> None:
        """Every process of a sandbox is gone."""
        watched = self._dog.remove(sandbox_id) if self._dog is not None else None
        if watched is not None and watched.group is not None:
            self._cgroups.drop(watched.group)

    def watched(self, sandbox_id: str) -> Watched | None:
        """What is known of a started sandbox; None when it is not watched."""
        return self._dog.get(sandbox_id) if self._dog is not None else None

    # -- telling

    async def explained(self, sandbox_id: str, running: Awaitable[ExecuteResult]) -> ExecuteResult:
        """What a running command comes to, with a sentence when a limit had to do with how it ended.

        Raises:
            ToolboxError: of the command; when its sandbox ended for want of memory it says so.
        """
        self._settle(sandbox_id)
        since = time.monotonic()
        try:
            result = await running
        except ToolboxGone as error:
            raise ToolboxGone(error.message + self._last_words(sandbox_id)) from error
        text = await self.reasons(sandbox_id, since, result.pid, result.exit_code)
        if not text:
            return result
        newline = b"" if not result.output or result.output.endswith(b"\n") else b"\n"
        return replace(result, output=result.output + newline + text.encode() + b"\n")

    async def reasons(self, sandbox_id: str, since: float, pid: int, exit_code: int) -> str:
        """What limits had to do with a command that ended; empty when nothing.

        Args:
            since: when it began, in ``time.monotonic`` seconds.
            pid: its first process, as known inside; 0 when it could not start.
        """
        watched = self._dog.get(sandbox_id) if self._dog is not None else None
        if watched is None or self._dog is None:
            return ""
        self._settle(sandbox_id)
        if exit_code in _NO_PROCESS:
            await self._dog.look(sandbox_id)
        failed = exit_code != 0
        about = watched.notices.about(since, pid, failed)
        found = [notice.text for notice in about if notice.kind != "disk" or not watched.full]
        if watched.full and (failed or len(found) < len(about)):
            found.append(watched.why_full)
        return "\n".join(f"[daytona-magics] {text}" for text in found)

    def _settle(self, sandbox_id: str) -> None:
        # The kernel may have been faster than the watchdog.
        if self._dog is not None:
            self._dog.settle(sandbox_id)

    def _last_words(self, sandbox_id: str) -> str:
        watched = self._dog.get(sandbox_id) if self._dog is not None else None
        if watched is None or watched.group is None or not watched.group.killed():
            return ""
        return f": it used more than its {watched.memory >> 30} GiB of memory"

    # -- disk

    async def room_for(self, sandbox_id: str) -> Callable[[int], None]:
        """Counts the bytes of one upload: to be called with the number of those that are written next.

        Raises, and so does what it returns:
            ApiError: 507 when the sandbox's disk is full, or they are more than it has room for.
        """
        watched = self._dog.get(sandbox_id) if self._dog is not None else None
        if self._dog is not None and watched is not None and watched.full:
            await self._dog.recount(watched)
            if watched.full:
                raise ApiError(507, watched.why_full, "DISK_FULL")
        since = 0  # bytes, since what is used was last measured
        measured = watched.used if watched is not None else 0

        def count(size: int) -> None:
            nonlocal since, measured
            if watched is None:
                return
            if watched.used != measured:
                # Measured anew meanwhile: what came before is in it.
                since, measured = 0, watched.used
            since += size
            watched.worked = True
            if measured + since > watched.disk:
                raise ApiError(
                    507,
                    f"the file does not fit into what is left of the sandbox's {watched.disk >> 30} GiB "
                    "of disk; ask for more with `%sandbox create --disk`",
                    "DISK_FULL",
                )

        return count

    async def counted(self, sandbox_id: str, chunks: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """The bytes of an upload, as long as there is room for them; raises as :meth:`room_for` does."""
        count = await self.room_for(sandbox_id)
        async for chunk in chunks:
            count(len(chunk))
            yield chunk

    # -- what is kept

    def describe_limits(self, level: str = "") -> dict[str, Any]:
        """What of the limits is kept here, and how.

        Returns:
            Per limit ``state`` (enforced: by the kernel, at the figure; approximated: soon after, or by
            something a hostile program can undo; advisory: only asked for), ``how``, and ``why`` it is not
            enforced. ``default`` is what a sandbox gets that asks for nothing.

        Args:
            level: isolation level of new sandboxes.
        """
        has, why = self._cgroups.controllers, self._cgroups.reason
        own = level in _NAMESPACES or (os.geteuid() == 0 and level != "L0")
        cpus, memory, size = self._capacity().default

        def kept(by_cgroup: str, otherwise: tuple[str, str, str]) -> dict[str, str]:
            if by_cgroup in has:
                return {"state": "enforced", "how": "cgroup", "why": ""}
            state, how, reason = otherwise
            return {"state": state, "how": how, "why": reason}

        alone = "the kernel limits each process; the engine watches their sum and ends the largest"
        counted = "the engine counts and ends them"
        return {
            "cpu": kept("cpu", ("approximated", "pinned to as many CPUs, with a lower priority", why)),
            "memory": kept("memory", ("approximated", alone, why)),
            "processes": kept(
                "pids",
                ("enforced", "limit of the sandbox's user", "")
                if own
                else ("approximated", counted, "the kernel counts all of your processes together"),
            ),
            "disk": {
                "state": "approximated",
                "how": "one file: by the kernel; all together: the engine counts them and stops writing",
                "why": "file systems have no quotas that the engine could set",
            },
            "open_files": {
                "state": "advisory" if level == "L0" else "enforced",
                "how": "limit of each process",
                "why": "nothing is limited at L0" if level == "L0" else "",
            },
            "output": {
                "state": "enforced",
                "how": f"a command is ended after {MAX_OUTPUT >> 20} MiB of output; a cell goes on, and of "
                "what it prints the first and the last part are kept",
                "why": "",
            },
            "default": {"cpu": cpus, "memory": memory, "disk": size, "processes": Limits().processes},
            "reserve_mib": self.room.reserve >> 20,
        }


def _pin(pid: int, cpus: int) -> None:
    """Run a sandbox on ``cpus`` of the machine's CPUs, others than its neighbours' if there are enough."""
    there = sorted(os.sched_getaffinity(0))
    cpus = min(cpus, len(there))
    first = (pid * cpus) % len(there)
    with suppress(OSError):
        os.sched_setaffinity(pid, [there[(first + n) % len(there)] for n in range(cpus)])
