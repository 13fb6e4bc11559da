"""Listings of folders, a page at a time, for people who look at files.

A folder may hold a hundred thousand files. The kernel's directory entries say what is a folder, so a page
costs one pass over the names, a sort, and a ``stat`` of those entries only that are on it. That is done in a
short child process: the daemon serves cells meanwhile, and a file system that hangs holds up nobody else.
"""

from __future__ import annotations

import os
import stat

from .aside import aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop

#: Entries of one page, and names looked at in one folder.
MAX_PAGE, MAX_NAMES = 1000, 1000000
_KINDS = ((stat.S_ISDIR, "dir"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "link"))


def page(
    path: str, offset: int = 0, limit: int = 200, match: str = "", hidden: bool = False
) -> dict[str, Any]:
    """One page of a folder's entries, folders first, then by name.

    Args:
        path: the folder; ``~`` is the home.
        match: only names that hold this text, whatever their case.
        hidden: also names that begin with a dot.

    Returns:
        ``{"path", "total", "hidden", "more", "entries"}``: the folder's real path, the number of entries that
        match, how many were left out for their dot, whether there are more than were looked at, and the
        entries as ``{"name", "kind", "size", "modified", "mode", "target"}`` (bytes, seconds, bits). A
        name that is not UTF-8 is shown with marks in it, and is ``odd``: no path can be made of it.

    Raises:
        OSError: it cannot be read.

    In:  page("/usr", limit=1)["entries"][0]["kind"]
    Out: 'dir'
    """
    folder = os.path.realpath(os.path.expanduser(path))
    wanted, found, left_out, more = match.lower(), [], 0, False
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_NAMES:
                more = True
                break
            name = entry.name
            if wanted and wanted not in name.lower():
                continue
            if name[0] == "." and not hidden:
                left_out += 1
                continue
            try:
                last = not entry.is_dir()
            except OSError:
                last = True
            found.append((last, name.lower(), name))
    found.sort()
    shown = found[offset : offset + limit]
    return {
        "path": _shown(folder),
        "total": len(found),
        "hidden": left_out,
        "more": more,
        "entries": [_entry(folder, name, not last) for last, _, name in shown],
    }


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _entry(folder: str, name: str, is_folder: bool) -> dict[str, Any]:
    path = os.path.join(folder, name)
    described: dict[str, Any] = {"name": _shown(name), "kind": "gone", "size": 0, "modified": 0, "mode": 0}
    if described["name"] != name:
        described["odd"] = True
    try:
        info = os.lstat(path)
    except OSError:
        return described
    kind = next((text for test, text in _KINDS if test(info.st_mode)), "special")
    if kind == "link":
        try:
            described["target"] = _shown(os.readlink(path))
        except OSError:
            return described
        # A link to a folder opens like one.
        kind = "dir" if is_folder else "link"
    described.update(
        kind=kind, size=info.st_size, modified=int(info.st_mtime), mode=stat.S_IMODE(info.st_mode)
    )
    return described


def wanted(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``scan`` request, checked. Raises ValueError."""
    fields = {key: request.get(key, default) for key, default in (("path", "~"), ("match", ""))}
    for key, text in fields.items():
        if not isinstance(text, str) or len(text) > 4096 or "\0" in text:
            raise ValueError("%s must be text of at most 4096 characters" % key)
    for key, default, most in (("offset", 0, MAX_NAMES), ("limit", 200, MAX_PAGE)):
        number = request.get(key, default)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
            raise ValueError("%s must be a number from 0 to %d" % (key, most))
        fields[key] = number
    return {**fields, "hidden": request.get("hidden") is True}


def scan(loop: Loop, fields: dict[str, Any], answer: Callable[[dict[str, Any]], Any]) -> None:
    """Make a page in a child process, then call ``answer`` with it, or with ``{"error", "message"}``."""
    aside(loop, fields["path"], lambda: page(**fields), answer)
