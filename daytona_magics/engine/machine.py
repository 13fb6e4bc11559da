"""What there is on this machine for sandboxes to use: found by looking, without an engine.

``doctor`` must be able to say why an engine cannot start, so nothing here asks one. What a container may use
is read from its cgroup: ``nproc`` and ``free`` show the whole machine in there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from daytona_magics import __version__
from daytona_magics.engine import address, places

#: Programs by what they are for, each with what installs it.
DESKTOP = {"Xtigervnc": "apt install tigervnc-standalone-server", "openbox": "apt install openbox"}
LANGUAGE_SERVERS = {
    "pylsp": "pip install python-lsp-server",
    "jedi-language-server": "pip install jedi-language-server",
    "pyright-langserver": "npm install -g pyright",
    "typescript-language-server": "npm install -g typescript-language-server 'typescript<6'",
}
TOOLS = {"git": "apt install git", "node": "apt install nodejs npm", "npm": "apt install npm"}
SHELLS = ("zsh", "bash", "sh")

_PACKAGES = ("daytona", "ipython", "ipykernel", "jupyterlab")
_LANDLOCK_CREATE_RULESET, _LANDLOCK_VERSION = 444, 1


def sandbox_path() -> str:
    """Where programs are looked for in a sandbox, as a PATH: all of it is the machine's own, read-only."""
    folders = (f"{sys.prefix}/bin", f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin")
    return os.pathsep.join(dict.fromkeys(folders))


def found(names: Any) -> dict[str, str | None]:
    """Programs by name with the path a sandbox would run, None where there is none."""
    path = sandbox_path()
    return {name: shutil.which(name, path=path) for name in names}


def versions() -> dict[str, str | None]:
    """Versions of what takes part; None for what is not installed."""
    known: dict[str, str | None] = {"daytona-magics": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = None
    return known


def landlock_abi() -> int:
    """The Landlock version of this kernel; 0 when it has none or it is not switched on."""
    if not sys.platform.startswith("linux"):
        return 0
    # The number is the same on every architecture that has Landlock.
    return max(int(ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)), 0)


def container() -> str:
    """What this process is boxed in: "Docker", "Podman", "Kubernetes", "WSL"; "" when nothing shows."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes"
    if Path("/run/.containerenv").exists():
        return "Podman"
    if Path("/.dockerenv").exists():
        return "Docker"
    return "WSL" if "microsoft" in platform.release().lower() else ""


def resources() -> dict[str, float | int | None]:
    """CPUs and bytes of memory this process may use: the machine's, or less where its cgroup says so."""
    cpus: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory: int | None = None
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _cgroups():
        quota, period = _numbers(folder / "cpu.max") or (None, None)
        if quota is None:
            quota = (_numbers(folder / "cpu.cfs_quota_us") or (None,))[0]
            period = (_numbers(folder / "cpu.cfs_period_us") or (None,))[0]
        if quota and quota > 0 and period:
            cpus = min(cpus, quota / period)
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = (_numbers(folder / name) or (None,))[0]
            if limit and memory:
                memory = min(memory, limit)
    return {"cpus": round(cpus, 2), "memory_bytes": memory}


def _cgroups() -> Iterator[Path]:
    """Folders of the cgroups this process is in, and those above, both versions."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            for base in {Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup", controllers)}:
                # In a container the path may be one of the machine's; its own is then the root it sees.
                place = base / own.lstrip("/")
                yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(base))


def _numbers(path: Path) -> list[int] | None:
    try:
        words = path.read_text().split()
        return [int(word) for word in words]
    except (OSError, ValueError):  # absent, or "max": no limit
        return None


def advice(level: str, asked_for: str = "") -> list[str]:
    """What somebody could do here so that sandboxes are isolated better than at ``level``.

    Sentences; none at L3 and where nothing can be done. What stood in the way of each attempt, and what
    permits it, is said with the attempt; this is what holds for all of them.

    Args:
        level: the level there is, "none" without one.
        asked_for: the value of DAYTONA_MAGICS_ISOLATION the engine was started with.
    """
    if level == "L3" or address.obstacle() is not None:
        return []
    if asked_for:
        return [
            f"The engine was told DAYTONA_MAGICS_ISOLATION={asked_for}: take that out of the environment, "
            "then `python -m daytona_magics.engine stop`; the next cell finds the best level."
        ]
    told = []
    if not shutil.which("bwrap"):
        told.append(
            "Install bubblewrap (`apt install bubblewrap`): some systems allow it what they deny others."
        )
    abi = landlock_abi()
    if abi == 0:
        told.append(
            "Switch Landlock on, which L2 and L1 need: kernel 5.13 or newer with `lsm=landlock,...` on its "
            "command line."
        )
    elif abi < 6 and level == "L0.5":
        told.append("Linux 6.12 or newer (Landlock ABI 6) also stops signals to your other processes: L1.")
    return [*told, "After a change, `python -m daytona_magics.engine stop`; the next cell tries again."]


def state_folder_from() -> str:
    """Who decided where the preferred state folder is."""
    if os.environ.get("DAYTONA_MAGICS_HOME"):
        return "asked for by DAYTONA_MAGICS_HOME"
    if os.geteuid() != 0 and os.environ.get("XDG_DATA_HOME"):
        return "below XDG_DATA_HOME"
    return "the default"


def disk(folder: Path) -> dict[str, int | None]:
    """Bytes of the file system that holds, or would hold, ``folder``."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            usage = shutil.disk_usage(place)
            return {"disk_free_bytes": usage.free, "disk_total_bytes": usage.total}
    return {"disk_free_bytes": None, "disk_total_bytes": None}


def facts() -> dict[str, Any]:
    """Everything above as one report, with names that say their units; no folders where no engine can be."""
    report: dict[str, Any] = {
        "versions": versions(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "kernel_landlock_abi": landlock_abi(),
        "container": container(),
        **resources(),
        "desktop": found(DESKTOP),
        "language_servers": found(LANGUAGE_SERVERS),
        "tools": found(TOOLS),
        "shells": found(SHELLS),
        "state_folder": None,
        "state_folder_from": "",
        "disk_free_bytes": None,
        "disk_total_bytes": None,
    }
    if address.obstacle() is None:
        wanted = places.state_dir()
        report |= {"state_folder": str(wanted), "state_folder_from": state_folder_from(), **disk(wanted)}
    return report
