"""What talks to another repository: clone, push, pull, and adding a remote. Part of the toolbox program.

A login is for the transfer alone: a working tree is filled in by a command of its own that has none, so no
filter of the repository's is near it. An address with a password in it is kept where git keeps it, in the
configuration, because whoever put it there means later commands to find it; but no command line shows it.
"""

# ruff: noqa: ASYNC240 - a sandbox's disk is local, and the toolbox has no threads to wait in.

import os
import re
from pathlib import Path
from typing import Any

from . import git_names as names
from .agent import Refused
from .git_config import write
from .git_errors import clean, failure, push_failure
from .git_local import find, has
from .git_login import Access
from .git_read import Parts, current_branch
from .git_run import Git, changing
from .trees import remove_tree


def _given(request: dict[str, Any]) -> tuple[str, str]:
    return str(request.get("username") or ""), str(request.get("password") or "")


def _access(url: str, given: tuple[str, str], configured: str, insecure: bool = False) -> Access:
    """How to talk to `url`, which the configuration calls `configured`.

    Who the caller says we are comes before who the address says we are.
    """
    plain, *inside = names.take_login(url)
    username, password = given if any(given) else inside
    login = names.login(plain, username, password)
    secrets = (*(login.secrets() if login else ()), *([inside[1]] if inside[1] else []))
    return Access(login, secrets, (configured, plain) if inside[1] else None, insecure)


async def _remote_access(git: Git, remote: str, request: dict[str, Any], push: bool = False) -> Access:
    """How to talk to the configured `remote`. Raises Refused 404 when there is none of this name."""
    key = f"remote.{remote}.{'pushurl' if push else 'url'}"
    listed = await git.run("config", "--null", "--get-all", key, codes=(0, 1))
    if push and listed.code:
        return await _remote_access(git, remote, request)
    if listed.code:
        raise Refused(404, "NOT_FOUND", f"this repository has no remote named {remote!r}")
    configured = os.fsdecode(listed.out.partition(b"\0")[0])
    url = await git.text("remote", "get-url", *(["--push"] if push else []), "--", remote)
    return _access(url.partition("\n")[0], _given(request), configured)


