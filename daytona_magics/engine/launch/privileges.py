"""Closing a process for good: resource limits, no capabilities, no_new_privs, the system call filter.

Anything that fails raises, and a process that has raised here never runs a sandbox.
"""

import contextlib
import ctypes
import resource
import struct
from typing import Any

from .calls import check, libc, prctl

_SYS_KEYCTL_X86_64, _KEYCTL_JOIN_SESSION_KEYRING = 250, 1
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 22, 24, 38, 47


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
        check(libc.syscall(_SYS_KEYCTL_X86_64, _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if capability == 0:
        check(-1, "emptying the capability bounding set")
    with contextlib.suppress(OSError):  # Ambient capabilities are empty already; old kernels lack the call.
        check(libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0), "clearing ambient capabilities")
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("6I", *[0] * 6)), "dropping capabilities")
    load_filter(filter_program)


def load_filter(filter_program: bytes) -> None:
    """Give up gaining privileges by exec, and load the system call filter. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, "setting no_new_privs")
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    fprog = struct.pack("HxxxxxxQ", len(filter_program) // 8, ctypes.addressof(buffer))
    check(libc.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0), "loading the system call filter")
