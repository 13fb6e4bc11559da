"""Closing a sandbox: from an ordinary forked process to pid 1 of namespaces of its own.

The order is what makes it safe, and each step needs what the step before left:

1. (root engine) copies of the host folders to show are taken as detached mounts, because later nobody can
   walk to them: the sandbox's uid cannot enter /root or a 0700 home.
2. The uid is changed, then user, mount, pid, ipc, uts, cgroup and net namespaces are made, in one call. The
   one uid is mapped to ``daytona`` (1000); uid 0 does not exist inside.
3. In the new pid 1: a new root on a tmpfs, the detached mounts attached, a private /proc, /dev and /tmp; the
   host's tree is unmounted.
4. Limits; capabilities and the bounding set are emptied; no_new_privs; the system call filter.

Anything that fails raises, and a process that has raised here never runs a sandbox.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Any

INSIDE_UID = 1000
HOME = "/home/daytona"

_libc = ctypes.CDLL(None, use_errno=True)

_NEW_ALL = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
#: The same numbers on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_CLOSE_RANGE, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 436, 437, 442
_RESOLVE_IN_ROOT = 0x10
_SYS_KEYCTL_X86_64, _KEYCTL_JOIN_SESSION_KEYRING = 250, 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_SECCOMP = 1, 4, 15, 22
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 36, 38, 47
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def _check(result: int, what: str) -> int:
    """`result` of a C call, or OSError naming `what` was tried."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, argument: int = 0, what: str = "prctl") -> None:
    """prctl(2) with one integer argument. Raises OSError."""
    _check(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0), what)


def close_range(first: int, last: int) -> None:
    """Close the descriptors `first` to `last`, both included.

    The system call itself, because os.closerange tries each number up to `last` where Python was built for an
    older C library.
    """
    if first <= last and _libc.syscall(_SYS_CLOSE_RANGE, first, ctypes.c_uint(last), 0) < 0:
        os.closerange(first, min(last, 65536) + 1)  # A kernel before 5.9.


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent ends. Check afterwards that it has not already."""
    prctl(_PR_SET_PDEATHSIG, 9, "setting the parent-death signal")


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, "becoming a subreaper")


def set_dumpable(value: bool) -> None:
    """Whether other processes of the same uid may look into this one through /proc or ptrace."""
    prctl(_PR_SET_DUMPABLE, int(value), "setting dumpable")


def set_name(name: bytes) -> None:
    """Set the name of this process as ``ps`` shows it."""
    _check(_libc.prctl(_PR_SET_NAME, name, 0, 0, 0), "setting the process name")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mounting {kind or source} on {target}")


def clone_tree(path: str, *, read_only: bool, devices: bool = False) -> int:
    """A detached, private copy of the mount at host path `path`, as a descriptor for `attach`.

    Never setuid; without `devices` device files in it do not work. Raises OSError.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    fd = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"opening {path}")
    try:
        _restrict(fd, "", read_only=read_only, devices=devices, recursive=True)
    except OSError:
        os.close(fd)
        raise
    return fd


def _restrict(fd: int, path: str, *, read_only: bool, devices: bool, recursive: bool) -> None:
    attributes = _ATTR_NOSUID | (_ATTR_RDONLY if read_only else 0) | (0 if devices else _ATTR_NODEV)
    request = struct.pack("QQQQ", attributes, 0, _MS_PRIVATE, 0)
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, fd, os.fsencode(path), flags, request, len(request))
    _check(result, f"restricting the mount {path or fd}")


def attach(fd: int, target: str) -> None:
    """Attach the detached mount `fd` at `target` and close it. Raises OSError."""
    result = _libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(result, f"attaching {target}")
    os.close(fd)


class Sources:
    """Detached mounts of everything of the host that one sandbox shows.

    Use: ``Sources(plan, home)``, `take` while the paths can be walked, `attach_all` under the new root.
    """

    def __init__(self, binds: Sequence[tuple[str, str]], home: str) -> None:
        self._binds = binds
        self._home = home
        self._taken: list[tuple[int, str]] = []

    def take(self) -> None:
        """Make the copies, unless that is done. Raises OSError."""
        if self._taken:
            return
        for source, inside in self._binds:
            self._taken.append((clone_tree(source, read_only=True), inside))
        self._taken.append((clone_tree(self._home, read_only=False), HOME))
        for name in _DEVICES:
            fd = clone_tree(f"/dev/{name}", read_only=False, devices=True)
            self._taken.append((fd, f"/dev/{name}"))

    def forget(self) -> None:
        """Close what was taken, to take it again later."""
        for fd, _ in self._taken:
            os.close(fd)
        self._taken = []

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


