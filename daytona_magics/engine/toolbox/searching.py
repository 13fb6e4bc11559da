"""Looking for files by name and for text in files, replacing text, moving, changing modes: inside a sandbox.

Everything here may be asked of a whole tree, so it stops at its limits and yields to other operations after
some milliseconds, and it ends when the engine hangs up. Only regular files are read, links to folders are not
followed, and a changed file appears whole or not at all. Part of the toolbox program.
"""

# ruff: noqa: ASYNC240 - a sandbox's disk is local, and the toolbox has no threads to wait in.

import asyncio
import errno
import fnmatch
import grp
import os
import pwd
import re
import shutil
import stat
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from . import trees, wire
from .wire import JSON, Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Most results of one search, and most bytes of them; the engine believes no more.
MAX_RESULTS, MAX_BYTES = 100_000, 32 << 20
#: Most characters shown of a line that matches.
MAX_LINE = 4000
#: Largest file in which text is looked for or replaced.
MAX_FILE = 64 << 20
#: Seconds of work after which other operations get their turn.
_TURN = 0.01
_BATCH_BYTES = 256 << 10


class _Turns:
    """Gives the loop its turn now and then, and stops the work when the engine has hung up."""

    def __init__(self, connection: Wire) -> None:
        self._gone = asyncio.ensure_future(connection.receive())
        self._until = time.monotonic() + _TURN

    async def take(self) -> None:
        if time.monotonic() > self._until:
            await asyncio.sleep(0)
            if self._gone.done():
                raise OSError(errno.ECONNABORTED, "nobody waits for the answer any more")
            self._until = time.monotonic() + _TURN

    async def end(self) -> None:
        self._gone.cancel()
        await asyncio.gather(self._gone, return_exceptions=True)


class _Results:
    """Results sent in parts, bounded in number and bytes."""

    def __init__(self, connection: Wire) -> None:
        self._connection = connection
        self._batch: list[Any] = []
        self._size = self._count = self._sent = 0

    async def add(self, result: Any, size: int) -> None:
        from .agent import Refused

        self._batch.append(result)
        self._count += 1
        self._size += 6 * size + 100
        self._sent += size
        if self._count > MAX_RESULTS or self._sent > MAX_BYTES:
            limits = f"{MAX_RESULTS:,} results or {MAX_BYTES >> 20} MiB"
            raise Refused(413, "PAYLOAD_TOO_LARGE", f"there are more than {limits}; look in fewer files")
        if self._size > _BATCH_BYTES:
            await self._send()

    async def _send(self) -> None:
        await self._connection.send(JSON, wire.pack_json({"results": self._batch}))
        self._batch, self._size = [], 0

    async def end(self) -> None:
        if self._batch:
            await self._send()
        await self._connection.send_json({})


async def _walk(top: str, turns: _Turns) -> AsyncIterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below folder `top`, names in order, folders first themselves. Raises OSError for `top`."""
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if folder == top:
                raise
            continue  # Closed to us, or gone meanwhile.
        folders = []
        for entry in found:
            await turns.take()
            path = os.path.join(folder, entry.name)
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
        pending += reversed(folders)


def _read(path: str) -> bytes | None:
    """The bytes of a regular text file; None for anything else. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_FILE:
            return None
        start = file.read(8192)
        return None if b"\0" in start else start + file.read(MAX_FILE)


