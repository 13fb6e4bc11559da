"""The verbs about files and commands: exec, ls, cat, upload, download. More are in :mod:`.line_paths`."""

from __future__ import annotations

import html
import os
import re
import shlex
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import ExitCodeError, SandboxError, SandboxUsageError
from daytona_magics.magics import secrets
from daytona_magics.magics.each import Arrived, Step, carry_each
from daytona_magics.notebook.card import Table, counted, preformatted, size
from daytona_magics.notebook.status import note, wait
from daytona_magics.notebook.terminal import clean
from daytona_magics.sandboxes import files, trees
from daytona_magics.sandboxes.archives import Unpacked
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

#: ``exec`` without --timeout, seconds.
EXEC_TIMEOUT = 600
#: The largest file ``cat`` shows, bytes.
CAT_LIMIT = 1 << 20


class ExecResult:
    """What a command left behind. Its output was printed already, so it does not show itself again.

    Attributes:
        exit_code: of the shell.
        output: stdout and stderr together, as text.
    """

    def __init__(self, exit_code: int, output: str) -> None:
        self.exit_code, self.output = exit_code, output

    def __str__(self) -> str:
        return self.output

    def __repr__(self) -> str:
        return f"<exit code {self.exit_code}, {len(self.output):,} characters>"

    def _ipython_display_(self) -> None:
        """Silent: the output stands above."""


def exec_(shell: Any, options: Any) -> ExecResult:
    """``%sandbox exec COMMAND``"""
    binding = sandboxes.current()
    env = secrets.environment(options.env)
    timeout = EXEC_TIMEOUT if options.timeout is None else options.timeout
    code, text = wait(
        lambda tell: files.execute(binding, tell, options.command, cwd=options.cwd, env=env, timeout=timeout),
        "running",
        cancelled=f"stopped waiting; the command may run on in the sandbox for up to {timeout:g} s",
    )
    text = clean(text)
    if text:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    if code != 0 and not options.no_raise:
        raise ExitCodeError(code, what="command")
    return ExecResult(code, text)


def ls(shell: Any, options: Any) -> Table:
    """``%sandbox ls [PATH]``"""
    binding = sandboxes.current()
    found = wait(lambda tell: files.listed(binding, tell, options.path), f"listing {options.path}")
    if not options.all and len(found) != 1:
        found = [entry for entry in found if not entry.name.startswith(".")]
    ordered = sorted(found, key=lambda entry: (not entry.is_dir, entry.name))
    rows = [
        (
            entry.name + ("/" if entry.is_dir else ""),
            "" if entry.is_dir else size(entry.size),
            str(entry.permissions or entry.mode),
            re.sub(r"(\.\d+)?(Z|[+-]\d\d:\d\d)?$", "", str(entry.mod_time)).replace("T", " ")[:19],
        )
        for entry in ordered
    ]
    return Table(("name", "size", "mode", "changed"), rows, ordered, empty=f"{options.path} is empty.")


