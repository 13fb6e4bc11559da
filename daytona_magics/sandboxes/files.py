"""Files and single commands of the bound sandbox, through the SDK. Coroutines for the loop thread."""

from __future__ import annotations

import asyncio
import math
import secrets
import shlex
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.labels import CREATOR
from daytona_magics.sandboxes.meter import Meter
from daytona_magics.sandboxes.report import Reporter

T = TypeVar("T")

#: Bytes a file may grow while it is downloaded (a log does); beyond them the sandbox only fills the disk.
GROWTH = 64 << 20
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


async def asked(path: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except sdk.error_class() as error:
        if sdk.not_found(error):
            raise SandboxError(f"there is no {path!r} in the sandbox", hint="%sandbox ls") from None
        raise sdk.translate(error, path) from None


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
    answer = await asked(
        "the command", sandbox.process.exec(command, cwd=folder, env=env or None, timeout=limit)
    )
    return int(answer.exit_code or 0), str(answer.result or "")


async def listed(binding: Binding, tell: Reporter, path: str) -> list[Any]:
    """The entries of a folder, or the one entry of a file."""
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, path)
    info = await asked(path, sandbox.fs.get_file_info(where))
    return list(await asked(path, sandbox.fs.list_files(where))) if info.is_dir else [info]


async def content(sandbox: Any, path: str, where: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a file as they come. Whoever stops in the middle closes it, which ends the transfer."""
    import aiohttp

    some = False
    try:
        async with aclosing(await sandbox.fs.download_file_stream(where, timeout=0)) as pieces:
            async for piece in pieces:
                some = True
                yield piece
    except sdk.error_class() as error:
        if sdk.not_found(error):
            raise SandboxError(f"there is no {path!r} in the sandbox", hint="%sandbox ls") from None
        # The SDK calls an empty file one it has received nothing for.
        if some or "No file data received" not in str(error):
            raise sdk.translate(error, path) from None
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise SandboxUnreachable(f"{path!r} could not be read to its end ({type(error).__name__})") from None


async def info_of(sandbox: Any, path: str) -> Any:
    """What the sandbox says of a file or folder."""
    return await asked(path, sandbox.fs.get_file_info(path))


async def put_stream(sandbox: Any, pieces: AsyncIterator[Any], where: str, shown: str | None = None) -> None:
    """Write a file of the sandbox from pieces as they come; it appears whole or not at all.

    Args:
        shown: what to call it in messages, if not ``where``.
    """
    import httpx

    try:
        await asked(shown or where, sandbox.fs.upload_file_stream(pieces, where, timeout=0))
    except httpx.HTTPError as error:
        raise SandboxUnreachable(
            f"{shown or where!r} could not be sent to its end ({type(error).__name__})"
        ) from None


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
        raise SandboxError(f"{path!r} is a folder", hint=f"%sandbox ls {path}")
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
            hint=f"%sandbox download {path}",
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


async def put_file(sandbox: Any, tell: Reporter, path: Path, where: str) -> int:
    """Copy one file into the sandbox, piece by piece; whether it can be run goes with it.

    Returns:
        its size in bytes.
    """
    info = await asyncio.to_thread(path.stat)
    meter = Meter(tell, f"uploading {path.name}", info.st_size)

    async def pieces() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE):
                meter.add(len(piece))
                yield piece

    await put_stream(sandbox, pieces(), where)
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
        raise SandboxError(f"{remote!r} is a folder", hint=f"%sandbox download {remote}")
    free = shutil.disk_usage(target.parent).free
    if info.size > free:
        raise SandboxError(f"{remote!r} has {info.size:,} bytes, and this disk has {free:,} free")
    meter = Meter(tell, f"downloading {shown or PurePosixPath(where).name}", int(info.size))
    part = target.with_name(f".{target.name}.{CREATOR}-{secrets.token_hex(4)}")
    count, most = 0, int(info.size) + GROWTH
    try:
        with part.open("xb") as file:
            async with aclosing(content(sandbox, remote, where)) as pieces:
                waiting = bytearray()
                async for piece in pieces:
                    meter.add(len(piece))
                    count += len(piece)
                    if count > most:
                        raise SandboxError(
                            f"{remote!r} was said to have {info.size:,} bytes, and more than {most:,} came"
                        )
                    waiting += piece
                    if len(waiting) >= PIECE:
                        await asyncio.to_thread(file.write, waiting)
                        waiting = bytearray()
                await asyncio.to_thread(file.write, waiting)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return count
