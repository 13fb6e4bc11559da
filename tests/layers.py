"""Engines of tests hand the layer of their sandboxes' systems on, one to the next.

An engine makes that layer once for a state folder: tens of thousands of folders. Every engine of a test has a
state folder of its own, so in a shard the layer of one that has ended is moved into the next one's, which
looks at it as at one it made itself. Few engines live long enough to make a whole one, so the first are made
here. Tests of the making itself use no state folder of an engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

from daytona_magics.engine.launch import folders, skeleton, system, visible
from tests.shards import NUMBER_VARIABLE

#: How many are made for each process that runs tests: one for a module's engine, one for a test's beside it.
MADE = 2
#: Kernels are started in threads, too.
_MAKING = threading.Lock()
_made: list[Path] = []
_MAKE = "import json, runpy, sys; runpy.run_path(sys.argv[1])['build'](*json.load(sys.stdin))"


def _pool() -> Path | None:
    """The shard's folder of layers that nobody uses; None outside of shards, where nobody would remove it."""
    folder = tempfile.gettempdir()
    if NUMBER_VARIABLE not in os.environ or not os.path.ismount(folder):
        return None
    return Path(folder, f"dm-layers-{os.geteuid()}")


def lend(state: Path) -> None:
    """Give an engine that is to start a layer, if there is one."""
    pool = _pool()
    if pool is None or not state.parent.is_dir() or (state / "layers").exists():
        return
    with _MAKING:
        pool.mkdir(mode=0o700, exist_ok=True)
        if len(_made) < MADE and not any(pool.iterdir()):
            _made.append(_make(pool))
    for layer in pool.iterdir():
        state.mkdir(mode=0o700, exist_ok=True)
        try:
            layer.rename(state / "layers")
        except OSError:  # it is on another disk, or somebody else was faster
            continue
        return


def _make(pool: Path) -> Path:
    etc = [(source, inside[5:]) for source, inside in visible.plan().binds if inside.startswith("/etc/")]
    made = pool / uuid.uuid4().hex
    folders.make_root(made)
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", _MAKE, skeleton.__file__],
        input=json.dumps([str(made / system._fingerprint(etc)), etc, sys.executable]),
        text=True,
        check=True,
    )
    return made


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
