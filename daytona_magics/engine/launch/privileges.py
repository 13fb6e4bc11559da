"""Closing a process for good: resource limits, no capabilities, no_new_privs, the system call filter.

Anything that fails raises, and a process that has raised here never runs a sandbox.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
from typing import Any

from .calls import check, libc, set_no_new_privileges
from .numbers import ARCHITECTURES

_KEYCTL_JOIN_SESSION_KEYRING = 1
_PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 22, 23, 24, 47


def limit(limits: dict[str, Any], *, shared_uid: bool = False) -> None:
    """Set resource limits. Processes are counted per user namespace, so this comes after making it.

    `shared_uid`: the sandbox's uid is also somebody else's, maybe in other containers, where nobody can see
    how many processes it has; a limit that leaves no room for a single one is not set.
    """
    _limit(resource.RLIMIT_CORE, 0)
    # Some accounts may take the processor for good, or take back what `nice` has given away.
    _limit(resource.RLIMIT_RTPRIO, 0)
    _limit(resource.RLIMIT_NICE, 0)
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    former = resource.getrlimit(resource.RLIMIT_NPROC)
    if not shared_uid:
        _limit(resource.RLIMIT_NPROC, limits["processes"])
    elif former[1] == resource.RLIM_INFINITY or limits["processes"] < former[1]:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], former[1]))
        if _can_fork():
            _limit(resource.RLIMIT_NPROC, limits["processes"])
        else:
            resource.setrlimit(resource.RLIMIT_NPROC, former)
    if limits["file_size"] is not None:
        _limit(resource.RLIMIT_FSIZE, limits["file_size"])
    if limits["data"] is not None:
        _limit(resource.RLIMIT_DATA, limits["data"])
    # The engine itself may have been started to run before others; a sandbox never does.
    present = os.getpriority(os.PRIO_PROCESS, 0)
    if (wanted := max(present, limits["nice"], 0)) != present:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)


def _can_fork() -> bool:
    try:
        pid = os.fork()
    except OSError:
        return False
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def drop_capabilities() -> None:
    """Give up every capability, and the way to new ones by exec, for this process and all to come.

    Raises OSError.
    """
    # A session keyring of the host would otherwise come along; without the call there are no keys to hide.
    with contextlib.suppress(OSError):
        check(libc.syscall(_keyctl(), _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")
    empty_bounding_set()
    with contextlib.suppress(OSError):  # Ambient capabilities are empty already; old kernels lack the call.
        check(libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0), "clearing ambient capabilities")
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("6I", *[0] * 6)), "dropping capabilities")
    set_no_new_privileges()


def _keyctl() -> int:
    return ARCHITECTURES[platform.machine()].numbers["keyctl"]


def empty_bounding_set() -> None:
    """Drop all capabilities from the bounding set, which needs one of them.

    An ordinary user without a user namespace has none, and keeps the set: without gaining privileges by exec
    nothing can be taken from it. Raises OSError when somebody with privileges fails.
    """
    for capability in range(64):
        state = libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)
        if state < 0:
            return
        if state and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            if ctypes.get_errno() == errno.EPERM and not _has_capabilities():
                return
            check(-1, "emptying the capability bounding set")


def _has_capabilities() -> bool:
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    check(libc.capget(header, data), "reading capabilities")
    return any(data.raw)


def load_filter(filter_program: bytes) -> None:
    """Give up gaining privileges by exec, and load the system call filter. Raises OSError."""
    set_no_new_privileges()
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    fprog = struct.pack("HxxxxxxQ", len(filter_program) // 8, ctypes.addressof(buffer))
    check(libc.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0), "loading the system call filter")
