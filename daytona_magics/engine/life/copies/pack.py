"""A sandbox's files as one compressed file: a gzipped tar (pax) that ``tar`` can read, too.

Beyond what tar knows, a pax record holds the extended attributes; holes are those of GNU tar (format 1.0).
Owners are two: the sandbox (1000) and the engine (0), so that an archive does not depend on uids.

The file appears whole under its name or not at all: written beside, synced, read once more, renamed. Folders
that are unpacked appear the same way.
"""

from __future__ import annotations

import base64
import ctypes
import gzip
import io
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from daytona_magics.engine.life.copies.plant import Planter, check_space
from daytona_magics.engine.life.copies.walk import FOLDER, Meta, Segments, walk

_OWN, _BLOCK, _CHUNK = 1000, tarfile.BLOCKSIZE, 1 << 20
_XATTRS = "DAYTONAMAGICS.xattrs"
_LEVEL = 1
#: Longest path in an archive, in bytes: far above what programs can name, and headers stay small.
MAX_PATH = 16 << 10


class Damaged(Exception):
    """An archive is not what was written."""


class TooDeep(Exception):
    """A path is too long to be archived."""


class _Packer:
    """A visitor that writes what it is shown to a tar file."""

    def __init__(self, tar: tarfile.TarFile, proceed: Callable[[], None]) -> None:
        self._tar = tar
        self._proceed = proceed
        self._path: list[str] = []
        self._length = 0
        self.count = 0

    def enter(self, name: str, meta: Meta) -> None:
        self._add(self._info(name, meta, tarfile.DIRTYPE))
        self._path.append(name)
        self._length += len(os.fsencode(name)) + 1

    def leave(self) -> None:
        self._length -= len(os.fsencode(self._path.pop())) + 1

    def file(self, name: str, meta: Meta, handle: int, segments: Segments) -> None:
        info = self._info(name, meta, tarfile.REGTYPE)
        info.size = meta.size
        if segments == ([(0, meta.size)] if meta.size else []):
            self._add(info, _Content(handle, segments, self._proceed))
            return
        # The end is a segment, too: else ``tar`` does not make a hole there.
        places = [*segments, (meta.size, 0)]
        numbers = [len(places), *(number for place in places for number in place)]
        table = "".join(f"{number}\n" for number in numbers).encode()
        table += bytes(-len(table) % _BLOCK)
        info.pax_headers = {
            **info.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": info.name,
            "GNU.sparse.realsize": str(meta.size),
        }
        info.name = f"GNUSparseFile.0/{self.count}"
        info.size = len(table) + sum(count for _, count in segments)
        self._add(info, _Content(handle, segments, self._proceed, table))

    def again(self, name: str, first: tuple[str, ...]) -> None:
        info = self._info(name, Meta(stat.S_IFREG | 0o600, own=True, mtime=0), tarfile.LNKTYPE)
        info.linkname = "/".join(first)
        self._add(info)

    def link(self, name: str, meta: Meta, target: str) -> None:
        info = self._info(name, meta, tarfile.SYMTYPE)
        info.linkname = target
        self._add(info)

    def other(self, name: str, meta: Meta) -> None:
        self._add(self._info(name, meta, tarfile.FIFOTYPE if stat.S_ISFIFO(meta.mode) else tarfile.CHRTYPE))

    def _info(self, name: str, meta: Meta, kind: bytes) -> tarfile.TarInfo:
        if self._length + len(os.fsencode(name)) > MAX_PATH:
            raise TooDeep(f"a path of the sandbox is longer than {MAX_PATH >> 10} KiB")
        info = tarfile.TarInfo("/".join([*self._path, name]))
        info.type = kind
        info.mode = stat.S_IMODE(meta.mode)
        info.uid = info.gid = _OWN if meta.own else 0
        info.mtime = meta.mtime // 1_000_000_000
        # As text: a float would lose the nanoseconds.
        info.pax_headers = {"mtime": f"{info.mtime}.{meta.mtime % 1_000_000_000:09d}"}
        if meta.xattrs:
            shown = {key: base64.b64encode(value).decode() for key, value in meta.xattrs.items()}
            info.pax_headers[_XATTRS] = json.dumps(shown)
        return info

    def _add(self, info: tarfile.TarInfo, content: _Content | None = None) -> None:
        self._tar.addfile(info, content)
        _forget(self._tar)
        self.count += 1


class _Content(io.RawIOBase):
    """What a member holds: a table, then the segments of an open file."""

    def __init__(
        self, handle: int, segments: Segments, proceed: Callable[[], None], table: bytes = b""
    ) -> None:
        self._handle = handle
        self._left = list(reversed(segments))
        self._proceed = proceed
        self._table = table

    def read(self, size: int = -1) -> bytes:
        self._proceed()
        parts, size = [self._table[:size]], size - len(self._table[:size])
        self._table = self._table[len(parts[0]) :]
        while size and self._left:
            start, count = self._left.pop()
            data = os.pread(self._handle, min(size, count), start)
            if not data:
                raise OSError(0, "a file became shorter while it was read")
            parts.append(data)
            size -= len(data)
            if len(data) < count:
                self._left.append((start + len(data), count - len(data)))
        return b"".join(parts)


