"""Temporary files in memory: an engine makes and removes thousands, and no test needs them on a disk."""

from __future__ import annotations

from pathlib import Path

#: Bytes of memory that must be available before temporary files are kept there: disks are filled in tests.
ROOMY = 8 << 30


def roomy() -> bool:
    """Whether there is enough memory to keep temporary files in it."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvail" in line)
    return int(available.split()[1]) << 10 >= ROOMY
