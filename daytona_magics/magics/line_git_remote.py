"""The verbs of ``%sandbox_git`` about other repositories: clone, pull, push, fetch, remote, credentials."""

from __future__ import annotations

import getpass
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.errors import GitError, SandboxInterrupted, SandboxUsageError
from daytona_magics.magics.line_git import no_body, tie_of, within
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.status import Teller, note, wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from daytona_magics.git.logins import Login, Server
    from daytona_magics.git.repository import Repository

T = TypeVar("T")


def asking(shell: Any) -> Callable[[Server, str], Login | None]:
    """Asks the person at this kernel for a login; None where nobody can be asked."""
    from daytona_magics.git import logins
    from daytona_magics.magics.line_login import can_ask

    def ask(server: Server, username: str) -> Login | None:
        if not can_ask(shell):
            return None
        try:
            name = username or input(f"User name for {server} (empty: a token): ").strip()
            password = getpass.getpass(f"Password or token for {server}: ").strip()
        except KeyboardInterrupt:
            raise SandboxInterrupted("no login was given") from None
        except EOFError:
            return None
        if not password:
            raise GitError("no password or token was given", code="GIT_AUTH_FAILED")
        return logins.Login(name or "x-access-token", password, logins.TYPED)

    return ask


def given(options: Any) -> Login | None:
    """The login a line names by --token-env; None when it names none."""
    from daytona_magics.git import logins

    if options.token_env is None:
        if options.user is not None:
            raise SandboxUsageError("--user goes with --token-env VAR, which names the password's variable")
        return None
    return logins.from_variable(options.token_env, options.user)


def talk(
    shell: Any, options: Any, url: str, label: str, once: Callable[[Teller, Login | None], Awaitable[T]]
) -> T:
    """Talk to a server, with a login of this machine where it wants one (:func:`.talking.attempt`)."""
    from daytona_magics.git import talking

    return talking.attempt(url, label, once, given=given(options), ask=asking(shell), quiet=options.quiet)


def clone(shell: Any, options: Any) -> None:
    """``%sandbox_git clone URL [PATH]``"""
    from daytona_magics.git import logins, reading, talking

    no_body(options, "clone")
    if options.repository is not None:
        raise SandboxUsageError("clone: name the new folder after the address, without -C")
    url = options.url
    if logins.password_of(url):
        raise SandboxUsageError(
            "the address has a password in it, which would be saved in the notebook and in the sandbox",
            hint="Leave it out: this machine's login is used, or you are asked.  %sandbox_git credentials",
        )
    if options.depth is not None and options.depth < 1:
        raise SandboxUsageError(f"--depth {options.depth}: a number of commits, 1 or more")
    if options.sync:
        _clone_own(shell, options)
        return
    path, tie = options.path or talking.folder_of(url), tie_of(options)
    if options.insecure_skip_tls:
        note("the server's certificate is not checked: who is on the way can read a login, and change files")

    async def once(tell: Teller, login: Login | None) -> Any:
        found = await talking.clone(
            tie,
            tell,
            url,
            path,
            login,
            branch=options.branch,
            commit_id=options.commit,
            depth=options.depth,
            insecure_skip_tls=options.insecure_skip_tls or None,
        )
        return await reading.status(found)

    status = talk(shell, options, url, f"cloning {path}", once)
    if not options.quiet:
        note(f"cloned into {status.path}. {status.headline()}")


def _clone_own(shell: Any, options: Any) -> None:
    """``%sandbox_git clone --sync URL``"""
    from daytona_magics import sandboxes
    from daytona_magics.magics.line_git_source import source_of
    from daytona_magics.magics.line_git_sync import begin

    if any((options.path, options.commit, options.depth, options.insecure_skip_tls, options.sandbox)):
        raise SandboxUsageError(
            "--sync is about this notebook's own sandbox: beside it only --branch and a login are named"
        )
    source = source_of(options.url, options.branch)
    source = replace(source, login=given(options) or source.login)
    begin(shell, sandboxes.current(), source, quiet=options.quiet)


