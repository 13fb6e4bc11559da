"""Reading a sandbox's files from outside, whatever it has made of them.

Nothing of the sandbox runs while it is read (it is stopped, or frozen), so nothing moves. Links are never
followed; the walk holds one folder open at a time and goes back by ``..``, so depth costs no descriptors.
What the engine's user may not read is opened to it and closed again behind it.

`walk` calls a visitor; `plant` and `pack` have one each. What neither can bring back is left out: sockets,
whose servers are gone, and devices, which a sandbox cannot make. Whiteouts of the overlays are kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: Only these are the sandbox's own to set; the others belong to the kernel or to root.
_USER = "user."

Segments = list[tuple[int, int]]
"""Where a file has data: ``(offset, bytes)``, in order."""


class Aborted(Exception):
    """The work is no longer wanted."""


@dataclass(frozen=True)
class Meta:
    """What a file is besides its content.

    Attributes:
        mode: type and permissions, as in ``st_mode``.
        own: whether it belongs to the sandbox, not to the engine.
        mtime: nanoseconds since 1970.
        size: bytes.
        xattrs: extended attributes of the ``user`` namespace.
    """

    mode: int
    own: bool
    mtime: int
    size: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


class Visitor(Protocol):
    """Takes what `walk` finds: a folder's content comes between ``enter`` and ``leave``."""

    def enter(self, name: str, meta: Meta) -> None:
        """A folder."""

    def leave(self) -> None:
        """Its end."""

    def file(self, name: str, meta: Meta, handle: int, segments: Segments) -> None:
        """A file, open for reading as ``handle``."""

    def again(self, name: str, first: tuple[str, ...]) -> None:
        """Another name of a file that was met before at the path ``first``."""

    def link(self, name: str, meta: Meta, target: str) -> None:
        """A symbolic link."""

    def other(self, name: str, meta: Meta) -> None:
        """A FIFO or a whiteout."""


def walk(top: int, visitor: Visitor, *, owner: int | None, proceed: Callable[[], None]) -> None:
    """Visit everything below folder ``top``, folders before what is in them.

    Args:
        top: an open folder.
        owner: the sandbox's uid; None when it is the engine's own.
        proceed: called now and then; what it raises ends the walk.

    Raises:
        OSError: something cannot be read.
    """
    walker = _Walker(visitor, owner, proceed)
    walker.run(os.open(".", FOLDER, dir_fd=top))


class _Walker:
    def __init__(self, visitor: Visitor, owner: int | None, proceed: Callable[[], None]) -> None:
        self._visitor = visitor
        self._owner = owner
        self._proceed = proceed
        self._path: list[str] = []
        self._seen: dict[tuple[int, int], tuple[str, ...]] = {}
        # Per open folder: the mode to give back to it, None when it was not changed.
        self._closed: list[int | None] = []

    def run(self, here: int) -> None:
        waiting = [_names(here)]
        try:
            while True:
                self._proceed()
                if waiting[-1]:
                    name = waiting[-1].pop()
                    inner = self._take(name, here)
                    if inner is not None:
                        os.close(here)
                        here = inner
                        waiting.append([] if self._is_work() else _names(here))
                    continue
                waiting.pop()
                if not self._path:
                    return
                parent = os.open("..", FOLDER, dir_fd=here)
                if (mode := self._closed.pop()) is not None:
                    os.fchmod(here, mode)
                os.close(here)
                here = parent
                self._path.pop()
                self._visitor.leave()
        finally:
            os.close(here)

    def _is_work(self) -> bool:
        """Whether this is a folder in which an overlay keeps its own things: they are made anew."""
        path = self._path
        return len(path) == 3 and path[0] == "system" and path[2] == "work"

    def _take(self, name: str, here: int) -> int | None:
        """Show one entry to the visitor; the open folder if it is one."""
        info = os.lstat(name, dir_fd=here)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            return self._enter(name, info, here)
        if info.st_nlink > 1:
            known = self._seen.setdefault((info.st_dev, info.st_ino), (*self._path, name))
            if known != (*self._path, name):
                self._visitor.again(name, known)
                return None
        if kind == stat.S_IFREG:
            handle = _open_file(name, info, here)
            try:
                segments = _segments(handle, info)
                self._visitor.file(name, self._meta(info, handle), handle, segments)
            finally:
                os.close(handle)
        elif kind == stat.S_IFLNK:
            self._visitor.link(name, self._meta(info), os.readlink(name, dir_fd=here))
        elif kind == stat.S_IFIFO or (kind == stat.S_IFCHR and info.st_rdev == 0):
            self._visitor.other(name, self._meta(info))
        return None

    def _enter(self, name: str, info: os.stat_result, here: int) -> int:
        place = os.open(name, _PLACE | os.O_DIRECTORY, dir_fd=here)
        try:
            closed = os.geteuid() != 0 and info.st_mode & 0o500 != 0o500
            if closed:
                _at(place).chmod(stat.S_IMODE(info.st_mode) | 0o700)
            inner = os.open(".", FOLDER, dir_fd=place)
        finally:
            os.close(place)
        self._path.append(name)
        self._closed.append(stat.S_IMODE(info.st_mode) if closed else None)
        self._visitor.enter(name, self._meta(info, inner))
        return inner

    def _meta(self, info: os.stat_result, handle: int | None = None) -> Meta:
        own = self._owner is not None and info.st_uid == self._owner
        xattrs = {} if handle is None else _xattrs(handle)
        return Meta(info.st_mode, own, info.st_mtime_ns, info.st_size, xattrs)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return [entry.name for entry in found]


def _at(place: int) -> Path:
    """A path for what is open with ``O_PATH`` only."""
    return Path(f"/proc/self/fd/{place}")


def _open_file(name: str, info: os.stat_result, here: int) -> int:
    try:
        return os.open(name, _FILE, dir_fd=here)
    except PermissionError:
        place = os.open(name, _PLACE, dir_fd=here)
    try:
        mode = stat.S_IMODE(info.st_mode)
        _at(place).chmod(mode | 0o400)
        try:
            return os.open(name, _FILE, dir_fd=here)
        finally:
            _at(place).chmod(mode)
    finally:
        os.close(place)


def _xattrs(handle: int) -> dict[str, bytes]:
    found = {}
    with suppress(OSError):
        for name in os.listxattr(handle):
            if name.startswith(_USER):
                found[name] = os.getxattr(handle, name)
    return found


def _segments(handle: int, info: os.stat_result) -> Segments:
    if info.st_blocks * 512 >= info.st_size:
        return [(0, info.st_size)] if info.st_size else []
    found: Segments = []
    at = 0
    while at < info.st_size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(handle, start, os.SEEK_HOLE)
        found.append((start, at - start))
    return found
