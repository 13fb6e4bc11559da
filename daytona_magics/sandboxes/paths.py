"""What can be done with files inside the bound sandbox. Coroutines for the loop thread."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

#: Seconds a copy inside the sandbox may take.
COPY_WITHIN = 3600


async def copy(binding: Binding, tell: Reporter, sources: Sequence[str], target: str) -> None:
    """Copy files and folders, the last rules those of ``cp -R``.

    Raises:
        SandboxError: with what ``cp`` said.
    """
    sandbox = await binding.usable(tell)
    words = [shlex.quote(await files.remote_path(sandbox, path)) for path in (*sources, target)]
    if target.endswith("/"):
        # As everywhere: a folder that is not there yet is made.
        await files.asked(target, sandbox.fs.create_folder(await files.remote_path(sandbox, target), "755"))
    answer = await files.asked("cp", sandbox.process.exec(f"cp -R -- {' '.join(words)}", timeout=COPY_WITHIN))
    if answer.exit_code:
        raise SandboxError(str(answer.result).strip()[-500:] or f"cp ended with exit code {answer.exit_code}")


async def move(binding: Binding, tell: Reporter, sources: Sequence[str], target: str) -> None:
    """Move files and folders; into the target if it is a folder."""
    sandbox = await binding.usable(tell)
    where = await files.remote_path(sandbox, target)
    folder = len(sources) > 1 or target.endswith("/") or await files.is_folder(sandbox, where)
    for path in sources:
        source = await files.remote_path(sandbox, path)
        name = f"{where.rstrip('/')}/{source.rstrip('/').rpartition('/')[2]}" if folder else where
        await files.asked(path, sandbox.fs.move_files(source, name))


async def remove(binding: Binding, tell: Reporter, paths: Sequence[str], *, recursive: bool) -> None:
    """Delete files, and folders if ``recursive``."""
    sandbox = await binding.usable(tell)
    for path in paths:
        where = await files.remote_path(sandbox, path)
        if not recursive and await files.is_folder(sandbox, where):
            raise SandboxError(f"{path!r} is a folder", hint=f"%sandbox rm -r {shlex.quote(path)}")
        await files.asked(path, sandbox.fs.delete_file(where, recursive=recursive))


async def make_folders(binding: Binding, tell: Reporter, paths: Sequence[str], mode: str) -> None:
    """Make folders, with those they lie in."""
    sandbox = await binding.usable(tell)
    for path in paths:
        await files.asked(path, sandbox.fs.create_folder(await files.remote_path(sandbox, path), mode))


async def info(binding: Binding, tell: Reporter, path: str) -> Any:
    """What the sandbox says of a file or folder."""
    sandbox = await binding.usable(tell)
    return await files.asked(path, sandbox.fs.get_file_info(await files.remote_path(sandbox, path)))


async def change_mode(binding: Binding, tell: Reporter, paths: Sequence[str], mode: str) -> None:
    """Change the mode of files and folders."""
    sandbox = await binding.usable(tell)
    for path in paths:
        where = await files.remote_path(sandbox, path)
        await files.asked(path, sandbox.fs.set_file_permissions(where, mode=mode))


async def change_owner(
    binding: Binding, tell: Reporter, paths: Sequence[str], owner: str, group: str
) -> None:
    """Change owner and group; "" leaves one as it is."""
    sandbox = await binding.usable(tell)
    for path in paths:
        where = await files.remote_path(sandbox, path)
        change = sandbox.fs.set_file_permissions(where, owner=owner or None, group=group or None)
        await files.asked(path, change)


async def replace(binding: Binding, tell: Reporter, paths: Sequence[str], old: str, new: str) -> list[Any]:
    """Replace a text in files; objects with ``file``, ``success`` and ``error``, one for each."""
    sandbox = await binding.usable(tell)
    where = [await files.remote_path(sandbox, path) for path in paths]
    return list(await files.asked("the files", sandbox.fs.replace_in_files(where, old, new)))


async def find(binding: Binding, tell: Reporter, pattern: str, path: str) -> list[str]:
    """Paths below a folder whose name matches a pattern."""
    sandbox = await binding.usable(tell)
    answer = await files.asked(path, sandbox.fs.search_files(await files.remote_path(sandbox, path), pattern))
    return sorted(str(name) for name in answer.files)


async def grep(binding: Binding, tell: Reporter, pattern: str, path: str) -> list[Any]:
    """Lines with a text, in a file or below a folder: objects with ``file``, ``line`` and ``content``."""
    sandbox = await binding.usable(tell)
    found = await files.asked(path, sandbox.fs.find_files(await files.remote_path(sandbox, path), pattern))
    return sorted(found, key=lambda one: (str(one.file), one.line))
