"""Writing a sandbox's files: what `walk` or an archive says, into a folder that is empty.

Folders are made closed and get their mode, time and attributes when they are left, so that one that may not
be written to can be filled. Content is shared with the original where the file system can (a reflink);
holes stay holes. The disk is never filled to the brim: the engine's own database lives on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from daytona_magics.engine.life.copies.walk import FOLDER, Meta, Segments, walk

#: Bytes that stay free on the disk.
RESERVE = 32 << 20
_CHUNK = 1 << 20
_FICLONE = 0x40049409
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_space(handle: int) -> None:
    """Is there more free on the disk of ``handle`` than what has to stay?  Raises OSError (ENOSPC)."""
    found = os.statvfs(handle)
    if found.f_bavail * found.f_frsize < RESERVE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Planter:
    """A visitor that writes what it is shown.

    Args:
        top: the folder, open; closed by `close`.
        uid: who owns what belongs to the sandbox; None: the engine's own user.
    """

    def __init__(self, top: int, uid: int | None) -> None:
        self._top = top
        self._here = os.open(".", FOLDER, dir_fd=top)
        self._uid = uid
        self._metas: list[Meta] = []
        self._can_share = True

    def close(self) -> None:
        """Let go of the folders."""
        os.close(self._here)
        os.close(self._top)

    def enter(self, name: str, meta: Meta) -> None:
        os.mkdir(name, 0o700, dir_fd=self._here)
        inner = os.open(name, FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = inner
        self._metas.append(meta)

    def leave(self) -> None:
        meta, inner = self._metas.pop(), self._here
        self._here = os.open("..", FOLDER, dir_fd=inner)
        try:
            self._finish(inner, meta)
        finally:
            os.close(inner)

    def file(self, name: str, meta: Meta, handle: int, segments: Segments) -> None:
        target = os.open(name, _NEW, 0o600, dir_fd=self._here)
        try:
            if not self._share(handle, target):
                for start, count in segments:
                    self._copy(handle, target, start, count)
                os.ftruncate(target, meta.size)
            self._finish(target, meta)
        finally:
            os.close(target)

    def content(self, name: str, meta: Meta, segments: Segments, read: Callable[[int, int], bytes]) -> None:
        """A file whose content comes from ``read(offset, most bytes)``."""
        target = os.open(name, _NEW, 0o600, dir_fd=self._here)
        try:
            for start, count in segments:
                done = 0
                while done < count:
                    check_space(target)
                    chunk = read(start + done, min(_CHUNK, count - done))
                    if not chunk:
                        raise ValueError("a file ends before its end")
                    _write_all(target, chunk, start + done)
                    done += len(chunk)
            os.ftruncate(target, meta.size)
            self._finish(target, meta)
        finally:
            os.close(target)

    def again(self, name: str, first: tuple[str, ...]) -> None:
        folder = os.dup(self._top)
        try:
            for step in first[:-1]:
                inner = os.open(step, FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            os.link(first[-1], name, src_dir_fd=folder, dst_dir_fd=self._here, follow_symlinks=False)
        finally:
            os.close(folder)

    def link(self, name: str, meta: Meta, target: str) -> None:
        os.symlink(target, name, dir_fd=self._here)
        self._own(name, meta)
        os.utime(name, ns=(meta.mtime, meta.mtime), dir_fd=self._here, follow_symlinks=False)

    def other(self, name: str, meta: Meta) -> None:
        if stat.S_ISFIFO(meta.mode):
            os.mkfifo(name, 0o600, dir_fd=self._here)
            self._own(name, meta)
            os.chmod(name, stat.S_IMODE(meta.mode), dir_fd=self._here)
        else:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._here)
            self._own(name, meta)
        os.utime(name, ns=(meta.mtime, meta.mtime), dir_fd=self._here, follow_symlinks=False)

    def _own(self, name: str, meta: Meta) -> None:
        if self._uid is not None and meta.own:
            os.chown(name, self._uid, self._uid, dir_fd=self._here, follow_symlinks=False)

    def _finish(self, handle: int, meta: Meta) -> None:
        for name, value in meta.xattrs.items():
            # A file system without them has none to keep either.
            with suppress(OSError):
                os.setxattr(handle, name, value)
        if self._uid is not None and meta.own:
            os.fchown(handle, self._uid, self._uid)
        # After the owner, whose change takes the setuid bit away.
        os.fchmod(handle, stat.S_IMODE(meta.mode))
        os.utime(handle, ns=(meta.mtime, meta.mtime))

    def _share(self, source: int, target: int) -> bool:
        """Let both files be the same blocks until one is written to; False where this cannot be."""
        if self._can_share:
            try:
                fcntl.ioctl(target, _FICLONE, source)
                return True
            except OSError:
                self._can_share = False
        return False

    def _copy(self, source: int, target: int, start: int, count: int) -> None:
        end = start + count
        while start < end:
            check_space(target)
            wanted = min(_CHUNK * 8, end - start)
            try:
                done = os.copy_file_range(source, target, wanted, start, start)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                done = _write_all(target, os.pread(source, min(_CHUNK, wanted), start), start)
            if not done:
                return
            start += done


def _write_all(target: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done
    return len(data)


def clone(
    source: Path, target: Path, owners: tuple[int | None, int | None], proceed: Callable[[], None]
) -> None:
    """Copy everything below folder ``source`` into the empty folder ``target``.

    Args:
        owners: the uid of the sandbox that is copied, and that of the new one.
        proceed: see `walk`.

    Raises:
        OSError: ENOSPC when the disk is full.
    """
    top = os.open(source, FOLDER)
    try:
        planter = Planter(os.open(target, FOLDER), owners[1])
        try:
            walk(top, planter, owner=owners[0], proceed=proceed)
        finally:
            planter.close()
    finally:
        os.close(top)
