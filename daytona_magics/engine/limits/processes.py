"""Looking at the processes of a sandbox from outside, through /proc.

Only what belongs to a sandbox is read, so the cost does not depend on what else the machine runs: the pids
come from the sandbox's cgroup where there is one, else from the lists of children below its keeper, where
orphans of a sandbox without a pid namespace end up, too.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass, replace

PAGE = os.sysconf("SC_PAGE_SIZE")
#: Processes of one sandbox that are looked at; far above what it may have.
MOST = 8192
#: Threads of one process that are looked at.
_TASKS = 64


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a sandbox.

    Attributes:
        pid, parent: as the engine sees them.
        name: as ``ps`` shows it; chosen by the process, so it is data to be doubted.
        rss: bytes in memory, shared ones counted in full.
        ticks: CPU time used, in clock ticks.
        threads: how many it has.
        started: when, in clock ticks since boot; with the pid it names a process for good.
        running: whether it runs or waits for nothing but a CPU.
        files: bytes of memory files that it holds open and has not mapped; nothing else counts them.
    """

    pid: int
    parent: int
    name: str
    rss: int
    ticks: int
    threads: int
    started: int
    running: bool
    files: int = 0

    @property
    def size(self) -> int:
        """All that it has in memory, in bytes."""
        return self.rss + self.files


def look(pid: int) -> Process | None:
    """The process ``pid``; None when it is gone or only its exit status is left."""
    data = _read(f"/proc/{pid}/stat")
    end = data.rfind(b")")
    if end < 0:
        return None
    fields = data[end + 2 :].split(None, 22)
    if fields[0] in (b"Z", b"X"):
        return None
    name = data[data.find(b"(") + 1 : end].decode("utf-8", "replace")
    return Process(
        pid,
        int(fields[1]),
        "".join(letter if letter.isprintable() else "?" for letter in name),
        int(fields[21]) * PAGE,
        int(fields[11]) + int(fields[12]),
        int(fields[17]),
        int(fields[19]),
        fields[0] == b"R",
    )


def with_files(process: Process, counted: set[int]) -> Process:
    """The process with its memory files (``memfd_create``).

    Args:
        counted: files that others hold, too, and that were counted with them; what is counted here is added.
    """
    found = 0
    with suppress(OSError), os.scandir(f"/proc/{process.pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):
                info = os.stat(entry.path)
                if info.st_dev == _memory_files() and info.st_ino not in counted:
                    counted.add(info.st_ino)
                    found += info.st_blocks * 512
    if not found:
        return process
    # What is mapped is counted as its memory already.
    mapped = next(
        (
            int(line.split()[1]) << 10
            for line in _read(f"/proc/{process.pid}/status").splitlines()
            if line.startswith(b"RssShmem:")
        ),
        0,
    )
    return replace(process, files=max(0, found - mapped))


@functools.cache
def _memory_files() -> int:
    """The device number that all memory files have in common."""
    handle = os.memfd_create("daytona-magics", os.MFD_CLOEXEC)
    try:
        return os.fstat(handle).st_dev
    finally:
        os.close(handle)


def below(root: int) -> list[int]:
    """Pids of all descendants of the single-threaded process ``root``."""
    found: list[int] = []
    pending = _children(root, root)
    while pending and len(found) < MOST:
        pid = pending.pop()
        found.append(pid)
        tasks = _tasks(pid)
        for task in tasks:
            pending += _children(pid, task)
    return found


def _tasks(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []


def _children(pid: int, task: int) -> list[int]:
    return [int(word) for word in _read(f"/proc/{pid}/task/{task}/children").split()]


def parent_of(pid: int) -> int:
    """The parent of ``pid``; 0 when there is none."""
    found = look(pid)
    return found.parent if found else 0


def share(pid: int) -> int | None:
    """Bytes in memory of ``pid`` with shared pages divided among their users (PSS); None when unknown."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) << 10
    return None


def written(pid: int) -> tuple[int, int]:
    """Bytes ``pid`` has written to disk so far, with its ended children and without; 0 when unknown."""
    alone = sum(_written(f"/proc/{pid}/task/{task}/io") for task in _tasks(pid)[:_TASKS])
    return _written(f"/proc/{pid}/io"), alone


def _written(path: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(b"write_bytes:"):
            return int(line.split()[1])
    return 0


def inside(pid: int) -> int:
    """The pid by which ``pid`` is known in its own pid namespace; 0 when it is gone."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"NSpid:"):
            return int(line.split()[-1])
    return 0


def end(process: Process) -> bool:
    """SIGKILL exactly this process; False when it is gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The handle cannot come to mean another process any more; does it mean the right one?
        now = look(process.pid)
        if now is None or now.started != process.started:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def allow_memory(pids: list[int], size: int) -> None:
    """Let each process have ``size`` bytes of private memory, as far as the engine may grant it."""
    for pid in pids:
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))


def user_threads() -> int:
    """Threads this user runs on the machine, which is what RLIMIT_NPROC compares with."""
    count, uid = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid and (found := look(int(name))) is not None:
                    count += found.threads
    return count


def _read(path: str) -> bytes:
    """A file of /proc, b"" when the process has gone meanwhile or may not be looked at."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(handle, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(handle)
