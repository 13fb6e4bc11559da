"""What changes a repository without talking to another one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daytona_magics.errors import GitError, SandboxUsageError
from daytona_magics.git import failures, host, reading, staged
from daytona_magics.git.repository import Repository
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.report import Reporter


@dataclass(frozen=True)
class Person:
    """Who commits. ``source`` says where that was found; "" when it was typed or is the repository's own."""

    name: str
    email: str
    source: str = ""

    @property
    def config(self) -> dict[str, str]:
        return {"user.name": self.name, "user.email": self.email}


def typed(author: str) -> Person:
    """In: typed("Ada <ada@example.org>")  Out: Person('Ada', 'ada@example.org')"""
    name, less, rest = author.partition("<")
    if not less or not rest.endswith(">") or not name.strip() or "@" not in rest:
        raise SandboxUsageError(f"--author {author!r}: write 'Name <mail@example.org>'")
    return Person(name.strip(), rest[:-1].strip())


async def who(repository: Repository) -> Person:
    """Who commits: as the repository's settings say, else as the host's git does.

    Raises:
        GitError: nobody knows.
    """
    found = [
        await repository.text("config", "--get", f"user.{part}", doing="asking who commits")
        for part in ("name", "email")
    ]
    if all(found):
        return Person(*found)
    person = await asyncio.to_thread(_of_host)
    if person is not None:
        return person
    raise GitError(
        "git does not know who commits",
        code="NO_IDENTITY",
        hint="%sandbox_git config user.name 'Ada'  and  %sandbox_git config user.email ada@example.org,  "
        "or  --author 'Ada <ada@example.org>'",
    )


def _of_host() -> Person | None:
    """The person as this machine's git knows them."""
    name, email = host.setting("user.name"), host.setting("user.email")
    return Person(name, email, "this machine's git settings") if name and email else None


async def asked(call: Any, doing: str) -> Any:
    """Await a call of the git API; its errors come out as ours."""
    try:
        return await call
    except sdk.error_class() as error:
        raise failures.translate(error, doing) from None


async def add(repository: Repository, tell: Reporter, paths: Sequence[str]) -> None:
    """Stage files; "." for all. A deleted file's deletion is staged."""
    try:
        await asked(repository.sandbox.git.add(repository.path, list(paths)), "git add")
    except GitError as error:
        if "did not match" in str(error):
            raise GitError(
                str(error),
                code="NO_SUCH_FILE",
                hint="Paths begin at the repository's top:  %sandbox_git status",
            ) from None
        raise
    await staged.tell_embedded(repository, tell)


@dataclass(frozen=True)
class Committed:
    """What was committed: ``sha``, the branch ("" when HEAD is detached), the subject, how many files."""

    sha: str
    branch: str
    subject: str
    files: int

    def __repr__(self) -> str:
        where = f"on {self.branch}" if self.branch else "on no branch (HEAD is detached)"
        return f"{self.sha[:10]} {where}: {self.subject}"


async def commit(
    repository: Repository,
    tell: Reporter,
    message: str,
    *,
    everything: bool,
    person: Person | None,
    empty: bool,
) -> Committed:
    """Commit what is staged.

    Args:
        everything: stage what git tracks and is changed or deleted first.
        person: author and committer; None for whom :func:`who` finds.
        empty: also when nothing is staged.
    """
    before = await reading.status(repository)
    conflicts = [one.name for one in before if "Updated but unmerged" in (one.staging, one.worktree)]
    if conflicts and not everything:
        raise _conflicted("the commit", conflicts)
    if everything:
        names = [one.name for one in before if one.worktree not in ("Unmodified", "Untracked", "")]
        if names:
            await add(repository, tell, names)
    elif not empty and before.files and not _staged(before) and not before.under_way:
        raise GitError(
            f"nothing is staged; {len(before.files):,} files are not as committed",
            code="NOTHING_STAGED",
            hint="%sandbox_git add FILE  stages one,  %sandbox_git commit -a  all that git tracks.",
        )
    if not empty and not before.files and not before.under_way:
        raise GitError("there is nothing to commit: everything is as committed", code="NOTHING_STAGED")
    person = person or await who(repository)
    if before.under_way:
        await staged.tell_markers(repository, tell)
    call = repository.sandbox.git.commit(
        repository.path,
        message=message.rstrip() + "\n",
        author=person.name,
        email=person.email,
        allow_empty=empty,
    )
    made = await asked(call, "git commit")
    if person.source:
        tell.note(f"committed as {person.name} <{person.email}>, from {person.source}")
    branch = "" if before.detached else before.branch
    return Committed(str(made.sha), branch, message.strip().split("\n")[0], len(before.files))


