"""Whole folders to and from the bound sandbox, as one archive each. Coroutines for the loop thread.

On the way the archive is a stream on this side, and for a moment a file in a private folder on the other,
where ``tar`` makes and unpacks it. It is unpacked beside its destination and then moved there, so a folder is
there whole or not at all; only into a folder that exists it is copied entry by entry.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

from daytona_magics.errors import SandboxError
from daytona_magics.runtime import straight
from daytona_magics.sandboxes import archives, files, transfers
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.archives import Unpacked
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.labels import CREATOR
from daytona_magics.sandboxes.meter import Meter
from daytona_magics.sandboxes.report import Reporter

T = TypeVar("T")

#: Below the home: where archives lie while they are on their way.
FOLDER = ".daytona-magics/transfers"
#: Seconds that packing or unpacking in the sandbox may take.
WITHIN = 3600
_F_SETPIPE_SZ = 1031


async def _shell(sandbox: Any, what: str, script: str) -> str:
    """Run a few lines of sh in the sandbox; raises SandboxError with what they said."""
    answer = await files.asked(what, sandbox.process.exec(f"sh -c {shlex.quote(script)}", timeout=WITHIN))
    text = str(answer.result or "").strip()
    if answer.exit_code:
        raise SandboxError(f"{what} failed in the sandbox: {text[-500:] or f'exit code {answer.exit_code}'}")
    return text


class _Place:
    """A name for an archive in the sandbox's private folder; removed at the end, whatever happens."""

    def __init__(self, sandbox: Any, path: str) -> None:
        self._sandbox, self.path = sandbox, path

    async def __aenter__(self) -> _Place:
        folder = shlex.quote(self.path.rpartition("/")[0])
        await _shell(self._sandbox, "making room", f"mkdir -p {folder} && chmod 700 {folder}")
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(sdk.error_class()):
            await asyncio.shield(self._sandbox.fs.delete_file(self.path))


async def resting_place(sandbox: Any) -> _Place:
    """A name for a file on its way, for ``async with``; its ``path`` is absolute."""
    return _Place(sandbox, await files.remote_path(sandbox, f"~/{FOLDER}/{secrets.token_hex(8)}.tar"))


async def _through_pipe(write: Callable[[Any], T], result: list[T]) -> AsyncGenerator[bytes, None]:
    """What a blocking writer, on a thread of its own, writes; whoever stops reading ends it."""
    source, sink = os.pipe()
    _widen(sink)

    def run() -> None:
        with os.fdopen(sink, "wb", buffering=archives.PIECE) as stream:
            result.append(write(stream))

    writing = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        while piece := await _settled(asyncio.to_thread(os.read, source, archives.PIECE)):
            yield piece
        await writing
    finally:
        os.close(source)
        # It ends by itself now, for nobody reads.
        with suppress(OSError, ValueError):
            await writing


def _widen(fd: int) -> None:
    import fcntl

    with suppress(OSError):  # only faster
        fcntl.fcntl(fd, _F_SETPIPE_SZ, archives.PIECE)


async def upload(binding: Binding, tell: Reporter, local: Path, target: str) -> tuple[str, Unpacked]:
    """Copy a folder into the sandbox.

    Args:
        local: the folder, resolved: its last part is its name.
        target: where its content goes; below it, under the folder's own name, when it ends in ``/`` or is a
            folder.

    Returns:
        where it went, and what went.
    """
    sandbox = await binding.usable(tell)
    where = await files.remote_path(sandbox, target)
    if target.endswith("/") or target == "~" or await files.is_folder(sandbox, where):
        where = f"{where.rstrip('/')}/{local.name}"
    _, size = await asyncio.to_thread(archives.measure, local)
    meter, done = Meter(tell, f"uploading {local.name}/", size), list[Unpacked]()

    async def pieces() -> AsyncIterator[bytes]:
        async with aclosing(_through_pipe(lambda stream: archives.pack(local, stream), done)) as all_of_it:
            async for piece in all_of_it:
                meter.add(len(piece))
                yield piece

    async with await resting_place(sandbox) as place:
        await files.put_stream(sandbox, pieces(), place.path)
        tell.progress(f"unpacking {local.name}/")
        await _shell(sandbox, f"unpacking to {where}", _unpack_script(place.path, where, ""))
    return where, done[0]


def _unpack_script(archive: str, where: str, flags: str) -> str:
    """Unpack beside the destination, then move there; into a folder that exists, copy."""
    part = shlex.quote(f"{where.rstrip('/')}.{CREATOR}-{secrets.token_hex(4)}")
    a, w = shlex.quote(archive), shlex.quote(where.rstrip("/") or "/")
    return (
        f"set -e; mkdir -p -- {part}; trap 'rm -rf -- {part}' EXIT; tar -x{flags}f {a} -C {part}; "
        f"if [ -d {w} ]; then cp -RP -- {part}/. {w}/; "
        f"elif [ -e {w} ] || [ -L {w} ]; then echo '{CREATOR}: it is there, and no folder' >&2; exit 1; "
        f"else mv -- {part} {w}; fi"
    )