async def clone(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.clone: {url, path, branch, commit, depth, username, password, insecure} → {}.

    Like the platform, of one branch only. Fails without leaving anything behind.
    """
    url = names.address(request["url"])
    plain, *inside = names.take_login(url)
    rewritten = await git.text("ls-remote", "--get-url", "--", plain)
    given = _given(request) if any(_given(request)) else (inside[0], inside[1])
    access = _access(rewritten, given, plain, bool(request.get("insecure")))
    words = ["clone", "--no-checkout", "--single-branch", "--origin=origin"]
    if request.get("branch"):
        words.append(f"--branch={names.branch(request['branch'])}")
    if request.get("depth"):
        words.append(f"--depth={int(request['depth'])}")
    commit = names.revision(request["commit"]) if request.get("commit") else ""
    target = str(request["target"])
    existed = os.path.isdir(target)
    await git.run(*words, "--", plain, target, access=access)
    made = git.at(target)
    try:
        if plain != url:
            await write(made, "local", "remote.origin.url", url)
        await _fill(made, commit, request, access)
    except BaseException:
        # git has refused any target but an empty one, so all of it is ours.
        remove_tree(Path(target))
        if existed:
            os.mkdir(target, 0o755)
        raise
    return {}


async def _fill(git: Git, commit: str, request: dict[str, Any], access: Access) -> None:
    """Check out what was cloned: HEAD, or `commit`, which is fetched if it is not in the branch."""
    if not commit:
        if await find(git, "HEAD"):
            await git.run("reset", "--quiet", "--hard", "HEAD", "--")
        return
    found = await find(git, commit)
    if not found:
        full = re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit)
        depth = [f"--depth={int(request['depth'])}"] if request.get("depth") else []
        what = [*depth, "origin", commit] if full else ["origin", "+refs/heads/*:refs/remotes/origin/*"]
        # A server may refuse to send what is no branch of it, or not have it.
        await git.run("fetch", "--quiet", "--no-recurse-submodules", *what, access=access, codes=(0, 1, 128))
        found = await find(git, commit)
    if not found:
        raise Refused(404, "NOT_FOUND", f"there is no commit {commit!r} in the repository")
    await git.run("checkout", "--quiet", "--detach", found, "--")


async def push(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.push: {path, branch?, remote?, set_upstream, username, password} → {}."""
    remote = names.remote(request.get("remote") or "origin")
    access = await _remote_access(git, remote, request, push=True)
    branch = names.branch(request.get("branch") or await _current(git, "push"))
    if not await has(git, f"refs/heads/{branch}"):
        raise Refused(404, "GIT_BRANCH_NOT_FOUND", f"there is no branch {branch!r} with a commit to push")
    words = ["push", "--porcelain", "--no-recurse-submodules"]
    if request.get("set_upstream"):
        words.append("--set-upstream")
    reference = f"refs/heads/{branch}"
    done = await git.run(*words, "--", remote, f"{reference}:{reference}", access=access, codes=(0, 1, 128))
    if done.code:
        raise push_failure(done.out, done.err, access.secrets)
    await _follow(git, remote, branch, reference)
    return {}


async def _follow(git: Git, remote: str, branch: str, commit: str) -> None:
    """See to it that git knows where the upstream of `branch` is, which is at `commit` over there.

    A clone of one branch keeps track of that one alone, so what follows another, new one, has an upstream
    that git knows nothing of.
    """
    if await git.text("config", "--get", f"branch.{branch}.remote", codes=(0, 1)) != remote:
        return
    if not await find(git, f"{branch}@{{upstream}}"):
        followed = await git.text("config", "--get", f"branch.{branch}.merge", codes=(0, 1))
        name = followed.removeprefix("refs/heads/")
        await git.run("remote", "set-branches", "--add", "--", remote, name)
        await git.run("update-ref", f"refs/remotes/{remote}/{name}", commit)


async def _current(git: Git, what: str) -> str:
    branch = await current_branch(git)
    if not branch:
        message = f"HEAD is detached: check a branch out, or name the one to {what}"
        raise Refused(404, "GIT_BRANCH_NOT_FOUND", message)
    return branch


async def pull(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.pull: {path, branch?, remote?, username, password} → {}.

    The branch is the current one's upstream, else the one of its name. It is fast-forwarded; a branch with
    commits of its own is merged or rebased only if ``pull.rebase`` or ``pull.ff`` say which, as git does.
    """
    remote = names.remote(request.get("remote") or "origin")
    access = await _remote_access(git, remote, request)
    branch = request.get("branch")
    if not branch:
        current = await _current(git, "pull")
        branch = current
        if await git.text("config", "--get", f"branch.{current}.remote", codes=(0, 1)) == remote:
            followed = await git.text("config", "--get", f"branch.{current}.merge", codes=(0, 1))
            branch = followed.removeprefix("refs/heads/") or current
    reference = f"refs/heads/{names.branch(branch)}"
    words = ("fetch", "--quiet", "--no-recurse-submodules", "--", remote, reference)
    async with changing(git.folder):
        await git.run(*words, access=access)
        commit = await git.text("rev-parse", "--verify", "FETCH_HEAD^{commit}")
        await _join(git, commit)
        current = await current_branch(git)
        if current and not request.get("branch"):
            await _follow(git, remote, current, commit)
    return {}


async def _join(git: Git, commit: str) -> None:
    """Bring the current branch to `commit`, or both together where the configuration says how."""
    rebase = await git.text("config", "--get", "pull.rebase", codes=(0, 1))
    fast = await git.text("config", "--get", "pull.ff", codes=(0, 1))
    if rebase and rebase.lower() not in ("false", "no", "off", "0"):
        words = ["rebase", "--quiet", commit]
    elif rebase or fast.lower() in ("false", "no", "off", "0"):
        words = ["merge", "--quiet", "--no-edit", *(["--no-ff"] if fast and not rebase else []), commit]
    else:
        words = ["merge", "--quiet", "--ff-only", commit]
    done = await git.run(*words, codes=(0, 1, 2, 128))
    if done.code == 0:
        return
    said = clean(done.err + b"\n" + done.out).lower()
    if "not possible to fast-forward" in said or "diverging" in said:
        message = (
            "both branches have commits of their own; set pull.rebase to false (merge) or true (rebase), "
            "or reset this branch"
        )
        raise Refused(409, "GIT_MERGE_CONFLICT", message)
    raise failure(f"git {words[0]}", done.err + b"\n" + done.out)


async def add_remote(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.add_remote: {path, name, url, fetch, overwrite} → {}."""
    name, url = names.remote(request["name"]), names.address(request["url"])
    plain = names.take_login(url)[0]
    async with changing(git.folder):
        exists = (await git.run("config", "--get", f"remote.{name}.url", codes=(0, 1))).code == 0
        if exists and not request.get("overwrite"):
            raise Refused(409, "CONFLICT", f"a remote named {name!r} already exists")
        if exists:
            await git.run("config", "--local", "--remove-section", f"remote.{name}")
        await git.run("remote", "add", "--", name, plain)
        if plain != url:
            await write(git, "local", f"remote.{name}.url", url)
    if request.get("fetch"):
        access = await _remote_access(git, name, {})
        await git.run("fetch", "--quiet", "--no-recurse-submodules", "--", name, access=access)
    return {}
