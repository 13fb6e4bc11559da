"""A branch for the notebook: ``%sandbox create --repo``, and ``%sandbox_git sync``."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import GitError, SandboxError, SandboxInterrupted, SandboxUsageError
from daytona_magics.magics.line_git import no_body, within
from daytona_magics.magics.line_git_source import Source
from daytona_magics.notebook.card import Card, counted
from daytona_magics.notebook.status import Teller, note, wait
from daytona_magics.sandboxes.report import state_of

if TYPE_CHECKING:
    from daytona_magics.git.branching import Own
    from daytona_magics.git.logins import Login
    from daytona_magics.git.repository import Repository
    from daytona_magics.git.syncing import Sync
    from daytona_magics.sandboxes.binding import Binding

#: The one branch this kernel keeps pushed.
_sync: Sync | None = None
_watched = False
#: When a cell had last run in the sandbox, at the last look.
_seen = 0.0
#: Seconds between two questions whether another kernel has switched it on, and the one under way.
ASK_EVERY = 5.0
_asked_at = float("-inf")
_asking: Future[None] | None = None


def begin_in_new(shell: Any, binding: Binding, source: Source, *, quiet: bool) -> Own:
    """As :func:`begin`, in a sandbox that was just made; it is kept whatever comes of the clone."""
    from daytona_magics.git import branching

    name = binding.bound().name
    again = f"%sandbox_git clone {source.url} --sync" if source.url else "%sandbox create"
    again += f" --branch {source.branch}" if source.branch and source.url else ""
    try:
        return begin(shell, binding, source, quiet=quiet)
    except (GitError, SandboxInterrupted) as error:
        if branching.own(binding.bound()) is not None:
            raise
        if isinstance(error, GitError):
            raise GitError(
                f"{name} was created, but has no clone: {error}",
                code=error.code,
                hint=f"{again}  tries again;  %sandbox delete  removes it.",
            ) from None
        raise SandboxInterrupted(
            f"{error.message}; {name} was created and has no clone: `{again}` tries again, "
            "`%sandbox delete` removes it"
        ) from None


def begin(shell: Any, binding: Binding, source: Source, *, quiet: bool) -> Own:
    """Clone for the notebook, and keep its branch pushed."""
    from daytona_magics.git import branching, talking
    from daytona_magics.magics.line_git_remote import asking

    used: list[Login | None] = []
    if source.here is not None:
        return _begin_here(binding, source, quiet=quiet)

    async def once(tell: Teller, login: Login | None) -> Own:
        made = await branching.begin(binding, tell, source.url, source.branch, login)
        used.append(login)
        return made

    own = talking.attempt(source.url, "cloning", once, given=source.login, ask=asking(shell), quiet=quiet)
    _switch(binding, own, used[-1], on=True)
    if not quiet:
        note(f"cells are in {own.path}, on `{own.branch}`, which is pushed after each cell that commits")
        if source.said:
            note(source.said)
    if source.folder is not None:
        _carry(binding, own, source)
    return own


def _begin_here(binding: Binding, source: Source, *, quiet: bool) -> Own:
    """A copy of a repository of this machine, whose branch is pushed nowhere."""
    from daytona_magics.git import branching, home

    there, branch = home.of(source.here or Path.cwd()), source.branch or ""
    own = wait(lambda tell: branching.begin_here(binding, tell, there, branch), "copying the repository")
    _switch(binding, own, None, on=False)
    if not quiet:
        note(f"cells are in {own.path}, on `{own.branch}`, a copy of {branch}")
        note(f"{source.said}   (`%sandbox_git fetch --to {there.top}` brings commits back)")
    if source.folder is not None:
        _carry(binding, own, source)
    return own


def _carry(binding: Binding, own: Own, source: Source) -> None:
    """Bring what only this machine has into the clone that was just made."""
    from daytona_magics.git import carrying, home
    from daytona_magics.git.repository import Repository

    found = Repository(binding, binding.bound(), own.path)
    there = home.of(source.folder or Path.cwd())
    try:
        note(
            wait(
                lambda tell: carrying.carry(found, tell, there, secrets=source.secrets),
                "carrying changes along",
            ).said()
        )
    except GitError as error:
        raise GitError(
            f"{found.sandbox.name} has its clone, but not what is only on this machine: {error}",
            code=error.code,
            hint=error.hint,
        ) from None


def _switch(binding: Binding, own: Own, login: Login | None, *, on: bool) -> None:
    """Begin or end keeping a branch pushed, and write it down."""
    from daytona_magics.git import branching
    from daytona_magics.git.syncing import Sync

    global _sync
    own = replace(own, sync=on)
    wait(lambda tell: branching.keep(binding.bound(), own), "changing labels")
    if not on:
        _sync = None
        return
    _sync = Sync(binding, own, login)
    _watch()


def _watch() -> None:
    global _watched
    from daytona_magics.git import branching, parting

    def meant() -> Sync | None:
        # Another kernel may have switched it off.
        return _sync if _sync is not None and branching.own(_sync.sandbox) == _sync.own else None

    if not _watched:
        _watched = True
        parting.watch(meant)


def current(binding: Binding) -> Sync | None:
    """What keeps the bound sandbox's branch pushed; in a restarted kernel it is taken up again."""
    from daytona_magics.git import branching
    from daytona_magics.git.syncing import Sync

    global _sync
    sandbox = binding.sandbox
    own = branching.own(sandbox) if sandbox is not None else None
    if own is None or not own.sync or sandbox is None:
        return None
    if _sync is None or _sync.sandbox.id != sandbox.id or _sync.own != own:
        _sync = Sync(binding, own, None)
        _watch()
    return _sync


