"""What is staged and perhaps not meant: another repository instead of its files, lines of a conflict."""

from __future__ import annotations

import re

from daytona_magics.git import views
from daytona_magics.git.repository import Repository
from daytona_magics.sandboxes.report import Reporter

#: The kind of an entry that is a commit of another repository.
_COMMIT = "160000"
_MARKER = re.compile(r"^(?P<name>.*):\d+: leftover conflict marker$")
#: A conflict leaves one line of each kind: <<<<<<<, =======, >>>>>>>. A single one may be a heading.
_MARKERS = 3
#: Names that are listed.
_SHOWN = 5


async def tell_embedded(repository: Repository, tell: Reporter) -> None:
    """Tell of repositories inside of this one that were staged as a commit, without their files."""
    words = ("diff", "--cached", "--raw", "--diff-filter=A", "--no-renames", "-z")
    staged = (await repository.run(*words, doing="looking at what is staged", codes=(0, 128))).out
    fields = staged.split("\0")
    found = [name for entry, name in zip(fields[::2], fields[1::2], strict=False) if entry[8:14] == _COMMIT]
    if not found:
        return
    known = await repository.text(
        "config", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$", doing="looking at it"
    )
    paths = {line.partition(" ")[2] for line in known.splitlines()}
    if embedded := [name for name in found if name not in paths]:
        tell.note(
            f"{_listed(embedded)}: a repository of its own. Its commit was staged, its files were not; "
            f"%sandbox_git reset -- {embedded[0]}  takes it back"
        )


async def tell_markers(repository: Repository, tell: Reporter) -> None:
    """Tell of staged files with lines that a conflict left; before the commit that ends a merge."""
    words = ("diff", "--cached", "--check")
    checked = await repository.run(*words, doing="looking for lines of the conflict", codes=(0, 1, 2, 128))
    counts: dict[str, int] = {}
    for line in checked.out.splitlines():
        if match := _MARKER.match(line):
            counts[match["name"]] = counts.get(match["name"], 0) + 1
    if names := [name for name, count in counts.items() if count >= _MARKERS]:
        tell.note(
            f"{_listed(names)}: lines of the conflict (<<<<<<<, >>>>>>>) are still there, and committed"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(views.line_of(name, 80) for name in names[:_SHOWN]) + more
