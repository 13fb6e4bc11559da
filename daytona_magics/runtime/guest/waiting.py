"""Whether a process waits for input at a keyboard, as told by the system call it sleeps in.

``/proc/PID/syscall`` has the call's number and arguments. A ``read`` names its descriptor; ``poll`` and
``select`` point to a list of them in the process's memory; an ``epoll`` descriptor lists its own in
``fdinfo``. Where the call is not shown, the name of the kernel's function tells at least a plain read.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

#: Numbers of system calls, by machine.
_CALLS = {
    "x86_64": {
        0: "read", 19: "read", 7: "poll", 271: "poll", 23: "select", 270: "select",
        232: "epoll", 281: "epoll", 441: "epoll",
    },
    "aarch64": {63: "read", 65: "read", 73: "poll", 72: "select", 22: "epoll", 441: "epoll"},
}  # fmt: skip
_HERE = _CALLS.get(os.uname().machine, {})
#: Threads of one process and descriptors of one call that are looked at.
_MOST = 64
_POLLFD = struct.Struct("=ihh")
_IN = 1  # POLLIN and EPOLLIN


def waits(shown: int, names: Collection[str]) -> bool:
    """Whether any thread of a process waits for input there.

    Args:
        shown: the process's number in /proc.
        names: what links in ``/proc/PID/fd`` to the keyboard read.
    """
    held = _held(shown, names)
    if not held:
        return False
    try:
        threads = os.listdir("/proc/%d/task" % shown)[:_MOST]
        return any(_thread_waits(shown, thread, held) for thread in threads)
    except (OSError, ValueError, struct.error):
        return False  # it is gone, or changed while it was looked at


def _held(shown: int, names: Collection[str]) -> set[int]:
    """The process's descriptors of the keyboard."""
    folder = "/proc/%d/fd" % shown
    held: set[int] = set()
    try:
        listed = os.listdir(folder)
    except OSError:
        return held
    for name in listed:
        try:
            if os.readlink("%s/%s" % (folder, name)) in names:
                held.add(int(name))
        except OSError:
            continue
    return held


def _thread_waits(shown: int, thread: str, held: set[int]) -> bool:
    try:
        with open("/proc/%d/task/%s/syscall" % (shown, thread)) as file:
            words = file.read().split()
    except PermissionError:
        words = []
    if len(words) < 7:
        return words[:1] != ["running"] and _in_terminal_read(shown, thread)
    call = _HERE.get(int(words[0]), "")
    first, second = int(words[1], 16), int(words[2], 16)
    if call == "read":
        return first in held
    if call == "epoll":
        return bool(held & _watched(shown, first))
    if call == "poll":
        size = _POLLFD.size * min(second, _MOST)
        entries = _POLLFD.iter_unpack(_memory(shown, first, size))
        return any(fd in held and events & _IN for fd, events, _ in entries)
    if call == "select" and second:
        bits = int.from_bytes(_memory(shown, second, min(first, 1024) // 8 + 1), "little")
        return any(fd < first and bits >> fd & 1 for fd in held)
    return False


def _in_terminal_read(shown: int, thread: str) -> bool:
    try:
        with open("/proc/%d/task/%s/wchan" % (shown, thread)) as file:
            return file.read() == "n_tty_read"
    except OSError:
        return False


def _watched(shown: int, epoll: int) -> set[int]:
    """Descriptors an epoll descriptor watches for input."""
    found = set()
    with open("/proc/%d/fdinfo/%d" % (shown, epoll)) as file:
        for line in file.read(1 << 16).splitlines():
            words = line.split()
            if words[:1] == ["tfd:"] and int(words[3], 16) & _IN:
                found.add(int(words[1]))
    return found


def _memory(shown: int, address: int, size: int) -> bytes:
    with open("/proc/%d/mem" % shown, "rb", buffering=0) as file:
        file.seek(address)
        return file.read(size)