def change_uid(uid: int) -> None:
    """Become host uid and gid `uid` with no other group, for good. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Changing uid makes /proc/self belong to root, and then uid_map cannot be written.
    set_dumpable(True)


def unshare_all() -> None:
    """Make all seven namespaces and map this process's uid and gid to `INSIDE_UID`.

    Raises OSError saying that namespaces are not permitted, where that is so.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_ALL), "making user, mount, pid, ipc, uts, cgroup and net namespaces")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_UID} {uid} 1"),
        ("gid_map", f"{INSIDE_UID} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def build_root(config: dict[str, Any], sources: Sources, hostname: str, tmp_size: int) -> None:
    """In the new pid 1: make the new root, fill it, make it the only one. Raises OSError."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    sources.take()
    root = next(path for path in ("/tmp", "/mnt", "/run", "/usr") if os.path.isdir(path))
    plain = _MS_NOSUID | _MS_NODEV
    _mount("tmpfs", root, "tmpfs", plain, "size=8m,nr_inodes=16k,mode=0755")
    for name in (
        "dev",
        "etc",
        "home",
        "opt",
        "proc",
        "root",
        "run",
        "tmp",
        "usr",
        "var",
        "var/lib",
        "var/log",
    ):
        os.mkdir(f"{root}/{name}", 0o755)
    for inside, target in config["links"]:
        os.symlink(target, root + inside)
    _write_etc(root + "/etc", hostname)
    _mount("proc", root + "/proc", "proc", plain | _MS_NOEXEC)
    _scratch(root, tmp_size)
    _devices(root + "/dev")
    sources.attach_all(root)
    mask(root, config["masks"])
    os.chdir(root)
    # With both arguments "." the old root lands on top of the new one, and is then unmounted.
    _check(_libc.pivot_root(b".", b"."), "changing the root")
    _check(_libc.umount2(b".", _MNT_DETACH), "unmounting the host's files")
    os.chdir("/")
    _restrict(_AT_FDCWD, "/", read_only=True, devices=False, recursive=False)
    _set_hostname(hostname)
    _loopback_up()


def _scratch(root: str, size: int) -> None:
    """/tmp, /var/tmp, /run and /dev/shm: four folders of one tmpfs, so that one size bounds them all."""
    whole = root + "/scratch"
    os.mkdir(whole)
    _mount("tmpfs", whole, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={int(size)},nr_inodes=256k,mode=0755")
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("dev/shm", 0o1777), ("run", 0o755)):
        part = f"{whole}/{name.replace('/', '-')}"
        os.mkdir(part)
        os.chmod(part, mode)
        os.makedirs(f"{root}/{name}", exist_ok=True)
        attach(clone_tree(part, read_only=False), f"{root}/{name}")
    _check(_libc.umount2(os.fsencode(whole), _MNT_DETACH), "unmounting the scratch folder")
    os.rmdir(whole)


def _devices(dev: str) -> None:
    """A /dev with terminals of its own and nothing else; the plain devices are attached later."""
    os.mkdir(dev + "/pts")
    _mount("devpts", dev + "/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", dev + "/ptmx")
    os.symlink("/proc/self/fd", dev + "/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")


def mask(root: str, paths: Sequence[str]) -> None:
    """Cover with nothing the folders and files that are at `paths` in the tree below `root`.

    Links are followed as they will be once `root` is the root: an absolute one leads to another place than on
    the host. What is not there is passed over. Raises OSError.
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


def _resolve(top: int, path: str) -> str | None:
    """Where `path` leads when folder `top` is the root; None if nothing is there or nobody may go there."""
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    fd = _libc.syscall(_SYS_OPENAT2, top, os.fsencode(path), how, len(how))
    if fd < 0:
        if ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        _check(fd, f"looking for {path}")
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _cover(path: str) -> None:
    if os.path.isdir(path):
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_RDONLY
        _mount("tmpfs", path, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555")
    else:
        attach(clone_tree("/dev/null", read_only=True, devices=True), path)


def _write_etc(etc: str, hostname: str) -> None:
    """The files of /etc that say who and where one is."""
    files = {
        "bash.bashrc": "[ -z \"$PS1\" ] || PS1='\\u@\\h:\\w\\$ '\n",
        "group": f"daytona:x:{INSIDE_UID}:\nnogroup:x:65534:\n",
        "hostname": f"{hostname}\n",
        "hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "passwd": (
            f"daytona:x:{INSIDE_UID}:{INSIDE_UID}:daytona:{HOME}:/bin/bash\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "resolv.conf": "",
        "shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n",
    }
    for name, text in files.items():
        fd = os.open(f"{etc}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, text.encode("utf-8", "replace"))
        finally:
            os.close(fd)


def _set_hostname(hostname: str) -> None:
    name = hostname.encode("utf-8", "replace")[:63]
    _check(_libc.sethostname(name, len(name)), "setting the host name")


def _loopback_up() -> None:
    """Bring up lo, the only interface, and allow ports below 1024 where the kernel lets us."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))
    with contextlib.suppress(OSError):
        fd = os.open("/proc/sys/net/ipv4/ip_unprivileged_port_start", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def limit(limits: dict[str, Any]) -> None:
    """Set resource limits. Processes are counted per user namespace, so this comes after making it."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_NPROC, limits["processes"])
    if limits["file_size"] is not None:
        _limit(resource.RLIMIT_FSIZE, limits["file_size"])


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def drop_privileges(filter_program: bytes) -> None:
    """Give up every capability and load the system call filter, for this process and all to come.

    Raises OSError.
    """
    # A session keyring of the host would otherwise come along; without the call there are no keys to hide.
    with contextlib.suppress(OSError):
        _check(_libc.syscall(_SYS_KEYCTL_X86_64, _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if capability == 0:
        _check(-1, "emptying the capability bounding set")
    with contextlib.suppress(OSError):  # Ambient capabilities are empty already; old kernels lack the call.
        _check(_libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0), "clearing ambient capabilities")
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(header, struct.pack("6I", *[0] * 6)), "dropping capabilities")
    load_filter(filter_program)


def load_filter(filter_program: bytes) -> None:
    """Give up gaining privileges by exec, and load the system call filter. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, "setting no_new_privs")
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    fprog = struct.pack("HxxxxxxQ", len(filter_program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0), "loading the system call filter")


def hide_arguments() -> None:
    """Replace this process's command line, which names host paths and is readable by everybody."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, b"toolbox", min(7, end - start - 1))
