"""File operations inside a sandbox: part of the toolbox program.

They run with the rights of the sandbox's user inside its own root, so links and ``..`` lead nowhere else and
are simply followed, as the platform does. What needs care is not to hang or to grow: only regular files are
read and written, and everything is sent in pieces.
"""

# ruff: noqa: ASYNC240 - a sandbox's disk is local, and the toolbox has no threads to wait in.

import asyncio
import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import trees, wire
from .pump import Pump
from .wire import CHUNK, DATA, END, JSON, Wire, WireError

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Most entries and bytes of one listing; the engine believes no more.
MAX_ENTRIES, MAX_LISTING = 200_000, 32 << 20
#: Files of /proc say that they are empty; this much of one is read.
MAX_PSEUDO_FILE = 16 << 20
#: Bytes of a file that are sent as one frame; between two of them other operations have their turn.
FRAME = 512 << 10
#: Seconds for the next bytes of a pipe; the engine's own patience is a little longer.
PATIENCE = 50.0
#: Most entries of one message, and about the most bytes.
_BATCH, _BATCH_SIZE = 200, 256 << 10


@functools.lru_cache(maxsize=256)
def _user(uid: int) -> str:
    """The name of `uid`, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


@functools.lru_cache(maxsize=256)
def _group(gid: int) -> str:
    """The name of `gid`, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return str(gid)