def after_cell(binding: Binding, cell: str) -> None:
    """A cell has ended: look in the background, and say what went wrong with the last one.

    Only a cell that had to do with the sandbox: a look counts as activity there, and work on this machine
    alone must not keep the sandbox awake.
    """
    global _seen
    used, _seen = binding.used_at != _seen, binding.used_at
    if not used and "sandbox" not in cell:
        return
    found = current(binding)
    if found is None:
        _ask_again(binding)
        return
    news = found.news()
    if news:
        how = "`%sandbox_git sync on` tries again" if found.off else "`%sandbox_git sync`"
        note(f"`{found.own.branch}` is not pushed: {news}   ({how})")
    if binding.sandbox is not None and not binding.gone and state_of(binding.sandbox) == "started":
        found.mark()


def _ask_again(binding: Binding) -> None:
    """Another kernel of the sandbox may have switched it on: ask, in the background and not too often."""
    from daytona_magics.git import branching
    from daytona_magics.runtime.loop import loop_thread
    from daytona_magics.sandboxes import client as sdk

    global _asking
    sandbox = binding.sandbox
    own = branching.own(sandbox) if sandbox is not None else None
    if sandbox is None or own is None or not own.url or (_asking is not None and not _asking.done()):
        return

    async def ask() -> None:
        global _asked_at
        await asyncio.sleep(_asked_at + ASK_EVERY - time.monotonic())
        with suppress(sdk.error_class()):
            await sandbox.refresh_data()
        _asked_at = time.monotonic()
        if (found := current(binding)) is not None:
            found.mark()

    _asking = loop_thread().submit(ask())


def told(binding: Binding) -> str:
    """Whether the notebook's branch is pushed by itself, and why not; "" where it has none."""
    from daytona_magics.git import branching

    own = branching.own(binding.sandbox) if binding.sandbox is not None else None
    if own is None:
        return ""
    found = _sync if _sync is not None and _sync.own == own else None
    if found is not None and found.off:
        return found.trouble
    if not own.url:
        return "sync is off: the repository has no remote"
    if not own.sync:
        return "sync is off: `%sandbox_git sync on` pushes after each cell"
    return f"{own.branch}, after each cell" + (
        f"; {found.trouble}" if found is not None and found.trouble else ""
    )


def before_delete(binding: Binding, *, sure: bool) -> None:
    """Push what is not pushed of a sandbox that is about to go.

    Raises:
        GitError: it has commits that could not be pushed, and ``sure`` is not set.
    """
    from daytona_magics.git import branching
    from daytona_magics.git.repository import Repository

    found = current(binding)
    if found is None or binding.gone or binding.sandbox is None or state_of(binding.sandbox) != "started":
        return
    _flush(binding)
    there = Repository(binding, binding.bound(), found.own.path)
    left = wait(lambda tell: branching.unpushed(there, found.own.branch), "looking for commits to push")
    if left and not sure:
        raise GitError(
            f"{binding.bound().name} has {counted(left, 'commit')} on {found.own.branch} that could not be "
            f"pushed, so it was not deleted: {found.trouble}",
            code="NOT_PUSHED",
            hint="%sandbox_git push  shows why;  %sandbox delete --yes  deletes it with them.",
        )


