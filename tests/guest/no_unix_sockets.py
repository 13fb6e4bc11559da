"""A process as it is below isolation level L3: unix sockets are refused, pairs of them are not."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

#: AUDIT_ARCH and the number of socket(2).
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def supported() -> bool:
    """Whether this machine's system call numbers are known."""
    return platform.machine() in _MACHINES


def refuse() -> None:
    """From now on ``socket(AF_UNIX)`` fails with EPERM, here and in every descendant."""
    arch, number = _MACHINES[platform.machine()]
    load, equal, ret = 0x20, 0x15, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 0, 4, arch),
        (load, 0, 0, 0),
        (equal, 0, 2, number),
        (load, 0, 0, 16),
        (equal, 1, 0, socket.AF_UNIX),
        (ret, 0, 0, _ALLOW),
        (ret, 0, 0, _ERRNO | errno.EPERM),
    ]
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("<HBBI", op, yes, no, value) for op, yes, no, value in program)
    )
    # struct sock_fprog: u16 length, pointer.
    program_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    result = libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program_, 0, 0)
    assert result == 0, ctypes.get_errno()