def _describe(path: str, name: str, info: os.stat_result) -> dict[str, Any]:
    """One file's answer."""
    try:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(info.st_mtime_ns // 10**9))
    except (OverflowError, ValueError, OSError):
        seconds = "1970-01-01T00:00:00"
    return {
        "name": name,
        "path": path,
        "is_dir": stat.S_ISDIR(info.st_mode),
        "size": info.st_size,
        "mode": stat.filemode(info.st_mode),
        "permissions": f"{stat.S_IMODE(info.st_mode):04o}",
        "mod_time": f"{seconds}.{info.st_mtime_ns % 10**9:09d}Z",
        "owner": _user(info.st_uid),
        "group": _group(info.st_gid),
    }


class _Listing:
    """The answer to a listing of `top`, sent in parts and bounded in entries and bytes."""

    def __init__(self, connection: Wire, top: str) -> None:
        self._connection = connection
        self._top = top
        self._batch: list[dict[str, Any]] = []
        self._estimate = self._count = self._sent = 0

    async def add(self, entry: dict[str, Any]) -> None:
        self._batch.append(entry)
        self._count += 1
        # In JSON a character takes up to six bytes.
        self._estimate += 6 * (len(entry["path"]) + len(entry["name"])) + 300
        if self._count > MAX_ENTRIES:
            raise self._too_large()
        if len(self._batch) >= _BATCH or self._estimate >= _BATCH_SIZE:
            await self._send()

    async def _send(self) -> None:
        part = wire.pack_json({"files": self._batch})
        self._sent += len(part)
        if self._sent > MAX_LISTING:
            raise self._too_large()
        await self._connection.send(JSON, part)
        await asyncio.sleep(0)
        self._batch, self._estimate = [], 0

    def _too_large(self) -> Exception:
        from .agent import Refused

        limits = f"{MAX_ENTRIES:,} entries or {MAX_LISTING >> 20} MiB"
        message = f"{self._top}: the listing has more than {limits}; list its folders one by one"
        return Refused(413, "PAYLOAD_TOO_LARGE", message)

    async def end(self) -> None:
        if self._batch:
            await self._send()
        await self._connection.send_json({})


async def _list(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op list: {path, depth} → {files: […]}… then {}."""
    top = inside.path(request)
    pending = [(top, int(request.get("depth") or 1))]
    listing = _Listing(connection, top)
    while pending:
        folder, depth = pending.pop(0)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            if folder == top:
                raise
            continue  # A folder below that is closed to us or gone meanwhile: its own entry was listed.
        for name in names:
            path = os.path.join(folder, name)
            try:
                info = os.stat(path)
            except OSError:
                try:
                    info = os.lstat(path)  # A link that leads nowhere is still there.
                except OSError:
                    continue
            await listing.add(_describe(path, name, info))
            if depth > 1 and stat.S_ISDIR(info.st_mode) and not os.path.islink(path):
                pending.append((path, depth - 1))
    await listing.end()


async def _info(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op info: {path} → {file}."""
    path = inside.path(request)
    info = os.stat(path)
    await connection.send_json({"file": _describe(path, os.path.basename(path.rstrip("/")) or "/", info)})


async def _mkdir(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op mkdir: {path, mode} → {}."""
    path = inside.path(request)
    if not os.path.isdir(path):
        trees.make_folders(path)
        os.chmod(path, int(request["mode"]))
    await connection.send_json({})


async def _delete(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op delete: {path, recursive} → {}."""
    from .agent import Refused

    path = inside.path(request)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif not request.get("recursive"):
        raise Refused(400, "INVALID_FILE_PATH", f"{path}: this is a folder; delete it with recursive")
    else:
        home = os.path.realpath(inside.home) + "/"
        if home.startswith(os.path.realpath(path).rstrip("/") + "/"):
            raise Refused(403, "FILE_ACCESS_DENIED", f"{path}: the sandbox's home is in it")
        trees.remove_tree(Path(path))
    await connection.send_json({})


async def _upload(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op upload: {path} → {}; D frames and E → {size}. The file appears whole or not at all."""
    # Through a link the target is replaced, not the link.
    path = os.path.realpath(inside.path(request))
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            kind = errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.ENXIO
            raise OSError(kind, os.strerror(kind), path)
        mode = stat.S_IMODE(info.st_mode)
    folder = os.path.dirname(path)
    trees.make_folders(folder)
    with contextlib.suppress(OSError):  # a folder that can be written and not be read
        _sweep(inside, folder)
    # The name says nothing of the target's, which may already be as long as a name can be.
    temporary = os.path.join(folder, f"{_PREFIX}{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            await connection.send_json({})
            size = await _receive(connection, fd, path)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    await connection.send_json({"size": size})


#: What an upload is called before it is whole; nobody calls a file of theirs so.
_PREFIX = ".daytona-magics-upload-"
_UNFINISHED = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")
#: Folders that are remembered, and seconds by which the time of a file may be behind the clock.
_MAX_SWEPT, _BEHIND = 10_000, 0.05


def _sweep(inside: "Inside", folder: str) -> None:
    """Remove what uploads left in `folder` when the toolbox before this one was killed; once is enough."""
    if folder in inside.swept:
        return
    if len(inside.swept) < _MAX_SWEPT:
        inside.swept.add(folder)
    for name in filter(_UNFINISHED.fullmatch, os.listdir(folder)):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            info = os.lstat(path)
            # What is written now has changed since this program began.
            if stat.S_ISREG(info.st_mode) and info.st_mtime < inside.began - _BEHIND:
                os.unlink(path)


async def _receive(connection: Wire, fd: int, path: str) -> int:
    """Write D frames to `fd` until E; returns the number of bytes.

    On a full disk the rest of the data is read away first, so that the engine gets to read the answer.
    """
    size, failure = 0, None
    with Pump() as pump:
        while True:
            head = await connection.receive_head()
            if head is None:
                raise OSError(errno.ECONNABORTED, "the upload was broken off", path)
            kind, left = head
            if kind == END and not left:
                break
            if kind != DATA:
                raise ValueError("an upload is data")
            size += left
            try:
                while left:
                    left -= await _piece(connection, fd if failure is None else -1, left, pump)
            except _Unwritten as unwritten:
                failure = OSError(unwritten.error.errno, unwritten.error.strerror, path)
                left -= unwritten.count
                # Whatever else runs in the sandbox may need the space at once.
                os.ftruncate(fd, 0)
                while left:
                    left -= await _piece(connection, -1, left, pump)
    if failure is not None:
        raise failure
    return size


class _Unwritten(Exception):
    """`count` bytes were taken, and could not all be written."""

    def __init__(self, error: OSError, count: int) -> None:
        super().__init__(str(error))
        self.error, self.count = error, count


async def _piece(connection: Wire, fd: int, most: int, pump: Pump) -> int:
    """Move some of what comes to `fd`, or to nowhere (-1); returns how much. Raises _Unwritten, WireError."""
    data = connection.buffered(most)
    count = len(data) if data else await pump.take(connection.fileno(), most)
    if not count:
        raise WireError("the stream ended in the middle of a frame")
    try:
        if fd < 0:
            pump.drop(0 if data else count)
        elif data:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        else:
            pump.store(fd, count)
    except OSError as error:
        raise _Unwritten(error, count) from None
    return count


async def _download(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op download: {path} → {size}, D frames, E. Regular files; with {pipe} a pipe of so many bytes, too."""
    path = inside.path(request)
    # Without O_NONBLOCK opening a FIFO would wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if stat.S_ISFIFO(info.st_mode) and request.get("pipe"):
            await _send_pipe(connection, fd, path, int(request["pipe"]))
            return
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
        if info.st_size == 0:
            await _send_pseudo_file(connection, fd, path)
            return
        await connection.send_json({"size": info.st_size})
        start = 0
        while start < info.st_size:
            count = min(FRAME, info.st_size - start)
            await connection.send_head(count)
            await _send_file(connection, fd, path, start, count)
            start += count
            await asyncio.sleep(0)
        await connection.send(END)
    finally:
        os.close(fd)


async def _send_file(connection: Wire, fd: int, path: str, start: int, count: int) -> None:
    """Send `count` bytes of a file from `start` on, past this program's memory.

    Raises Refused when there are not so many; what was announced is sent in any case, so that it can be said.
    """
    from .agent import Refused

    end, short = start + count, False
    while start < end:
        try:
            sent = 0 if short else _send_some(connection.fileno(), fd, start, end - start)
            if not sent:
                short = True
                sent = os.write(connection.fileno(), bytes(min(CHUNK, end - start)))
            start += sent
        except BlockingIOError:
            await wire.ready(connection.fileno(), write=True)
    if short:
        raise Refused(500, "FILE_READ_FAILED", f"{path}: the file shrank while it was read")


def _send_some(sock: int, fd: int, start: int, count: int) -> int:
    """Send some bytes of a file; 0 at its end. Raises BlockingIOError when the socket takes none."""
    try:
        return os.sendfile(sock, fd, start, count)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system that only reads.
        data = os.pread(fd, min(CHUNK, count), start)
        return os.write(sock, data) if data else 0


async def _send_pipe(connection: Wire, fd: int, path: str, size: int) -> None:
    """Send `size` bytes that somebody writes into a pipe. Raises Refused when they do not come."""
    from .agent import Refused

    await connection.send_json({"size": size})
    left = size
    with Pump() as pump:
        while left:
            try:
                # Before its writer has opened it there seems to be an end already.
                if left == size:
                    await wire.ready(fd, within=PATIENCE)
                count = await pump.take(fd, left, PATIENCE)
            except asyncio.TimeoutError:
                count = 0
            if not count:
                raise Refused(500, "FILE_READ_FAILED", f"{path}: the pipe ended before it had given all")
            await connection.send_head(count)
            await pump.give(connection.fileno(), count)
            left -= count
            await asyncio.sleep(0)
    await connection.send(END)


async def _send_pseudo_file(connection: Wire, fd: int, path: str) -> None:
    """Send a file that says it is empty: it is, or it belongs to /proc and its size shows by reading it."""
    from .agent import Refused

    data = bytearray()
    while piece := os.read(fd, CHUNK):
        data += piece
        if len(data) > MAX_PSEUDO_FILE:
            raise Refused(413, "FILE_READ_FAILED", f"{path}: not a file of limited size")
    await connection.send_json({"size": len(data)})
    for start in range(0, len(data), CHUNK):
        await connection.send(DATA, bytes(data[start : start + CHUNK]))
    await connection.send(END)


HANDLERS: "dict[str, Handler]" = {
    "delete": _delete,
    "download": _download,
    "info": _info,
    "list": _list,
    "mkdir": _mkdir,
    "upload": _upload,
}
