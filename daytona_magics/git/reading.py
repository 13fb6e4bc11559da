"""What a repository says about itself: its state, branches, commits, differences, remotes and settings.

Everything here comes from the sandbox: numbers are checked, texts are only ever shown, and how much is kept
is bounded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from daytona_magics.errors import SandboxError
from daytona_magics.git import failures, patches, views
from daytona_magics.git.repository import Repository, run
from daytona_magics.sandboxes import client as sdk

#: Commits ``log`` shows at most, and bytes of a difference that are read.
MOST_COMMITS, DIFF_LIMIT = 1000, 2 << 20
_STATES = (
    ("MERGE_HEAD", "A merge"),
    ("rebase-merge", "A rebase"),
    ("rebase-apply", "A rebase"),
    ("CHERRY_PICK_HEAD", "A cherry-pick"),
    ("REVERT_HEAD", "A revert"),
    ("BISECT_LOG", "A bisect"),
)
_FIELD, _END = "\x1f", "\x1e"


def _word(value: Any) -> str:
    return str(getattr(value, "value", value) or "")


async def status(repository: Repository) -> views.Status:
    """Branch, upstream, files that are not as committed, and what is under way."""
    if repository.bare:
        raise failures.failed(repository.path, "a bare repository has no files and no status", "BARE")
    try:
        found = await repository.sandbox.git.status(repository.path)
    except sdk.error_class() as error:
        raise failures.translate(error, "asking for the status") from None
    files = [
        views.File(str(one.name), _word(one.staging), _word(one.worktree), str(one.extra or ""))
        for one in found.file_status
    ]
    head = await repository.text("rev-parse", "--short", "HEAD", doing="looking at HEAD")
    names = [name for name, _ in _STATES]
    paths = await repository.text(
        "rev-parse", *(word for name in names for word in ("--git-path", name)), doing="looking at the state"
    )
    return views.Status(
        path=repository.path,
        branch=str(found.current_branch or ""),
        detached=bool(getattr(found, "detached", False)),
        unborn=not head,
        head=head,
        upstream=str(getattr(found, "upstream", "") or ""),
        ahead=int(found.ahead or 0),
        behind=int(found.behind or 0),
        files=files,
        under_way=await _under_way(repository, paths.splitlines()),
    )


async def _under_way(repository: Repository, paths: Sequence[str]) -> str:
    """What was begun and is not finished: "A merge", ...; "" for nothing."""
    if len(paths) != len(_STATES):
        return ""
    folder = repository.path
    absolute = [path if path.startswith("/") else f"{folder}/{path}" for path in paths]
    command = "; ".join(f"test -e {shlex.quote(path)} && echo {at}" for at, path in enumerate(absolute))
    try:
        answer = await repository.sandbox.process.exec(f"sh -c {shlex.quote(command)}", timeout=30)
    except sdk.error_class() as error:
        raise failures.translate(error, "looking at the state") from None
    found = [line for line in str(answer.result or "").split() if line.isdigit()]
    return next((what for at, (_, what) in enumerate(_STATES) if str(at) in found), "")


async def diff(
    repository: Repository, revisions: Sequence[str], paths: Sequence[str], *, staged: bool, stat: bool
) -> patches.Diff:
    """The difference between commits, the index and the working tree, as ``git diff`` says it."""
    words = ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--find-renames"]
    words += ["--staged"] if staged else []
    words += ["--stat=100", "--summary"] if stat else []
    answer = await repository.run(*words, *revisions, "--", *paths, doing="git diff", limit=DIFF_LIMIT)
    return patches.Diff(answer.out, cut=answer.cut, stat=stat)


async def _unborn(repository: Repository) -> bool:
    return not await repository.text("rev-parse", "--verify", "--quiet", "HEAD", doing="looking at HEAD")


async def log(
    repository: Repository, revisions: Sequence[str], paths: Sequence[str], count: int
) -> list[views.Commit]:
    """Commits, newest first; none where nothing is committed yet."""
    form = _FIELD.join(("%H", "%h", "%an", "%ae", "%aI", "%D", "%s")) + _END
    if not revisions and await _unborn(repository):
        return []
    answer = await repository.run(
        "log", f"--max-count={count}", f"--format={form}", *revisions, "--", *paths, doing="git log"
    )
    found = []
    for record in answer.out.split(_END)[:-1]:
        parts = record.lstrip("\n").split(_FIELD)
        if len(parts) != 7:
            raise SandboxError("git's list of commits makes no sense")
        found.append(views.Commit(*parts))
    return found


async def branches(repository: Repository, *, remote: bool) -> list[views.Branch]:
    """The branches here; with ``remote`` also those of remotes that are known here."""
    fields = (
        "%(HEAD)",
        "%(refname)",
        "%(objectname:short)",
        "%(upstream:short)",
        "%(upstream:track,nobracket)",
        "%(committerdate:iso-strict)",
        "%(contents:subject)",
    )
    places = ["refs/heads/", *(["refs/remotes/"] if remote else [])]
    answer = await repository.run(
        "for-each-ref", f"--format={'%1f'.join(fields)}", *places, doing="listing branches"
    )
    found = []
    for line in answer.out.splitlines():
        parts = line.split(_FIELD)
        if len(parts) != len(fields):
            raise SandboxError("git's list of branches makes no sense")
        if re.fullmatch(r"refs/remotes/[^/]+/HEAD", parts[1]):
            # Another name for one of the others.
            continue
        name = re.sub(r"^refs/(heads|remotes)/", "", parts[1])
        found.append(views.Branch(name, parts[0] == "*", *parts[2:]))
    return found


async def unmerged(repository: Repository) -> list[str]:
    """Files with conflicts."""
    listed = await repository.text(
        "diff", "--name-only", "--diff-filter=U", "-z", doing="looking for conflicts"
    )
    return [name for name in listed.split("\0") if name]


async def remotes(repository: Repository) -> list[tuple[str, str]]:
    """Names and addresses of the remotes, without passwords."""
    try:
        found = await repository.sandbox.git.remotes(repository.path)
    except sdk.error_class() as error:
        raise failures.translate(error, "listing remotes") from None
    return [(str(one.name), failures.clean(str(one.url))) for one in found.remotes]


async def remote_url(repository: Repository, name: str, *, push: bool = False) -> str:
    """The address git would use for a remote, rewriting rules applied, with whatever is in it.

    Raises:
        GitError: there is no remote of this name.
    """
    words = ("remote", "get-url", *(["--push"] if push else []), "--", name)
    answer = await repository.run(*words, doing="looking for the remote", codes=(0, 2, 128))
    if answer.code:
        raise failures.failed(
            f"remote {name}", f"this repository has no remote named {name!r}", "GIT_REMOTE_NOT_FOUND"
        )
    return answer.out.split("\n")[0]


async def settings(repository: Repository | None, sandbox: Any) -> list[tuple[str, str, str]]:
    """(where, name, value) of git's settings; values that may be secret are not shown."""
    where = repository.path if repository is not None else "/"
    words = ("config", "--list", "--show-scope", "-z")
    answer = await run(sandbox, where, *words, doing="listing settings", codes=(0, 1, 128))
    found = []
    for piece in zip(*[iter(answer.out.split("\0"))] * 2, strict=False):
        scope, (name, _, value) = piece[0], piece[1].partition("\n")
        if scope == "command":
            continue
        hidden = re.search(r"extraheader|password|token|secret", name, re.IGNORECASE)
        found.append((scope, failures.clean(name), "***" if hidden else failures.clean(value)))
    return found
