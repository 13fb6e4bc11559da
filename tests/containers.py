"""Commands in containers as Docker and Podman make them, without a container engine: plain ``runc``.

The container's root is put together of this machine's own folders, read-only (``/usr``, ``/etc``, ``/var``
and so on), the repository and this Python, so nothing is pulled or built. What decides about isolation is
like the real thing: the system call profiles that Docker and Podman ship (Debian has both as files), the
capabilities a Docker container's root keeps, no_new_privs as in a Kubernetes pod, masked and read-only places
of /proc, cgroups where this machine lets us. It works in the closed network of ``python -m tests`` too.

    In : run_in_container(["id", "-u"], profile="docker", uid=1000).stdout
    Out: '1000\\n'
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Where the Debian packages golang-github-docker-docker-dev and golang-github-containers-common put them.
DOCKER = Path("/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json")
PODMAN = Path("/usr/share/containers/seccomp.json")

#: docker: no namespaces. podman: all of them. mount denied: namespaces but no mounts, which is what AppArmor
#: leaves on Ubuntu (docker-default); here a system call profile says it. unconfined: Kubernetes' default.
#: In all of them the masked places of /proc keep anybody from mounting a proc of his own, except with
#: ``masked=False`` (``podman run --security-opt unmask=ALL``).
PROFILES = ("docker", "podman", "mount denied", "unconfined")

_MOUNT_CALLS = (
    *("mount", "umount", "umount2", "pivot_root", "open_tree", "move_mount"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
)
_CAPABILITIES = (
    *(
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
    ),
    *("CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"),
    "CAP_SYS_CHROOT",
)
#: The places in /proc and /sys that containers hide and that they show read-only.
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_HOST_FOLDERS = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "srv", "usr", "var")
HOME = "/home/container"

_ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}


def unavailable() -> str:
    """Why containers cannot be run here, in one sentence; "" when they can."""
    if os.geteuid() != 0:
        return "runc is used as root"
    if shutil.which("runc") is None:
        return "runc is not installed"
    missing = [path for path in (DOCKER, PODMAN) if not path.is_file()]
    return f"no profile {missing[0]}" if missing else ""


def run_in_container(
    argv: Sequence[str],
    *,
    profile: str,
    uid: int,
    memory: int | None = None,
    env: Mapping[str, str] | None = None,
    binds: Sequence[tuple[str | Path, str, str]] = (),
    timeout: float = 120,
    cwd: str = HOME,
    network: bool = False,
    masked: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` as pid 1 of a fresh container and return what it said.

    Args:
        argv: the program; found by PATH, in which this Python's folder is first.
        profile: one of `PROFILES`.
        uid: 0 (with Docker's capabilities) or another (with none).
        memory: limit in bytes for all of the container, swap included; needs cgroups.
        env: further variables; nothing of this process's environment is passed on.
        binds: (host path, path in the container, "ro" or "rw").
        timeout: seconds, after which the container is killed.
        cwd: working folder; the default is the container's HOME, an empty tmpfs owned by `uid`, as is /tmp.
        network: share this process's network instead of having only a loopback of its own.
        masked: hide parts of /proc, as every container does unless told not to.

    Raises:
        subprocess.TimeoutExpired: the container was killed.
        RuntimeError: a memory limit was asked for and cgroups are not writable.
    """
    name = f"dm-test-{os.getpid()}-{secrets.token_hex(4)}"
    if memory is not None and not cgroups_writable():
        raise RuntimeError("a memory limit needs a writable memory cgroup")
    with _bundle() as bundle:
        spec = _process(argv, uid, env or {}, cwd)
        spec["mounts"] = _mounts(bundle / "rootfs", uid, binds)
        spec["linux"] = _linux(profile, memory, masked, network, name)
        (bundle / "config.json").write_text(json.dumps(spec))
        # Of a cgroup that may not be made, "rootless" makes no fuss.
        rootless = [] if cgroups_writable() else ["--rootless", "true"]
        runc = ["runc", "--root", str(bundle / "state"), *rootless]
        try:
            return subprocess.run(
                [*runc, "run", "--bundle", str(bundle), name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        finally:
            subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False)


def cgroups_writable() -> bool:
    """Can this process make cgroups that limit memory?"""
    if Path("/sys/fs/cgroup/memory").is_dir():
        return os.access("/sys/fs/cgroup/memory", os.W_OK)
    return "memory" in _text("/sys/fs/cgroup/cgroup.subtree_control") and os.access("/sys/fs/cgroup", os.W_OK)


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


@contextlib.contextmanager
def _bundle() -> Iterator[Path]:
    """A folder for one container; the mounts are in the container's namespace and go with it."""
    folder = Path(tempfile.mkdtemp(prefix="dm-runc-"))
    folder.chmod(0o755)
    try:
        (folder / "rootfs").mkdir(mode=0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process(argv: Sequence[str], uid: int, env: Mapping[str, str], cwd: str) -> dict[str, Any]:
    kept = _CAPABILITIES if uid == 0 else []
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = {
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "PATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        **env,
    }
    process = {
        "terminal": False,
        "user": {"uid": uid, "gid": uid},
        "args": list(argv),
        "env": [f"{key}={value}" for key, value in variables.items()],
        "cwd": cwd,
        "capabilities": {
            "bounding": _CAPABILITIES,
            "effective": kept,
            "permitted": kept,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": True,
    }
    root = {"path": "rootfs", "readonly": True}
    return {"ociVersion": "1.0.2", "process": process, "root": root, "hostname": "container"}


def _mounts(rootfs: Path, uid: int, binds: Sequence[tuple[str | Path, str, str]]) -> list[dict[str, Any]]:
    owned = [f"uid={uid}", f"gid={uid}"]
    plain = ["nosuid", "nodev"]
    mounts = [
        ("proc", "/proc", "proc", [*plain, "noexec"]),
        ("tmpfs", "/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("devpts", "/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ("sysfs", "/sys", "sysfs", [*plain, "noexec", "ro"]),
        ("cgroup", "/sys/fs/cgroup", "cgroup", [*plain, "noexec", "relatime", "ro"]),
        ("mqueue", "/dev/mqueue", "mqueue", [*plain, "noexec"]),
        ("shm", "/dev/shm", "tmpfs", [*plain, "noexec", "mode=1777", "size=67108864"]),
        ("tmpfs", "/run", "tmpfs", [*plain, "mode=755"]),
        ("tmpfs", "/tmp", "tmpfs", [*plain, "mode=1777"]),
        ("tmpfs", HOME, "tmpfs", [*plain, "mode=0700", *owned]),
    ]
    for name in _HOST_FOLDERS:
        place = Path("/", name)
        if place.is_symlink():
            (rootfs / name).symlink_to(os.readlink(place))
        elif place.is_dir():
            mounts.append((str(place), str(place), "bind", ["rbind", "ro"]))
    # Below folders that only root may enter, such as /root, these are the only things there are.
    own = {str(ROOT), sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix)}
    own = {path for path in own if not path.startswith(("/usr/", "/opt/")) and path != "/usr"}
    mounts += [(path, path, "bind", ["rbind", "ro"]) for path in sorted(own)]
    mounts += [(str(source), inside, "bind", ["rbind", mode]) for source, inside, mode in binds]
    keys = ("source", "destination", "type", "options")
    return [dict(zip(keys, mount, strict=True)) for mount in mounts]


def _linux(profile: str, memory: int | None, masked: bool, network: bool, name: str) -> dict[str, Any]:
    kinds = ["pid", "ipc", "uts", "mount", *([] if network else ["network"])]
    found: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": _MASKED if masked else [],
        "readonlyPaths": _READ_ONLY if masked else [],
        "cgroupsPath": f"/{name}",
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    }
    if memory is not None:
        found["resources"]["memory"] = {"limit": memory, "swap": memory}
    if profile != "unconfined":
        found["seccomp"] = seccomp_profile(profile)
    return found


def seccomp_profile(profile: str) -> dict[str, Any]:
    """The profile in the form runc takes: what depends on machine, kernel or capabilities is resolved."""
    if profile not in PROFILES[:3]:
        raise ValueError(f"{profile!r} is none of {PROFILES[:3]}")
    source = json.loads((DOCKER if profile == "docker" else PODMAN).read_text())
    architecture, native = _ARCHITECTURES[platform.machine()]
    found: dict[str, Any] = {"defaultAction": source["defaultAction"], "syscalls": []}
    if "defaultErrnoRet" in source:
        found["defaultErrnoRet"] = source["defaultErrnoRet"]
    found["architectures"] = [
        item
        for entry in source["archMap"]
        if entry["architecture"] == native
        for item in (native, *entry["subArchitectures"])
    ]
    denied = _MOUNT_CALLS if profile == "mount denied" else []
    for rule in source["syscalls"]:
        names = [name for name in rule["names"] if name not in denied]
        if names and _applies(rule, architecture):
            kept = {key: rule[key] for key in ("action", "errnoRet") if key in rule}
            found["syscalls"].append({"names": names, **kept, "args": rule["args"] or []})
    if denied:
        found["syscalls"].append({"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": 13})
    return found


def _applies(rule: Mapping[str, Any], architecture: str) -> bool:
    """As Docker and Podman decide: every listed capability is needed, any excluded one is too much."""
    includes, excludes = rule["includes"], rule["excludes"]
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])

    def newer(conditions: Mapping[str, Any]) -> bool:
        return release >= tuple(int(part) for part in conditions["minKernel"].split("."))

    return not (
        architecture in excludes.get("arches", [])
        or any(name in _CAPABILITIES for name in excludes.get("caps", []))
        or ("minKernel" in excludes and newer(excludes))
        or ("arches" in includes and architecture not in includes["arches"])
        or any(name not in _CAPABILITIES for name in includes.get("caps", []))
        or ("minKernel" in includes and not newer(includes))
    )
