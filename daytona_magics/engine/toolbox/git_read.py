"""What a repository says about itself: its state, branches, history and remotes.

Everything is read in git's formats for programs, which are the same in every version and separate by NUL
where a name can hold anything else; names are bytes, and what is no UTF-8 in them travels as lone surrogates.
"""

import os
from collections.abc import Iterator
from typing import Any

from . import wire
from .agent import Refused
from .git_names import hide_password
from .git_run import Git
from .wire import JSON, Wire

#: Most entries and bytes of one answer; the engine believes no more.
MAX_ENTRIES, MAX_ANSWER = 200_000, 32 << 20
_PART = 256 << 10
_STATES = {
    ".": "Unmodified",
    "M": "Modified",
    "T": "Modified",
    "A": "Added",
    "D": "Deleted",
    "R": "Renamed",
    "C": "Copied",
    "U": "Updated but unmerged",
}


class Parts:
    """A long answer, sent as ``{entries: […]}`` messages and then one with the rest; bounded."""

    def __init__(self, connection: Wire, what: str) -> None:
        self._connection = connection
        self._what = what
        self._batch: list[bytes] = []
        self._size = self._sent = self._count = 0

    async def add(self, entry: dict[str, Any]) -> None:
        """Send `entry`, now or with those that follow. Raises Refused 413 above the bounds."""
        packed = wire.pack_json(entry)
        self._count += 1
        if len(packed) > _PART:
            raise self._too_large(f"one entry of more than {_PART >> 10} KiB")
        if self._count > MAX_ENTRIES or self._sent + self._size > MAX_ANSWER:
            raise self._too_large(f"more than {MAX_ENTRIES:,} entries or {MAX_ANSWER >> 20} MiB")
        self._batch.append(packed)
        self._size += len(packed) + 1
        if self._size >= _PART:
            await self._send()

    def _too_large(self, limit: str) -> Refused:
        message = f"{self._what}: the answer has {limit}; use a git command in the sandbox instead"
        return Refused(413, "PAYLOAD_TOO_LARGE", message)

    async def _send(self) -> None:
        await self._connection.send(JSON, b'{"entries":[%b]}' % b",".join(self._batch))
        self._sent += self._size
        self._batch, self._size = [], 0

    async def end(self, rest: dict[str, Any]) -> None:
        """Send what is left, and `rest`."""
        if self._batch:
            await self._send()
        await self._connection.send_json(rest)


def pieces(data: bytes, separator: bytes = b"\0") -> Iterator[bytes]:
    """The parts of `data` that end with `separator`, one after the other."""
    start = 0
    while (end := data.find(separator, start)) >= 0:
        yield data[start:end]
        start = end + 1


class Status:
    """``git status --porcelain=v2 --branch -z``, read piece by piece.

    Attributes: ``head`` (its header lines by name) is complete when the first entry comes.
    """

    def __init__(self, data: bytes) -> None:
        self._pieces = pieces(data)
        self._deleted: dict[bytes, dict[str, Any]] = {}
        self.head: dict[str, str] = {}

    def entries(self) -> Iterator[dict[str, Any]]:
        """Files that are not as committed: name, staging, worktree, extra (a renamed file's old name).

        One entry each: git names a file twice that is deleted in the index and still there.
        """
        for entry in self._entries():
            name = os.fsencode(entry["name"])
            if entry["staging"] == "Deleted":
                self._deleted[name] = entry
            elif entry["staging"] == "Untracked" and name in self._deleted:
                self._deleted[name]["worktree"] = "Untracked"
            else:
                yield entry
        yield from self._deleted.values()

    def _entries(self) -> Iterator[dict[str, Any]]:
        for piece in self._pieces:
            form = piece[:2]
            if form == b"# ":
                name, _, value = piece[2:].partition(b" ")
                self.head[os.fsdecode(name)] = os.fsdecode(value)
            elif form == b"? ":
                yield _entry(piece[2:], "Untracked", "Untracked")
            elif form == b"1 ":
                yield _entry(piece.split(b" ", 8)[8], _state(piece, 2), _state(piece, 3))
            elif form == b"2 ":
                name = piece.split(b" ", 9)[9]
                yield _entry(name, _state(piece, 2), _state(piece, 3), next(self._pieces, b""))
            elif form == b"u ":
                yield _entry(piece.split(b" ", 10)[10], _STATES["U"], _STATES["U"])


def _state(piece: bytes, at: int) -> str:
    return _STATES.get(chr(piece[at]), "Modified")


def _entry(name: bytes, staging: str, worktree: str, extra: bytes = b"") -> dict[str, Any]:
    return {
        "name": os.fsdecode(name),
        "staging": staging,
        "worktree": worktree,
        "extra": os.fsdecode(extra),
    }


async def current_branch(git: Git) -> str:
    """The branch HEAD is on, also one without a commit; empty when HEAD is detached."""
    return (await git.text("symbolic-ref", "--quiet", "HEAD", codes=(0, 1))).removeprefix("refs/heads/")


async def status(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.status: {path} → entries, {branch, detached, upstream, ahead, behind}.

    As on the platform, ``branch`` is HEAD when detached, and there is an upstream when its branch is known
    here.
    """
    done = await git.run(
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--untracked-files=all",
        "--find-renames",
        "--ahead-behind",
        env={"GIT_OPTIONAL_LOCKS": "0"},
    )
    found = Status(done.out)
    for entry in found.entries():
        await parts.add(entry)
    head = found.head
    branch, detached = head.get("branch.head", ""), False
    if branch == "(detached)":  # which is also a possible name
        branch = await current_branch(git)
        detached = not branch
    known = "branch.ab" in head
    ahead, behind = head["branch.ab"].split() if known else ("+0", "-0")
    return {
        "branch": branch or "HEAD",
        "detached": detached,
        "upstream": head.get("branch.upstream", "") if known else "",
        "ahead": abs(int(ahead)),
        "behind": abs(int(behind)),
    }


async def branches(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.branches: {path} → entries {name}, {current}. Local branches; ``current`` empty if detached."""
    done = await git.run("for-each-ref", "--format=%(refname)", "refs/heads/")
    for name in pieces(done.out, b"\n"):
        await parts.add({"name": os.fsdecode(name).removeprefix("refs/heads/")})
    return {"current": await current_branch(git)}


async def history(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.history: {path} → entries {hash, author, email, timestamp, message}, {}. Newest first."""
    if (await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", codes=(0, 1))).code:
        raise Refused(404, "GIT_BRANCH_NOT_FOUND", "the repository has no commit yet")
    form = "--format=tformat:%H%n%an%n%ae%n%aI%n%B"
    done = await git.run("log", "-z", "--encoding=UTF-8", form, "HEAD")
    for record in pieces(done.out):
        digest, author, email, moment, message = record.split(b"\n", 4)
        await parts.add(
            {
                "hash": os.fsdecode(digest),
                "author": os.fsdecode(author),
                "email": os.fsdecode(email),
                "timestamp": os.fsdecode(moment),
                "message": os.fsdecode(message),
            }
        )
    return {}


async def remotes(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.remotes: {path} → entries {name, url}, {}. A password in an address is left out."""
    done = await git.run("config", "--null", "--get-regexp", r"^remote\..*\.url$", codes=(0, 1))
    seen: set[bytes] = set()
    for piece in pieces(done.out):
        key, _, url = piece.partition(b"\n")
        name = key[len(b"remote.") : -len(b".url")]
        if name not in seen:
            seen.add(name)
            await parts.add({"name": os.fsdecode(name), "url": hide_password(os.fsdecode(url))})
    return {}
