"""How much a sandbox gets: asked for, by the name of a snapshot, or a share of this machine.

Sizes are whole GiB of at least 1, because the platform's models want integers. What is enforced is never more
than the machine has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daytona_magics.engine import machine
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

GIB = 1 << 30
#: A sandbox that asks for nothing gets at most so much disk, in GiB.
DEFAULT_DISK = 10


@dataclass(frozen=True)
class Capacity:
    """What this machine, or the engine's container, has: whole CPUs, bytes of memory and of free disk."""

    cpus: int
    memory: int
    disk: int

    @property
    def default(self) -> tuple[int, int, int]:
        """CPUs, GiB of memory and GiB of disk of a sandbox that asks for nothing."""
        memory = max(1, self.memory // 2 // GIB)
        return self.cpus, memory, max(1, min(DEFAULT_DISK, self.disk // 2 // GIB))


def capacity(folder: Path) -> Capacity:
    """What there is for sandboxes whose files are kept in ``folder``."""
    found, space = machine.resources(), machine.disk(folder)
    return Capacity(
        cpus=max(1, int(found["cpus"] or 1)),
        memory=int(found["memory_bytes"] or GIB),
        disk=int(space["disk_free_bytes"] or GIB),
    )


def check_resize(record: SandboxRecord, asked: Mapping[str, int]) -> None:
    """May a sandbox be resized like this?  By the platform's rules, but a stopped one's disk may shrink.

    Raises:
        ApiError: 400, in one sentence.
    """
    if not asked:
        raise ApiError(400, "a resize needs at least one of cpu, memory and disk")
    smaller = [name for name, wanted in asked.items() if wanted < getattr(record, name)]
    if record.state == "started":
        if asked.get("disk", record.disk) != record.disk:
            raise ApiError(400, "stop the sandbox to change its disk")
        if smaller:
            raise ApiError(400, f"the {smaller[0]} of a started sandbox can only grow; stop it first")


def decide(
    there: Capacity, asked: Mapping[str, Any], snapshot: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    """CPUs, GiB of memory, GiB of disk for a creation.

    Args:
        asked: whole numbers under ``cpu``, ``memory`` and ``disk``; absent, None or 0 where nothing is asked.
        snapshot: what the named snapshot comes with, at most what there is; None without one.

    Raises:
        ApiError: 400 when more is asked for than there is.

    Example:
        >>> decide(Capacity(2, 24 << 30, 70 << 30), {"memory": 4}, None)
        (2, 4, 10)
    """
    most = (there.cpus, math.ceil(there.memory / GIB), max(1, there.disk // GIB))
    names = (("cpu", "CPUs"), ("memory", "GiB of memory"), ("disk", "GiB of free disk"))
    given = tuple(map(min, snapshot, most)) if snapshot else there.default
    chosen = []
    for (name, unit), has, usual in zip(names, most, given, strict=True):
        wanted = int(asked.get(name) or usual)
        if wanted > has:
            raise ApiError(
                400, f"{wanted} {unit} were asked for, and this machine has {has}; the Daytona cloud has more"
            )
        chosen.append(wanted)
    return chosen[0], chosen[1], chosen[2]
