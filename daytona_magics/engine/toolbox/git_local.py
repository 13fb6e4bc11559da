"""What changes a repository without talking to another one: part of the toolbox program.

Callers name revisions; git's commands get the hashes these stand for, so that no name can be taken for an
option or a path. Files are given on standard input, separated by NUL, and mean themselves: a file may be
called ``*``.
"""

import os
import re
from typing import Any

from . import git_names as names
from . import trees
from .agent import Refused
from .git_errors import clean, failure
from .git_read import Parts, current_branch
from .git_run import Git, changing

_MODES = ("soft", "mixed", "hard", "merge", "keep")
_FILES = ("--pathspec-from-file=-", "--pathspec-file-nul")


async def find(git: Git, revision: str, kind: str = "commit") -> str:
    """The hash of `revision`, or an empty text when there is none."""
    words = ("rev-parse", "--verify", "--quiet", f"{names.revision(revision)}^{{{kind}}}")
    return await git.text(*words, codes=(0, 1, 128))


async def _must_find(git: Git, revision: str, kind: str = "commit") -> str:
    found = await find(git, revision, kind)
    if not found:
        raise Refused(404, "NOT_FOUND", f"there is no revision {revision!r} in this repository")
    return found


async def has(git: Git, reference: str) -> bool:
    """Whether the full name `reference` exists."""
    return (await git.run("show-ref", "--verify", "--quiet", reference, codes=(0, 1))).code == 0


def _files(request: dict[str, Any]) -> bytes:
    found = request.get("files") or []
    if any(not name or "\0" in name for name in found):
        raise names.bad_request("the name of a file is a text without NUL")
    return b"".join(os.fsencode(name) + b"\0" for name in found)


async def init(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.init: {path, bare, initial_branch} → {}. Refused with 409 where there is a repository."""
    words = ["init", "--quiet"]
    if request.get("bare"):
        words.append("--bare")
    if request.get("initial_branch"):
        words.append(f"--initial-branch={names.branch(request['initial_branch'])}")
    trees.make_folders(git.folder)
    await git.run(*words)
    return {}


async def add(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.add: {path, files} → {}. ``.`` is everything; a deleted file's deletion is staged."""
    files = _files(request)
    if not files:
        raise names.bad_request("at least one file is needed; '.' stands for all")
    async with changing(git.folder):
        await git.run("add", "--all", *_FILES, stdin=files)
    return {}


async def commit(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.commit: {path, message, author, email, allow_empty} → {hash}.

    The message is kept as it is, author and committer are the same, as on the platform.
    """
    author, email = str(request["author"]).strip(), str(request["email"]).strip()
    if not author or re.search(r"[<>\n\r\0]", author + email):
        raise names.bad_request("a commit needs an author, and an e-mail, without '<', '>' and line breaks")
    message = str(request["message"])
    if not message.strip() or "\0" in message:
        raise names.bad_request("a commit needs a message, without NUL")
    words = ["commit", "--quiet", "--cleanup=verbatim", "--no-gpg-sign", "--file=-"]
    if request.get("allow_empty"):
        words.append("--allow-empty")
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", author), ("EMAIL", email))
    }
    async with changing(git.folder):
        done = await git.run(*words, stdin=os.fsencode(message), env=who, codes=(0, 1, 128))
        if done.code == 1 and b"nothing" in done.out:
            raise names.bad_request("there is nothing to commit: no changes are staged")
        if done.code:
            raise failure("git commit", done.err + done.out)
        return {"hash": await git.text("rev-parse", "HEAD")}


async def checkout(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.checkout: {path, branch} → {}.

    ``branch`` is a local branch, else one of a remote (which becomes a local one that follows it), else any
    revision, which detaches HEAD.
    """
    name = names.revision(request["branch"])
    async with changing(git.folder):
        if name == "HEAD" or await has(git, f"refs/heads/{name}"):
            await git.run("checkout", "--quiet", name, "--")
            return {}
        followed = await git.text("for-each-ref", "--format=%(refname)", f"refs/remotes/*/{name}")
        if followed and not re.search(r"[*?\[]", name):
            await git.run("checkout", "--quiet", "--guess", name, "--")
            return {}
        found = await find(git, name)
        if not found:
            raise Refused(404, "GIT_BRANCH_NOT_FOUND", f"there is no branch or revision {name!r}")
        await git.run("checkout", "--quiet", "--detach", found, "--")
    return {}


async def create_branch(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.create_branch: {path, name} → {}. As on the platform the new branch is checked out as well."""
    name = names.branch(request["name"])
    async with changing(git.folder):
        if await has(git, f"refs/heads/{name}") or await current_branch(git) == name:
            raise Refused(409, "GIT_BRANCH_EXISTS", f"a branch named {name!r} already exists")
        await git.run("checkout", "--quiet", "--no-track", "-b", name)
    return {}


async def delete_branch(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.delete_branch: {path, name} → {}. Also when it is not merged, but not the current one."""
    name = names.branch(request["name"])
    async with changing(git.folder):
        if not await has(git, f"refs/heads/{name}"):
            raise Refused(404, "GIT_BRANCH_NOT_FOUND", f"branch {name!r} not found")
        await git.run("branch", "--quiet", "-D", "--", name)
    return {}


async def reset(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.reset: {path, mode, target, files} → {}."""
    mode = request.get("mode") or "mixed"
    if mode not in _MODES:
        raise names.bad_request(f"a reset is one of {', '.join(_MODES)}, not {mode!r}")
    files = _files(request)
    if files and mode != "mixed":
        raise names.bad_request(f"a {mode} reset cannot be limited to files")
    async with changing(git.folder):
        if request.get("target"):
            target = [await _must_find(git, request["target"], "tree" if files else "commit")]
        else:
            target = []
        if files:
            await git.run("reset", "--quiet", *_FILES, *target, stdin=files)
        else:
            await git.run("reset", "--quiet", f"--{mode}", *target, "--")
    return {}


async def restore(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.restore: {path, files, staged, worktree, source} → {}.

    With neither ``staged`` nor ``worktree`` said, the working tree; with one said, only that one.
    """
    staged, worktree = request.get("staged"), request.get("worktree")
    if staged is None and worktree is None:
        worktree = True
    files = _files(request)
    if not files:
        raise names.bad_request("at least one file is needed")
    if not staged and not worktree:
        raise names.bad_request("at least one of staged and worktree must be true")
    words = ["restore", "--quiet", *_FILES]
    words += ["--staged"] * bool(staged) + ["--worktree"] * bool(worktree)
    async with changing(git.folder):
        if request.get("source"):
            words.append(f"--source={await _must_find(git, request['source'], 'tree')}")
        done = await git.run(*words, stdin=files, codes=(0, 1, 128))
    if done.code:
        if "did not match any" in clean(done.err):
            raise names.bad_request(clean(done.err).strip().removeprefix("error: "))
        raise failure("git restore", done.err)
    return {}
