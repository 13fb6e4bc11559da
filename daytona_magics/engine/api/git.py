"""Git routes of the toolbox.

Everything happens in the sandbox, by its own git; here a request is only translated, and its sizes are
checked. A request that has begun is finished even if its client hangs up, as the SDK says of its
``request_timeout``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from daytona_magics.engine.api.context import sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.models import whole
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox import git_client
from daytona_magics.engine.toolbox.git_client import Answer

routes = web.RouteTableDef()

GIT = "/toolbox/{sandbox}/git"
#: Longest text of a field, in characters, where nothing else is said; and most files of one request.
MAX_TEXT, MAX_LONG, MAX_FILES = 4096, 256 << 10, 50_000


class Fields:
    """The fields of a request, taken one by one with the type and size they must have.

    Each method raises ApiError 400.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str, limit: int = MAX_TEXT) -> str | None:
        """A text; None when it is missing or empty."""
        value = self._values.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > limit):
            raise ApiError(400, f"{name} must be a text of at most {limit:,} characters")
        return value or None

    def required(self, name: str, limit: int = MAX_TEXT) -> str:
        """A text that must be there."""
        value = self.text(name, limit)
        if value is None:
            raise ApiError(400, f"{name} is required")
        return value

    def path(self) -> str:
        """The folder of the repository."""
        value = self.required("path")
        if "\0" in value:
            raise ApiError(400, "a path cannot contain a NUL character")
        return value

    def flag(self, name: str) -> bool | None:
        """True, false, or None when it is missing."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise ApiError(400, f"{name} must be true or false")
        return value

    def files(self) -> list[str]:
        """Names of files; an empty list when there are none."""
        value = self._values.get("files")
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ApiError(400, "files must be a list of texts")
        if len(value) > MAX_FILES:
            raise ApiError(413, f"more than {MAX_FILES:,} files in one request; name their folders")
        return value

    def login(self) -> dict[str, Any]:
        """Who to be for this call."""
        return {"username": self.text("username"), "password": self.text("password")}


async def _body(request: web.Request) -> Fields:
    return Fields(await json_body(request))


async def _git(request: web.Request, verb: str, **arguments: Any) -> Answer:
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        return await git_client.git(sandbox.toolbox, verb, **arguments)


@routes.get(f"{GIT}/status")
async def status(request: web.Request) -> web.Response:
    """Branch, upstream, and the files that are not as committed."""
    answer = await _git(request, "status", path=Fields(request.query).path())
    return web.json_response(git_client.status_json(answer))


@routes.get(f"{GIT}/branches")
async def list_branches(request: web.Request) -> web.Response:
    """Local branches."""
    answer = await _git(request, "branches", path=Fields(request.query).path())
    return web.json_response(git_client.branches_json(answer))


@routes.get(f"{GIT}/history")
async def history(request: web.Request) -> web.Response:
    """Commits that lead to HEAD, the newest first."""
    answer = await _git(request, "history", path=Fields(request.query).path())
    return web.json_response(git_client.history_json(answer))


@routes.get(f"{GIT}/remotes")
async def list_remotes(request: web.Request) -> web.Response:
    """Configured remotes, without passwords."""
    answer = await _git(request, "remotes", path=Fields(request.query).path())
    return web.json_response(git_client.remotes_json(answer))


@routes.post(f"{GIT}/clone")
async def clone(request: web.Request) -> web.Response:
    """Clone one branch, or one commit."""
    body = await json_body(request)
    fields = Fields(body)
    await _git(
        request,
        "clone",
        path=fields.path(),
        url=fields.required("url", 2 * MAX_TEXT),
        branch=fields.text("branch"),
        commit=fields.text("commit_id"),
        depth=whole(body["depth"], "depth", 0) if body.get("depth") is not None else None,
        insecure=fields.flag("insecure_skip_tls"),
        **fields.login(),
    )
    return web.Response()


@routes.post(f"{GIT}/init")
async def init(request: web.Request) -> web.Response:
    """Make a repository."""
    fields = await _body(request)
    bare, branch = fields.flag("bare"), fields.text("initial_branch")
    await _git(request, "init", path=fields.path(), bare=bare, initial_branch=branch)
    return web.Response(status=201)


@routes.post(f"{GIT}/add")
async def add(request: web.Request) -> web.Response:
    """Stage files."""
    fields = await _body(request)
    await _git(request, "add", path=fields.path(), files=fields.files())
    return web.Response()


@routes.post(f"{GIT}/commit")
async def commit(request: web.Request) -> web.Response:
    """Commit what is staged."""
    fields = await _body(request)
    answer = await _git(
        request,
        "commit",
        path=fields.path(),
        message=fields.required("message", MAX_LONG),
        author=fields.required("author"),
        email=fields.required("email"),
        allow_empty=fields.flag("allow_empty"),
    )
    return web.json_response(git_client.hash_json(answer))


@routes.post(f"{GIT}/checkout")
async def checkout(request: web.Request) -> web.Response:
    """Switch to a branch or commit."""
    fields = await _body(request)
    await _git(request, "checkout", path=fields.path(), branch=fields.required("branch"))
    return web.Response()


@routes.post(f"{GIT}/branches")
async def create_branch(request: web.Request) -> web.Response:
    """Make a branch and switch to it."""
    fields = await _body(request)
    await _git(request, "create_branch", path=fields.path(), name=fields.required("name"))
    return web.Response(status=201)


@routes.delete(f"{GIT}/branches")
async def delete_branch(request: web.Request) -> web.Response:
    """Delete a branch."""
    fields = await _body(request)
    await _git(request, "delete_branch", path=fields.path(), name=fields.required("name"))
    return web.Response(status=204)


@routes.post(f"{GIT}/push")
async def push(request: web.Request) -> web.Response:
    """Push a branch."""
    fields = await _body(request)
    await _git(
        request,
        "push",
        path=fields.path(),
        branch=fields.text("branch"),
        remote=fields.text("remote"),
        set_upstream=fields.flag("set_upstream"),
        **fields.login(),
    )
    return web.Response()


@routes.post(f"{GIT}/pull")
async def pull(request: web.Request) -> web.Response:
    """Bring the current branch to what the remote has."""
    fields = await _body(request)
    branch, remote = fields.text("branch"), fields.text("remote")
    await _git(request, "pull", path=fields.path(), branch=branch, remote=remote, **fields.login())
    return web.Response()


@routes.post(f"{GIT}/remotes")
async def add_remote(request: web.Request) -> web.Response:
    """Add a remote, or with ``overwrite`` replace it."""
    fields = await _body(request)
    await _git(
        request,
        "add_remote",
        path=fields.path(),
        name=fields.required("name"),
        url=fields.required("url", 2 * MAX_TEXT),
        fetch=fields.flag("fetch"),
        overwrite=fields.flag("overwrite"),
    )
    return web.Response(status=201)


@routes.post(f"{GIT}/reset")
async def reset(request: web.Request) -> web.Response:
    """Reset HEAD, or the given files in the index."""
    fields = await _body(request)
    mode, target = fields.text("mode"), fields.text("target")
    await _git(request, "reset", path=fields.path(), mode=mode, target=target, files=fields.files())
    return web.Response()


@routes.post(f"{GIT}/restore")
async def restore(request: web.Request) -> web.Response:
    """Restore files of the working tree, the index, or both."""
    fields = await _body(request)
    await _git(
        request,
        "restore",
        path=fields.path(),
        files=fields.files(),
        staged=fields.flag("staged"),
        worktree=fields.flag("worktree"),
        source=fields.text("source"),
    )
    return web.Response()


@routes.get(f"{GIT}/config")
async def get_config(request: web.Request) -> web.Response:
    """One value of the configuration; null when it is not set."""
    fields = Fields(request.query)
    scope, path = fields.text("scope"), _optional_path(fields)
    answer = await _git(request, "get_config", key=fields.required("key"), scope=scope, path=path)
    return web.json_response(git_client.value_json(answer))


@routes.post(f"{GIT}/config")
async def set_config(request: web.Request) -> web.Response:
    """Set one value of the configuration."""
    fields = await _body(request)
    key, value = fields.required("key"), fields.text("value", MAX_LONG) or ""
    return await _configure(request, fields, {key: value})


@routes.post(f"{GIT}/config/user")
async def configure_user(request: web.Request) -> web.Response:
    """Set user.name and user.email."""
    fields = await _body(request)
    values = {"user.name": fields.required("name"), "user.email": fields.required("email")}
    return await _configure(request, fields, values)


async def _configure(request: web.Request, fields: Fields, values: dict[str, str]) -> web.Response:
    scope, path = fields.text("scope"), _optional_path(fields)
    await _git(request, "set_config", values=values, scope=scope, path=path)
    return web.Response()


@routes.post(f"{GIT}/credentials")
async def credentials(request: web.Request) -> web.Response:
    """Keep a login in the sandbox, for later commands."""
    fields = await _body(request)
    await _git(
        request,
        "credentials",
        username=fields.required("username"),
        password=fields.required("password"),
        host=fields.text("host"),
        protocol=fields.text("protocol"),
    )
    return web.Response()


def _optional_path(fields: Fields) -> str | None:
    return fields.path() if fields.text("path") else None
