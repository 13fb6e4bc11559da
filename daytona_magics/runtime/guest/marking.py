"""What is remarkable about the entries of a folder: what git says of them, and what the last cell changed.

Both are bounded. git is asked for that folder alone and for a few seconds; without git or a repository there
is nothing to say. What the last cell changed is what has a time of change (of content or of anything else)
since it began; below the folder so many entries are looked at and no more, and a folder that was not looked
through is not marked. A file that was deleted leaves its mark on the folder that held it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: Names with marks, entries looked at below a folder, seconds and bytes of what git says.
MOST, LOOKED_AT, GIT_WITHIN, GIT_BYTES = 2000, 20000, 4.0, 4 << 20
#: Seconds by which a file system's clock may lag.
LAG = 0.02
_GIT = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
_STATUS = ("status", "--porcelain", "-z", "--branch", "--untracked-files=normal", "--", ".")


def marks(path: str, since: float) -> dict[str, Any]:
    """What is remarkable in a folder.

    Args:
        path: the folder; ``~`` is the home.
        since: when the last cell began, in seconds since 1970; 0 when there was none.

    Returns:
        ``{"branch", "git", "changed"}``: the repository's branch ("" without one), letters of git by name
        ("M", "A", "?", "U", ... and "." for a folder with changes inside; the name "" stands for the folder
        itself, which git does not know), and the names changed since then.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = os.path.realpath(os.path.expanduser(path))
    os.scandir(folder).close()
    changed = _changed(folder, since - LAG) if since else []
    branch, letters = _git(folder)
    return {"branch": branch, "git": letters, "changed": changed}


def _changed(folder: str, since: float) -> list[str]:
    names, folders, left = [], [], LOOKED_AT
    with os.scandir(folder) as entries:
        for entry in entries:
            left -= 1
            if left < 0:
                break
            try:
                info = entry.stat(follow_symlinks=False)
                inside = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if max(info.st_mtime, info.st_ctime) >= since:
                names.append(entry.name)
            elif inside:
                folders.append(entry.name)
    for name in folders:
        found, left = _below(os.path.join(folder, name), since, left)
        if found:
            names.append(name)
        if left <= 0:
            break
    return [name for name in names if _is_text(name)][:MOST]


def _below(folder: str, since: float, left: int) -> tuple[bool, int]:
    """Whether something in a folder or below has changed; and how many entries may still be looked at."""
    todo = [folder]
    while todo and left > 0:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    left -= 1
                    info = entry.stat(follow_symlinks=False)
                    if max(info.st_mtime, info.st_ctime) >= since:
                        return True, left
                    if left <= 0:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
    return False, left


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") == name


def _repository(folder: str) -> str:
    """The folder of the repository that a folder lies in; "" when it lies in none."""
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):
            return folder
        above = os.path.dirname(folder)
        if above == folder:
            return ""
        folder = above


def _git(folder: str) -> tuple[str, dict[str, str]]:
    """The branch, and letters by name."""
    top, git = _repository(folder), shutil.which("git")
    if not top or not git:
        return "", {}
    said = _output([git, "-C", folder, *_GIT, *_STATUS])
    branch, renamed = "", False
    letters: dict[str, str] = {}
    inside = os.path.relpath(folder, top)
    prefix = "" if inside == "." else inside + "/"
    for record in said.split("\0")[:-1]:
        if renamed:
            # Where it was before; the record before this one says where it is.
            renamed = False
            continue
        code, path = record[:2], record[3:]
        if code == "##":
            branch = _branch(path)
            continue
        renamed = code[0] in "RC"
        if path.endswith("/") and prefix.startswith(path):
            letters[""] = _letter(code)
        if not path.startswith(prefix):
            continue
        name, _, rest = path[len(prefix) :].partition("/")
        if not name or len(letters) >= MOST or not _is_text(name):
            continue
        letters[name] = "." if rest else _letter(code)
    return branch, letters


def _letter(code: str) -> str:
    if "U" in code or code in ("DD", "AA"):
        return "U"
    return (code.strip() or "?")[0]


def _branch(line: str) -> str:
    """In: _branch("main...origin/main [ahead 1]")  Out: 'main'"""
    for words in ("No commits yet on ", "Initial commit on "):
        line = line[len(words) :] if line.startswith(words) else line
    name = line.split("...")[0]
    return "(no branch)" if name.startswith("HEAD (no branch)") else name[:200]


def _output(command: list[str]) -> str:
    """What git prints, in whole records, within the bounds; "" when it fails or takes too long."""
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **quiet},
    ) as git:
        assert git.stdout is not None
        late = threading.Timer(GIT_WITHIN, git.kill)
        late.start()
        pieces, left = [], GIT_BYTES
        while left > 0:
            piece = git.stdout.read(min(left, 1 << 16))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        late.cancel()
        if left <= 0:
            git.kill()
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    return text[: text.rfind("\0") + 1]
