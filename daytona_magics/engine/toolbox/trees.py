"""Removing a folder whatever is in it, and making one however deep it lies.

A sandbox's files may be links to other places, have modes that forbid entry, or be a tree thousands of levels
deep. Everything goes through directory descriptors and no link is ever followed; deep trees are flattened by
renaming, so depth costs neither stack nor descriptors. Used inside by the toolbox and outside by the engine.
"""

import errno
import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_MAX = 4096


def remove_tree(path: Path) -> None:
    """Delete `path` and all below it. A missing path is fine; a link in its place is unlinked, not followed.

    Raises OSError when something cannot be deleted.
    """
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(path)
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = _open_folder(path.name, parent)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path.name, dir_fd=parent)
    finally:
        os.close(parent)


def _open_folder(name: str, parent: int) -> int:
    """Open folder `name` in `parent`, giving ourselves access to it first if its mode forbids it."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", _FOLDER, dir_fd=handle)
    finally:
        os.close(handle)


def _empty(top: int) -> None:
    """Delete everything in folder `top`; subfolders' subfolders are first moved up into `top`."""
    number = 0
    while True:
        with os.scandir(top) as found:
            folders = [entry.name for entry in found if _unlink_or_folder(entry, top)]
        if not folders:
            return
        for name in folders:
            inner = _open_folder(name, top)
            try:
                with os.scandir(inner) as found:
                    nested = [entry.name for entry in found if _unlink_or_folder(entry, inner)]
                for child in nested:
                    # A folder can only be renamed by someone who may write to it.
                    os.close(_open_folder(child, inner))
                    number = _move_up(child, inner, top, number)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _unlink_or_folder(entry: "os.DirEntry[str]", folder: int) -> bool:
    """Delete `entry` unless it is a folder; True if it is one."""
    if entry.is_dir(follow_symlinks=False):
        return True
    os.unlink(entry.name, dir_fd=folder)
    return False


def _move_up(name: str, source: int, top: int, number: int) -> int:
    """Rename folder `name` from `source` into `top` under a name that is free; returns the next number."""
    while True:
        number += 1
        try:
            os.rename(name, f".removing-{number}", src_dir_fd=source, dst_dir_fd=top)
            return number
        except OSError:
            # An existing folder of that name (non-empty, or a file) blocks the rename: try the next one.
            try:
                os.stat(f".removing-{number}", dir_fd=top, follow_symlinks=False)
            except FileNotFoundError:
                raise


def make_folders(path: str) -> None:
    """Make folder `path` and its parents; those that are there already are fine.

    Unlike ``os.makedirs`` it does not call itself for each of the thousand parents that a path can have.
    Raises OSError.
    """
    if len(os.fsencode(path)) >= _PATH_MAX:
        # As the kernel would, which is not asked with every part of it.
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path[:100])
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path.rstrip("/"))
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            # Somebody else was faster, or ``..`` and ``.`` name one that has just been made.
            if not os.path.isdir(folder):
                raise
