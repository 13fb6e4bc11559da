"""Listings of folders, a page at a time, for people who look at files.

A folder may hold a hundred thousand files. The kernel's directory entries say what is a folder, so a page
costs one pass over the names, the choice of those that are on it (the first of many are found without a sort
of all), and a ``stat`` of these only. That is done in a short child process: the daemon serves cells
meanwhile, and a file system that hangs holds up nobody else.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import signal
import stat

from . import processes, workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop

#: Entries of one page, names looked at in one folder, and seconds one look may take.
MAX_PAGE, MAX_NAMES, WITHIN = 1000, 1000000, 5.0
#: The first names are chosen without a sort when all are so many times as many.
FEW = 8
SORTS = ("name", "modified", "size")
_KINDS = ((stat.S_ISDIR, "dir"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "link"))


def page(
    path: str, offset: int = 0, limit: int = 200, match: str = "", hidden: bool = False, sort: str = "name"
) -> dict[str, Any]:
    """One page of a folder's entries, folders first, then by name.

    Args:
        path: the folder; ``~`` is the home.
        match: only names that hold this text, whatever their case.
        hidden: also names that begin with a dot.
        sort: "name"; or "modified" or "size", the latest and the largest first, which looks at every entry.

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
    wanted, left_out, more = match.lower(), 0, False
    folders: list[str] = []
    others: list[str] = []
    ranks: dict[str, float] = {}
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, MAX_NAMES):
            name = entry.name
            if wanted and wanted not in name.lower():
                continue
            if name[0] == "." and not hidden:
                left_out += 1
                continue
            try:
                (folders if entry.is_dir() else others).append(name)
            except OSError:
                others.append(name)
            if sort != "name":
                ranks[name] = _rank(entry, sort)
        more = next(entries, None) is not None
    before = len(folders)
    first = _sorted(folders, ranks, offset, offset + limit)
    then = _sorted(others, ranks, max(0, offset - before), max(0, offset + limit - before))
    return {
        "path": _shown(folder),
        "total": before + len(others),
        "hidden": left_out,
        "more": more,
        "entries": [_entry(folder, name, True) for name in first]
        + [_entry(folder, name, False) for name in then],
    }


def _sorted(names: list[str], ranks: dict[str, float], begin: int, end: int) -> list[str]:
    """Some of the names in their order: by rank where there are any, then whatever the case."""

    def place(name: str) -> Any:
        # No name holds what stands between, so that it sorts as the pair of both would.
        text = name.lower() + "\0" + name
        return (ranks[name], text) if ranks else text

    if end * FEW < len(names):
        return heapq.nsmallest(end, names, place)[begin:]
    return sorted(names, key=place)[begin:end]


def _rank(entry: os.DirEntry[str], sort: str) -> float:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    return -info.st_mtime if sort == "modified" else -info.st_size


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
    if request.get("sort", "name") not in SORTS:
        raise ValueError("sort must be one of %s" % ", ".join(SORTS))
    return {**fields, "hidden": request.get("hidden") is True, "sort": request.get("sort", "name")}


def scan(loop: Loop, fields: dict[str, Any], answer: Callable[[dict[str, Any]], Any]) -> None:
    """Make a page in a child process, then call ``answer`` with it, or with ``{"error", "message"}``."""
    beside(loop, fields["path"], lambda: page(**fields), answer)


def beside(
    loop: Loop,
    path: str,
    look: Callable[[], dict[str, Any]],
    answer: Callable[[dict[str, Any]], Any],
    *,
    waits: bool = True,
) -> None:
    """Look at a folder in a child process, then call ``answer`` with what ``look`` returns.

    Args:
        path: the folder, for the messages.
        look: what is done; an OSError of it becomes ``{"error", "message"}``.
        waits: somebody waits for it; else it leaves the processor to others.
    """
    read, write = workers.make_pipe()

    def child() -> None:
        loop.close_in_child()
        processes.die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not waits:
            os.nice(10)
        try:
            body = look()
        except OSError as error:
            code = "not-found" if isinstance(error, (FileNotFoundError, NotADirectoryError)) else "unreadable"
            body = {"error": code, "message": "%s: %s" % (path, error.strerror or error)}
        view = memoryview(json.dumps(body).encode("ascii"))
        while view:
            view = view[os.write(write, view) :]

    pid = workers.fork(child)
    os.close(write)
    pieces: list[bytes] = []
    late = {"error": "too-slow", "message": "%s did not answer within %d s" % (path, WITHIN)}

    def close() -> None:
        timer.cancel()
        loop.remove(read)
        os.close(read)

    def give_up() -> None:
        # One that hangs in the kernel does not even end: nobody waits for that.
        processes.send_child(pid, signal.SIGKILL)
        close()
        answer(late)

    timer = loop.later(WITHIN, give_up)

    def readable(events: int) -> None:
        try:
            data = os.read(read, 1 << 18)
        except BlockingIOError:
            return
        if data:
            pieces.append(data)
            return
        close()
        try:
            body = json.loads(b"".join(pieces))
        except ValueError:
            body = {"error": "unreadable", "message": "%s: the look at it was ended" % path}
        answer(body)

    loop.add(read, readable)
