"""Which TCP ports programs of the sandbox listen on. Part of the toolbox program.

The kernel lists all listening sockets of the network namespace, which below L2 is the machine's. Those that a
process of this sandbox holds are found by the sockets' numbers in /proc/PID/fd, which can be read of no other
process; the listener of the egress proxy is held outside, so it is not among them either.
"""

import os
import re
from typing import TYPE_CHECKING, Any

from .wire import Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]\Z")


def listening() -> list[int]:
    """The ports, in order."""
    mine = _own_sockets()
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:  # A kernel without IPv6.
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in mine:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(found)


def _own_sockets() -> set[str]:
    """The numbers of all sockets that processes of this sandbox hold."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        folder = f"/proc/{name}/fd"
        try:
            for fd in os.listdir(folder):
                match = _SOCKET.match(os.readlink(f"{folder}/{fd}"))
                if match:
                    found.add(match[1])
        except OSError:  # It ended meanwhile, or is none of ours.
            continue
    return found


async def _ports(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op ports: {} → {ports}."""
    await connection.send_json({"ports": listening()})


HANDLERS: "dict[str, Handler]" = {"ports": _ports}
