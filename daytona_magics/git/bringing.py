"""Bringing what was made in a sandbox to a repository of this machine: as a branch, or as a patch.

    git bundle of HEAD without what is here -- file API, bounded --> :mod:`.home`: a branch
    git diff from what is here              -- file API, bounded --> shown; applied when that is asked for

A branch begins after the newest commit that any branch here has, a patch after the newest that the one that
is checked out has. A branch brings commits, with their authors and messages; a patch brings what differs,
committed or not, of the files git tracks there. What is applied is the patch that was shown in this kernel,
to the byte; the sandbox is not asked again.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.errors import GitError, SandboxError
from daytona_magics.git import branching, home, reading
from daytona_magics.git.home import Home
from daytona_magics.git.patches import Diff
from daytona_magics.git.repository import Repository
from daytona_magics.git.views import line_of
from daytona_magics.notebook.card import counted
from daytona_magics.sandboxes import files, trees
from daytona_magics.sandboxes.report import Reporter

#: Bytes of a bundle and of a patch; commits in which a shared one is looked for.
MOST, MOST_PATCH, COMMITS = 2 << 30, 16 << 20, 5000
#: The patches shown last, by sandbox and repository of this machine.
_shown: dict[tuple[str, str], bytes] = {}


@dataclass(frozen=True)
class Brought:
    """A branch of this machine that has a sandbox's commits.

    Attributes:
        branch: its name.
        sha: the commit it is at.
        count: commits that came; 0 when all were here.
        top: the repository.
    """

    branch: str
    sha: str
    count: int
    top: Path

    def __str__(self) -> str:
        where = f"branch `{line_of(self.branch)}` of {line_of(self.top.name)}, at {self.sha[:10]}"
        many = counted(self.count, "commit") if self.count else "no commit that was not there"
        return f"{many} → {where}; no file there was changed"


class Patch(Diff):
    """A patch that was shown.

    Attributes:
        data: it, as ``git apply`` reads it.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data.decode("utf-8", "replace"))
        self.data = data


async def _base(found: Repository, there: Home, *, checked_out: bool = False) -> tuple[str, str]:
    """The sandbox's commit, and the newest of its history that is here; or is part of what is checked out."""
    listed = await found.text("rev-list", f"--max-count={COMMITS}", "HEAD", "--", doing="listing commits")
    commits = listed.splitlines()
    if not commits:
        raise GitError(
            "nothing is committed in the sandbox yet", code="UNBORN", hint="%sandbox_git commit -A -m TEXT"
        )
    base = await asyncio.to_thread(home.shared, there, commits, checked_out=checked_out)
    if not base:
        raise GitError(
            f"{there.top} has none of the commits of {found.path} in the sandbox",
            code="UNRELATED",
            hint="--to FOLDER  names another repository of this machine;  git fetch  there may bring them.",
        )
    return commits[0], base


async def name_for(found: Repository) -> str:
    """The branch's name here: its own if it is the notebook's; another's is put below ``sandbox/``."""
    name = await found.text("symbolic-ref", "--short", "-q", "HEAD", doing="looking at HEAD")
    own = branching.own(found.sandbox)
    if own is not None and own.branch == name:
        return name
    return f"sandbox/{name or 'detached'}"


async def branch(found: Repository, tell: Reporter, there: Home, name: str | None) -> Brought:
    """Bring the commits of the sandbox's HEAD as a branch.

    Args:
        name: of the branch here; None for :func:`name_for`.

    Raises:
        GitError: they share no commit, the branch is checked out here or has commits of its own, or what came
            is not sound.
    """
    name = await asyncio.to_thread(home.check_name, there, name or await name_for(found))
    tip, base = await _base(found, there)
    count = await found.text("rev-list", "--count", "HEAD", f"^{base}", "--", doing="counting commits")
    if tip == base:
        tell.progress(f"making branch {name}")
        await asyncio.to_thread(home.point, there, tip, name)
        return Brought(name, tip, 0, there.top)
    with tempfile.TemporaryDirectory(prefix="daytona-magics-") as folder:
        bundle = Path(folder) / "bundle"
        async with await trees.resting_place(found.sandbox) as place:
            words = ("bundle", "create", "-q", place.path, "HEAD", f"^{base}")
            await found.run(*words, doing="packing the commits", within=home.WITHIN)
            await _small_enough(found, place.path, MOST)
            await files.download(found.tie, tell, place.path, bundle, shown="the commits")
        tell.progress(f"making branch {name}")
        sha = await asyncio.to_thread(home.tip_of, bundle)
        await asyncio.to_thread(home.take, there, bundle, base, name)
    return Brought(name, sha, int(count) if count.isdigit() else 0, there.top)


async def _small_enough(found: Repository, path: str, most: int) -> None:
    size = int((await files.info_of(found.sandbox, path)).size)
    if size > most:
        raise SandboxError(
            f"that is {size >> 20:,} MiB, more than the {most >> 20:,} MiB that are brought at once",
            hint="%sandbox_git push  brings it to a server.",
        )


async def patch(found: Repository, tell: Reporter, there: Home) -> Patch:
    """What differs in the sandbox from what both have, to be looked at.

    Raises:
        GitError: they share no commit, or what came is no patch.
    """
    _, base = await _base(found, there, checked_out=True)
    async with await trees.resting_place(found.sandbox) as place:
        plain = (
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-relative",
            "--src-prefix=a/",
            "--dst-prefix=b/",
        )
        words = ("diff", "--binary", "--full-index", *plain, f"--output={place.path}", base, "--")
        await found.run(*words, doing="git diff")
        await _small_enough(found, place.path, MOST_PATCH)
        data = await files.read(found.tie, tell, place.path, limit=MOST_PATCH)
    made = Patch(data)
    # What a person sees must be what git would do: both must know the same files.
    if data and len(await asyncio.to_thread(home.files_of, there, data)) != len(made.files):
        raise GitError("what the sandbox sent is not the patch that was asked for", code="BAD_PATCH")
    status = await reading.status(found)
    if new := sum(one.worktree == "Untracked" for one in status.files):
        tell.note(f"{counted(new, 'file')} git does not track in the sandbox: not in the patch")
    _shown[str(found.sandbox.id), str(there.top)] = data
    return made


def apply(sandbox: object, there: Home) -> str:
    """Apply the patch that was shown last; returns one sentence.

    Raises:
        GitError: none was shown, or it does not fit; nothing was changed then.
    """
    key = (str(getattr(sandbox, "id", "")), str(there.top))
    data = _shown.get(key)
    if data is None:
        raise GitError(
            "no patch was shown yet, and only one that was shown is applied",
            code="NOT_SHOWN",
            hint="%sandbox_git fetch --to FOLDER --patch",
        )
    if not data:
        return "the patch is empty: nothing to apply"
    names = home.files_of(there, data)
    home.apply(there, data)
    del _shown[key]
    where = line_of(there.top.name)
    return f"{counted(len(names), 'file')} changed in {where}, as the patch says; nothing is staged"