async def _target(found: Repository, remote: str | None, branch: str | None) -> tuple[str, str, bool]:
    """What a push is about: remote, branch, and whether the branch still needs an upstream."""
    from daytona_magics.git import reading

    status = await reading.status(found)
    if branch is None:
        if status.detached:
            raise GitError(
                f"HEAD is detached at {status.head}, so there is no branch to push",
                code="DETACHED",
                hint="%sandbox_git branch NAME  makes one here.",
            )
        if status.unborn:
            raise GitError(
                "nothing is committed yet, so there is nothing to push",
                code="UNBORN",
                hint="%sandbox_git add .  and  %sandbox_git commit -m TEXT",
            )
        branch = status.branch
    configured = await found.text(
        "config", "--get", f"branch.{branch}.remote", doing="looking at the upstream"
    )
    follows = bool(configured) and configured != "."
    return remote or (configured if follows else "origin"), branch, not follows


def push(shell: Any, options: Any) -> None:
    """``%sandbox_git push [REMOTE [BRANCH]]``"""
    from daytona_magics.git import reading, talking

    async def look(found: Repository, tell: Teller) -> tuple[Repository, str, str, bool, str]:
        remote, branch, upstream = await _target(found, options.remote, options.branch)
        return found, remote, branch, upstream, await reading.remote_url(found, remote, push=True)

    found, remote, branch, upstream, url = within(options, "push", look)

    async def once(tell: Teller, login: Login | None) -> None:
        await talking.push(found, tell, remote, branch, login, upstream=upstream)

    talk(shell, options, url, f"pushing {branch}", once)
    if not options.quiet:
        follows = f"; it now follows {remote}/{branch}" if upstream else ""
        note(f"pushed {branch} to {remote}{follows}")


def pull(shell: Any, options: Any) -> None:
    """``%sandbox_git pull [REMOTE [BRANCH]]``"""
    from daytona_magics.git import reading, talking

    async def look(found: Repository, tell: Teller) -> tuple[Repository, str, str]:
        status = await reading.status(found)
        configured = await found.text(
            "config", "--get", f"branch.{status.branch}.remote", doing="looking at the upstream"
        )
        if options.branch is None and (status.detached or not configured):
            raise GitError(
                f"HEAD is detached at {status.head}, so there is no branch to pull into"
                if status.detached
                else f"branch {status.branch} follows no branch of a remote",
                code="DETACHED" if status.detached else "NO_UPSTREAM",
                hint="%sandbox_git checkout BRANCH"
                if status.detached
                else f"%sandbox_git pull origin {status.branch}  names it;  %sandbox_git push  makes one.",
            )
        remote = options.remote or configured or "origin"
        return found, remote, await reading.remote_url(found, remote)

    found, remote, url = within(options, "pull", look)

    async def once(tell: Teller, login: Login | None) -> str:
        before = await found.text("rev-parse", "HEAD", doing="looking at HEAD")
        await talking.pull(found, tell, remote, options.branch, login)
        after = await found.text("rev-parse", "HEAD", doing="looking at HEAD")
        if before == after:
            return "already up to date"
        count = await found.text(
            "rev-list", "--count", f"{before}..{after}" if before else after, doing="counting"
        )
        return f"pulled {count or 'new'} commit{'' if count == '1' else 's'} from {remote}"

    said = talk(shell, options, url, "pulling", once)
    if not options.quiet:
        note(said)


def fetch(shell: Any, options: Any) -> Any:
    """``%sandbox_git fetch [REMOTE]``, ``%sandbox_git fetch --to FOLDER [--patch | --apply]``"""
    from daytona_magics.git import reading, talking

    if options.to is not None:
        from daytona_magics.magics.line_git_home import bring

        return bring(shell, options)
    if options.branch is not None or options.patch or options.apply:
        raise SandboxUsageError(
            "--branch, --patch and --apply go with --to FOLDER, a folder of this machine (.: the notebook's)"
        )

    async def look(found: Repository, tell: Teller) -> tuple[Repository, str, str]:
        current = await found.text("symbolic-ref", "--short", "-q", "HEAD", doing="looking at HEAD")
        configured = await found.text(
            "config", "--get", f"branch.{current}.remote", doing="looking at the upstream"
        )
        remote = options.remote or configured or "origin"
        return found, remote, await reading.remote_url(found, remote)

    found, remote, url = within(options, "fetch", look)

    async def once(tell: Teller, login: Login | None) -> str:
        await talking.fetch(found, tell, remote, login, prune=options.prune)
        return (await reading.status(found)).headline()

    said = talk(shell, options, url, f"fetching from {remote}", once)
    if not options.quiet:
        note(said)
    return None


