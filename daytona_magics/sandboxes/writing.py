"""Writing a small file of the sandbox from memory. Coroutines for the loop thread.

The bytes go into a file beside the target first, and take its place, or are added to it, by one command in
the sandbox: so whoever reads the target sees it whole, and a cut line leaves it as it was.
"""

from __future__ import annotations

import secrets
import shlex
from pathlib import PurePosixPath

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.files import remote_path
from daytona_magics.sandboxes.labels import CREATOR
from daytona_magics.sandboxes.report import Reporter

#: Seconds the last step may take.
WITHIN = 60


async def write(binding: Binding, tell: Reporter, path: str, data: bytes, *, append: bool = False) -> str:
    """Write ``data`` to a file, folders above it made.

    Args:
        path: in the sandbox; ``~`` is its home, a relative path begins in its working folder.
        append: add to what is there.

    Returns:
        the file's absolute path.

    Raises:
        SandboxError: it cannot be written; it is then as it was.
    """
    sandbox = await binding.usable(tell)
    where = await remote_path(sandbox, path)
    if not where.startswith("/"):
        where = f"{(await sdk.asked(sandbox.get_work_dir(), path)).rstrip('/')}/{where}"
    if where.endswith("/") or PurePosixPath(where).name in ("", ".", ".."):
        raise SandboxError(f"{path!r} names a folder, not a file")
    folder = str(PurePosixPath(where).parent)
    tell.progress(f"writing {path}")
    above = shlex.quote(folder)
    await _run(
        sandbox,
        f"mkdir -p -- {above} && test ! -d {shlex.quote(where)} &&"
        f" {{ test -w {above} || {{ echo its folder cannot be written to; false; }}; }}",
        path,
    )
    part = f"{folder}/.{PurePosixPath(where).name[:100]}.{CREATOR}-{secrets.token_hex(4)}"
    own, target = shlex.quote(part), shlex.quote(where)
    try:
        await sdk.asked(sandbox.fs.upload_file(data, part), f"writing {path}")
        if append:
            await _run(sandbox, f"cat -- {own} >> {target}", path)
        else:
            # Into the file that is there, for its mode, owner and links.
            await _run(
                sandbox,
                f"if test -e {target}; then cat -- {own} > {target}; else mv -- {own} {target}; fi",
                path,
            )
    finally:
        await sdk.asked(sandbox.process.exec(f"rm -f -- {own}", timeout=WITHIN), f"writing {path}")
    return where


async def _run(sandbox: object, command: str, path: str) -> None:
    answer = await sdk.asked(sandbox.process.exec(command, timeout=WITHIN), f"writing {path}")  # type: ignore[attr-defined]
    if answer.exit_code:
        said = str(answer.result or "").strip().splitlines()
        why = said[-1][:300] if said else "it is a folder, or the folder above it cannot be made"
        raise SandboxError(f"{path!r} cannot be written: {why}")
