"""System calls behind a sandbox that Python does not offer; a failure is an OSError saying what was tried."""

import contextlib
import ctypes
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
#: The same numbers on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_CLOSE_RANGE, _SYS_MOUNT_SETATTR = 428, 429, 436, 442
_LAST_FD = 0xFFFFFFFF
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 4, 15, 36
_PR_SET_NO_NEW_PRIVS = 38


def check(result: int, what: str) -> int:
    """`result` of a C call, or OSError naming `what` was tried."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, argument: int = 0, what: str = "prctl") -> None:
    """prctl(2) with one integer argument. Raises OSError."""
    check(libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0), what)


def close_range(first: int, last: int) -> None:
    """Close the descriptors `first` to `last`, both included.

    The system call itself, because os.closerange tries each number up to `last` where Python was built for an
    older C library.
    """
    if first <= last and libc.syscall(_SYS_CLOSE_RANGE, first, ctypes.c_uint(last), 0) < 0:
        os.closerange(first, min(last, 65536) + 1)  # A kernel before 5.9.


def close_all_but(*kept: int) -> None:
    """Close every descriptor above stderr except `kept`."""
    low = 3
    for fd in sorted(kept):
        close_range(low, fd - 1)
        low = fd + 1
    close_range(low, _LAST_FD)


def children() -> list[int]:
    """Process numbers of this process's children, ended ones included."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            found = [int(word) for word in file.read().split()]
    except FileNotFoundError:
        found = _children_by_looking()
    numbers = _numbers("thread-self")
    if len(numbers) <= 1:
        return found
    # /proc is of another process namespace, above this process's own.
    deep = [_numbers(str(pid)) for pid in found]
    return [child[len(numbers) - 1] for child in deep if len(child) >= len(numbers)]


def _numbers(name: str) -> list[int]:
    """The numbers of /proc's process `name`, from the namespace of /proc down to its own."""
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return []


def _children_by_looking() -> list[int]:
    """The children, as /proc numbers them, on a kernel made without the list."""
    own = os.readlink("/proc/self")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[1].decode() == own:
                found.append(int(name))
    return found


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent ends. Check afterwards that it has not already."""
    prctl(_PR_SET_PDEATHSIG, 9, "setting the parent-death signal")


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, "becoming a subreaper")


def set_dumpable(value: bool) -> None:
    """Whether other processes of the same uid may look into this one through /proc or ptrace."""
    prctl(_PR_SET_DUMPABLE, int(value), "setting dumpable")


def set_no_new_privileges() -> None:
    """Have exec never give privileges to this process and all to come. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, "setting no_new_privs")


def set_name(name: bytes) -> None:
    """Set the name of this process as ``ps`` shows it."""
    check(libc.prctl(_PR_SET_NAME, name, 0, 0, 0), "setting the process name")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    check(result, f"mounting {kind or source} on {target}")


def clone_tree(path: str, *, read_only: bool, devices: bool = False) -> int:
    """A detached, private copy of the mount at host path `path`, as a descriptor for `attach`.

    Never setuid; without `devices` device files in it do not work. Raises OSError.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    fd = check(libc.syscall(_SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), f"opening {path}")
    try:
        restrict(fd, "", read_only=read_only, devices=devices, recursive=True)
    except OSError:
        os.close(fd)
        raise
    return fd


def restrict(fd: int, path: str, *, read_only: bool, devices: bool, recursive: bool) -> None:
    attributes = _ATTR_NOSUID | (_ATTR_RDONLY if read_only else 0) | (0 if devices else _ATTR_NODEV)
    request = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, 0)
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    result = libc.syscall(_SYS_MOUNT_SETATTR, fd, os.fsencode(path), flags, request, len(request))
    check(result, f"restricting the mount {path or fd}")


def attach(fd: int, target: str) -> None:
    """Attach the detached mount `fd` at `target` and close it. Raises OSError."""
    result = libc.syscall(_SYS_MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    check(result, f"attaching {target}")
    os.close(fd)


def hide_arguments() -> None:
    """Replace this process's command line, which names host paths and is readable by everybody."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, b"toolbox", min(7, end - start - 1))
