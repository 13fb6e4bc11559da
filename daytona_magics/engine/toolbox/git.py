"""Git inside a sandbox: part of the toolbox program.

Each operation finds its repository, runs the sandbox's own git some times (`git_run`), and answers with what
it found or with the platform's error. ``git_read`` looks, ``git_local`` changes, ``git_remote`` transfers,
``git_config`` sets up; ``git_names`` says what a caller may name and ``git_errors`` what went wrong.

A repository is the folder that is named and none above it, as on the platform.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import git_config, git_local, git_read, git_remote
from .agent import Refused
from .git_read import Parts
from .git_run import Git
from .wire import Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside

Work = Callable[[Git, dict[str, Any], Parts], Awaitable[dict[str, Any]]]

_IN_REPOSITORY: dict[str, Work] = {
    "status": git_read.status,
    "branches": git_read.branches,
    "history": git_read.history,
    "remotes": git_read.remotes,
    "add": git_local.add,
    "commit": git_local.commit,
    "checkout": git_local.checkout,
    "create_branch": git_local.create_branch,
    "delete_branch": git_local.delete_branch,
    "reset": git_local.reset,
    "restore": git_local.restore,
    "push": git_remote.push,
    "pull": git_remote.pull,
    "add_remote": git_remote.add_remote,
}


def repository(inside: "Inside", request: dict[str, Any]) -> Git:
    """git in the repository of a request. Raises Refused 404 when the folder is none."""
    folder = inside.path(request)
    git_dir = git_dir_of(folder)
    if git_dir is None:
        there = "is not a git repository" if os.path.lexists(folder) else "does not exist"
        raise Refused(404, "GIT_REPO_NOT_FOUND", f"{folder} {there}")
    return Git(inside, folder, git_dir)


def git_dir_of(folder: str) -> str | None:
    """Where the repository of `folder` is kept: its ``.git``, or itself if it is a bare one; else None."""
    inner = os.path.join(folder, ".git")
    if os.path.exists(inner):
        return inner
    parts = ("HEAD", "objects", "refs")
    return folder if all(os.path.exists(os.path.join(folder, part)) for part in parts) else None


def _in_repository(work: Work) -> "Handler":
    async def handle(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
        git = repository(inside, request)
        await _attended(connection, work, git, request)

    return handle


async def _init(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    folder = inside.path(request)
    if git_dir_of(folder) is not None:
        raise Refused(409, "CONFLICT", f"{folder} is a git repository already")
    await _attended(connection, git_local.init, Git(inside, folder), request)


async def _clone(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    request["target"] = inside.path(request)
    if str(request["url"]).startswith("/"):
        request["url"] = inside.path(request, "url")
    await _attended(connection, git_remote.clone, Git(inside, inside.home), request)


def _configuring(work: Work) -> "Handler":
    async def handle(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
        local = git_config.scope_of(request) == "local"
        git = repository(inside, request) if local else Git(inside, inside.home)
        await _attended(connection, work, git, request)

    return handle


async def _attended(connection: Wire, work: Work, git: Git, request: dict[str, Any]) -> None:
    """Do `work` and answer; when the engine hangs up meanwhile, git is ended."""
    parts = Parts(connection, git.folder)
    task = asyncio.ensure_future(_answer(work, git, request, parts))
    hang_up = asyncio.ensure_future(connection.receive())
    try:
        await asyncio.wait({task, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        hang_up.cancel()
        task.cancel()
        await asyncio.gather(hang_up, task, return_exceptions=True)


async def _answer(work: Work, git: Git, request: dict[str, Any], parts: Parts) -> None:
    await parts.end(await work(git, request, parts))


HANDLERS: "dict[str, Handler]" = {
    "git.init": _init,
    "git.clone": _clone,
    "git.set_config": _configuring(git_config.set_config),
    "git.get_config": _configuring(git_config.get_config),
    "git.credentials": _configuring(git_config.credentials),
    **{f"git.{name}": _in_repository(work) for name, work in _IN_REPOSITORY.items()},
}