async def _find(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op find: {path, pattern} → {results: [[file, line, content]…]}… then {}. The pattern is plain text."""
    top, pattern = inside.path(request), str(request["pattern"]).encode("utf-8", "surrogateescape")
    turns, results = _Turns(connection), _Results(connection)
    try:
        if os.path.isdir(top):
            async for path, entry in _walk(top, turns):
                if entry.is_file():
                    await _find_in(path, pattern, results, turns, must=False)
        else:
            await _find_in(top, pattern, results, turns, must=True)
        await results.end()
    finally:
        await turns.end()


async def _find_in(path: str, pattern: bytes, results: _Results, turns: _Turns, *, must: bool) -> None:
    try:
        data = _read(path)
    except OSError:
        if must:
            raise
        return
    if data is None or pattern not in data:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if pattern in line:
            content = line.rstrip(b"\r").decode("utf-8", "replace")[:MAX_LINE]
            await results.add([path, number, content], len(path) + len(content))
            await turns.take()


async def _search(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op search: {path, pattern} → {results: [path…]}… then {}. A glob with / is for paths, else names."""
    top, pattern = inside.path(request), str(request["pattern"])
    matches = re.compile(fnmatch.translate(pattern)).match
    turns, results = _Turns(connection), _Results(connection)
    try:
        async for path, entry in _walk(top, turns):
            if matches(os.path.relpath(path, top) if "/" in pattern else entry.name):
                await results.add(path, len(path))
        await results.end()
    finally:
        await turns.end()


async def _replace(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op replace: {files, pattern, value} → {results: [[file, error or ""]…]}… then {}."""
    pattern = str(request["pattern"]).encode("utf-8", "surrogateescape")
    value = str(request["value"]).encode("utf-8", "surrogateescape")
    turns, results = _Turns(connection), _Results(connection)
    try:
        for name in request["files"]:
            path = inside.path({"path": name})
            try:
                error = _replace_in(path, pattern, value)
            except OSError as problem:
                error = problem.strerror or str(problem)
            await results.add([str(name), error], len(str(name)) + len(error))
            await turns.take()
        await results.end()
    finally:
        await turns.end()


def _replace_in(path: str, pattern: bytes, value: bytes) -> str:
    """Replace in one file; returns why it cannot be done, or "". Raises OSError."""
    # Through a link the file it leads to is changed, and stays where it is.
    path = os.path.realpath(path)
    info = os.stat(path)
    if stat.S_ISDIR(info.st_mode):
        return "this is a folder"
    data = _read(path)
    if data is None:
        return f"not a text file of at most {MAX_FILE >> 20} MiB"
    if pattern not in data:
        return ""
    temporary = os.path.join(os.path.dirname(path), f".replace-{os.getpid()}-{time.monotonic_ns():x}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data.replace(pattern, value))
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return ""


async def _move(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op move: {source, destination} → {}. What is at the destination is not overwritten."""
    source, destination = inside.path(request, "source"), inside.path(request, "destination")
    os.lstat(source)
    if os.path.lexists(destination):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
    if destination.startswith(source.rstrip("/") + "/"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), destination)
    trees.make_folders(os.path.dirname(destination))
    try:
        os.rename(source, destination)
    except OSError as error:
        # To another file system, or a folder of the system that the sandbox has not changed yet.
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, destination)
    await connection.send_json({})


async def _permissions(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op permissions: {path, mode, owner, group} → {}. What is None stays as it is."""
    path, mode = inside.path(request), request.get("mode")
    owner = _id(request.get("owner"), lambda name: pwd.getpwnam(name).pw_uid)
    group = _id(request.get("group"), lambda name: grp.getgrnam(name).gr_gid)
    os.stat(path)
    if owner != -1 or group != -1:
        os.chown(path, owner, group)
    if mode is not None:
        os.chmod(path, int(mode))
    await connection.send_json({})


#: The highest number of a user or group; the one after it means "as it is".
LAST_ID = (1 << 32) - 2


def _id(name: Any, look_up: Any) -> int:
    """The number of a user or group given by name or number; -1 for None. Raises Refused 400."""
    from .agent import Refused

    if name is None:
        return -1
    if str(name).isascii() and str(name).isdigit() and len(str(name)) <= 10 and int(str(name)) <= LAST_ID:
        return int(str(name))
    try:
        return int(look_up(str(name)))
    except (KeyError, ValueError):
        raise Refused(400, "BAD_REQUEST", f"this sandbox has no user or group {name!r}") from None


HANDLERS: "dict[str, Handler]" = {
    "find": _find,
    "move": _move,
    "permissions": _permissions,
    "replace": _replace,
    "search": _search,
}