def fetch_unknown(shell: Any, options: Any, unknown: GitError) -> None:
    """Ask the remote for a branch that nothing here is called like.

    Raises:
        GitError: there is no such branch over there either, or no remote.
    """
    from daytona_magics.git import reading, talking

    name = options.name
    if re.search(r"[\s:*?\[\\^~@]|\.\.", name):
        raise unknown

    async def look(found: Repository, tell: Teller) -> tuple[Repository, str, str]:
        names = [one for one, _ in await reading.remotes(found)]
        remote = talking.ORIGIN if talking.ORIGIN in names or not names else names[0]
        return found, remote, await reading.remote_url(found, remote)

    async def once(tell: Teller, login: Login | None) -> None:
        await talking.fetch_branch(found, tell, remote, name, login)

    try:
        found, remote, url = within(options, "checkout", look)
        talking.attempt(url, f"fetching {name}", once, given=None, ask=asking(shell))
    except GitError as error:
        if error.code not in ("GIT_BRANCH_NOT_FOUND", "GIT_REMOTE_NOT_FOUND"):
            raise
        raise unknown from None
    note(f"{name} was not known here and came from {remote}")


def remote(shell: Any, options: Any) -> Table | None:
    """``%sandbox_git remote [add NAME URL | remove NAME]``"""
    from daytona_magics.git import logins, reading
    from daytona_magics.git.changing import asked

    action = options.action or "list"
    wanted = {"list": (), "add": ("name", "url"), "remove": ("name",)}[action]
    given = tuple(name for name in ("name", "url") if getattr(options, name) is not None)
    if given != wanted:
        words = " ".join(word.upper() for word in wanted)
        raise SandboxUsageError(f"%sandbox_git remote {action} takes {words or 'nothing more'}")
    if action == "add" and logins.password_of(options.url):
        raise SandboxUsageError(
            "the address has a password in it, which would be saved in the notebook and in the sandbox"
        )

    async def work(found: Repository, tell: Teller) -> list[tuple[str, str]]:
        if action == "add":
            call = found.sandbox.git.remote_add(found.path, options.name, options.url)
            await asked(call, f"adding remote {options.name}")
        elif action == "remove":
            await found.run("remote", "remove", options.name, doing=f"removing remote {options.name}")
        return await reading.remotes(found)

    rows = within(options, "remote", work)
    return Table(("remote", "address"), rows, rows, empty="No remotes.") if action == "list" else None


def credentials(shell: Any, options: Any) -> Table | None:
    """``%sandbox_git credentials [HOST] [--forget]``"""
    from daytona_magics.git import logins, reading

    if options.forget:
        count = logins.forget()
        note(
            f"{count} typed login{'' if count == 1 else 's'} forgotten" if count else "nothing was typed here"
        )
        return None
    if options.host is not None:
        typed = options.host if "://" in options.host else f"https://{options.host}"
        servers = [logins.server_of(typed)]
        if servers == [None]:
            raise SandboxUsageError(f"{options.host!r} is no git server reached by http or https")
    else:

        async def look(found: Repository, tell: Teller) -> list[Server | None]:
            names = [name for name, _ in await reading.remotes(found)]
            return [logins.server_of(await reading.remote_url(found, name)) for name in names]

        servers = list(dict.fromkeys(within(options, "credentials", look)))
    rows = [_about(server) for server in servers if server is not None]
    return Table(
        ("server", "user", "login from"),
        rows,
        rows,
        empty="No remote here wants a login.",
        foot="A login goes to its own server only, for one call, and is stored nowhere in the sandbox.",
    )


def _about(server: Server) -> tuple[str, str, str]:
    import asyncio

    from daytona_magics.git import logins

    async def find(tell: Teller) -> Login | None:
        return await asyncio.to_thread(logins.find, server)

    found = wait(find, f"looking for a login for {server}")
    if found is None:
        return str(server), "", "none here: you are asked when one is needed"
    return str(server), found.username, found.source
