"""Routes that change the state of a sandbox, and that tell which was forked from which."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from daytona_magics.engine.api.context import context, sandbox_of
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.models import check_name
from daytona_magics.engine.api.sandboxes import answer, as_json
from daytona_magics.engine.errors import ApiError

routes = web.RouteTableDef()


@routes.post("/api/sandbox/{sandbox}/start")
async def start(request: web.Request) -> web.Response:
    """Start a stopped sandbox (files are there, processes are not), or let a paused one go on where it was.

    Files of an archived one are brought back first; when there are many, the answer's state is ``restoring``.
    """
    sandbox = sandbox_of(request)
    await context(request).sandboxes.start(sandbox)
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/stop")
async def stop(request: web.Request) -> web.Response:
    """Stop a sandbox; files are kept. ``?force=true``: programs get no time to end by themselves."""
    sandbox = sandbox_of(request)
    await context(request).sandboxes.stop(sandbox, force=_flag(request, "force"))
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/pause")
async def pause(request: web.Request) -> web.Response:
    """Stop all processes of a sandbox where they stand; their memory is kept as long as the engine runs."""
    sandbox = sandbox_of(request)
    await context(request).sandboxes.pause(sandbox)
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/archive")
async def archive(request: web.Request) -> web.Response:
    """Pack a stopped sandbox's files; when there are many, the answer's state is ``archiving``."""
    sandbox = sandbox_of(request)
    await context(request).sandboxes.archive(sandbox)
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/recover")
async def recover(request: web.Request) -> web.Response:
    """Try again what failed. ``?skipStart=true``: the sandbox is stopped afterwards, not started."""
    sandbox = sandbox_of(request)
    await context(request).sandboxes.recover(sandbox, start=not _flag(request, "skipStart"))
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/backup")
async def backup(request: web.Request) -> web.Response:
    """Acknowledged, and nothing is done, as on the platform."""
    return answer(request, sandbox_of(request))


@routes.post("/api/sandbox/{sandbox}/fork")
async def fork(request: web.Request) -> web.Response:
    """Start another sandbox with a copy of the files; its processes begin anew."""
    sandbox, body = sandbox_of(request), await json_body(request)
    if body.get("includeMemory"):
        raise ApiError(501, "the embedded engine forks files, not memory; the Daytona cloud can do both")
    made = await context(request).sandboxes.fork(sandbox, check_name(body.get("name")))
    return answer(request, made)


@routes.get("/api/sandbox/{sandbox}/forks")
async def forks(request: web.Request) -> web.Response:
    """The forks of a sandbox that exist, oldest first."""
    ctx = context(request)
    found = ctx.sandboxes.forks(sandbox_of(request))
    return web.json_response([as_json(ctx, fork.record) for fork in found])


@routes.get("/api/sandbox/{sandbox}/parent")
async def parent(request: web.Request) -> web.Response:
    """What a sandbox was forked from."""
    sandbox = sandbox_of(request)
    found = context(request).sandboxes.ancestors(sandbox)
    if not found:
        raise ApiError(404, f"Sandbox {sandbox.record.name} was not forked from another one")
    return answer(request, found[0])


@routes.get("/api/sandbox/{sandbox}/ancestors")
async def ancestors(request: web.Request) -> web.Response:
    """The parent of a fork, its parent, and so on to the origin."""
    ctx = context(request)
    found: list[dict[str, Any]] = [
        as_json(ctx, other.record) for other in ctx.sandboxes.ancestors(sandbox_of(request))
    ]
    return web.json_response(found)


@routes.get("/api/sandbox/{sandbox}/build-logs")
@routes.get("/api/sandbox/{sandbox}/build-logs-url")
async def build_logs(request: web.Request) -> web.Response:
    """Sandboxes of snapshots are not built."""
    raise ApiError(404, f"Sandbox {sandbox_of(request).record.name} has no build info")


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise ApiError(400, f"{name} is true or false")
    return value == "true"
