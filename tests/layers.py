"""Engines of tests hand the layer of their sandboxes' systems on, one to the next.

An engine makes that layer once for a state folder: tens of thousands of folders. Every engine of a test has a
state folder of its own, so in a shard the layer of one that has ended is moved into the next one's, which
looks at it as at one it made itself. Tests of the making itself use no state folder of an engine.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from tests.shards import NUMBER_VARIABLE


def _pool() -> Path | None:
    """The shard's folder of layers that nobody uses; None outside of shards, where nobody would remove it."""
    folder = tempfile.gettempdir()
    if NUMBER_VARIABLE not in os.environ or not os.path.ismount(folder):
        return None
    return Path(folder, f"dm-layers-{os.geteuid()}")


def lend(state: Path) -> None:
    """Give an engine that is to start a layer, if there is one."""
    pool = _pool()
    if pool is None or not pool.is_dir() or not state.parent.is_dir() or (state / "layers").exists():
        return
    for layer in pool.iterdir():
        state.mkdir(mode=0o700, exist_ok=True)
        try:
            layer.rename(state / "layers")
        except OSError:  # it is on another disk, or somebody else was faster
            continue
        return


def take_back(state: Path) -> None:
    """Keep the layer of an engine that has ended."""
    pool = _pool()
    if pool is None:
        return
    found = state / "layers"
    try:
        names = os.listdir(found)
    except OSError:
        return  # it has made none
    if any("." not in name and not name.endswith("-first") for name in names):
        pool.mkdir(mode=0o700, exist_ok=True)
        try:
            found.rename(pool / uuid.uuid4().hex)
        except OSError:
            return  # it is on another disk
