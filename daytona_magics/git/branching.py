"""A branch of its own for every notebook: ``nb/NAME-ID`` of the repository that was cloned for it.

The branch begins where the cloned one is and follows a branch of its own name, which is made by the first
push that has something to bring: a notebook that commits nothing leaves nothing on the server. What belongs
together (repository, branch, where it began, the address) is in labels of the sandbox: they are kept by the
endpoint, so nothing inside the sandbox can point a push at another place or another branch.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from daytona_magics.errors import GitError
from daytona_magics.git import carrying, changing, failures, reading, talking
from daytona_magics.git.home import Home
from daytona_magics.git.logins import Login
from daytona_magics.git.repository import Repository
from daytona_magics.notebook.collecting import collect
from daytona_magics.runtime.records import ExecRequest, new_id
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import labels
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

PATH, BRANCH = "daytona-magics/git-path", "daytona-magics/git-branch"
BASE, URL, SYNC = "daytona-magics/git-base", "daytona-magics/git-url", "daytona-magics/git-sync"
REMOTE = talking.ORIGIN
#: The label URL of a branch that is pushed nowhere.
NOWHERE = "none"
#: Seconds the cells may take to go into the folder of the clone.
WITHIN = 30.0


@dataclass(frozen=True)
class Own:
    """A notebook's branch.

    Attributes:
        path: of the repository in the sandbox.
        branch: its name.
        base: the branch it began at.
        url: where it is pushed; "" where there is no such place.
        sync: it is pushed after each cell.
    """

    path: str
    branch: str
    base: str
    url: str
    sync: bool = False

    def labels(self) -> dict[str, str]:
        sync = "on" if self.sync else "off"
        return {PATH: self.path, BRANCH: self.branch, BASE: self.base, URL: self.url or NOWHERE, SYNC: sync}


def own(sandbox: Any) -> Own | None:
    """The branch of the notebook a sandbox belongs to, by its labels; None when it has none."""
    told = dict(getattr(sandbox, "labels", None) or {})
    if not all(told.get(name) for name in (PATH, BRANCH, URL)):
        return None
    url = "" if told[URL] == NOWHERE else told[URL]
    return Own(told[PATH], told[BRANCH], told.get(BASE, ""), url, told.get(SYNC) == "on")


async def keep(sandbox: Any, found: Own) -> None:
    """Write it down in the sandbox's labels."""
    await sdk.asked(labels.merge(sandbox, found.labels()), "changing labels")


def name_of(title: str, sandbox_id: str) -> str:
    """In: name_of("My analysis", "smhgrtvnmse5")  Out: 'nb/my-analysis-smhgrt'"""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "notebook"
    return f"nb/{stem}-{re.sub(r'[^a-z0-9]', '', sandbox_id.lower())[:6]}"


async def begin(
    tie: Binding, tell: Reporter, url: str, branch: str | None, login: Login | None, **more: Any
) -> Own:
    """Clone a repository for the notebook, give it its own branch, and let its cells begin there.

    Args:
        branch: to begin at; None for the remote's own.
        more: of :func:`.talking.clone`.
    """
    path = talking.folder_of(url)
    found = await talking.clone(tie, tell, url, path, login, branch=branch, **more)
    return await _settle(tie, tell, found, failures.clean(url), branch)


async def begin_here(tie: Binding, tell: Reporter, there: Home, branch: str) -> Own:
    """As :func:`begin`, with a copy of a repository of this machine, which is pushed nowhere."""
    found = await carrying.copy(tie, tell, there, branch)
    return await _settle(tie, tell, found, "", branch)


async def _settle(tie: Binding, tell: Reporter, found: Repository, url: str, branch: str | None) -> Own:
    """Give a new clone the notebook's branch, write it down, and let the notebook's cells begin there."""
    status = await reading.status(found)
    if status.detached:
        raise GitError(f"{branch} is no branch, and a branch of the notebook's own begins at one")
    mine = name_of(tie.who().title, str(found.sandbox.id))
    if not status.unborn:
        await changing.branch(found, mine)
    else:
        await found.run("symbolic-ref", "HEAD", f"refs/heads/{mine}", doing=f"making branch {mine}")
    if url:
        await _follow(found, mine)
    made = Own(found.path, mine, status.branch, url)
    await keep(found.sandbox, made)
    await enter(tie, tell, found.path)
    return made


async def _follow(found: Repository, branch: str) -> None:
    """Let a branch follow the one of its name, which may not be there yet."""
    for key, value in (("remote", REMOTE), ("merge", f"refs/heads/{branch}")):
        await found.run("config", f"branch.{branch}.{key}", value, doing="following")


async def enter(tie: Binding, tell: Reporter, path: str) -> None:
    """The notebook's Python and bash cells go on in a folder."""
    channel = await tie.ready(tell)
    for language, code in (
        ("python", f"__import__('os').chdir({path!r})"),
        ("bash", f"cd -- {shlex.quote(path)}"),
    ):
        request = ExecRequest(new_id(), tie.context, language, code, name="git", timeout=WITHIN)
        outcome, _ = await collect(tie, channel, request)
        channel.forget_soon(request.id)
        if outcome.error is not None:
            raise outcome.error


async def tidy(found: Repository, tell: Reporter, own: Own, login: Login | None) -> str:
    """Remove a notebook's branch from its remote if other branches over there have all of its commits.

    It is removed only as it was looked at: whoever pushes to it meanwhile keeps it. A branch with commits
    that are on no other one stays, also when the notebook has dropped them since.

    Returns:
        what was done, as a sentence; "" where it was not there.
    """
    there = f"refs/remotes/{REMOTE}/{own.branch}"
    doing = f"looking at {own.branch}"
    if not await found.text("rev-parse", "--verify", "-q", there, doing=doing):
        return ""
    await talking.fetch(found, tell, REMOTE, login, prune=True)
    tip = await found.text("rev-parse", "--verify", "-q", there, doing=doing)
    if not tip:
        return ""
    left_out = (f"--exclude={there}", f"--exclude=refs/remotes/{REMOTE}/HEAD")
    others = ("--not", *left_out, f"--glob=refs/remotes/{REMOTE}")
    alone = await found.text("rev-list", "--count", tip, *others, "--", doing=doing)
    if alone != "0":
        return (
            f"{REMOTE} keeps `{own.branch}`: {alone} of its commits are on no other branch there"
            if alone.isdigit()
            else ""
        )
    name = f"refs/heads/{own.branch}"
    words = ["push", f"--force-with-lease={name}:{tip}", "--", REMOTE, f":{name}"]
    await talking.transfer(found, tell, REMOTE, login, words, doing=f"removing {own.branch} from {REMOTE}")
    return f"`{own.branch}` was removed from {REMOTE}: other branches there have all of its commits"


async def unpushed(found: Repository, branch: str) -> int:
    """Commits of a branch that the remote does not have, as far as is known here."""
    words = ("rev-list", "--count", f"refs/heads/{branch}", "--not", f"--remotes={REMOTE}", "--")
    answer = await found.run(*words, doing="looking for commits to push", codes=(0, 128))
    count = answer.out.strip()
    return int(count) if answer.code == 0 and count.isdigit() and len(count) < 10 else 0
