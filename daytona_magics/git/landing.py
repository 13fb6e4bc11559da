"""From a branch of the sandbox to the base it belongs in: what would go there, and bringing it there.

On GitHub and GitLab that is a matter of their APIs, asked from this machine (:mod:`.forges`). On any other
server the sandbox's own git does it without a working tree: fetch, join the two commits, and push the result
to the base, which the server takes only if nobody was faster.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from daytona_magics.errors import GitError
from daytona_magics.git import branching, changing, reading, talking
from daytona_magics.git.logins import Login
from daytona_magics.git.projects import Project, project_of
from daytona_magics.git.repository import Repository
from daytona_magics.git.views import line_of
from daytona_magics.sandboxes.report import Reporter


@dataclass(frozen=True)
class Page:
    """A page on a forge, to be clicked: ``url``, and one sentence about it."""

    url: str
    said: str

    def __repr__(self) -> str:
        return f"{self.said}\n{self.url}"

    def _repr_html_(self) -> str:
        url = html.escape(self.url, quote=True)
        return (
            f"<div>{html.escape(self.said)}<br>"
            f'<a href="{url}" target="_blank" rel="noopener noreferrer">{html.escape(self.url)}</a></div>'
        )


@dataclass(frozen=True)
class Branch:
    """A branch that is to be looked at, or brought, elsewhere.

    Attributes:
        repository: where it is.
        name: of the branch.
        sha: the commit it is at here.
        base: the branch it belongs in; "" where only the server knows.
        remote, url: where both are.
        project: of a forge; None where the server is none that is known.
        unpushed: commits the remote does not have.
    """

    repository: Repository
    name: str
    sha: str
    base: str
    remote: str
    url: str
    project: Project | None
    unpushed: int

    def forge_project(self) -> Project:
        """The project on a forge. Raises GitError when the server is none."""
        if self.project is None:
            raise GitError(
                f"{line_of(self.url)} is on no GitHub or GitLab that is known here",
                code="NO_FORGE",
                hint="For one of your own set GH_HOST or GITLAB_HOST to its name.  "
                "%sandbox_git merge --into BASE  works with any server.",
            )
        return self.project

    def check_pushed(self) -> None:
        """Raise GitError when the other side does not have all of it."""
        if self.unpushed:
            raise GitError(
                f"{self.unpushed:,} commit{'s are' if self.unpushed > 1 else ' is'} not pushed yet",
                code="NOT_PUSHED",
                hint="%sandbox_git push",
            )


async def current(found: Repository, base: str | None) -> Branch:
    """The branch the repository is on.

    Args:
        base: where it belongs; None for where the notebook's branch began, else the remote's default as far
            as it is known here.

    Raises:
        GitError: HEAD is on no branch, nothing is committed, or there is no remote.
    """
    status = await reading.status(found)
    if status.detached or status.unborn:
        raise GitError(
            "nothing is committed yet" if status.unborn else f"HEAD is detached at {status.head}",
            code="UNBORN" if status.unborn else "DETACHED",
            hint="%sandbox_git commit -A -m TEXT" if status.unborn else "%sandbox_git branch NAME",
        )
    upstream = ("config", "--get", f"branch.{status.branch}.remote")
    configured = await found.text(*upstream, doing="looking at the upstream")
    remote = configured if configured not in ("", ".") else branching.REMOTE
    url = await reading.remote_url(found, remote, push=True)
    own = branching.own(found.sandbox)
    if base is None and own is not None and own.branch == status.branch:
        base = own.base
    if base is None:
        head = ("symbolic-ref", "--short", "-q", f"refs/remotes/{remote}/HEAD")
        base = (await found.text(*head, doing="looking at the remote")).removeprefix(f"{remote}/")
    if base == status.branch:
        raise GitError(
            f"{base} is the base itself: there is nothing to bring there",
            code="SAME_BRANCH",
            hint="%sandbox_git branch NAME  makes a branch for the work.",
        )
    return Branch(
        found,
        status.branch,
        await found.text("rev-parse", "HEAD", doing="looking at HEAD"),
        base,
        remote,
        url,
        project_of(url),
        await branching.unpushed(found, status.branch),
    )


async def about(branch: Branch, base: str) -> tuple[str, str]:
    """Title and text for a request, by the commits: of one its message, of several a list."""
    words = ("log", "--format=%s%x1f%b%x1e", "-n", "50", f"{branch.remote}/{base}..HEAD", "--")
    told = await branch.repository.text(*words, doing="reading the commits")
    commits = [part.strip("\n").partition("\x1f") for part in told.split("\x1e") if part.strip()]
    if len(commits) == 1:
        return commits[0][0], commits[0][2].strip()
    title = re.sub(r"^nb/", "", branch.name).replace("-", " ").replace("_", " ")
    return title, "\n".join(f"- {subject}" for subject, _, _ in reversed(commits))


async def join(branch: Branch, tell: Reporter, base: str, login: Login | None, message: str | None) -> str:
    """Bring a branch into its base on a server that is no forge; returns one sentence.

    Raises:
        GitError: there are conflicts, or somebody was faster; nothing was changed then.
    """
    found, doing = branch.repository, f"merging {branch.name} into {base}"
    await talking.fetch(found, tell, branch.remote, login, prune=False)
    there = await found.text("rev-parse", "--verify", "-q", f"{branch.remote}/{base}", doing=doing)
    if not there:
        raise GitError(f"{branch.remote} has no branch {base}", code="GIT_BRANCH_NOT_FOUND")
    shared = await found.text("merge-base", there, branch.sha, doing=doing)
    if shared == branch.sha:
        return f"{base} has everything of {branch.name} already"
    tip = branch.sha if shared == there else await _joined(found, branch, there, base, message)
    words = ["push", "--", branch.remote, f"{tip}:refs/heads/{base}"]
    await talking.transfer(found, tell, branch.remote, login, words, doing=doing)
    return f"{branch.name} is in {base} of {branch.remote} now, at {tip[:10]}"


async def _joined(found: Repository, branch: Branch, there: str, base: str, message: str | None) -> str:
    """The commit that joins both, made without touching a file."""
    doing = f"merging {branch.name} into {base}"
    look = ("merge-tree", "--write-tree", "--name-only", "--no-messages", there, branch.sha)
    answer = await found.run(*look, doing=doing, codes=(0, 1))
    tree, *names = answer.out.split("\n")
    if answer.code:
        shown = ", ".join(line_of(name, 80) for name in names[:10] if name)
        raise GitError(
            f"{doing}: there are conflicts in {shown}; nothing was changed",
            code="GIT_MERGE_CONFLICT",
            hint=f"%sandbox_git merge {branch.remote}/{base}  brings it here, to be solved.",
        )
    person = await changing.who(found)
    text = message or f"Merge {branch.name} into {base}"
    words = ("commit-tree", tree, "-p", there, "-p", branch.sha, "-m", text)
    return (await found.run(*words, doing=doing, config=person.config)).out.strip()
