"""File routes that look through many files or change them: find, search, replace, move, permissions."""

from __future__ import annotations

import re

from aiohttp import web

from daytona_magics.engine.api.context import sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.files import FILES, clean_path
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox import searching_client

routes = web.RouteTableDef()

MAX_FILES = 10_000


def _query(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise ApiError(400, f"{name} is required")
    return value


@routes.get(f"{FILES}/find")
async def find(request: web.Request) -> web.Response:
    """Lines that hold a text, in one file or in all files of a folder."""
    sandbox = sandbox_of(request)
    path, pattern = clean_path(_query(request, "path")), _query(request, "pattern")
    with used(request, sandbox):
        found = await searching_client.find(sandbox.toolbox, path, pattern)
    return web.json_response([{"file": m.file, "line": m.line, "content": m.content} for m in found])


@routes.get(f"{FILES}/search")
async def search(request: web.Request) -> web.Response:
    """Files and folders by a glob on their names."""
    sandbox = sandbox_of(request)
    path, pattern = clean_path(_query(request, "path")), _query(request, "pattern")
    with used(request, sandbox):
        return web.json_response({"files": await searching_client.search(sandbox.toolbox, path, pattern)})


@routes.post(f"{FILES}/replace")
async def replace(request: web.Request) -> web.Response:
    """Replace a text in files, each by itself."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    files, pattern, value = body.get("files"), body.get("pattern"), body.get("newValue")
    if not isinstance(files, list) or not files or len(files) > MAX_FILES:
        raise ApiError(400, f"files is a list of 1 to {MAX_FILES:,} paths")
    if not isinstance(pattern, str) or not pattern or not isinstance(value, str):
        raise ApiError(400, "pattern and newValue are texts, and the pattern is not empty")
    paths = [clean_path(path) for path in files]
    with used(request, sandbox):
        found = await searching_client.replace(sandbox.toolbox, paths, pattern, value)
    return web.json_response(
        [{"file": r.file, "success": not r.error, **({"error": r.error} if r.error else {})} for r in found]
    )


@routes.post(f"{FILES}/move")
async def move(request: web.Request) -> web.Response:
    """Move or rename a file or folder."""
    sandbox = sandbox_of(request)
    source, destination = (clean_path(_query(request, name)) for name in ("source", "destination"))
    with used(request, sandbox):
        await searching_client.move(sandbox.toolbox, source, destination)
    return web.Response(status=200)


@routes.post(f"{FILES}/permissions")
async def permissions(request: web.Request) -> web.Response:
    """Change mode, owner or group."""
    sandbox = sandbox_of(request)
    path, mode = clean_path(_query(request, "path")), request.query.get("mode") or None
    if mode is not None and not re.fullmatch(r"(0o?)?[0-7]{1,4}", mode):
        raise ApiError(400, f"{mode!r} is not an octal mode such as 755")
    number = None if mode is None else int(mode.removeprefix("0o"), 8)
    owner, group = request.query.get("owner") or None, request.query.get("group") or None
    with used(request, sandbox):
        await searching_client.permissions(sandbox.toolbox, path, mode=number, owner=owner, group=group)
    return web.Response(status=200)
