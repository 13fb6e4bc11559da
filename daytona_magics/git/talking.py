"""What talks to another repository: clone, pull, push, fetch.

The first try has no login: a public repository, a folder, or a sandbox that has its own needs none. When the
server asks who is there, the host's login for that server (:mod:`.logins`) is used for one more try, and the
page says whose it was; where the host has none, the person is asked once, in a box that does not show it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from daytona_magics.errors import GitError
from daytona_magics.git import changing, failures, logins, relay, repository, stopping
from daytona_magics.git.logins import Ask, Login, Server
from daytona_magics.git.repository import Repository
from daytona_magics.notebook.status import Teller, note, wait
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

T = TypeVar("T")
#: One try: called with a reporter and a login or None.
Try = Callable[[Teller, "Login | None"], Awaitable[T]]
#: What a clone calls the repository it is of.
ORIGIN = "origin"
#: Refusals after which a login is tried.
_WANTS = ("GIT_AUTH_FAILED", "GIT_REPO_NOT_FOUND", "FORBIDDEN")


def attempt(url: str, label: str, once: Try[T], *, given: Login | None, ask: Ask, quiet: bool = False) -> T:
    """Try without a login, and with one where the server wants it. On the main thread.

    Args:
        url: of the remote, as git would use it.
        label: what is being waited for.
        once: one try.
        given: the login that was named; then there is only one try.
        ask: asks the person.

    Raises:
        GitError: it failed, or nobody has a login.
    """
    server = logins.server_of(url)

    def run(login: Login | None) -> T:
        async def make(tell: Teller) -> T:
            return await once(tell, login)

        return wait(make, label, quiet=quiet, cancelled=stopping.STOPPED)

    if given is not None:
        if server is None:
            raise GitError("a login is for http and https addresses only", code="GIT_AUTH_FAILED")
        logins.check(server)
        return run(replace(given, server=server))
    try:
        return run(None)
    except GitError as error:
        if server is None or error.code not in _WANTS:
            raise
        refused = error
    login = _login(server, logins.user_of(url), ask if refused.code == "GIT_AUTH_FAILED" else None)
    if login is None:
        raise refused if refused.code != "GIT_AUTH_FAILED" else _nobody(server, label)
    found = run(login)
    if not quiet:
        note(f"logged in at {server} with {login.source}")
    if login.source == logins.TYPED:
        logins.remember(server, login)
    return found


def _nobody(server: Server, label: str) -> GitError:
    return GitError(
        f"{label}: {server} wants a login, and this machine has none for it",
        code="GIT_AUTH_FAILED",
        hint="gh auth login,  glab auth login  or git's credential helpers on this machine;  "
        "--token-env VAR  names a variable that has it;  %sandbox_git credentials  shows what is found.",
    )


def _login(server: Server, username: str, ask: Ask | None) -> Login | None:
    found = logins.find(server, username)
    if found is None and ask is not None:
        logins.check(server)
        found = ask(server, username)
    if found is None:
        return None
    logins.check(server)
    return replace(found, server=server)


def _words(login: Login | None) -> dict[str, Any]:
    return {"username": login.username, "password": login.password} if login is not None else {}


def _secrets(login: Login | None) -> tuple[str, ...]:
    return login.secrets() if login is not None else ()


async def asked(call: Any, doing: str, login: Login | None) -> Any:
    """Await a call of the git API that may carry a login; nothing that is raised holds it."""
    try:
        return await call
    except sdk.error_class() as error:
        raise failures.translate(error, doing, _secrets(login)) from None


def folder_of(url: str) -> str:
    """The folder a clone of an address goes to, as git names it.

    In:  folder_of("https://example.org/me/tool.git/")
    Out: 'tool'
    """
    name = re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git")
    if not name or name in (".", ".."):
        raise GitError(f"{url!r} does not say a name for the folder", hint="%sandbox_git clone URL PATH")
    return name


async def clone(
    tie: Binding, tell: Reporter, url: str, path: str, login: Login | None, **more: Any
) -> Repository:
    """Clone into a folder of the sandbox.

    The API clones one branch. The others are fetched after it, as ``git clone`` has them, but for a clone of
    the last commits only and for one that does not check the server.

    Args:
        more: branch, commit_id, depth, insecure_skip_tls of the SDK's call.
    """
    sandbox = await tie.usable(tell)
    where, url = await files.remote_path(sandbox, path), await files.remote_path(sandbox, url)
    if not where.startswith("/"):
        where = f"{(await repository.folder(tie, sandbox)).rstrip('/')}/{where}"
    tell.progress(f"cloning into {path}")
    async with stopping.ended(sandbox, where, "clone"):
        await asked(sandbox.git.clone(url=url, path=where, **_words(login), **more), "git clone", login)
    repository.remember(sandbox, where)
    found = Repository(tie, sandbox, where)
    if not more.get("depth"):
        await found.run("remote", "set-branches", ORIGIN, "*", doing="following all branches")
        if not more.get("insecure_skip_tls"):
            await _others(found, tell, login)
    return found


async def _others(found: Repository, tell: Reporter, login: Login | None) -> None:
    """Let a new clone know the other branches; it is a whole one also without."""
    try:
        await fetch(found, tell, ORIGIN, login, prune=False)
    except GitError as error:
        tell.note(f"other branches than this one are not known yet: {error}   (`%sandbox_git fetch`)")


async def fetch_branch(
    found: Repository, tell: Reporter, remote: str, branch: str, login: Login | None
) -> None:
    """Learn what a remote has of one branch, also where the repository was told to follow others only."""
    there = f"refs/remotes/{remote}/{branch}"
    words = ["fetch", "--no-recurse-submodules", "--", remote, f"+refs/heads/{branch}:{there}"]
    await transfer(found, tell, remote, login, words, doing=f"fetching {branch} from {remote}")
    followed = await found.text(
        "config", "--get-all", f"remote.{remote}.fetch", doing="looking at the remote"
    )
    if f"refs/heads/*:refs/remotes/{remote}/*" not in followed and there not in followed:
        await found.run("remote", "set-branches", "--add", remote, branch, doing=f"following {branch}")


async def push(
    found: Repository, tell: Reporter, remote: str, branch: str, login: Login | None, *, upstream: bool
) -> None:
    """Push one branch to the branch of its name."""
    tell.progress(f"pushing {branch} to {remote}")
    call = found.sandbox.git.push(
        found.path, remote=remote, branch=branch, set_upstream=upstream, **_words(login)
    )
    async with stopping.ended(found.sandbox, found.path, "push"):
        await asked(call, f"pushing {branch}", login)


async def pull(
    found: Repository, tell: Reporter, remote: str | None, branch: str | None, login: Login | None
) -> None:
    """Bring in what the upstream, or a named branch, has."""
    tell.progress("pulling")
    call = found.sandbox.git.pull(found.path, remote=remote, branch=branch, **_words(login))
    try:
        async with stopping.ended(found.sandbox, found.path, "fetch", "merge", "rebase"):
            await asked(call, "git pull", login)
    except GitError as error:
        if "commits of their own" in str(error) or "divergent branches" in str(error):
            raise await _diverged(found, remote, branch) from None
        raise await changing.conflicts(found, "git pull", error) from None


async def _diverged(found: Repository, remote: str | None, branch: str | None) -> GitError:
    words = ("rev-parse", "--abbrev-ref", "@{upstream}")
    there = f"{remote or 'origin'}/{branch}" if branch else await found.text(*words, doing="looking at it")
    return GitError(
        f"git pull: {there} and this branch both have commits of their own; nothing was changed",
        code="GIT_DIVERGED",
        hint=f"%sandbox_git merge {there}  joins them;  %sandbox_git reset --hard {there}  drops those that "
        "are only here.",
    )


async def fetch(found: Repository, tell: Reporter, remote: str, login: Login | None, *, prune: bool) -> str:
    """Learn what a remote has, without changing a branch or a file; returns what git says."""
    words = ["fetch", "--no-recurse-submodules", *(["--prune"] if prune else []), "--", remote]
    return await transfer(found, tell, remote, login, words, doing=f"fetching from {remote}")


async def transfer(
    found: Repository, tell: Reporter, remote: str, login: Login | None, words: list[str], *, doing: str
) -> str:
    """A git command that talks to a remote; returns what git says."""
    if login is None:
        async with stopping.ended(found.sandbox, found.path, words[0]):
            answer = await found.run(*words, doing=doing, within=relay.WITHIN)
        return answer.said or answer.out
    answer = await relay.run(found, tell, login, words, doing=doing)
    return answer.said or answer.out
