"""What sandboxes use: a figure for now, and one a minute for the last day.

The figures are taken from outside, of the sandbox's own processes and files. Memory is what the kernel counts
for the sandbox's cgroup; where it has none, pages that processes share are divided among them. History is
kept in memory: it begins anew with the engine, and has a gap where the sandbox did not run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.engine.life.freezing import members, stat_fields
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.limits import disk, processes
from daytona_magics.engine.limits.limiter import Limiter
from daytona_magics.engine.limits.watched import Watched

SAMPLE_SECONDS = 60.0
_KEPT = 24 * 60
#: Seconds over which the use of CPUs is measured when nothing is known yet.
_WINDOW = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_GIB = 1 << 30


@dataclass(frozen=True)
class Sample:
    """What a sandbox used at ``time`` (seconds since 1970): CPU in percent of its CPUs, else bytes."""

    time: float
    cpu_count: int
    cpu_percent: float
    memory_used: int
    memory_total: int
    memory_cache: int
    disk_used: int
    disk_total: int


class Metrics:
    """Samples of all sandboxes.

    Args:
        limiter: knows their processes and limits.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._samples: dict[str, deque[Sample]] = {}
        self._cpu: dict[str, tuple[int, float, float]] = {}

    async def now(self, sandbox: Sandbox) -> Sample:
        """What a sandbox uses now; its files are counted. Raises ApiError 400 when it is not started."""
        first = sandbox.started.pid
        if sandbox.record.id not in self._cpu or self._cpu[sandbox.record.id][0] != first:
            self._measure_cpu(sandbox, first)
            await asyncio.sleep(_WINDOW)
        watched = self._limiter.watched(sandbox.record.id)
        files = await asyncio.to_thread(disk.used, Path(sandbox.record.home).parent)
        return self._sample(sandbox, watched, files)

    def tick(self, sandboxes: Iterable[Sandbox]) -> None:
        """Take the samples that are due."""
        there = set()
        for sandbox in sandboxes:
            there.add(sandbox.record.id)
            if sandbox.process is None or sandbox.record.state != "started":
                continue
            kept = self._samples.setdefault(sandbox.record.id, deque(maxlen=_KEPT))
            if kept and time.time() - kept[-1].time < SAMPLE_SECONDS:
                continue
            watched = self._limiter.watched(sandbox.record.id)
            kept.append(self._sample(sandbox, watched, watched.used if watched else 0))
        for gone in self._samples.keys() - there:
            del self._samples[gone]
            self._cpu.pop(gone, None)

    def history(self, sandbox: Sandbox, since: float, until: float) -> list[Sample]:
        """The samples of a time, oldest first."""
        return [s for s in self._samples.get(sandbox.record.id, ()) if since <= s.time <= until]

    def keep(self, sandbox: Sandbox, sample: Sample) -> None:
        """A figure that somebody asked for belongs to the history, too."""
        self._samples.setdefault(sandbox.record.id, deque(maxlen=_KEPT)).append(sample)

    def _sample(self, sandbox: Sandbox, watched: Watched | None, files: int) -> Sample:
        record, first = sandbox.record, sandbox.started.pid
        cpus = record.cpu or len(os.sched_getaffinity(0))
        used, cache = _memory(first, watched)
        return Sample(
            time=time.time(),
            cpu_count=cpus,
            cpu_percent=round(min(100.0, self._measure_cpu(sandbox, first) / cpus), 2),
            memory_used=used,
            memory_total=watched.memory if watched else record.memory * _GIB,
            memory_cache=cache,
            disk_used=files,
            disk_total=record.disk * _GIB,
        )

    def _measure_cpu(self, sandbox: Sandbox, first: int) -> float:
        """Percent of one CPU since this was last asked; 0 the first time."""
        now, ticks = time.monotonic(), _ticks(first)
        before = self._cpu.get(sandbox.record.id)
        self._cpu[sandbox.record.id] = (first, now, ticks)
        if before is None or before[0] != first or now <= before[1]:
            return 0.0
        return max(0.0, ticks - before[2]) / _TICKS / (now - before[1]) * 100


def _ticks(first: int) -> float:
    """CPU time of everything in the sandbox, in clock ticks, with that of processes that have ended."""
    total = 0
    for pid in members(first):
        if fields := stat_fields(pid):
            # utime, stime, and both again of ended children, who have handed on those of theirs.
            total += sum(int(field) for field in fields[11:15])
    return float(total)


def _memory(first: int, watched: Watched | None) -> tuple[int, int]:
    """Bytes used without and of files that are only cached."""
    folder = watched.group.folders.get("memory") if watched and watched.group else None
    if folder is not None:
        for total, line in (("memory.current", "file "), ("memory.usage_in_bytes", "cache ")):
            with suppress(OSError, ValueError):
                used = int((folder / total).read_text())
                stat = (folder / "memory.stat").read_text().splitlines()
                cache = next((int(text.split()[1]) for text in stat if text.startswith(line)), 0)
                return max(0, used - cache), cache
    return sum(_resident(pid) for pid in members(first)), 0


def _resident(pid: int) -> int:
    """Bytes of a process in memory; shared pages are not divided where the kernel does not say how."""
    share = processes.share(pid)
    if share is not None:
        return share
    fields = stat_fields(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 21 else 0