def sync(shell: Any, options: Any) -> Card:
    """``%sandbox_git sync [on | off | status]``"""
    from daytona_magics import sandboxes

    no_body(options, "sync")
    if options.sandbox is not None:
        raise SandboxUsageError("sync is about this notebook's own sandbox: leave out -s")
    binding, switch = sandboxes.current(), options.switch or "status"
    own = within(options, "sync", lambda found, tell: _own(found, make=switch == "on"))
    if switch == "on":
        _start(shell, options, binding, own)
    elif switch == "off" and own.sync:
        _flush(binding)
        _switch(binding, own, None, on=False)
        _tidy(binding, own)
    return _card(binding)


async def _own(found: Repository, *, make: bool) -> Own:
    """The notebook's branch; with ``make`` the current one becomes it, if that is a notebook's own.

    Raises:
        GitError: it has none, and the current one is somebody else's.
    """
    from daytona_magics.git import branching, failures, reading

    own = branching.own(found.sandbox)
    if own is not None and not (make and (own.path != found.path or not own.url)):
        return own
    status = await reading.status(found)
    mine = status.branch.startswith("nb/")
    if make and mine and not status.detached:
        url = await reading.remote_url(found, branching.REMOTE, push=True)
        return branching.Own(found.path, status.branch, "", failures.clean(url))
    if own is not None:
        return own
    title = found.tie.who().title
    wanted = branching.name_of(title, str(found.sandbox.id))
    raise GitError(
        "this notebook has no branch of its own here, and other branches are never pushed by themselves",
        code="NO_BRANCH",
        hint=f"%sandbox_git branch {wanted}  and  %sandbox_git sync on;  or  %sandbox create --repo URL",
    )


def _start(shell: Any, options: Any, binding: Binding, own: Own) -> None:
    """Switch it on; the first push happens now, so that a missing login is asked for now."""
    from daytona_magics.git import branching, talking
    from daytona_magics.git.repository import Repository
    from daytona_magics.magics.line_git_remote import asking, given

    found = Repository(binding, binding.bound(), own.path)
    used: list[Login | None] = []

    async def once(tell: Teller, login: Login | None) -> None:
        if await branching.unpushed(found, own.branch):
            await talking.push(found, tell, branching.REMOTE, own.branch, login, upstream=True)
        used.append(login)

    talking.attempt(
        own.url, f"pushing {own.branch}", once, given=given(options), ask=asking(shell), quiet=options.quiet
    )
    _switch(binding, own, used[-1], on=True)


def _flush(binding: Binding) -> None:
    """Push now what there is, and say so if that does not work."""
    found = current(binding)
    if found is None:
        return

    async def last(tell: Teller) -> None:
        await found.settled()
        await found.flush()

    try:
        wait(last, f"pushing {found.own.branch}")
    except SandboxError as error:
        found.trouble = str(error)
        note(f"`{found.own.branch}` could not be pushed: {error}")


def _tidy(binding: Binding, own: Own) -> None:
    """Remove the branch from the remote if other branches there have all of it; say what was done."""
    from daytona_magics.git import branching, talking
    from daytona_magics.git.repository import Repository

    found = Repository(binding, binding.bound(), own.path)
    said: list[str] = []

    async def once(tell: Teller, login: Login | None) -> None:
        said.append(await branching.tidy(found, tell, own, login))

    try:
        talking.attempt(
            own.url, f"looking at {own.branch}", once, given=None, ask=lambda *_: None, quiet=True
        )
    except GitError as error:
        said.append(f"`{own.branch}` was left on {branching.REMOTE} as it is: {error}")
    for one in filter(None, said):
        note(one)


def _card(binding: Binding) -> Card:
    from daytona_magics.git import branching
    from daytona_magics.git.repository import Repository

    own = branching.own(binding.bound())
    assert own is not None
    found = current(binding)

    async def look(tell: Teller) -> int:
        if found is not None:
            await found.settled()
        return await branching.unpushed(Repository(binding, binding.bound(), own.path), own.branch)

    left = wait(look, "looking for commits to push")
    trouble = found.trouble if found is not None else ""
    return Card(
        own.branch,
        [
            ("began at", own.base),
            ("pushed to", own.url or "nowhere: the repository has no remote"),
            ("repository", own.path),
            ("to push", (counted(left, "commit") if left else "nothing") if own.url else ""),
            ("pushed", f"{counted(found.pushed, 'time')} by this kernel" if found is not None else ""),
            ("trouble", trouble),
        ],
        state="off" if found is None or found.off else "failed" if trouble else "ok",
        foot=("`%sandbox_git sync on` pushes it after each cell",) if found is None else (),
    )
