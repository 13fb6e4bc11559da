"""Namespaces: the uid a sandbox has outside, the one it has inside, and what only it sees.

The uid is changed first, then user, pid, ipc, uts, cgroup and net namespaces (and at L3 one of mounts) are
made in one call. The one uid is mapped to ``daytona`` (1000); uid 0 does not exist inside.
"""

import contextlib
import fcntl
import os
import socket
import struct

from .calls import check, libc, set_dumpable

INSIDE_UID = 1000
#: Where programs inside a network of their own find the egress proxy.
PROXY_PORT = 3128

#: CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET}
_NEW = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_NEW_MOUNTS = 0x00020000
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40


def change_uid(uid: int) -> None:
    """Become host uid and gid `uid` with no other group, for good. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Changing uid makes /proc/self belong to root, and then uid_map cannot be written.
    set_dumpable(True)


def unshare(*, mounts: bool) -> None:
    """Make all namespaces (that of mounts only if asked) and map this process's uid and gid to `INSIDE_UID`.

    Raises OSError saying that namespaces are not permitted, where that is so.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags, kinds = (_NEW | _NEW_MOUNTS, "mount, ") if mounts else (_NEW, "")
    check(libc.unshare(flags), f"making user, {kinds}pid, ipc, uts, cgroup and net namespaces")
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


def set_hostname(hostname: str) -> None:
    name = hostname.encode("utf-8", "replace")[:63]
    with contextlib.suppress(PermissionError):  # Podman's filter; the name then is that of the container.
        check(libc.sethostname(name, len(name)), "setting the host name")


def loopback_up() -> None:
    """Bring up lo, the only interface, and allow ports below 1024 where the kernel lets us."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))
    with contextlib.suppress(OSError):
        fd = os.open("/proc/sys/net/ipv4/ip_unprivileged_port_start", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def listen_for_proxy() -> socket.socket:
    """The socket on which programs inside find the way out; whoever accepts from it is the way.

    Raises OSError.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PROXY_PORT))
    listener.listen(128)
    return listener
