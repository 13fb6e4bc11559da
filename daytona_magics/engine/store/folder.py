"""Finding a folder that can hold the engine's state, by trying it.

A database needs more of a file system than "writable": rename must replace, mmap and flock must work, and
there must be room. A sandbox's files must be executable. The preferred folder is tried first; when it fails,
the fallback in ``/var/tmp`` is used and the reason is kept, so that ``doctor`` and the first creation can say
it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.engine import address, places

MIN_FREE = 64 << 20
#: What an engine that has been here before needs: it may be there to make room.
MIN_FREE_AGAIN = 4 << 20
"""Bytes that must be free in a state folder."""

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "fuse.sshfs",
}


@dataclass(frozen=True)
class StateFolder:
    """A probed state folder.

    Attributes:
        path: the folder; 0711 for root (sandbox uids pass through it to their homes), else 0700.
        wanted: the folder that was asked for.
        message: why ``path`` is not ``wanted``; empty when it is.
        network: whether it lies on a network file system.
    """

    path: Path
    wanted: Path
    message: str
    network: bool


def prepare(wanted: Path) -> StateFolder:
    """Probe ``wanted``, then the fallback; return the first that is good.

    Raises:
        address.EngineStartError: neither can be used.
    """
    problem = _probe(wanted)
    if not problem:
        return StateFolder(wanted, wanted, "", on_network(wanted))
    if _holds_state(wanted) and shutil.disk_usage(wanted).free < MIN_FREE_AGAIN:
        # An engine without them would look as if they were lost.
        raise address.EngineStartError(
            f"{wanted} holds your sandboxes, and its disk is full; delete files until "
            f"{MIN_FREE_AGAIN >> 20} MiB are free"
        )
    fallback = places.fallback_state_dir()
    if wanted == fallback or (second := _probe(fallback)):
        second = "" if wanted == fallback else f"; neither can {fallback}: {second}"
        raise address.EngineStartError(f"{wanted} cannot hold the embedded engine's state: {problem}{second}")
    message = f"{wanted} cannot hold the embedded engine's state ({problem}); {fallback} is used instead"
    return StateFolder(fallback, wanted, message, on_network(fallback))


def _probe(folder: Path) -> str:
    """Why ``folder`` cannot hold state; empty when it can."""
    try:
        # Parents get the usual mode, the folder itself is private.
        folder.parent.mkdir(parents=True, exist_ok=True)
        places.private_folder(folder, 0o711 if os.geteuid() == 0 else 0o700)
        free = shutil.disk_usage(folder).free
        needed = MIN_FREE_AGAIN if _holds_state(folder) else MIN_FREE
        if free < needed:
            return f"only {free >> 20} MiB are free, {needed >> 20} are needed"
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return "programs cannot be run from it (mounted noexec)"
        _try_files(folder)
    except address.EngineStartError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _holds_state(folder: Path) -> bool:
    return (folder / "state.db").exists()


def _try_files(folder: Path) -> None:
    old, new = (folder / f".probe-{os.getpid()}-{name}" for name in "ab")
    try:
        handle = os.open(old, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, b"x" * mmap.PAGESIZE)
            os.fsync(handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with mmap.mmap(handle, mmap.PAGESIZE) as mapped:
                mapped[0] = ord("y")
                mapped.flush()
        finally:
            os.close(handle)
        new.write_bytes(b"")
        old.replace(new)
        if new.stat().st_size != mmap.PAGESIZE:
            raise OSError(0, "rename does not replace")
    finally:
        for path in (old, new):
            with suppress(FileNotFoundError):
                path.unlink()


def on_network(folder: Path) -> bool:
    """Whether the file system of ``folder`` is one that lives on another machine."""
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    real = str(folder.resolve())
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:
            best, kind = len(mount), right.split()[0]
    return kind in _NETWORK
