"""The control plane's routes for sandboxes: ``/api/sandbox…``."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from daytona_magics.engine.api import spares
from daytona_magics.engine.api.context import Context, context, sandbox_of
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.listing import page
from daytona_magics.engine.api.models import (
    SIZES,
    SNAPSHOTS,
    archive_interval,
    check_intervals,
    list_item_json,
    parse_create,
    parse_labels,
    sandbox_json,
    whole,
)
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.sandbox import ISOLATION_LABEL, Sandbox
from daytona_magics.engine.store.records import SandboxRecord

routes = web.RouteTableDef()


def as_json(ctx: Context, record: SandboxRecord) -> dict[str, Any]:
    """A sandbox as the API answers it."""
    return sandbox_json(record, ctx.toolbox_url, ctx.version)


def answer(request: web.Request, sandbox: Sandbox) -> web.Response:
    """A sandbox as the answer to a request."""
    return web.json_response(as_json(context(request), sandbox.record))


@routes.post("/api/sandbox")
async def create(request: web.Request) -> web.Response:
    """Create and start a sandbox; the answer's state is ``started``."""
    body = await json_body(request)
    template = parse_create(body)
    sandboxes = context(request).sandboxes
    if linked := template.options.get("linkedSandbox"):
        origin = sandboxes.get(linked).record
        if origin.options.get("linkedSandbox"):
            raise ApiError(400, f"Sandbox {origin.name} is itself linked to another sandbox")
        template.options["linkedSandbox"] = origin.id
    named = SNAPSHOTS.get(body.get("snapshot") or "")
    try:
        sandboxes.limiter.give(template, named)
    except ApiError as error:
        # What is kept ready is in nobody's way.
        if error.status != 503 or not await sandboxes.spares.let_go():
            raise
        sandboxes.limiter.give(template, named)
    return answer(request, await sandboxes.create(template, request.headers.get(spares.HEADER, "")))


@routes.get("/api/sandbox")
async def list_sandboxes(request: web.Request) -> web.Response:
    """One page of sandboxes."""
    ctx = context(request)
    records, cursor = page([s.record for s in ctx.sandboxes], request.query)
    items = [list_item_json(record, ctx.toolbox_url, ctx.version) for record in records]
    return web.json_response({"items": items, "nextCursor": cursor})


@routes.get("/api/sandbox/{sandbox}")
async def get(request: web.Request) -> web.Response:
    """One sandbox by id or name."""
    return answer(request, sandbox_of(request))


@routes.delete("/api/sandbox/{sandbox}")
async def delete(request: web.Request) -> web.Response:
    """Delete a sandbox; the answer's state is ``destroyed``."""
    sandbox = sandbox_of(request)
    await context(request).sandboxes.delete(sandbox)
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/resize")
async def resize(request: web.Request) -> web.Response:
    """Change CPUs, memory and disk; of a started sandbox CPUs and memory, and these can only grow."""
    sandbox = sandbox_of(request)
    body = await json_body(request)
    asked = {name: whole(body[name], name, 1) for name in SIZES if body.get(name) is not None}
    sandboxes = context(request).sandboxes

    def change(record: SandboxRecord) -> None:
        if record.state not in ("started", "stopped"):
            raise ApiError(400, f"Sandbox must be started or stopped to resize it (state: {record.state})")
        sandboxes.limiter.resize(record, asked)

    await sandboxes.change(sandbox, change)
    sandboxes.limiter.resized(sandbox.record)
    return answer(request, sandbox)


@routes.put("/api/sandbox/{sandbox}/labels")
async def replace_labels(request: web.Request) -> web.Response:
    """Replace all labels; only the one that tells the isolation level cannot be taken off."""
    labels = parse_labels((await json_body(request)).get("labels"))

    def change(record: SandboxRecord) -> None:
        record.labels = {**labels, ISOLATION_LABEL: record.labels[ISOLATION_LABEL]}

    sandbox = sandbox_of(request)
    await context(request).sandboxes.change(sandbox, change)
    return web.json_response({"labels": sandbox.record.labels})


@routes.post("/api/sandbox/{sandbox}/autostop/{interval}")
async def set_autostop(request: web.Request) -> web.Response:
    """Minutes without activity before a started sandbox is stopped; 0: never."""
    return await _set_interval(
        request, "auto_stop_interval", whole(request.match_info["interval"], "interval", 0)
    )


@routes.post("/api/sandbox/{sandbox}/autopause/{interval}")
async def set_autopause(request: web.Request) -> web.Response:
    """Minutes without activity before a started sandbox is paused; 0: never. Not beside an auto-stop."""
    return await _set_interval(
        request, "auto_pause_interval", whole(request.match_info["interval"], "interval", 0)
    )


@routes.post("/api/sandbox/{sandbox}/autoarchive/{interval}")
async def set_autoarchive(request: web.Request) -> web.Response:
    """Minutes a stopped sandbox stays before it is archived; 0: the maximum, 30 days."""
    minutes = archive_interval(whole(request.match_info["interval"], "interval", 0))
    return await _set_interval(request, "auto_archive_interval", minutes)


@routes.post("/api/sandbox/{sandbox}/autodelete/{interval}")
async def set_autodelete(request: web.Request) -> web.Response:
    """Minutes a stopped sandbox stays before it is deleted; 0: at once, negative: never."""
    return await _set_interval(
        request, "auto_delete_interval", whole(request.match_info["interval"], "interval")
    )


@routes.post("/api/sandbox/{sandbox}/ttl/{minutes}")
async def set_ttl(request: web.Request) -> web.Response:
    """Minutes from now until the sandbox is deleted whatever its state; 0: never."""
    minutes = whole(request.match_info["minutes"], "ttlMinutes", 0)
    return await _set_interval(request, "destroy_at", time.time() + minutes * 60 if minutes else None)


@routes.post("/api/sandbox/{sandbox}/public/{flag}")
async def set_public(request: web.Request) -> web.Response:
    """Whether previews need no credentials."""
    flag = request.match_info["flag"].lower()
    if flag not in ("true", "false"):
        raise ApiError(400, "public is true or false")
    return await _set_interval(request, "public", flag == "true")


async def _set_interval(request: web.Request, name: str, value: object) -> web.Response:
    sandbox = sandbox_of(request)

    def change(record: SandboxRecord) -> None:
        setattr(record, name, value)
        check_intervals(record)

    await context(request).sandboxes.change(sandbox, change)
    sandbox.touch()
    return answer(request, sandbox)


@routes.post("/api/sandbox/{sandbox}/last-activity")
async def last_activity(request: web.Request) -> web.Response:
    """The sandbox is in use: its auto-stop starts over."""
    sandbox = sandbox_of(request)
    await json_body(request)  # What is no JSON is refused, as everywhere.
    sandbox.touch()

    def change(record: SandboxRecord) -> None:
        record.last_activity_at = time.time()

    await context(request).sandboxes.change(sandbox, change)
    return web.Response(status=201)


@routes.get("/api/sandbox/{sandbox}/toolbox-proxy-url")
async def toolbox_proxy_url(request: web.Request) -> web.Response:
    """Where the toolbox routes of the sandbox are."""
    sandbox_of(request)
    return web.json_response({"url": context(request).toolbox_url})
