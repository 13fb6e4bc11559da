"""Making the host folders that become sandbox homes."""

import os
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private(path: Path, uid: int | None) -> None:
    """Make folder `path` with mode 0700, owned by `uid` (and the same gid) if given.

    Raises OSError; also (NotADirectoryError) when something else is in its place.
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