async def download(binding: Binding, tell: Reporter, remote: str, target: Path) -> Unpacked:
    """Copy a folder of the sandbox to this machine; it appears whole or not at all.

    Args:
        remote: the folder.
        target: where its content goes; must not exist.
    """
    sandbox = await binding.usable(tell)
    where = await files.remote_path(sandbox, remote)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.{CREATOR}-", dir=target.parent))
    try:
        async with await resting_place(sandbox) as place:
            tell.progress(f"packing {remote}")
            await _shell(
                sandbox, f"packing {remote}", f"tar -cf {shlex.quote(place.path)} -C {shlex.quote(where)} ."
            )
            done = await _receive(sandbox, tell, remote, place.path, part)
        await asyncio.to_thread(_finish, part, target)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, part, ignore_errors=True))
        raise
    return done


def _finish(part: Path, target: Path) -> None:
    part.chmod(0o755)
    part.rename(target)


async def _settled(work: Awaitable[T]) -> T:
    """Await work on a thread; when cancelled, not before the thread lets go of what it uses."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _receive(sandbox: Any, tell: Reporter, remote: str, archive: str, part: Path) -> Unpacked:
    info = await files.info_of(sandbox, archive)
    free = shutil.disk_usage(part).free
    if info.size > free:
        raise SandboxError(f"{remote!r} has {info.size:,} bytes, and this disk has {free:,} free")
    meter = Meter(tell, f"downloading {remote}", int(info.size))
    source, sink = os.pipe()
    _widen(sink)

    def run() -> Unpacked:
        with os.fdopen(source, "rb", buffering=archives.PIECE) as stream:
            return archives.unpack(stream, part)

    unpacking = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        await transfers.receive(sandbox, archive, remote, _Pipe(sink, remote, int(info.size)), meter)
    except _Closed:
        await unpacking  # says why it stopped reading
        raise
    except OSError as error:
        raise SandboxError(f"{remote!r} cannot be written to this disk: {error.strerror}") from None
    finally:
        os.close(sink)
        if not unpacking.done():
            await asyncio.wait([unpacking])
    try:
        return await unpacking
    except OSError as error:
        raise SandboxError(f"{remote!r} cannot be written to this disk: {error.strerror}") from None


class _Closed(Exception):
    """Nobody reads the pipe any more."""


class _Pipe:
    """Gives what comes to whoever reads a pipe.

    Args:
        fd: the pipe's end to write to, blocking.
        shown: what messages call it.
        said: its size, as the sandbox has said it.
    """

    def __init__(self, fd: int, shown: str, said: int) -> None:
        self._fd, self._shown, self._said = fd, shown, said
        self._room = memoryview(bytearray(straight.PIECE))

    def expect(self, count: int) -> None:
        if count > self._said + files.GROWTH:
            raise SandboxError(f"{self._shown!r} was said to have {self._said:,} bytes, and more came")

    def room(self) -> memoryview:
        return self._room

    def took(self, count: int) -> None:
        view = self._room[:count]
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            raise _Closed from None

    def pull(self, pipe: int, count: int) -> None:
        try:
            while count:
                count -= os.splice(pipe, self._fd, count)
        except BrokenPipeError:
            raise _Closed from None


async def export(binding: Binding, tell: Reporter, remote: str, target: Path) -> int:
    """Save a folder, or a file, of the sandbox as a compressed archive; it is not unpacked here.

    Returns:
        its size in bytes.
    """
    sandbox = await binding.usable(tell)
    where = await files.remote_path(sandbox, remote)
    info = await files.info_of(sandbox, where)
    folder, _, name = where.rstrip("/").rpartition("/")
    what = (
        f"-C {shlex.quote(where)} ."
        if info.is_dir
        else f"-C {shlex.quote(folder or '/')} -- {shlex.quote(name)}"
    )
    async with await resting_place(sandbox) as place:
        tell.progress(f"packing {remote}")
        await _shell(sandbox, f"packing {remote}", f"tar -czf {shlex.quote(place.path)} {what}")
        return await files.download(binding, tell, place.path, target, shown=remote)


async def import_(binding: Binding, tell: Reporter, local: Path, remote: str) -> tuple[str, Unpacked]:
    """Unpack an archive of this machine into a folder of the sandbox, made if it is not there.

    Returns:
        the folder, and what went there.

    Raises:
        SandboxUsageError: a member would be written elsewhere; nothing was sent.
    """
    tell.progress(f"checking {local.name}")
    seen, skipped = await asyncio.to_thread(archives.look_over, local)
    sandbox = await binding.usable(tell)
    where = await files.remote_path(sandbox, remote)
    async with await resting_place(sandbox) as place:
        if not skipped:
            await files.put_file(sandbox, tell, local, place.path)
        else:
            meter = Meter(tell, f"uploading {local.name}", seen.size)

            async def pieces() -> AsyncIterator[bytes]:
                written = _through_pipe(lambda stream: archives.repack(local, skipped, stream), [])
                async with aclosing(written) as all_of_it:
                    async for piece in all_of_it:
                        meter.add(len(piece))
                        yield piece

            await files.put_stream(sandbox, pieces(), place.path)
        tell.progress(f"unpacking {local.name}")
        flag = "" if skipped else await asyncio.to_thread(_flag, local)
        await _shell(sandbox, f"unpacking to {remote}", _unpack_script(place.path, where, flag))
    return where, seen


def _flag(path: Path) -> str:
    """The letter that tells any ``tar`` how a file is compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    kinds = {b"\x1f\x8b": "z", b"BZh": "j", b"\xfd7zXZ\x00": "J"}
    return next((letter for magic, letter in kinds.items() if start.startswith(magic)), "")
