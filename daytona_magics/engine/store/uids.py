"""A block of user ids for sandboxes, when the engine is root.

Every sandbox runs as a host uid of its own, so that two sandboxes cannot signal each other or read each
other's files even if everything else failed. The block must not belong to anybody: ``/etc/subuid`` and
``/etc/subgid`` (containers of users), the password and group databases, and the uid map of this container are
consulted. Among those that are free one is drawn by lot, so that two engines on one machine (with state
folders of their own, they do not know of each other) do not have the same. The block is remembered; a uid is
given out again only when the files of its last sandbox are gone (its row is).
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1024
"""Ids in a block: the number of sandboxes whose files can exist at once."""

# Subordinate ids are handed out upwards from 100000, and systemd uses 524288 and above; many containers have
# no ids above 65535.
_RANGES = (range(262144, 524288, BLOCK), range(20480, 57344, BLOCK))


@dataclass(frozen=True)
class UidBlock:
    """``count`` ids from ``start`` on."""

    start: int
    count: int = BLOCK

    def pick(self, used: Iterable[int | None]) -> int | None:
        """The lowest id of the block that no sandbox holds and no account has; None when all are held."""
        held = set(used)
        for uid in range(self.start, self.start + self.count):
            if uid not in held and not _has_account(uid):
                return uid
        return None


def find_block() -> UidBlock | None:
    """A block nobody uses, or None when this machine has none to give."""
    if os.geteuid() != 0:
        return None
    taken = [*_ranges(Path("/etc/subuid")), *_ranges(Path("/etc/subgid"))]
    taken += [(entry.pw_uid, 1) for entry in pwd.getpwall()] + [(entry.gr_gid, 1) for entry in grp.getgrall()]
    maps = [_mapped(Path("/proc/self/uid_map")), _mapped(Path("/proc/self/gid_map"))]
    for candidates in _RANGES:
        for start in secrets.SystemRandom().sample(candidates, len(candidates)):
            free = all(start + BLOCK <= first or first + count <= start for first, count in taken)
            inside = all(any(lo <= start and start + BLOCK <= lo + n for lo, n in ranges) for ranges in maps)
            if free and inside:
                return UidBlock(start)
    return None


def _has_account(uid: int) -> bool:
    with suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    return False


def _ranges(path: Path) -> list[tuple[int, int]]:
    found = []
    with suppress(OSError):
        for line in path.read_text().splitlines():
            parts = line.split(":")
            if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
                found.append((int(parts[1]), int(parts[2])))
    return found


def _mapped(path: Path) -> list[tuple[int, int]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [(int(inside), int(count)) for inside, _, count in (line.split() for line in lines)]
