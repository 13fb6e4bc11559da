"""How much disk a sandbox uses, and stopping it from using more.

There is no quota that works everywhere without root, so files are counted: every folder is opened through its
parent's descriptor and no link is followed, because the tree belongs to the sandbox and changes meanwhile. A
file with several names counts once. Counting is not free; the watchdog asks for it only when the file system
has lost enough free space for an answer to matter.

To stop a sandbox's writing, the largest size of a file (RLIMIT_FSIZE) is made small for its processes: then
every write beyond that fails, and nothing else does; what a shell or an interpreter needs to start is still
written. Their hard limit stays, so it can be undone.
"""

from __future__ import annotations

import os
import resource
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Folders held open at once; deeper ones are walked to from the top.
_OPEN = 64
#: What an entry takes at least: its inode. Deep folders that are remembered at once.
_ENTRY, _DEEP = 4096, 4096
#: Largest file of a sandbox that is full.
_SMALL = 64 << 10
#: Files counted without a pause, and the longest pause, in seconds.
_BATCH, _PAUSE = 2000, 0.02


def free(folder: Path) -> int:
    """Free bytes of the file system that holds ``folder``, as the engine's user may use them."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def used(folder: Path) -> int:
    """Bytes that ``folder`` and everything in it take on the disk.  Runs in a thread; about 5 µs a file.

    Raises:
        OSError: ``folder`` cannot be opened.
    """
    top = _Folder(os.open(folder, _FOLDER))
    try:
        return _Count(top).run()
    finally:
        top.close()


class _Folder:
    """A folder held open for a look, whose mode may be lent for as long.

    Args:
        handle: the descriptor that is read.
        place: a descriptor for its mode, when that had to be changed.
        mode: what it was.
    """

    def __init__(self, handle: int, place: int = -1, mode: int = 0) -> None:
        self.handle, self._place, self._mode = handle, place, mode

    def close(self) -> None:
        """Let go of it; a lent mode goes back."""
        os.close(self.handle)
        if self._place >= 0:
            with suppress(OSError):
                os.chmod(f"/proc/self/fd/{self._place}", self._mode)
            os.close(self._place)


class _Count:
    def __init__(self, top: _Folder) -> None:
        self._top = top
        self._seen: set[tuple[int, int]] = set()
        self._bytes = 0
        self._files = 0
        self._since = time.monotonic()
        self._deep: list[tuple[str, ...]] = []

    def run(self) -> int:
        self._folder(self._top, ())
        while self._deep:
            names = self._deep.pop()
            folder = self._walk(names)
            if folder is not None:
                try:
                    self._folder(folder, names)
                finally:
                    folder.close()
        return self._bytes

    def _walk(self, names: tuple[str, ...]) -> _Folder | None:
        folder = _Folder(os.dup(self._top.handle))
        for name in names:
            inner = _enter(name, folder)
            folder.close()
            if inner is None:
                return None
            folder = inner
        return folder

    def _folder(self, folder: _Folder, names: tuple[str, ...], depth: int = 0) -> None:
        inner: list[str] = []
        with suppress(OSError), os.scandir(folder.handle) as entries:
            for entry in entries:
                with suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    self._add(info)
                    if stat.S_ISDIR(info.st_mode):
                        inner.append(entry.name)
        for name in inner:
            path = (*names, name)
            if depth >= _OPEN:
                # A path that is so long costs memory; beyond this the folder itself has been counted.
                if len(self._deep) < _DEEP:
                    self._deep.append(path)
            elif (opened := _enter(name, folder)) is not None:
                try:
                    self._folder(opened, path, depth + 1)
                finally:
                    opened.close()

    def _add(self, info: os.stat_result) -> None:
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            key = (info.st_dev, info.st_ino)
            if key in self._seen:
                return
            self._seen.add(key)
        self._bytes += max(_ENTRY, info.st_blocks * 512)
        self._files += 1
        if self._files % _BATCH == 0:
            # Half the time of one core at most, however large the tree is.
            now = time.monotonic()
            time.sleep(min(_PAUSE, now - self._since))
            self._since = time.monotonic()


def _enter(name: str, folder: _Folder) -> _Folder | None:
    """Open folder ``name``; one whose mode forbids that hides nothing: it is lent another for the look."""
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            handle = os.open(name, _FOLDER, dir_fd=folder.handle)
        except PermissionError:
            return _force(name, folder.handle)
        except OSError:
            return None
        if os.geteuid() != 0 and not os.fstat(handle).st_mode & stat.S_IXUSR:
            # What is in it can be listed and not looked at.
            os.close(handle)
            return _force(name, folder.handle)
        return _Folder(handle)
    return None


def _force(name: str, folder: int) -> _Folder | None:
    try:
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    mode = stat.S_IMODE(os.fstat(place).st_mode)
    try:
        os.chmod(f"/proc/self/fd/{place}", mode | 0o500)
        return _Folder(os.open(".", _FOLDER, dir_fd=place), place, mode)
    except OSError:
        with suppress(OSError):
            os.chmod(f"/proc/self/fd/{place}", mode)
        os.close(place)
        return None


def forbid_writing(pids: Iterable[int]) -> None:
    """From now on these processes, and what they start, make no file larger than a few KiB."""
    for pid in pids:
        with suppress(OSError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (_SMALL, hard))


def allow_writing(pids: Iterable[int]) -> None:
    """Undo `forbid_writing`."""
    for pid in pids:
        with suppress(OSError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
