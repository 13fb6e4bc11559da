"""Files and single commands of the bound sandbox, through the SDK. Coroutines for the loop thread."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import math
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import transfers
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.labels import CREATOR
from daytona_magics.sandboxes.meter import Meter
from daytona_magics.sandboxes.report import Reporter
from daytona_magics.sandboxes.transfers import asked as asked
from daytona_magics.sandboxes.transfers import content as content
from daytona_magics.sandboxes.transfers import put_stream as put_stream

#: Bytes a file may grow while it is downloaded (a log does); beyond them the sandbox only fills the disk.
GROWTH = 64 << 20
#: Bytes that are read of a file of this machine which says that it has none.
UNSAID = 64 << 20
#: Bytes that are read or written at once.
PIECE = 1 << 20
#: Bytes of the log of what was printed between cells that are shown.
LOG_LIMIT = 256 << 10


#: The home of each sandbox that was asked for it.
_homes: dict[str, str] = {}


async def remote_path(sandbox: Any, path: str) -> str:
    """Expand a leading ``~``; the platform does not."""
    if path == "~" or path.startswith("~/"):
        home = _homes.get(sandbox.id)
        if home is None:
            home = _homes[sandbox.id] = (await sandbox.get_user_home_dir()).rstrip("/")
        return f"{home}/{path[2:]}".rstrip("/") if path[2:] else home
    return path


async def execute(
    binding: Binding, tell: Reporter, command: str, *, cwd: str | None, env: dict[str, str], timeout: float
) -> tuple[int, str]:
    """Run one shell command.

    Args:
        timeout: seconds; 0 for none. The platform takes whole seconds, so it is rounded up.

    Returns:
        exit code, and stdout and stderr together.
    """
    sandbox = await binding.usable(tell)
    tell.progress("running")
    folder = await remote_path(sandbox, cwd) if cwd else None
    limit = math.ceil(timeout) if timeout else None
    try:
        answer = await sandbox.process.exec(command, cwd=folder, env=env or None, timeout=limit)
    except sdk.error_class() as error:
        if sdk.timed_out(error) and limit:
            raise SandboxError(
                f"the command was ended after {limit} s",
                hint="--timeout SECONDS gives it longer; %%sandbox --bg bash runs one beside the notebook.",
            ) from None
        raise sdk.translate(error, "the command") from None
    return int(answer.exit_code or 0), str(answer.result or "")


async def listed(binding: Binding, tell: Reporter, path: str) -> list[Any]:
    """The entries of a folder, or the one entry of a file."""
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, path)
    info = await asked(path, sandbox.fs.get_file_info(where))
    return list(await asked(path, sandbox.fs.list_files(where))) if info.is_dir else [info]


async def info_of(sandbox: Any, path: str) -> Any:
    """What the sandbox says of a file or folder."""
    return await asked(path, sandbox.fs.get_file_info(path))


async def read(binding: Binding, tell: Reporter, path: str, *, limit: int) -> bytes:
    """The content of a file.

    The size the sandbox says is a hint that saves a transfer; what comes is counted and cut off.

    Raises:
        SandboxError: it does not exist, is a folder, or is larger than ``limit`` bytes.
    """
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, path)
    info = await asked(path, sandbox.fs.get_file_info(where))
    if info.is_dir:
        raise SandboxError(f"{path!r} is a folder", hint=f"%sandbox ls {shlex.quote(path)}")
    count, data = info.size, bytearray()
    if count <= limit:
        async with aclosing(content(sandbox, path, where)) as pieces:
            async for piece in pieces:
                data += piece
                count = len(data)
                if count > limit:
                    break
    if count > limit:
        raise SandboxError(
            f"{path!r} has {max(count, info.size):,} bytes or more, more than the {limit:,} that are shown",
            hint=f"%sandbox download {shlex.quote(path)}",
        )
    return bytes(data)


async def between_cells(binding: Binding, tell: Reporter, lines: int) -> str:
    """The last lines that were printed between cells of this kernel's context, "" when none were."""
    await binding.rediscover(tell)
    if binding.sandbox is None:
        return ""
    channel = await binding.ready(tell)
    contexts = (await channel.status())["contexts"]
    found = [str(one.get("late_output", "")) for one in contexts if one.get("name") == binding.context]
    names = " ".join(f"{shlex.quote(path)}.old {shlex.quote(path)}" for path in found if path)
    if not names:
        return ""
    command = f"cat {names} 2>/dev/null | tail -n {lines} | tail -c {LOG_LIMIT}"
    _, text = await execute(binding, tell, command, cwd=None, env={}, timeout=60)
    return text if not text or text.endswith("\n") else text + "\n"


async def last_lines(binding: Binding, tell: Reporter, path: str, lines: int) -> str:
    """The last lines of a file, at most 256 KiB of them. Raises SandboxError when it cannot be read."""
    where = await remote_path(binding.bound(), path)
    command = f"tail -n {lines} -- {shlex.quote(where)} | tail -c {LOG_LIMIT}"
    await info_of(binding.bound(), where)
    return (await execute(binding, tell, command, cwd=None, env={}, timeout=60))[1]


