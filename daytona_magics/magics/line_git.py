"""The verbs of ``%sandbox_git`` that stay in the repository: status, diff, branch, add, commit, merge, …"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics import sandboxes
from daytona_magics.errors import GitError, SandboxUsageError
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.status import Teller, note, wait

if TYPE_CHECKING:
    from daytona_magics.git import views
    from daytona_magics.git.changing import Committed
    from daytona_magics.git.patches import Diff
    from daytona_magics.git.repository import Repository
    from daytona_magics.sandboxes.binding import Binding

T = TypeVar("T")


def tie_of(options: Any) -> Binding:
    """The tie to the sandbox a line is about.

    Raises:
        SandboxUsageError: it names several, or there is a cell below it that nothing reads.
    """
    from daytona_magics.sandboxes import several

    main = sandboxes.current()
    if options.sandbox is None:
        return main
    wanted = several.names(options.sandbox)
    if len(wanted) != 1 or several.is_pattern(wanted[0]):
        raise SandboxUsageError("-s: %sandbox_git works in one sandbox at a time, by its name or id")
    found = several.open_now(main, wanted) or wait(
        lambda tell: several.ready(main, wanted, tell), f"getting {options.sandbox}"
    )
    return found[0][0]


def no_body(options: Any, verb: str) -> None:
    """Refuse a cell below a line that reads none: nobody must think that it did something."""
    if options.body is not None and options.body.strip():
        raise SandboxUsageError(
            f"%%sandbox_git {verb} reads no cell; only commit and pr do",
            hint=f"Write  %sandbox_git {verb}  with one %, on its own line.",
        )


def within(
    options: Any, verb: str, work: Callable[[Repository, Teller], Awaitable[T]], label: str | None = None
) -> T:
    """Find the repository a line is about, and do ``work`` in it."""
    from daytona_magics.git import repository

    if verb != "commit":
        no_body(options, verb)
    tie = tie_of(options)

    async def run(tell: Teller) -> T:
        found = await repository.find(tie, tell, options.repository)
        tell.progress(label or f"git {verb}")
        return await work(found, tell)

    return wait(run, label or f"git {verb}", cancelled="cancelled; git in the sandbox was told to stop")


def status(shell: Any, options: Any) -> views.Status:
    """``%sandbox_git status``"""
    from daytona_magics.git import reading

    return within(options, "status", lambda found, tell: reading.status(found))


def diff(shell: Any, options: Any) -> Diff:
    """``%sandbox_git diff [REVISIONS] [-- PATHS]``"""
    from daytona_magics.git import reading

    _no_options(options.revisions)
    return within(
        options,
        "diff",
        lambda found, tell: reading.diff(
            found, options.revisions, options.paths, staged=options.staged, stat=options.stat
        ),
    )


def log(shell: Any, options: Any) -> Table:
    """``%sandbox_git log [-n COUNT] [REVISIONS] [-- PATHS]``"""
    from daytona_magics.git import reading, views

    count = 20 if options.count is None else options.count
    if not 1 <= count <= reading.MOST_COMMITS:
        raise SandboxUsageError(f"-n {count}: a number of commits, 1 to {reading.MOST_COMMITS}")
    _no_options(options.revisions)
    found = within(
        options, "log", lambda found, tell: reading.log(found, options.revisions, options.paths, count)
    )
    return views.commits(found, "No commits yet." if not options.revisions else "No commits there.")


def _no_options(words: list[str]) -> None:
    for word in words:
        if word.startswith("-"):
            raise SandboxUsageError(f"{word!r} is not a commit or branch; paths follow --")


def branches(shell: Any, options: Any) -> Table:
    """``%sandbox_git branches [-a]``"""
    from daytona_magics.git import reading, views

    remote = bool(getattr(options, "all", False))
    found = within(options, "branches", lambda found, tell: reading.branches(found, remote=remote))
    return views.branches(found, "No branches yet: nothing is committed.")


def branch(shell: Any, options: Any) -> Any:
    """``%sandbox_git branch [-d] [NAME]``"""
    from daytona_magics.git import changing

    if options.name is None:
        if options.delete:
            raise SandboxUsageError("-d: name the branch to delete")
        return branches(shell, options)
    _no_options([options.name])
    if options.delete:
        within(
            options,
            "branch",
            lambda found, tell: changing.delete_branch(found, options.name, force=options.force),
        )
        note(f"deleted branch {options.name}")
    else:
        within(options, "branch", lambda found, tell: changing.branch(found, options.name))
        note(f"now on the new branch {options.name}")
    return None


def checkout(shell: Any, options: Any) -> None:
    """``%sandbox_git checkout [-b] NAME``"""
    from daytona_magics.git import changing, reading

    async def go(found: Repository, tell: Teller) -> str:
        if options.new:
            await changing.branch(found, options.name)
        else:
            await changing.checkout(found, options.name)
        return (await reading.status(found)).headline()

    _no_options([options.name])
    try:
        note(within(options, "checkout", go))
    except GitError as error:
        from daytona_magics.magics.line_git_remote import fetch_unknown

        if options.new or error.code != "GIT_BRANCH_NOT_FOUND":
            raise
        fetch_unknown(shell, options, error)
        note(within(options, "checkout", go))


def add(shell: Any, options: Any) -> None:
    """``%sandbox_git add PATHS``"""
    from daytona_magics.git import changing, reading
    from daytona_magics.notebook.card import counted

    async def stage(found: Repository, tell: Teller) -> int:
        await changing.add(found, tell, options.paths)
        after = await reading.status(found)
        return sum(one.staging not in ("Unmodified", "Untracked", "") for one in after)

    note(f"{counted(within(options, 'add', stage), 'file')} staged")


def commit(shell: Any, options: Any) -> Committed:
    """``%sandbox_git commit -m TEXT``, ``%%sandbox_git commit``"""
    from daytona_magics.git import changing

    if options.body is not None and options.message is not None:
        raise SandboxUsageError("the cell is the message, and -m gives another: leave one out")
    message = options.message if options.body is None else options.body.strip("\n")
    if message is None or not message.strip():
        raise SandboxUsageError(
            "a commit needs a message",
            hint="-m 'TEXT', or %%sandbox_git commit on the first line of a cell and the message below it.",
        )
    person = changing.typed(options.author) if options.author is not None else None

    async def make(found: Repository, tell: Teller) -> Committed:
        if options.everything:
            await changing.add(found, tell, ["."])
        return await changing.commit(
            found, tell, message, everything=options.all, person=person, empty=options.allow_empty
        )

    return within(options, "commit", make)


def merge(shell: Any, options: Any) -> None:
    """``%sandbox_git merge BRANCH | --abort | --into BASE``"""
    from daytona_magics.git import changing

    if options.into is not None:
        from daytona_magics.magics.line_git_forge import merge_into

        merge_into(shell, options)
        return
    if options.abort == (options.branch is not None):
        raise SandboxUsageError("name the branch to merge, or write --abort")
    if options.abort:
        within(options, "merge", lambda found, tell: changing.abort(found))
        note("the merge was given up: everything is as before it")
        return
    _no_options([options.branch])

    async def join(found: Repository, tell: Teller) -> str:
        return await changing.merge(found, options.branch, message=options.message, no_ff=options.no_ff)

    said = within(options, "merge", join)
    note(said.split("\n")[0] or f"merged {options.branch}")


def reset(shell: Any, options: Any) -> None:
    """``%sandbox_git reset [--soft | --hard] [TARGET] [-- PATHS]``"""
    from daytona_magics.git import changing, reading

    if options.soft and options.hard:
        raise SandboxUsageError("--soft and --hard: one of them")
    if options.paths and (options.soft or options.hard):
        raise SandboxUsageError("paths are taken out of what is staged: leave out --soft and --hard")
    mode = "soft" if options.soft else "hard" if options.hard else "mixed"

    async def move(found: Repository, tell: Teller) -> str:
        await changing.reset(found, mode, options.target, options.paths)
        return (await reading.status(found)).headline()

    note(within(options, "reset", move))


def restore(shell: Any, options: Any) -> None:
    """``%sandbox_git restore [--staged] PATHS``"""
    from daytona_magics.git import changing
    from daytona_magics.notebook.card import counted

    within(
        options,
        "restore",
        lambda found, tell: changing.restore(
            found,
            options.paths,
            staged=options.staged,
            worktree=options.worktree or not options.staged,
            source=options.source,
        ),
    )
    note(f"{counted(len(options.paths), 'path')} restored")


def config(shell: Any, options: Any) -> Table | None:
    """``%sandbox_git config [KEY [VALUE]]``"""

    no_body(options, "config")
    if options.value is None:
        found = _settings(options)
        rows = [row for row in found if options.key is None or row[1].lower() == options.key.lower()]
        return Table(("of", "setting", "value"), rows, rows, empty="Not set.")
    _no_secret(options.key, options.value)

    async def write(found: Repository | None, sandbox: Any) -> None:
        from daytona_magics.git.changing import asked

        scope = {"scope": "local", "path": found.path} if found is not None else {}
        await asked(sandbox.git.set_config(options.key, options.value, **scope), f"setting {options.key}")

    if options.local:
        within(options, "config", lambda found, tell: write(found, found.sandbox))
        return None
    tie = tie_of(options)

    async def globally(tell: Teller) -> None:
        await write(None, await tie.usable(tell))

    wait(globally, "git config")
    return None


def _no_secret(key: str, value: str) -> None:
    from daytona_magics.magics import secrets

    if secrets.looks_secret(key, value) or "extraheader" in key.lower():
        raise SandboxUsageError(
            f"{key}: the value looks like a key or token and would be saved in notebook and sandbox",
            hint="Logins of this machine are used for each call:  %sandbox_git credentials",
        )


def _settings(options: Any) -> list[tuple[str, str, str]]:
    from daytona_magics.git import reading, repository

    tie = tie_of(options)

    async def read(tell: Teller) -> list[tuple[str, str, str]]:
        sandbox = await tie.usable(tell)
        found = None
        try:
            found = await repository.find(tie, tell, options.repository)
        except GitError:
            if options.repository is not None or options.local:
                raise
        return await reading.settings(found, sandbox)

    return wait(read, "git config")
