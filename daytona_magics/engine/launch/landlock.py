"""Landlock: the kernel's own way to let a process take rights away from itself, by its system calls.

A *ruleset* names the kinds of access that are refused from now on, and *rules* say below which places, or on
which ports, they are still granted. Entering it makes a *domain* that no process in it can leave. Rules only
ever add, so a place inside a granted folder cannot be closed again: `Ruleset.allow_reading` grants around it.

The kernel's ABI version says what it can refuse. What a version cannot refuse stays open, which is why the
level of isolation depends on it:

    1: files   2: moving between folders   3: truncating   4: TCP ports   5: device controls
    6: signals and abstract unix sockets beyond the domain   7: (logging)
"""

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Collection

from .calls import check, libc

#: The same numbers on every architecture.
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_RULE_PATH, _RULE_PORT = 1, 2
#: Newest version whose rights are known here.
NEWEST = 7

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_MAKE_DEVICES = 1 << 6 | 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
#: Rights on files by the version that brought them.
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_BIND, _CONNECT = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2

READ = EXECUTE | READ_FILE | READ_DIR
USE_DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
#: Everything but making device files.
OWN = ((1 << 16) - 1) & ~_MAKE_DEVICES


def abi(limit: int | None = None) -> int:
    """The version this kernel offers, at most `NEWEST` and `limit`; 0 when there is no Landlock."""
    offered: int = libc.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return max(0, min(offered, NEWEST, NEWEST if limit is None else limit))


class Ruleset:
    """Rules of one domain, to be entered by this process. Use as a context manager.

    `version` is the ABI to use; `ports` whether TCP ports are limited (from ABI 4 on); `files` whether files
    are. Signals and abstract sockets are always kept inside the domain (from ABI 6 on).
    Raises OSError when the kernel refuses.
    """

    def __init__(self, version: int, *, files: bool = True, ports: bool = False) -> None:
        handled = sum(rights for since, rights in _FILE_RIGHTS if version >= since)
        # Moving and linking between folders is denied by every domain that does not allow it somewhere.
        self._files = handled if files else handled & REFER
        self._ports = _BIND | _CONNECT if ports and version >= 4 else 0
        scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0
        attributes = struct.pack("QQQ", self._files, self._ports, scoped)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        self._fd = check(
            libc.syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0),
            "making a Landlock ruleset",
        )
        if self._files == REFER:
            self.allow("/", REFER)

    def __enter__(self) -> "Ruleset":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def allow(self, path: str, rights: int) -> None:
        """Grant `rights` on the file at `path`, or on the folder and all below it, now and later.

        A place that is not there, or that this process cannot walk to, is passed over. Raises OSError.
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _FOR_FILES
            self._add(_RULE_PATH, struct.pack("=Qi", rights & self._files, fd), path)
        finally:
            os.close(fd)

    def allow_reading(self, path: str, hidden: Collection[str]) -> None:
        """Grant reading and executing below `path`, but not the places in `hidden` (real paths).

        Around a hidden place each neighbour is granted by itself: what is put beside it later is not
        readable. Names of files are readable everywhere below `path`.
        """
        path = os.path.realpath(path)
        if not any(f"{place}/".startswith(f"{path}/") for place in hidden):
            self.allow(path, READ)
            return
        if path in hidden:
            return
        self.allow(path, READ_DIR)
        with contextlib.suppress(OSError), os.scandir(path) as found:
            for entry in found:
                # What a link leads to is granted where it really is, or it is not shown at all.
                if not entry.is_symlink():
                    self.allow_reading(entry.path, hidden)

    def allow_port(self, port: int, *, bind: bool = False) -> None:
        """Let TCP sockets connect to `port`, and also be bound to it if `bind`. Raises OSError."""
        if self._ports:
            rights = _CONNECT | (_BIND if bind else 0)
            self._add(_RULE_PORT, struct.pack("=QQ", rights, port), f"port {port}")

    def _add(self, kind: int, rule: bytes, what: str) -> None:
        check(libc.syscall(_SYS_ADD_RULE, self._fd, kind, rule, 0), f"allowing {what}")

    def enter(self) -> None:
        """Close this process in the domain; it must have given up gaining privileges. Raises OSError."""
        check(libc.syscall(_SYS_RESTRICT_SELF, self._fd, 0), "entering the Landlock domain")