def pack(folder: Path, owner: int | None, archive: Path, proceed: Callable[[], None]) -> None:
    """Write everything below ``folder`` to the file ``archive``, which then is safely on disk.

    Args:
        owner, proceed: see `walk`.

    Raises:
        OSError: ENOSPC when the disk is full; TooDeep; Damaged when it cannot be read back.
    """
    part = archive.with_name(archive.name + ".part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:

            def checked() -> None:
                proceed()
                check_space(file.fileno())

            with gzip.GzipFile("", "wb", _LEVEL, file, 0) as packed, _open_tar(packed, "w") as tar:
                packer = _Packer(tar, checked)
                top = os.open(folder, FOLDER)
                try:
                    walk(top, packer, owner=owner, proceed=checked)
                finally:
                    os.close(top)
            file.flush()
            os.fsync(file.fileno())
        if (found := _count(part, proceed)) != packer.count:
            raise Damaged(f"{packer.count} files were packed and {found} can be read")
        part.rename(archive)
        sync(archive.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _open_tar(file: gzip.GzipFile, mode: str) -> tarfile.TarFile:
    if mode == "w":
        return tarfile.open(
            fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        )
    return tarfile.open(fileobj=_Forward(file), mode="r:", encoding="utf-8", errors="surrogateescape")


class _Forward(io.RawIOBase):
    """A compressed file read from front to end; going back a byte, as `tarfile` does, does not start over."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._last = b""
        self._back = 0

    def read(self, size: int = -1) -> bytes:
        again = self._last[len(self._last) - self._back :][:size] if self._back else b""
        self._back -= len(again)
        size -= len(again)
        if not size:
            return again
        data = self._file.read(size)
        self._last = (self._last + data)[-_BLOCK:]
        return again + data

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._back

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._back = max(0, self._file.tell() - offset)
        if whence != io.SEEK_SET or self._back > len(self._last):
            raise io.UnsupportedOperation("the archive is read forwards")
        while (left := offset - self.tell()) > 0 and self.read(min(left, _CHUNK)):
            pass
        return self.tell()


def _forget(tar: tarfile.TarFile) -> None:
    """Else everything that was read or written stays in memory."""
    tar.members = []  # type: ignore[attr-defined]


def _count(archive: Path, proceed: Callable[[], None]) -> int:
    count = 0
    with gzip.open(archive, "rb") as packed, _open_tar(packed, "r") as tar:
        for _ in tar:
            proceed()
            _forget(tar)
            count += 1
    return count


def unpack(archive: Path, folder: Path, uid: int | None, proceed: Callable[[], None]) -> None:
    """Write what is in ``archive`` to ``folder``, which is made anew and appears whole.

    Args:
        uid: owner of what belongs to the sandbox; None: the engine's user.

    Raises:
        OSError: ENOSPC when the disk is full; Damaged.
    """
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(0o700)
    planter = Planter(os.open(part, FOLDER), uid)
    try:
        with gzip.open(archive, "rb") as packed, _open_tar(packed, "r") as tar:
            _plant_all(tar, planter, proceed)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise Damaged(f"the archive {archive} is damaged: {error}") from error
    finally:
        planter.close()
    # The sandbox's uid passes through to its home.
    part.chmod(0o711 if uid is not None else 0o700)
    sync(part)
    part.rename(folder)
    sync(folder.parent)


def _plant_all(tar: tarfile.TarFile, planter: Planter, proceed: Callable[[], None]) -> None:
    here: list[str] = []
    for info in tar:
        proceed()
        _forget(tar)
        *path, name = _parts(info.name)
        common = 0
        while common < min(len(here), len(path)) and here[common] == path[common]:
            common += 1
        for _ in here[common:]:
            planter.leave()
        if path != here[:common]:
            raise ValueError(f"{info.name!r} comes before its folder")
        here = path
        _plant(tar, info, name, planter)
        if info.isdir():
            here = [*path, name]
    for _ in here:
        planter.leave()


def _plant(tar: tarfile.TarFile, info: tarfile.TarInfo, name: str, planter: Planter) -> None:
    seconds, _, rest = info.pax_headers.get("mtime", "0").partition(".")
    xattrs = {
        key: base64.b64decode(value) for key, value in json.loads(info.pax_headers.get(_XATTRS, "{}")).items()
    }
    mtime = int(seconds) * 1_000_000_000 + int((rest or "0").ljust(9, "0")[:9])
    size = info.size if info.isreg() else 0
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR}
    mode = info.mode | kinds.get(info.type, stat.S_IFREG)
    meta = Meta(mode, info.uid == _OWN, mtime, size, xattrs)
    if info.isdir():
        planter.enter(name, meta)
    elif info.islnk():
        planter.again(name, tuple(_parts(info.linkname)))
    elif info.issym():
        planter.link(name, meta, info.linkname)
    elif info.isreg():
        content = tar.extractfile(info)
        assert content is not None

        def read(at: int, most: int) -> bytes:
            content.seek(at)
            return content.read(most)

        segments = cast("Segments", info.sparse if info.issparse() else [(0, size)])
        planter.content(name, meta, [segment for segment in segments if segment[1]], read)
    else:
        planter.other(name, meta)


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is no path of a sandbox")
    return parts


def sync(folder: Path) -> None:
    """Everything written to the disk of ``folder`` so far is safe when this returns. Raises OSError."""
    handle = os.open(folder, FOLDER)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), f"the disk of {folder} cannot be synced")
    finally:
        os.close(handle)
