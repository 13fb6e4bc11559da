"""Pieces of a file that grows, for people who follow a log.

The reader keeps where it is: the file's device and inode, and the byte it has come to. Each look gives it
what came since. When another file has the name now (a log was rotated), the rest of the earlier one is looked
for beside it first; when the file is shorter than what was read of it, it was cut off and begins anew.
"""

from __future__ import annotations

import base64
import os
import stat

from .scanning import beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop

#: Bytes of one piece; names beside a rotated log that are looked at.
MAX_PIECE, MAX_NAMES = 512 << 10, 5000
#: The file could not be told apart from one that hangs whoever opens it.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def piece(path: str, file: str = "", offset: int = 0, limit: int = MAX_PIECE) -> dict[str, Any]:
    """What came since the last look.

    Args:
        path: its name; ``~`` is the home.
        file: what the last look said; "" at the first.
        offset: where to go on; at the first look a negative one means so many bytes from its end.
        limit: bytes wanted at most.

    Returns:
        ``{"file", "offset", "size", "data", "news"}``: which file it is, where the data begins, the file's
        size, base64, and "", "rotated" (another file has the name: this is its beginning) or "cut" (it was
        cut
        off: this is its new beginning).

    Raises:
        OSError: it cannot be read, or is no file.

    In:  piece("/etc/hostname")["news"]
    Out: ''
    """
    where = os.path.realpath(os.path.expanduser(path))
    news = ""
    fd = _opened(where)
    try:
        if file and _name(fd) != file:
            earlier = _beside(where, file)
            if earlier is not None:
                try:
                    if os.fstat(earlier).st_size > offset:
                        return _read(earlier, offset, limit, "")
                finally:
                    os.close(earlier)
            news, offset = "rotated", 0
        size = os.fstat(fd).st_size
        if offset < 0:
            offset = max(0, size + offset)
        elif offset > size:
            news, offset = "cut", 0
        return _read(fd, offset, limit, news)
    finally:
        os.close(fd)


def _opened(path: str) -> int:
    fd = os.open(path, _FLAGS)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(0, "no regular file")


def _name(fd: int) -> str:
    info = os.fstat(fd)
    return "%d:%d" % (info.st_dev, info.st_ino)


def _beside(path: str, file: str) -> int | None:
    """The earlier file, open, when it is still in the same folder."""
    folder, inode = os.path.dirname(path), int(file.split(":")[1])
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_NAMES:
                    return None
                if entry.inode() == inode and entry.is_file(follow_symlinks=False):
                    fd = _opened(entry.path)
                    if _name(fd) == file:
                        return fd
                    os.close(fd)
    except OSError:
        return None
    return None


def _read(fd: int, offset: int, limit: int, news: str) -> dict[str, Any]:
    data = os.pread(fd, limit, offset)
    return {
        "file": _name(fd),
        "offset": offset,
        "size": os.fstat(fd).st_size,
        "data": base64.b64encode(data).decode("ascii"),
        "news": news,
    }


def wanted(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``peek`` request, checked. Raises ValueError."""
    path, file = request.get("path"), request.get("file", "")
    if not isinstance(path, str) or not 0 < len(path) <= 4096 or "\0" in path:
        raise ValueError("path must be text of at most 4096 characters")
    device, _, inode = file.partition(":") if isinstance(file, str) else ("", "", "")
    if file and not (device.isdigit() and inode.isdigit() and len(file) < 64):
        raise ValueError("file must be what an earlier answer said")
    for key, low, high in (("offset", -(1 << 40), 1 << 60), ("limit", 1, MAX_PIECE)):
        number = request.get(key, 0 if key == "offset" else MAX_PIECE)
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError("%s must be a number from %d to %d" % (key, low, high))
    return {
        "path": path,
        "file": file,
        "offset": request.get("offset", 0),
        "limit": request.get("limit", MAX_PIECE),
    }


def peek(loop: Loop, fields: dict[str, Any], answer: Callable[[dict[str, Any]], Any]) -> None:
    """Read a piece in a child process, then call ``answer`` with it, or with ``{"error", "message"}``."""
    beside(loop, fields["path"], lambda: piece(**fields), answer)
