"""The verbs that act on files inside the sandbox, and carry whole trees as archives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.magics.line_files import amount, left_out, local_target
from daytona_magics.notebook.card import Card, Table, counted, size
from daytona_magics.notebook.results import show
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import paths, trees

_MODE = re.compile(r"[0-7]{3,4}")


def _last(words: list[str], verb: str) -> tuple[list[str], str]:
    if len(words) < 2:
        raise SandboxUsageError(f"%sandbox {verb}: where to?", hint=f"%sandbox {verb} FROM... TO")
    return words[:-1], words[-1]


def cp(shell: Any, options: Any) -> None:
    """``%sandbox cp FROM... TO``"""
    sources, target = _last(options.paths, "cp")
    binding = sandboxes.current()
    wait(lambda tell: paths.copy(binding, tell, sources, target), "copying", cancelled="stopped waiting")


def mv(shell: Any, options: Any) -> None:
    """``%sandbox mv FROM... TO``"""
    sources, target = _last(options.paths, "mv")
    binding = sandboxes.current()
    wait(lambda tell: paths.move(binding, tell, sources, target), "moving")


def rm(shell: Any, options: Any) -> None:
    """``%sandbox rm [-r] PATH...``"""
    binding = sandboxes.current()
    wait(
        lambda tell: paths.remove(binding, tell, options.paths, recursive=options.recursive),
        "deleting",
        cancelled="cancelled; some may be deleted",
    )


def mkdir(shell: Any, options: Any) -> None:
    """``%sandbox mkdir PATH... [--mode MODE]``"""
    binding, mode = sandboxes.current(), _checked(options.mode or "755")
    wait(lambda tell: paths.make_folders(binding, tell, options.paths, mode), "making folders")


def _checked(mode: str) -> str:
    if not _MODE.fullmatch(mode):
        raise SandboxUsageError(f"{mode!r} is no mode; write three octal digits, like 755 or 600")
    return mode


def stat(shell: Any, options: Any) -> Card:
    """``%sandbox stat PATH``"""
    binding = sandboxes.current()
    info = wait(lambda tell: paths.info(binding, tell, options.path), f"looking at {options.path}")
    return Card(
        options.path,
        [
            ("kind", "folder" if info.is_dir else "file"),
            ("size", "" if info.is_dir else f"{size(info.size)} ({info.size:,} bytes)"),
            ("mode", f"{info.permissions or ''} {info.mode or ''}".strip()),
            ("owner", f"{info.owner}:{info.group}"),
            ("changed", re.sub(r"\.\d+", "", str(info.mod_time)).replace("T", " ").rstrip("Z")),
        ],
    )


def chmod(shell: Any, options: Any) -> None:
    """``%sandbox chmod MODE PATH...``"""
    binding, mode = sandboxes.current(), _checked(options.mode)
    wait(lambda tell: paths.change_mode(binding, tell, options.paths, mode), "changing modes")


def chown(shell: Any, options: Any) -> None:
    """``%sandbox chown OWNER[:GROUP] PATH...``"""
    owner, _, group = options.owner.partition(":")
    if not owner and not group:
        raise SandboxUsageError(f"{options.owner!r} names nobody", hint="OWNER, OWNER:GROUP or :GROUP")
    binding = sandboxes.current()
    wait(lambda tell: paths.change_owner(binding, tell, options.paths, owner, group), "changing owners")


def replace(shell: Any, options: Any) -> Table:
    """``%sandbox replace OLD NEW PATH...``"""
    binding = sandboxes.current()
    if not options.old:
        raise SandboxUsageError("replace: an empty text is everywhere")
    found = wait(
        lambda tell: paths.replace(binding, tell, options.paths, options.old, options.new),
        "replacing",
        cancelled="stopped waiting; some files may have been changed",
    )
    rows = [(one.file, "done" if one.success else f"failed: {one.error}") for one in found]
    table = Table(("file", "result"), rows, found)
    if failed := [one for one in found if not one.success]:
        show(table)
        raise SandboxError(f"{len(failed)} of {counted(len(found), 'file')} could not be changed")
    return table


def find(shell: Any, options: Any) -> Table:
    """``%sandbox find PATTERN [PATH]``"""
    binding = sandboxes.current()
    found = wait(lambda tell: paths.find(binding, tell, options.pattern, options.path), "searching")
    return Table(("name",), [(name,) for name in found], found, empty=f"No name like {options.pattern}.")


def grep(shell: Any, options: Any) -> Table:
    """``%sandbox grep TEXT [PATH]``"""
    binding = sandboxes.current()
    found = wait(lambda tell: paths.grep(binding, tell, options.pattern, options.path), "searching")
    rows = [(one.file, one.line, str(one.content).strip()[:200]) for one in found]
    return Table(("file", "line", "text"), rows, found, empty=f"No line with {options.pattern}.")


def export(shell: Any, options: Any) -> Path:
    """``%sandbox export PATH FILE.tar.gz``"""
    binding = sandboxes.current()
    target = local_target("archive.tar.gz", options.file)
    if target.exists() and not options.force:
        raise SandboxUsageError(f"{str(target)!r} exists on this machine", hint="--force overwrites it.")
    if not target.parent.is_dir():
        raise SandboxUsageError(f"there is no folder {str(target.parent)!r} on this machine")
    count = wait(
        lambda tell: trees.export(binding, tell, options.path, target),
        f"exporting {options.path}",
        cancelled="the export was cancelled; nothing was written",
    )
    note(f"{size(count)} → {target}")
    return target


def import_(shell: Any, options: Any) -> None:
    """``%sandbox import FILE.tar.gz PATH``"""
    binding = sandboxes.current()
    local = Path(options.file).expanduser()
    if not local.is_file():
        raise SandboxUsageError(f"there is no file {str(local)!r} on this machine")
    where, went = wait(
        lambda tell: trees.import_(binding, tell, local, options.path),
        f"importing {local.name}",
        cancelled="the import was cancelled; nothing of it is there",
    )
    note(f"{amount(went)} → {where}{left_out(went)}")
