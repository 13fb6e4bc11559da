"""Listings of the sandbox's folders, a page at a time: its guest makes them, and they are checked here.

The platform's own file listing describes every entry of a folder in one answer, which takes seconds for a
hundred thousand of them. The guest describes those only that are shown.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError
from daytona_magics.runtime import decode

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel

KINDS = ("dir", "file", "link", "special", "gone")
#: Entries of one page at most; characters of a name and of a path.
MAX_PAGE, MAX_NAME, MAX_PATH = 1000, 1024, 8192


@dataclass(frozen=True)
class Entry:
    """One entry of a folder.

    Attributes:
        name: as it is shown; what is no text is marked, see ``whole``.
        kind: one of ``KINDS``; a link to a folder is "dir", any other "link".
        size: bytes.
        modified: seconds since 1970.
        mode: permission bits.
        target: where a link leads to.
        whole: False when the name is no valid UTF-8, so that no path can be made of it here.
    """

    name: str
    kind: str
    size: int = 0
    modified: int = 0
    mode: int = 0
    target: str = ""
    whole: bool = True

    @property
    def permissions(self) -> str:
        """As ``ls -l`` writes them.  In: Entry("a", "file", mode=0o640).permissions  Out: 'rw-r-----'"""
        return stat.filemode(self.mode)[1:]


@dataclass(frozen=True)
class Page:
    """One page of a listing.

    Attributes:
        path: the folder's real path.
        total: entries that match.
        hidden: entries left out because their names begin with a dot.
        more: there are more than were looked at.
        entries: those of this page, folders first.
    """

    path: str
    total: int
    hidden: int
    more: bool
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Marks:
    """What is remarkable in a folder.

    Attributes:
        branch: of the repository it lies in, "" without one.
        git: a letter of git by name; "." for a folder with changes inside, and the name "" for the folder
            itself when git does not know it.
        changed: names that the last cell made, changed, or deleted something below.
    """

    branch: str
    git: dict[str, str]
    changed: tuple[str, ...]


#: Names with marks that are taken from one answer.
MAX_MARKS = 2000


async def marks(channel: Channel, path: str) -> Marks:
    """What is remarkable in a folder of the sandbox. Raises like :func:`page`."""
    try:
        reply = await channel.ask("marks", path=path)
    except SandboxError as error:
        if type(error) is SandboxError:
            raise SandboxError(str(error).removeprefix("the sandbox refused 'marks': ")) from None
        raise
    git, changed = reply.get("git"), reply.get("changed")
    if not isinstance(git, dict) or not isinstance(changed, list) or len(git) + len(changed) > 2 * MAX_MARKS:
        decode.refuse("the marks of a folder are not what was asked for")
    names = [*git, *changed]
    letters = [*git.values()]
    if not all(isinstance(one, str) and len(one) <= MAX_NAME for one in names):
        decode.refuse("a name is not the name of an entry")
    if not all(isinstance(one, str) and len(one) == 1 for one in letters):
        decode.refuse("a mark is not a letter")
    return Marks(decode.text(reply, "branch", limit=MAX_NAME), git, tuple(changed))


async def page(
    channel: Channel,
    path: str,
    *,
    offset: int = 0,
    limit: int = 200,
    match: str = "",
    hidden: bool = False,
    sort: str = "name",
) -> Page:
    """One page of a folder of the sandbox.

    Args:
        channel: the channel to its guest.
        path: the folder; ``~`` is the home.
        offset, limit: the page: its first entry, and how many at most (1000).
        match: only names that hold this text, whatever their case.
        hidden: also names that begin with a dot.
        sort: "name", "modified" (the latest first) or "size" (the largest first); folders always first.

    Raises:
        SandboxError: it cannot be listed; the message says why.
        SandboxUnreachable: the line broke.
        ProtocolError: the answer is not what our guest sends.
    """
    fields = {"path": path, "offset": offset, "limit": limit, "match": match, "hidden": hidden, "sort": sort}
    try:
        return decoded(await channel.ask("scan", **fields), limit)
    except SandboxError as error:
        if type(error) is SandboxError:
            raise SandboxError(str(error).removeprefix("the sandbox refused 'scan': ")) from None
        raise


def decoded(reply: dict[str, Any], limit: int) -> Page:
    """Check an answer. Raises ProtocolError."""
    entries = reply.get("entries")
    if not isinstance(entries, list) or len(entries) > limit:
        decode.refuse("entries is not the list that was asked for")
    return Page(
        path=decode.text(reply, "path", limit=MAX_PATH),
        total=decode.integer(reply, "total"),
        hidden=decode.integer(reply, "hidden"),
        more=decode.boolean(reply, "more"),
        entries=tuple(_entry(entry) for entry in entries),
    )


def _entry(entry: Any) -> Entry:
    if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
        decode.refuse("an entry is not a file, a folder or a link")
    name = decode.text(entry, "name", limit=MAX_NAME)
    if name in ("", ".", "..") or "/" in name:
        decode.refuse("a name is not the name of an entry")
    return Entry(
        name=name,
        kind=entry["kind"],
        size=decode.integer(entry, "size"),
        modified=decode.integer(entry, "modified", -(2**53)),
        mode=decode.integer(entry, "mode", 0, 0o7777),
        target=decode.text(entry, "target", "", MAX_PATH),
        whole=not decode.boolean(entry, "odd"),
    )