def _staged(status: Any) -> bool:
    return any(one.staging not in ("Unmodified", "Untracked", "") for one in status)


def _conflicted(doing: str, names: Sequence[str]) -> GitError:
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    return GitError(
        f"{doing}: there are conflicts in {shown}",
        code="GIT_MERGE_CONFLICT",
        hint="Solve them (the lines between <<<<<<< and >>>>>>>),  %sandbox_git add FILE,  "
        "%sandbox_git commit;  or  %sandbox_git merge --abort",
    )


async def conflicts(repository: Repository, doing: str, error: GitError) -> GitError:
    """The error of a merge that stopped, with the files it stopped at."""
    if error.code != "GIT_MERGE_CONFLICT":
        return error
    names = await reading.unmerged(repository)
    return _conflicted(doing, names) if names else error


async def merge(repository: Repository, revision: str, *, message: str | None, no_ff: bool) -> str:
    """Merge into the current branch; returns what git says of it."""
    person = await who(repository)
    words = ["merge", "--no-edit", *(["--no-ff"] if no_ff else []), *(["-m", message] if message else [])]
    doing = f"merging {revision}"
    try:
        answer = await repository.run(*words, "--", revision, doing=doing, config=person.config)
    except GitError as error:
        raise await conflicts(repository, doing, error) from None
    return answer.out.strip()


async def abort(repository: Repository) -> None:
    """Give up a merge that stopped at conflicts; everything is as before it."""
    answer = await repository.run("merge", "--abort", doing="git merge --abort", codes=(0, 128))
    if answer.code:
        raise GitError("no merge is under way", code="NOTHING_UNDER_WAY")


async def branch(repository: Repository, name: str) -> None:
    """Make a branch here and go to it."""
    await asked(repository.sandbox.git.create_branch(repository.path, name), f"making branch {name}")


async def delete_branch(repository: Repository, name: str, *, force: bool) -> None:
    """Delete a branch; one with commits that are nowhere else only with ``force``."""
    if not force:
        alone = await repository.run(
            "log",
            "--max-count=1",
            "--format=%h",
            f"refs/heads/{name}",
            "--not",
            f"--exclude=refs/heads/{name}",
            "--all",
            "--",
            doing=f"looking at branch {name}",
            codes=(0, 128),
        )
        if alone.code == 0 and alone.out.strip():
            raise GitError(
                f"branch {name} has commits that are on no other branch, so it was kept",
                code="NOT_MERGED",
                hint=f"%sandbox_git branch -d --force {name}  deletes it all the same.",
            )
    await asked(repository.sandbox.git.delete_branch(repository.path, name), f"deleting branch {name}")


async def checkout(repository: Repository, name: str) -> None:
    """Go to a branch, a branch of a remote (which gets one here that follows it), or any commit."""
    places = (f"refs/heads/{name}", f"refs/remotes/*/{name}")
    known = await repository.text("for-each-ref", "--format=%(refname)", *places, doing="looking for it")
    refs = [ref for ref in known.splitlines() if ref.endswith(f"/{name}")]
    if len(refs) == 1 and refs[0].startswith("refs/remotes/"):
        there = refs[0].removeprefix("refs/remotes/")
        await repository.run("branch", "--quiet", "--track", name, there, doing=f"following {there}")
    await asked(repository.sandbox.git.checkout_branch(repository.path, name), f"going to {name}")


async def reset(repository: Repository, mode: str, target: str | None, paths: Sequence[str]) -> None:
    """Move the branch to a commit, or take files back out of what is staged."""
    call = repository.sandbox.git.reset(
        repository.path, mode=None if paths else mode, target=target, files=list(paths) or None
    )
    await asked(call, "git reset")


async def restore(
    repository: Repository, paths: Sequence[str], *, staged: bool, worktree: bool, source: str | None
) -> None:
    """Files as they were committed, or as ``source`` has them."""
    call = repository.sandbox.git.restore(
        repository.path, list(paths), staged=staged or None, worktree=worktree or None, source=source
    )
    await asked(call, "git restore")
