"""The verbs of ``%sandbox_git`` that look at a branch from its base: open, compare, pr, merge --into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.errors import GitError, SandboxUsageError
from daytona_magics.git.views import line_of
from daytona_magics.magics.line_git import no_body, within
from daytona_magics.magics.line_git_remote import talk
from daytona_magics.notebook.status import Teller, note

if TYPE_CHECKING:
    from daytona_magics.git.forges import Forge
    from daytona_magics.git.landing import Branch, Page
    from daytona_magics.git.logins import Login

T = TypeVar("T")


def open_page(shell: Any, options: Any) -> Page:
    """``%sandbox_git open``"""
    from daytona_magics.git import landing

    branch = within(options, "open", lambda found, tell: landing.current(found, ""))
    project = branch.forge_project()
    behind = f", {branch.unpushed:,} to push" if branch.unpushed else ""
    return landing.Page(project.branch_page(branch.name), f"{line_of(branch.name)} of {project.path}{behind}")


def compare(shell: Any, options: Any) -> Page:
    """``%sandbox_git compare [BASE]``"""
    from daytona_magics.git import landing

    branch = within(options, "compare", lambda found, tell: landing.current(found, options.base))
    project = branch.forge_project()

    async def look(forge: Forge) -> Page:
        base = branch.base or await forge.default_branch()
        compared = await forge.compare(base, branch.name)
        ahead = f"{compared.ahead:,} commit{'' if compared.ahead == 1 else 's'} that {base} has not"
        behind = f", and is {compared.behind:,} behind" if compared.behind else ""
        more = f"; {branch.unpushed:,} more not pushed" if branch.unpushed else ""
        return landing.Page(
            project.compare_page(base, branch.name), f"{branch.name} has {ahead}{behind}{more}"
        )

    return _ask(shell, options, branch, "comparing", look)


def pr(shell: Any, options: Any) -> Page:
    """``%sandbox_git pr [BASE]``, ``%%sandbox_git pr``"""
    from daytona_magics.git import landing

    title, text = _written(options)
    body, options.body = options.body, None
    branch = within(options, "pr", lambda found, tell: landing.current(found, options.base))
    options.body = body
    branch.forge_project()
    branch.check_pushed()

    async def make(forge: Forge) -> Page:
        base = branch.base or await forge.default_branch()
        told = await landing.about(branch, base) if title is None else (title, text)
        request = await forge.open_request(branch.name, base, *told, draft=options.draft)
        how = "is open already" if request.existed else "is open"
        draft = " as a draft" if request.draft else ""
        what = f"{forge.noun[0].upper()}{forge.noun[1:]} {forge.sign}{request.number}"
        where = f"{line_of(branch.name)} → {line_of(base)}"
        return landing.Page(request.url, f"{what} {how}{draft}: {request.title} ({where})")

    return _ask(shell, options, branch, "opening the request", make)


def _written(options: Any) -> tuple[str | None, str]:
    """Title and text as they were typed; no title: by the commits."""
    if options.body is not None and options.body.strip():
        if options.title is not None or options.message is not None:
            raise SandboxUsageError(
                "the cell is title and text, and --title or -m give others: leave one out"
            )
        title, _, text = options.body.strip("\n").partition("\n")
        return title.strip(), text.strip("\n")
    if options.message is not None and options.title is None:
        raise SandboxUsageError("-m is the text of the request: give it a --title, too")
    return options.title, options.message or ""


def merge_into(shell: Any, options: Any) -> None:
    """``%sandbox_git merge --into BASE``"""
    from daytona_magics.git import landing

    no_body(options, "merge")
    base = options.into
    if options.branch is not None or options.abort or options.no_ff:
        raise SandboxUsageError(
            "--into brings the current branch there: leave out other branches and options"
        )
    branch = within(options, "merge", lambda found, tell: landing.current(found, base))
    branch.check_pushed()
    method = options.method or "merge"
    if branch.project is None and method != "merge":
        raise SandboxUsageError(f"--method {method} is for GitHub and GitLab; here it is a plain merge")
    if not options.yes:
        place = branch.project.web if branch.project is not None else f"remote {branch.remote}"
        raise SandboxUsageError(
            f"this would merge {line_of(branch.name)} (at {branch.sha[:10]}) into {base} on {place}",
            hint=f"To do that:  %sandbox_git merge --into {base} --yes",
        )
    if branch.project is None:
        said = talk(
            shell,
            options,
            branch.url,
            f"merging into {base}",
            lambda tell, login: landing.join(branch, tell, base, login, options.message),
        )
        note(said)
        return

    async def bring(forge: Forge) -> str:
        merged = await forge.merge(
            branch.name, base, method=method, message=options.message or "", sha=branch.sha
        )
        if merged.already:
            return f"{base} has everything of {branch.name} already"
        by = f" by {forge.noun} {forge.sign}{merged.request.number}" if merged.request is not None else ""
        at = f", at {merged.sha[:10]}" if merged.sha else ""
        return f"{line_of(branch.name)} is in {base} of {forge.project.path} now{by}{at}"

    note(_ask(shell, options, branch, f"merging into {base}", bring))


def _ask(shell: Any, options: Any, branch: Branch, label: str, work: Callable[[Forge], Awaitable[T]]) -> T:
    """Ask the forge of a branch, with this machine's login where it wants one."""
    from daytona_magics.git.forge_kinds import forge_of

    project = branch.forge_project()

    async def once(tell: Teller, login: Login | None) -> T:
        return await work(forge_of(project, login))

    try:
        return talk(shell, options, f"{project.web}.git", label, once)
    except GitError as error:
        if error.code in ("GIT_AUTH_FAILED", "GIT_REPO_NOT_FOUND", "FORBIDDEN"):
            page = project.new_request_page(branch.base or "main", branch.name)
            raise GitError(
                str(error), code=error.code, hint=f"{error.hint}  In the browser:  {page}".strip()
            ) from None
        raise
