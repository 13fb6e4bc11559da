"""cgroups of sandboxes, where the engine may make them.

Version 1: for each of memory, cpu and pids a folder below the engine's own cgroup. Version 2: a folder below
the nearest cgroup above the engine that it may write to and that passes the controllers on (as root of the
machine, or what systemd delegates to a user). In it one folder per sandbox, made before the sandbox has run
anything and removed when it is gone; the folder's name is the state folder's, so after a crash the next
engine finds and removes what is left.

All sandboxes together are one competitor of the notebook for the CPU, and in memory they leave the machine
its reserve.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from daytona_magics.engine.log import log

CONTROLLERS = ("memory", "cpu", "pids")
_PREFIX = "daytona-magics-"
_PERIOD = 100_000
_LEFT_SECONDS = 2.0
_ROUNDS = 50
_SHARES = ("cpu.shares", 1024, 262_144)
#: Weight of a sandbox that works all the time, among those that do not.
_BACK = 1 / 16


@dataclass
class Group:
    """The cgroup of one sandbox: per controller its folder (in version 2 it is always the same)."""

    folders: dict[str, Path]
    kills: int = field(default=0)
    back: bool = field(default=False)

    def attach(self, pid: int) -> None:
        """Put a process, and so everything it starts from now on, into it. Raises OSError."""
        for folder in dict.fromkeys(self.folders.values()):
            _write(folder / "cgroup.procs", str(pid))

    def attach_all(self, first: int, running: Callable[[], list[int]]) -> None:
        """Attach a sandbox's first process, and then what it has started before that; see `attach`.

        Args:
            running: the sandbox's processes, also those that are not in it yet.

        Raises:
            OSError: also when it starts processes faster than they can be moved.
        """
        self.attach(first)
        for _ in range(_ROUNDS):
            outside = set(running()) - self._inside()
            if not outside:
                return
            for pid in outside:
                # It may have ended meanwhile.
                with suppress(OSError):
                    self.attach(pid)
        raise OSError(errno.EBUSY, "its processes multiply faster than they can be moved")

    def _inside(self) -> set[int]:
        """What is in all of its folders."""
        found = [
            {int(word) for word in _words(folder / "cgroup.procs")}
            for folder in dict.fromkeys(self.folders.values())
        ]
        return set.intersection(*found)

    def pids(self) -> list[int]:
        """Everything that is in it."""
        folder = next(iter(self.folders.values()))
        with suppress(OSError):
            return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        return []

    def killed(self) -> int:
        """How many processes the kernel has ended for want of memory since this was last asked."""
        count, before = self._count(), self.kills
        self.kills = count
        return count - before

    def has_killed(self) -> bool:
        """Whether `killed` would say more than 0."""
        return self._count() > self.kills

    def _count(self) -> int:
        folder = self.folders.get("memory")
        if folder is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError):
                for line in (folder / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        return self.kills

    def limit(self, *, cpus: int | None, memory: int, processes: int) -> None:
        """Set the limits: CPUs (None: all there are), bytes of memory, processes. Raises OSError."""
        for name, folder in self.folders.items():
            if name == "memory":
                _limit_memory(folder, memory)
            elif name == "pids":
                _write(folder / "pids.max", str(processes))
            elif (folder / "cpu.max").exists():
                _write(folder / "cpu.max", f"{cpus * _PERIOD if cpus else 'max'} {_PERIOD}")
            else:
                _write(folder / "cpu.cfs_quota_us", str(cpus * _PERIOD if cpus else -1))

    def stand_back(self, back: bool) -> None:
        """Let the others have the CPU first, or no longer; it gets all that they do not use."""
        folder = self.folders.get("cpu")
        if folder is not None and back != self.back:
            self.back = back
            with suppress(OSError):
                weigh(folder, _BACK if back else 1.0)

    def remove(self) -> bool:
        """Remove the folders; False when something in them is not gone yet."""
        return all([_remove(folder) for folder in dict.fromkeys(self.folders.values())])


class Cgroups:
    """The place where sandboxes' cgroups are made.

    Args:
        state: the state folder, whose lock the engine holds.

    Attributes:
        controllers: those that can be used, after `open`.
        reason: why the others cannot, one sentence; empty when all can.
    """

    def __init__(self, state: Path) -> None:
        self._memo = state / "cgroups.json"
        self._name = _PREFIX + hashlib.sha256(_identity(state)).hexdigest()[:12]
        self._parents: dict[str, Path] = {}
        self._left: list[Group] = []
        # Groups are made in threads and removed in the loop.
        self._lock = threading.Lock()
        self.reason = "not tried yet"

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self._parents)

    def open(self, *, memory: int, processes: int) -> None:
        """Find a place, remove what an earlier engine left, and set the limits of all sandboxes together."""
        self._clean_up()
        problems: list[str] = []
        if os.environ.get("DAYTONA_MAGICS_CGROUPS") == "off":
            self.reason = "DAYTONA_MAGICS_CGROUPS=off"
            return
        for name, places in _places().items():
            for place in places:
                try:
                    self._take(name, place)
                    break
                except OSError as error:
                    problems.append(f"{place}: {error.strerror or error}")
        together = Group(self._parents)
        try:
            together.limit(cpus=None, memory=memory, processes=processes)
            if "cpu" in self._parents:
                # One competitor, but one on each CPU.
                weigh(self._parents["cpu"], os.cpu_count() or 1)
        except OSError as error:
            log.warning("the cgroup of all sandboxes takes no limits: %s", error)
        missing = [name for name in CONTROLLERS if name not in self._parents]
        self.reason = ""
        if missing:
            why = problems[-1] if problems else "no cgroup here passes them on to this user"
            self.reason = f"no cgroups for {', '.join(missing)}: {why}"
        self._memo.write_text(json.dumps(sorted({str(path) for path in self._parents.values()})))

    def _take(self, name: str, place: Path) -> None:
        """Make the common folder below ``place`` and check that a process can be put into one of its own."""
        parent = place / self._name
        made = not parent.exists()
        if made:
            parent.mkdir()
        try:
            if (parent / "cgroup.subtree_control").exists():
                _write(parent / "cgroup.subtree_control", f"+{name}")
            _try(parent / "probe")
        except OSError:
            if made:
                _remove(parent)
            raise
        self._parents[name] = parent

    def make(self, sandbox_id: str, *, cpus: int | None, memory: int, processes: int) -> Group | None:
        """The cgroup for one sandbox; None where there are none.  Raises OSError."""
        self.sweep()
        if not self._parents:
            return None
        with self._lock:
            return self._make(sandbox_id, cpus, memory, processes)

    def _make(self, sandbox_id: str, cpus: int | None, memory: int, processes: int) -> Group:
        group = Group({name: parent / sandbox_id for name, parent in self._parents.items()})
        # Of the same sandbox, started before: what is in use again is not to be removed.
        self._left = [left for left in self._left if left.folders != group.folders]
        try:
            for folder in dict.fromkeys(group.folders.values()):
                folder.mkdir(exist_ok=True)
            group.limit(cpus=cpus, memory=memory, processes=processes)
        except OSError:
            self._drop(group)
            raise
        group.killed()
        return group

    def usage(self) -> tuple[int, int] | None:
        """Bytes of memory, cached files included, and threads of all sandboxes; None where nobody counts."""
        memory, pids = self._parents.get("memory"), self._parents.get("pids")
        if memory is None or pids is None:
            return None
        for name in ("memory.usage_in_bytes", "memory.current"):
            with suppress(OSError, ValueError):
                return _number(memory / name), _number(pids / "pids.current")
        return None

    def drop(self, group: Group) -> None:
        """Remove a cgroup, now or when the last of its processes is gone."""
        with self._lock:
            self._drop(group)

    def _drop(self, group: Group) -> None:
        if not group.remove():
            self._left.append(group)

    def sweep(self) -> None:
        """Try again what could not be removed before."""
        with self._lock:
            self._left = [group for group in self._left if not group.remove()]

    def close(self) -> None:
        """Remove everything: the sandboxes are gone."""
        deadline = time.monotonic() + _LEFT_SECONDS
        while self._left and time.monotonic() < deadline:
            self.sweep()
            if self._left:
                time.sleep(0.02)
        for parent in dict.fromkeys(self._parents.values()):
            _remove(parent)
        self._parents = {}
        self._memo.unlink(missing_ok=True)

    def _clean_up(self) -> None:
        """End and remove what an engine that was killed has left; its sandboxes die with it anyway."""
        places = {place / self._name for found in _places().values() for place in found}
        with suppress(OSError, ValueError, TypeError):
            remembered = [Path(text) for text in json.loads(self._memo.read_text())]
            places.update(path for path in remembered if path.name == self._name)
        for parent in places:
            for folder in _folders(parent):
                _empty(folder)
            if parent.is_dir():
                _remove(parent)


def _identity(state: Path) -> bytes:
    """A state folder, told from others of the same name in other containers."""
    parts = [os.fsencode(state.resolve())]
    with suppress(OSError):
        found = state.stat()
        parts.append(b"%d.%d" % (found.st_dev, found.st_ino))
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    return b"\0".join(parts)


def _places() -> dict[str, list[Path]]:
    """Per controller the existing cgroups below which ours could be, the nearest to the engine first."""
    own: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, names, path = line.split(":", 2)
            for name in names.split(",") if number != "0" else [""]:
                own[name] = path
    found: dict[str, list[Path]] = {}
    for root, mount, kind, options in _mounts():
        if kind == "cgroup":
            for name in set(options) & set(CONTROLLERS) & set(own):
                found[name] = [mount / _below(own[name], root)]
        elif kind == "cgroup2" and "" in own:
            place = mount / _below(own[""], root)
            for candidate in (place, *place.parents):
                if candidate.is_relative_to(mount):
                    for name in set(_words(candidate / "cgroup.subtree_control")) & set(CONTROLLERS):
                        found.setdefault(name, []).append(candidate)
    return {name: found[name] for name in CONTROLLERS if name in found}


def _mounts() -> list[tuple[str, Path, str, list[str]]]:
    """Root, mount point, kind and options of every mounted cgroup hierarchy."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                words = left.split()
                found.append((words[3], Path(words[4]), kind, options.split(",")))
    return found


