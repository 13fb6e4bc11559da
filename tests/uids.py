"""Accounts that exist nowhere else, for tests that start sandboxes without an engine.

Shards run side by side, and the kernel counts the processes of a uid on the whole machine: each shard has
numbers of its own.
"""

from __future__ import annotations

import os

_SHARD = int(os.environ.get("DAYTONA_MAGICS_TEST_SHARD", "0"))


def uid(number: int) -> int:
    """``number`` (from 1,600,000 on, below 2,600,000) in this shard."""
    return number + 1_000_000 * _SHARD


def account(first: int) -> int:
    """An ordinary user for a test of this process; ``first`` tells such tests of one process apart."""
    return uid(first + os.getpid() % 50_000)