class Text:
    """The text of a file; shows itself as it is.

    Attributes:
        path: where it came from.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path, self._text = path, text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return preformatted(html.escape(self._text))


def cat(shell: Any, options: Any) -> Text:
    """``%sandbox cat PATH``"""
    binding = sandboxes.current()
    data = wait(
        lambda tell: files.read(binding, tell, options.path, limit=CAT_LIMIT), f"reading {options.path}"
    )
    if b"\0" in data[:8192]:
        raise SandboxError(
            f"{options.path} is not a text file ({size(len(data))})",
            hint=f"%sandbox download {shlex.quote(options.path)}",
        )
    text = clean(data.decode("utf-8", "replace"))
    if options.lines is not None:
        if options.lines < 1:
            raise SandboxUsageError(f"--lines {options.lines}: a number of lines, 1 or more")
        text = "".join(text.splitlines(keepends=True)[: options.lines])
    return Text(options.path, text)


def upload(shell: Any, options: Any) -> None:
    """``%sandbox upload PATH... [--to PATH]``"""
    binding = sandboxes.current()
    paths, target = list(options.paths), options.to
    if target is None:
        target = paths.pop() if len(paths) > 1 else "~/"
    local = [Path(path).expanduser() for path in paths]
    for path in local:
        if not path.exists():
            raise SandboxUsageError(f"there is no file {str(path)!r} on this machine")
        if not path.is_file() and not path.is_dir():
            raise SandboxUsageError(f"{str(path)!r} is neither a file nor a folder")
    if len(local) == 1:
        note(_told(_upload_one(binding, local[0], target)))
        return
    if not target.endswith("/"):
        target += "/"
    names = [path.resolve().name for path in local]
    for path, name in zip(local, names, strict=True):
        if names.count(name) > 1:
            raise SandboxUsageError(f"two of them would be {target + name!r}", hint=f"one of them: {path}")

    def step(path: Path) -> Step:
        return Step(str(path), lambda: _upload_one(binding, path, target))

    carry_each([step(path) for path in local], "uploaded")


def _upload_one(binding: Binding, path: Path, target: str) -> Arrived:
    if path.is_dir():
        folder = path.resolve()
        where, went = wait(
            lambda tell: trees.upload(binding, tell, folder, target),
            f"uploading {folder.name}/",
            cancelled="the upload was cancelled; nothing of it is there",
        )
        return Arrived(amount(went), where + left_out(went))
    [(where, count)] = wait(
        lambda tell: files.upload(binding, tell, [path], target),
        "uploading",
        cancelled="the upload was cancelled; the file is there whole or not at all",
    )
    return Arrived(size(count), where)


def _told(arrived: Arrived) -> str:
    return f"{arrived.size} → {arrived.where}"


def amount(went: Unpacked) -> str:
    """How many files, and bytes, for people."""
    return f"{counted(went.files, 'file')}, {size(went.size)}"


def left_out(went: Unpacked) -> str:
    """What did not go along, as the end of a sentence; "" when everything did."""
    if not went.left_out:
        return ""
    names = ", ".join(went.left) + (", …" if went.left_out > len(went.left) else "")
    return f"; left out, as no file, folder or link inside: {names} ({went.left_out:,})"


def download(shell: Any, options: Any) -> Path | list[Path]:
    """``%sandbox download PATH... [LOCAL]``"""
    binding = sandboxes.current()
    remote, local = list(options.paths), options.to
    if local is None and len(remote) > 1:
        local = remote.pop()
    if len(remote) > 1 and local is not None and not local.endswith("/"):
        local += "/"
    targets = [local_target(path, local) for path in remote]
    for path, target in zip(remote, targets, strict=True):
        if target.is_dir() or (target.exists() and not options.force):
            raise SandboxUsageError(
                f"{str(target)!r} exists on this machine",
                hint="" if target.is_dir() else "--force overwrites it.",
            )
        if not target.parent.is_dir():
            raise SandboxUsageError(f"there is no folder {str(target.parent)!r} on this machine")
        if targets.count(target) > 1:
            raise SandboxUsageError(f"two of them would be {str(target)!r}", hint=f"one of them: {path}")
    if len(remote) == 1:
        note(_told(_download_one(binding, remote[0], targets[0])))
        return targets[0]

    def step(path: str, target: Path) -> Step:
        return Step(path, lambda: _download_one(binding, path, target))

    carry_each([step(path, target) for path, target in zip(remote, targets, strict=True)], "downloaded")
    return targets


def _download_one(binding: Binding, path: str, target: Path) -> Arrived:
    there = os.path.lexists(target)
    return wait(
        lambda tell: _download(binding, tell, path, target, there),
        f"downloading {path}",
        cancelled="the download was cancelled; nothing of it was written",
    )


async def _download(binding: Binding, tell: Reporter, path: str, target: Path, there: bool) -> Arrived:
    if await files.is_remote_folder(binding, tell, path):
        if there:
            raise SandboxError(f"{path!r} is a folder, and {str(target)!r} on this machine is a file")
        went = await trees.download(binding, tell, path, target)
        return Arrived(amount(went), f"{target}{left_out(went)}")
    return Arrived(size(await files.download(binding, tell, path, target)), str(target))


def local_target(remote: str, local: str | None) -> Path:
    """Where a downloaded file goes. Only what the person typed decides, never a name the sandbox sends.

    In:  local_target("out/report.pdf", None), local_target("out/a", "b.txt")
    Out: (PosixPath('report.pdf'), PosixPath('b.txt'))
    """
    name = PurePosixPath(remote).name
    if not name or name in (".", ".."):
        raise SandboxUsageError(f"{remote!r} does not name a file")
    if local is None:
        return Path(name)
    path = Path(local).expanduser()
    return path / name if local.endswith("/") or path.is_dir() else path
