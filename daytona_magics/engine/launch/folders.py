"""Making the host folders that hold what a sandbox writes: its home and its system.

A root engine makes them for another uid, in folders that this uid cannot write to. All the same everything is
opened step by step without following links, so that nothing found in their place is ever taken for them.
"""

import os
import stat
from pathlib import Path

from . import venv
from .overlay import PARTS

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private(path: Path, uid: int | None) -> None:
    """Make folder `path` with mode 0700, owned by `uid` (and the same gid) if given, to be a home.

    A new one gets what a home starts with (`venv`, a .zshrc). Raises OSError; also (NotADirectoryError) when
    something else is in its place.
    """
    try:
        os.mkdir(path, 0o700)
        new = True
    except FileExistsError:
        new = False
    fd = os.open(path, _FOLDER)
    try:
        if new:
            _write_skeleton(fd, uid)
            venv.write(fd, uid)
        os.fchmod(fd, 0o700)
        if uid is not None:
            os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


def _write_skeleton(folder: int, uid: int | None) -> None:
    """Without a .zshrc, zsh greets a new user with a questionnaire instead of a prompt."""
    fd = os.open(".zshrc", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        os.write(fd, b"PS1='%n@%m:%~$ '\n")
        if uid is not None:
            os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


def make_root(path: Path) -> None:
    """Make folder `path` for the engine alone (mode 0700). Raises OSError, also when it is not a folder."""
    os.close(_own_folder(str(path), None, 0o700))


def make_system(path: Path, uid: int | None) -> None:
    """Make folder `path` with the two folders that each overlay of a sandbox writes to.

    ``path/usr/upper`` and ``path/usr/work`` and so on belong to `uid` (if given), all above them to the
    engine. Raises OSError, also when anything of it is no folder or belongs to somebody else.
    """
    # The sandbox's uid passes through to what it owns.
    mode = 0o700 if uid is None else 0o711
    top = _own_folder(str(path), None, mode)
    try:
        for name in PARTS:
            part = _own_folder(name, top, mode)
            try:
                for inner, inner_mode in (("upper", 0o755), ("work", 0o700)):
                    os.close(_own_folder(inner, part, inner_mode, uid))
            finally:
                os.close(part)
    finally:
        os.close(top)


def _own_folder(name: str, parent: int | None, mode: int, uid: int | None = None) -> int:
    """Open folder `name`, made if it is missing; it must belong to `uid`, else to this process's user."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        new = True
    except FileExistsError:
        new = False
    # One that was there may forbid to be read: its owner has changed its mode.
    fd = os.open(name, _FOLDER if new else _FOLDER | os.O_PATH, dir_fd=parent)
    try:
        if new:
            os.fchmod(fd, mode)
            if uid is not None:
                os.fchown(fd, uid, uid)
        info = os.fstat(fd)
        if info.st_uid != (os.geteuid() if uid is None else uid) or not stat.S_ISDIR(info.st_mode):
            raise PermissionError(1, "it belongs to somebody else", name)
        return fd
    except BaseException:
        os.close(fd)
        raise
