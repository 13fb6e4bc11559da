"""Blocks of TCP ports for sandboxes that share the machine's network.

A sandbox may listen on the ports of its block and connect to them, and to no others but the egress proxy's.
"""

import socket

from .sandbox import LaunchError

#: Ports in a block.
BLOCK = 16
#: Above the well-known services, below the ports that the kernel gives to outgoing connections.
_FIRST, _LAST = 20000, 32000


class PortBlocks:
    """The blocks in use."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._next = _FIRST

    def take(self) -> tuple[int, int]:
        """A block whose ports are all free: (first port, how many). Raises LaunchError when there is none."""
        for _ in range((_LAST - _FIRST) // BLOCK):
            first, self._next = self._next, self._next + BLOCK
            if self._next + BLOCK > _LAST:
                self._next = _FIRST
            if first not in self._taken and all(_free(port) for port in range(first, first + BLOCK)):
                self._taken.add(first)
                return first, BLOCK
        raise LaunchError("no block of free ports is left on this machine; stop some sandboxes")

    def give_back(self, block: tuple[int, int] | None) -> None:
        """The sandbox of a block has ended."""
        if block is not None:
            self._taken.discard(block[0])


def _free(port: int) -> bool:
    """Does nobody listen on `port`, on any address?"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True
