"""Assembling the HTTP application: the guard in front, the routes behind it."""

from __future__ import annotations

from aiohttp import web

from daytona_magics.engine.api import events, files, platform, process, pty, sandboxes
from daytona_magics.engine.api.context import CONTEXT, Context
from daytona_magics.engine.api.guard import Guard, guard_middleware
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

# The environment of a terminal travels in a header: more than aiohttp's default of 8 KiB.
MAX_HEADER = 64 << 10


def build_app(ctx: Context, guard: Guard) -> tuple[web.Application, events.Events]:
    """The application and its event server.

    Args:
        ctx: what the handlers share.
        guard: the access rule.
    """
    # Bodies that are read whole are JSON; files are streamed and have no limit here.
    app = web.Application(
        middlewares=[guard_middleware(guard, ctx.activity.request)], client_max_size=16 << 20
    )
    app[CONTEXT] = ctx
    for module in (platform, sandboxes, process, files, pty):
        app.add_routes(module.routes)
    pushed = events.Events(guard, ctx.activity)
    pushed.attach(app)
    # Last, so that it gets only what no route above takes.
    for prefix in ("/api", "/toolbox"):
        app.router.add_route("*", prefix + "/{rest:.*}", _not_offered)

    async def tell(event: str, record: SandboxRecord, old: str) -> None:
        shown = sandboxes.as_json(ctx, record)
        if event == "sandbox.created":
            await pushed.emit(event, shown)
        else:
            await pushed.emit(event, {"sandbox": shown, "oldState": old, "newState": record.state})

    ctx.sandboxes.on_event = tell
    return app, pushed


async def _not_offered(request: web.Request) -> web.Response:
    raise ApiError(
        501,
        f"the embedded engine of this version does not offer {request.method} {request.path}; the cloud may",
    )