async def upload(binding: Binding, tell: Reporter, local: list[Path], target: str) -> list[tuple[str, int]]:
    """Copy files into the sandbox.

    Args:
        local: files of this machine.
        target: a file, or a folder when it ends in ``/`` or is one.

    Returns:
        where each file went and how many bytes it has.
    """
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, target)
    folder = target.endswith("/") or target == "~" or await is_folder(sandbox, where)
    sent = []
    for path in local:
        name = f"{where.rstrip('/')}/{path.name}" if folder else where
        sent.append((name, await put_file(sandbox, tell, path, name)))
    return sent


def _pieces(file: BinaryIO, path: Path) -> list[bytes]:
    """All of a file that does not say how large it is. Raises SandboxError when it does not end."""
    pieces: list[bytes] = []
    while piece := file.read(PIECE):
        pieces.append(piece)
        if len(pieces) * PIECE > UNSAID:
            raise SandboxError(f"{str(path)!r} says that it is empty, and has more than {UNSAID >> 20} MiB")
    return pieces


async def put_file(sandbox: Any, tell: Reporter, path: Path, where: str) -> int:
    """Copy one file into the sandbox, piece by piece; whether it can be run goes with it.

    Returns:
        its size in bytes.
    """
    try:
        opened = await asyncio.to_thread(path.open, "rb")
    except OSError as error:
        raise SandboxError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    with opened as file:
        info = os.fstat(file.fileno())
        meter = Meter(tell, f"uploading {path.name}", info.st_size)
        source: transfers.Source = file
        size = info.st_size
        if not size:
            # A file of /proc says that it is empty.
            pieces = await asyncio.to_thread(_pieces, file, path)
            source, size = (lambda: pieces), sum(len(piece) for piece in pieces)
        try:
            await transfers.send(sandbox, source, size, where, where, meter)
        except transfers.Changed:
            raise SandboxError(f"{str(path)!r} became shorter while it was read") from None
    if info.st_mode & 0o111:
        await asked(where, sandbox.fs.set_file_permissions(where, mode=f"{info.st_mode & 0o777 | 0o600:o}"))
    return meter.count


async def is_remote_folder(binding: Binding, tell: Reporter, path: str) -> bool:
    """Whether there is a folder at a path, as a person writes it."""
    sandbox = await binding.usable(tell)
    return bool((await asked(path, sandbox.fs.get_file_info(await remote_path(sandbox, path)))).is_dir)


async def is_folder(sandbox: Any, path: str) -> bool:
    """Whether there is a folder at a path of the sandbox."""
    try:
        return bool((await sandbox.fs.get_file_info(path)).is_dir)
    except sdk.error_class() as error:
        if sdk.not_found(error):
            return False
        raise sdk.translate(error, path) from None


async def download(
    binding: Binding, tell: Reporter, remote: str, target: Path, *, shown: str | None = None
) -> int:
    """Copy a file of the sandbox to this machine, piece by piece; it appears complete or not at all.

    Args:
        shown: what to call it in messages, if not ``remote``.

    Returns:
        its size in bytes.
    """
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, remote)
    info = await asked(remote, sandbox.fs.get_file_info(where))
    if info.is_dir:
        raise SandboxError(f"{remote!r} is a folder", hint=f"%sandbox download {shlex.quote(remote)}")
    free = shutil.disk_usage(target.parent).free
    if info.size > free:
        raise SandboxError(f"{remote!r} has {info.size:,} bytes, and this disk has {free:,} free")
    meter = Meter(tell, f"downloading {shown or PurePosixPath(where).name}", int(info.size))
    await asyncio.to_thread(_sweep, target)
    part = target.with_name(f".{target.name}.{CREATOR}-{secrets.token_hex(4)}")
    try:
        with part.open("xb", buffering=0) as file:
            # Nobody else takes it for a leftover.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sink = _File(file, remote, int(info.size))
            await transfers.receive(sandbox, where, remote, sink, meter)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return sink.count


def _sweep(target: Path) -> None:
    """Remove what downloads to ``target`` left when their kernel was killed among them."""
    start = f".{target.name}.{CREATOR}-"
    for path in target.parent.iterdir():
        if not path.name.startswith(start):
            continue
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


class _File:
    """Writes what comes into a file of this machine.

    Args:
        shown: what messages call it.
        said: its size, as the sandbox has said it.
    """

    def __init__(self, file: RawIOBase, shown: str, said: int) -> None:
        self._file, self._shown, self._said = file, shown, said
        self._room = memoryview(bytearray(PIECE))
        self.count = 0

    def expect(self, count: int) -> None:
        """Refuse more than was said, before it is written."""
        if count > self._said + GROWTH:
            raise SandboxError(
                f"{self._shown!r} was said to have {self._said:,} bytes, "
                f"and more than {self._said + GROWTH:,} came"
            )

    def room(self) -> memoryview:
        return self._room

    def took(self, count: int) -> None:
        self._more(count)
        with self._written():
            self._write(self._room[:count])

    def pull(self, pipe: int, count: int) -> None:
        self._more(count)
        while count:
            with self._written():
                try:
                    done = os.splice(pipe, self._file.fileno(), count)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    # A file system that takes only what is written.
                    data = os.read(pipe, count)
                    self._write(memoryview(data))
                    done = len(data)
            count -= done

    def _more(self, count: int) -> None:
        self.count += count
        self.expect(self.count)

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[self._file.write(view) or 0 :]

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SandboxError(f"{self._shown!r} cannot be written to this disk: {error.strerror}") from None
