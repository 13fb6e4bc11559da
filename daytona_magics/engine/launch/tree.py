"""The files a sandbox sees: a root of its own, filled with read-only copies of what the host shows.

Copies of host folders are detached mounts; a root engine takes them before it gives up its uid, because the
sandbox's uid cannot walk to them. In the new pid 1 they are attached below a fresh tmpfs, beside a private
/proc, /dev and /tmp, and the host's tree is unmounted. A sandbox with a system of its own gets overlays over
this (`overlay`), so that it can write to it.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence
from typing import Any

from .calls import (
    AT_FDCWD,
    MNT_DETACH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    attach,
    check,
    clone_tree,
    libc,
    mount,
    restrict,
)
from .namespaces import INSIDE_UID
from .overlay import System, mounts_below

HOME = "/home/daytona"

_SYS_OPENAT2, _RESOLVE_IN_ROOT = 437, 0x10
_FOLDERS = (
    *("boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "tmp", "usr", "var"),
    *("var/lib", "var/log"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Sources:
    """Detached mounts of everything of the host that one sandbox shows.

    Use: ``Sources(plan, home)``, `take` while the paths can be walked, `attach_all` under the new root.
    `system` names the folders ``uppers`` and ``layers`` of a writable system for host uid `uid`, if there is
    one.
    """

    def __init__(
        self,
        binds: Sequence[tuple[str, str]],
        home: str,
        system: dict[str, str] | None = None,
        uid: int | None = None,
    ) -> None:
        self._binds = binds
        self._home = home
        self._taken: list[tuple[int, str]] = []
        self.system = None if system is None else System(system["uppers"], system["layers"], uid)

    def take(self) -> None:
        """Make the copies, unless that is done. Raises OSError."""
        if self._taken:
            return
        if self.system is not None:
            self.system.prepare()
        for source, inside in self._binds:
            if self.system is not None and inside.startswith("/etc/") and not os.path.isdir(source):
                continue  # Its layer has it. A folder is needed to find what lies behind its links.
            self._taken.append((clone_tree(source, read_only=True), inside))
        self._taken.append((clone_tree(self._home, read_only=False), HOME))
        for name in _DEVICES:
            fd = clone_tree(f"/dev/{name}", read_only=False, devices=True)
            self._taken.append((fd, f"/dev/{name}"))
        if self.system is not None:
            self.system.take()

    def forget(self) -> None:
        """Close what was taken, to take it again later."""
        for fd, _ in self._taken:
            os.close(fd)
        self._taken = []
        if self.system is not None:
            self.system.forget()

    def attach_all(self, root: str) -> None:
        """Attach each below `root`, making the places they need. Raises OSError."""
        for fd, inside in self._taken:
            _make_place(root + inside, folder=stat.S_ISDIR(os.fstat(fd).st_mode))
            attach(fd, root + inside)
        self._taken = []


def _make_place(path: str, *, folder: bool) -> None:
    """Make an empty folder or file at `path` with its parents, unless something is there."""
    os.makedirs(path if folder else os.path.dirname(path), 0o755, exist_ok=True)
    if not folder and not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644))


def build_root(config: dict[str, Any], sources: Sources, hostname: str, tmp_size: int) -> None:
    """In the new pid 1: make the new root, fill it, make it the only one. Raises OSError."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    sources.take()
    root = next(path for path in ("/tmp", "/mnt", "/run", "/usr") if os.path.isdir(path))
    plain = MS_NOSUID | MS_NODEV
    mount("tmpfs", root, "tmpfs", plain, "size=8m,nr_inodes=16k,mode=0755")
    for name in _FOLDERS:
        os.mkdir(f"{root}/{name}", 0o755)
    for inside, target in config["links"]:
        os.symlink(target, root + inside)
    _write_etc(root + "/etc", hostname)
    mount("proc", root + "/proc", "proc", plain | MS_NOEXEC)
    _scratch(root, tmp_size)
    _devices(root + "/dev")
    sources.attach_all(root)
    if sources.system is None:
        mask(root, config["masks"])
    else:
        if hidden := mounts_below(root + "/usr"):
            raise OSError(errno.EBUSY, f"{hidden[0][len(root) :]} is a mount of its own on this machine")
        inner = [inside for _, inside in config["binds"] if inside.split("/")[1] not in ("etc", "usr")]
        masked = mask(root, config["masks"])
        sources.system.cover(
            root, [*inner, "/var/tmp"], masked, lambda etc: _write_etc(etc, hostname, accounts=False)
        )
    os.chdir(root)
    # With both arguments "." the old root lands on top of the new one, and is then unmounted.
    check(libc.pivot_root(b".", b"."), "changing the root")
    check(libc.umount2(b".", MNT_DETACH), "unmounting the host's files")
    os.chdir("/")
    restrict(AT_FDCWD, "/", read_only=True, devices=False, recursive=False)


