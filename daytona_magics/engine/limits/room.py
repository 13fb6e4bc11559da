"""How much the machine has left: memory, threads, descriptors; and what of it is not for sandboxes.

In a container the machine's own figures say nothing of what the container may use, so the cgroups the engine
is in are read as well; the smallest answer counts.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.engine import machine
from daytona_magics.engine.errors import ApiError

MIB = 1 << 20
#: Share of the machine's memory that sandboxes leave to everything else, and its bounds in bytes.
RESERVE, LEAST_RESERVE, MOST_RESERVE = 0.1, 96 * MIB, 1024 * MIB
#: Share of threads, process ids and descriptors above which no further sandbox is started.
NEARLY_ALL = 0.9
#: Descriptors the engine may need for one sandbox that is busy.
_DESCRIPTORS = 16
#: Memory a further sandbox needs, in bytes.
_SANDBOX = 32 * MIB


@dataclass(frozen=True)
class _Box:
    """A cgroup around the engine with a memory limit: the files that say how much is used."""

    limit: int
    usage: Path
    stat: Path
    cache: str

    def left(self) -> int:
        used = int(self.usage.read_text())
        for line in self.stat.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == self.cache:
                # Files that are only cached are given up when memory is needed.
                used -= int(value)
        return self.limit - used


class Room:
    """What is left on this machine."""

    def __init__(self) -> None:
        found = machine.resources()
        self.total = int(found["memory_bytes"] or 1024 * MIB)
        self.reserve = int(min(max(self.total * RESERVE, LEAST_RESERVE), MOST_RESERVE, self.total // 4))
        self._boxes = list(_boxes())
        self.most_threads = min(_number("/proc/sys/kernel/threads-max"), _number("/proc/sys/kernel/pid_max"))
        self._pids = [
            (folder / "pids.current", limit)
            for folder in machine._cgroups()
            if (limit := _number(folder / "pids.max", 0))
        ]

    def memory(self) -> int:
        """Bytes that can be used without swapping, here and in the container."""
        left = [self.total]
        with suppress(OSError, ValueError), open("/proc/meminfo", "rb", buffering=0) as file:
            data = file.read(256)
            at = data.find(b"MemAvailable:")
            if at >= 0:
                left.append(int(data[at + 13 :].split(None, 1)[0]) << 10)
        for box in self._boxes:
            with suppress(OSError, ValueError):
                left.append(box.left())
        return min(left)

    def threads(self) -> int:
        """Threads of the whole machine."""
        with suppress(OSError, ValueError, IndexError), open("/proc/loadavg", "rb", buffering=0) as file:
            return int(file.read(128).split()[3].partition(b"/")[2])
        return 0

    def check(self) -> None:
        """May another sandbox be started?

        Raises:
            ApiError: 503, naming what is used up.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and len(os.listdir("/proc/self/fd")) + _DESCRIPTORS > soft:
            raise ApiError(
                503,
                f"the embedded engine has {soft} files and connections open, which is all it may have; "
                "delete or stop some sandboxes, or raise `ulimit -n`",
            )
        counts = [(self.threads(), self.most_threads, "this machine")]
        counts += [(_number(path, 0), limit, "this container") for path, limit in self._pids]
        for count, most, where in counts:
            if count > most * NEARLY_ALL:
                raise ApiError(
                    503,
                    f"{count} of the {most} processes that {where} allows are running; "
                    "delete or stop some sandboxes",
                )
        left = self.memory()
        if left < self.reserve + _SANDBOX:
            raise ApiError(
                503,
                f"only {left // MIB} MiB of memory are left, of which {self.reserve // MIB} MiB stay in "
                "reserve; delete or stop some sandboxes",
            )


def use_all_descriptors() -> None:
    """Raise this process's limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Beyond this, tables that are as large as the limit cost more than they give.
        wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _boxes() -> list[_Box]:
    """Every cgroup around the engine that limits memory."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: dict[Path, _Box] = {}
    for folder in machine._cgroups():
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            size = _number(folder / limit, 0)
            if 0 < size < whole and folder not in found:
                found[folder] = _Box(size, folder / usage, folder / "memory.stat", cache)
    return list(found.values())


def _number(path: str | Path, default: int = 1 << 22) -> int:
    with suppress(OSError, ValueError):
        return int(Path(path).read_text())
    return default