def _below(path: str, root: str) -> str:
    """``path`` of a hierarchy as seen where ``root`` is mounted; a container may see its own as the root."""
    if root != "/" and path.startswith(root):
        path = path[len(root) :]
    return "" if path.startswith("/..") else path.strip("/")


def _words(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text().split()
    return []


def weigh(folder: Path, weight: float) -> None:
    """Set how much of the CPU a cgroup gets among its siblings; 1 is usual. Raises OSError."""
    name, usual, most = ("cpu.weight", 100, 10_000) if (folder / "cpu.weight").exists() else _SHARES
    _write(folder / name, str(min(most, max(2, int(usual * weight)))))


def _number(path: Path) -> int:
    with path.open("rb", buffering=0) as file:
        return int(file.read(32))


def _limit_memory(folder: Path, size: int) -> None:
    if (folder / "memory.max").exists():
        _write(folder / "memory.max", str(size))
        with suppress(OSError):
            _write(folder / "memory.swap.max", "0")
        return
    swap = folder / "memory.memsw.limit_in_bytes"
    # Memory and swap together may not be less than memory: raise that first, lower it last.
    with suppress(OSError):
        _write(swap, str(size))
    _write(folder / "memory.limit_in_bytes", str(size))
    with suppress(OSError):
        _write(swap, str(size))


def _try(folder: Path) -> None:
    """Put a process into a new cgroup and take both away again. Raises OSError."""
    folder.mkdir(exist_ok=True)
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={}) as process:
            _write(folder / "cgroup.procs", str(process.pid))
    finally:
        _remove(folder)


def _folders(parent: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in parent.iterdir() if path.is_dir()]
    return []


def _empty(folder: Path) -> None:
    """End what is in a cgroup that nobody looks after any more, and remove it."""
    deadline = time.monotonic() + _LEFT_SECONDS
    while not _remove(folder) and time.monotonic() < deadline:
        for word in _words(folder / "cgroup.procs"):
            # 0 stands for a process of another pid namespace, and to kill it would be to end ourselves.
            if int(word) > 1:
                with suppress(OSError):
                    os.kill(int(word), signal.SIGKILL)
        time.sleep(0.01)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    # Not write_text: these files cannot be truncated or made.
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
