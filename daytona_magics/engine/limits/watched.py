"""What the watchdog knows of one started sandbox."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from daytona_magics.engine.launch.sandbox import SandboxProcess
from daytona_magics.engine.limits import processes
from daytona_magics.engine.limits.cgroups import Group
from daytona_magics.engine.limits.notices import Notices
from daytona_magics.engine.limits.processes import Process

#: What the guest's daemon calls itself (``runtime/guest/daemon.py``).
DAEMON = "daytona-guest"
_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds between two looks at a sandbox that does nothing, and at one that is at work.
SELDOM, OFTEN, AT_ONCE = 30.0, 0.25, 0.1
#: A look costs at most this share of a core.
COST = 0.02
#: Growth between two looks, in bytes, that calls for the next one at once.
_GROWTH = 64 << 20
#: Share of looks at which a process still wants the CPU: above the first the sandbox works all the time, and
#: below the second no longer; the last is how much the latest look counts.
_STEADY, _UNSTEADY, _LATEST = 0.85, 0.5, 0.3


@dataclass
class Watched:
    """A started sandbox.

    Attributes:
        box: its process.
        folder: everything it has on disk.
        memory, disk: limits in bytes.
        most: limit of processes and threads.
        count: whether nobody but the watchdog enforces that.
        group: its cgroup, if any.
        found: its processes when they were last looked at.
        busy: whether it did anything when it was last looked at; ``steady``: whether it does so all the time.
        due, earliest: when it is to be looked at next, and not before (monotonic seconds).
        used: bytes of disk when they were last counted; ``space`` is what the file system had left then.
        full: whether its writing is stopped; ``why_full`` tells the person.
        full_at, wrote: bytes of disk, and what each process had written, at the count before.
        struck: whether writers were stopped at the count before.
    """

    box: SandboxProcess
    folder: Path
    memory: int
    disk: int
    most: int
    count: bool
    group: Group | None
    notices: Notices = field(default_factory=Notices)
    found: list[Process] = field(default_factory=list)
    due: float = 0.0
    earliest: float = 0.0
    busy: bool = False
    steady: bool = False
    used: int = 0
    space: int = 0
    count_after: float = 0.0
    counting: bool = False
    worked: bool = True
    full: bool = False
    why_full: str = ""
    full_at: int = 0
    wrote: dict[int, tuple[int, int]] = field(default_factory=dict)
    struck: bool = False
    _pause: float = OFTEN
    _keeper: int = 0
    _looked: float = 0.0
    _wanting: float = 0.0
    _running: set[int] = field(default_factory=set)

    @property
    def bounded(self) -> bool:
        """Whether the kernel bounds its memory."""
        return self.group is not None and "memory" in self.group.folders

    def look(self, now: float) -> None:
        """Sample its processes at ``now`` (monotonic seconds) and decide how soon to do it again."""
        before_ticks, before_rss = self.ticks, self.rss
        self.found = [found for pid in self.pids() if (found := processes.look(pid)) is not None]
        if not self.bounded:
            counted: set[int] = set()
            self.found = [processes.with_files(process, counted) for process in self.found]
        used = (self.ticks - before_ticks) / _TICKS
        grown = self.rss - before_rss
        running = {process.pid for process in self.found if process.running}
        self.busy = bool(running) or used > 0.02 * max(now - self._looked, 0.05) or abs(grown) > 1 << 20
        # The same process twice: a short command that has to wait is not one that never does.
        self._wanting += _LATEST * (not running.isdisjoint(self._running) - self._wanting)
        self._running = running
        self.steady = self._wanting > (_UNSTEADY if self.steady else _STEADY)
        self.worked = self.worked or self.busy
        self._looked = now
        if not self.bounded and (grown > _GROWTH or self.rss > self.memory // 2) and self.busy:
            self._pause = AT_ONCE
        elif self.busy:
            self._pause = OFTEN
        else:
            self._pause = min(self._pause * 2, SELDOM)

    def looked(self, now: float, cost: float) -> None:
        """A look took ``cost`` seconds and ended ``now``."""
        self.earliest = now + min(max(AT_ONCE / 2, cost / COST), 1.0)
        self.due = max(self.earliest, now + self._pause)

    def pids(self) -> list[int]:
        """Pids of everything in it."""
        if self.group is not None and (found := self.group.pids()):
            return found
        if not self._keeper:
            # Where there is no pid namespace, orphans become its children.
            self._keeper = processes.parent_of(self.box.pid)
        if self._keeper:
            return processes.below(self._keeper)
        return [self.box.pid, *processes.below(self.box.pid)]

    @property
    def ticks(self) -> int:
        """CPU time of what runs now, in clock ticks."""
        return sum(process.ticks for process in self.found)

    @property
    def rss(self) -> int:
        """Bytes in memory, shared ones counted several times, with files in memory that are not mapped."""
        return sum(process.size for process in self.found)

    @property
    def threads(self) -> int:
        """Processes and threads."""
        return sum(process.threads for process in self.found)

    @property
    def daemon(self) -> int:
        """Pid of the guest's own daemon, which starts the workers; 0 when there is none.

        Everybody may take its name and become an orphan; the first who did is it.
        """
        parents = {self.box.pid, self._keeper}
        found = [p for p in self.found if p.name == DAEMON and p.parent in parents]
        return min(found, key=lambda process: process.started).pid if found else 0

    @property
    def writers(self) -> list[Process]:
        """Processes that are kept from writing when it is full: not those without which nobody can delete."""
        kept = (self.box.pid, self.daemon)
        return [process for process in self.found if process.pid not in kept]

    @property
    def victims(self) -> list[Process]:
        """Processes that may be ended, the largest first: not its first one, which is the toolbox."""
        inner = [process for process in self.found if process.pid != self.box.pid]
        return sorted(inner, key=lambda process: process.size, reverse=True)

    def chain(self, process: Process) -> tuple[int, ...]:
        """Inside pids of a process and of those it descends from, without the toolbox."""
        known = {other.pid: other for other in self.found}
        pids: list[int] = []
        at: Process | None = process
        while at is not None and at.pid != self.box.pid and len(pids) < 64:
            pids.append(processes.inside(at.pid))
            at = known.get(at.parent)
        return tuple(pid for pid in pids if pid)

    def named(self, process: Process) -> str:
        """A process for people: its name, and its pid as they see it."""
        return f"{process.name}, pid {processes.inside(process.pid) or '?'}"
