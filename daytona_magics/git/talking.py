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
from daytona_magics.git import changing, failures, logins, relay, repository
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

        return wait(make, label, quiet=quiet, cancelled="cancelled; git in the sandbox was told to stop")

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
        raise refused
    found = run(login)
    if not quiet:
        note(f"logged in at {server} with {login.source}")
    if login.source == logins.TYPED:
        logins.remember(server, login)
    return found


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

    Args:
        more: branch, commit_id, depth, insecure_skip_tls of the SDK's call.
    """
    sandbox = await tie.usable(tell)
    where, url = await files.remote_path(sandbox, path), await files.remote_path(sandbox, url)
    if not where.startswith("/"):
        where = f"{(await repository.folder(tie, sandbox)).rstrip('/')}/{where}"
    tell.progress(f"cloning into {path}")
    await asked(sandbox.git.clone(url=url, path=where, **_words(login), **more), "git clone", login)
    repository.remember(sandbox, where)
    return Repository(tie, sandbox, where)


async def push(
    found: Repository, tell: Reporter, remote: str, branch: str, login: Login | None, *, upstream: bool
) -> None:
    """Push one branch to the branch of its name."""
    tell.progress(f"pushing {branch} to {remote}")
    call = found.sandbox.git.push(
        found.path, remote=remote, branch=branch, set_upstream=upstream, **_words(login)
    )
    await asked(call, f"pushing {branch}", login)


async def pull(
    found: Repository, tell: Reporter, remote: str | None, branch: str | None, login: Login | None
) -> None:
    """Bring in what the upstream, or a named branch, has."""
    tell.progress("pulling")
    call = found.sandbox.git.pull(found.path, remote=remote, branch=branch, **_words(login))
    try:
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
        answer = await found.run(*words, doing=doing, within=relay.WITHIN)
        return answer.said or answer.out
    answer = await relay.run(found, tell, login, words, doing=doing)
    return answer.said or answer.out
