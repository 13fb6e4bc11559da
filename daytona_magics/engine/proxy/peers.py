"""Sandboxes that a sandbox reaches by name: a place that is neither the internet nor this machine.

Who they are is not known here; the engine's life cycle says it (``life/links``). A request for one of them is
connected before anything is looked up or checked against the network settings, and the connection is made by
the other sandbox's own toolbox, so it never touches a network.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daytona_magics.engine.proxy.targets import Target


@dataclass(frozen=True)
class Peer:
    """A connection into another sandbox: ``sock`` non-blocking, ``release`` to be called when it is over."""

    sock: socket.socket
    release: Callable[[], None]


Peers = Callable[[str, Target], Awaitable[Peer | None]]
"""``await peers(id, target)``: a connection for sandbox ``id``; None when ``target`` names none of its peers.

Raises Refused when it names one that cannot be reached.
"""


async def nobody(id: str, target: Target) -> Peer | None:
    """Nobody reaches anybody."""
    return None