def _scratch(root: str, size: int) -> None:
    """/tmp, /var/tmp, /run and /dev/shm: four folders of one tmpfs, so that one size bounds them all."""
    whole = root + "/scratch"
    os.mkdir(whole)
    mount("tmpfs", whole, "tmpfs", MS_NOSUID | MS_NODEV, f"size={int(size)},nr_inodes=256k,mode=0755")
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("dev/shm", 0o1777), ("run", 0o755)):
        part = f"{whole}/{name.replace('/', '-')}"
        os.mkdir(part)
        os.chmod(part, mode)
        os.makedirs(f"{root}/{name}", exist_ok=True)
        attach(clone_tree(part, read_only=False), f"{root}/{name}")
    check(libc.umount2(os.fsencode(whole), MNT_DETACH), "unmounting the scratch folder")
    os.rmdir(whole)


def _devices(dev: str) -> None:
    """A /dev with terminals of its own and nothing else; the plain devices are attached later."""
    os.mkdir(dev + "/pts")
    mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", dev + "/ptmx")
    os.symlink("/proc/self/fd", dev + "/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")


def mask(root: str, paths: Sequence[str]) -> list[str]:
    """Cover with nothing the folders and files that are at `paths` in the tree below `root`.

    Links are followed as they will be once `root` is the root: an absolute one leads to another place than on
    the host. What is not there is passed over. Returns the places that are covered. Raises OSError.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    masked: set[str] = set()
    try:
        for path in paths:
            place = _resolve(top, path)
            if place is not None and place not in masked:
                masked.add(place)
                _cover(place)
    finally:
        os.close(top)
    return sorted(masked)


def _resolve(top: int, path: str) -> str | None:
    """Where `path` leads when folder `top` is the root; None if nothing is there or nobody may go there."""
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    fd = libc.syscall(_SYS_OPENAT2, top, os.fsencode(path), how, len(how))
    if fd < 0:
        if ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        check(fd, f"looking for {path}")
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _cover(path: str) -> None:
    if os.path.isdir(path):
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
        mount("tmpfs", path, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555")
    else:
        attach(clone_tree("/dev/null", read_only=True, devices=True), path)


def _write_etc(etc: str, hostname: str, *, accounts: bool = True) -> None:
    """The files of /etc that say who and where one is."""
    files = {
        "bash.bashrc": "[ -z \"$PS1\" ] || PS1='\\u@\\h:\\w\\$ '\n",
        "hostname": f"{hostname}\n",
        "hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "resolv.conf": "",
        "shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n",
    }
    if accounts:
        files["group"] = f"daytona:x:{INSIDE_UID}:\nnogroup:x:65534:\n"
        files["passwd"] = (
            f"daytona:x:{INSIDE_UID}:{INSIDE_UID}:daytona:{HOME}:/bin/bash\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
    for name, text in files.items():
        fd = os.open(f"{etc}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, text.encode("utf-8", "replace"))
        finally:
            os.close(fd)
