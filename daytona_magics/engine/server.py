"""Assembling the HTTP application: the guard in front, the routes behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from yarl import URL

from daytona_magics.engine.api import (
    events,
    files,
    git,
    interpreter,
    network,
    platform,
    ports,
    previews,
    process,
    pty,
    refusals,
    sandboxes,
    searching,
    sessions,
    signing,
    spares,
    telemetry,
    transitions,
)
from daytona_magics.engine.api.context import CONTEXT, Context
from daytona_magics.engine.api.guard import Guard, guard_middleware, name_request, unanswered
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

# The environment of a terminal travels in a header: more than aiohttp's default of 8 KiB.
MAX_HEADER = 64 << 10

_FAMILIES = (
    platform,
    spares,
    sandboxes,
    transitions,
    telemetry,
    network,
    signing,
    previews,
    process,
    sessions,
    interpreter,
    ports,
    files,
    searching,
    git,
    pty,
    # After all that is served, so that it takes nothing from them.
    refusals,
)


def build_app(
    ctx: Context, guard: Guard, admit: Callable[[web.BaseRequest], None] = lambda request: None
) -> tuple[web.Application, events.Events]:
    """The application and its event server.

    Args:
        ctx: what the handlers share.
        guard: the access rule.
        admit: called with each request that has passed it.
    """

    def passed(request: web.BaseRequest) -> None:
        ctx.activity.request()
        admit(request)

    # Bodies that are read whole are JSON; files are streamed and have no limit here.
    app = web.Application(middlewares=[guard_middleware(guard, passed)], client_max_size=16 << 20)
    app[CONTEXT] = ctx
    app.on_response_prepare.append(name_request)
    guard.is_signed = lambda request: signing.is_signed(ctx.sandboxes, request)
    for module in _FAMILIES:
        for route in module.routes:
            assert isinstance(route, web.RouteDef)
            quiet = {**route.kwargs, "expect_handler": unanswered}
            app.add_routes([web.RouteDef(route.method, route.path, route.handler, quiet)])
    pushed = events.Events(guard, ctx.activity, admit)
    pushed.attach(app)
    # Last, so that it gets only what no route above takes.
    for prefix in ("/api", "/toolbox"):
        app.router.add_route("*", prefix + "/{rest:.*}", _not_offered, expect_handler=unanswered)
    app.router.register_resource(_Anything())

    async def tell(event: str, record: SandboxRecord, old: str) -> None:
        shown = sandboxes.as_json(ctx, record)
        if event == "sandbox.created":
            await pushed.emit(event, shown)
        else:
            await pushed.emit(event, {"sandbox": shown, "oldState": old, "newState": record.state})

    ctx.sandboxes.on_event = tell
    return app, pushed


class _Anything(web.AbstractResource):
    """Takes every target that no other route takes, ``OPTIONS *`` too.

    aiohttp's own route for those would answer an ``Expect`` header to anybody.
    """

    def __init__(self) -> None:
        super().__init__()
        self._route = web.ResourceRoute("*", _not_found, self, expect_handler=unanswered)

    @property
    def canonical(self) -> str:
        return "/"

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        return web.UrlMappingMatchInfo({}, self._route), set()

    def url_for(self, **kwargs: str) -> URL:
        return URL("/")

    def add_prefix(self, prefix: str) -> None:
        raise RuntimeError("the application is not mounted in another one")

    def get_info(self) -> Any:
        return {"path": "*"}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter((self._route,))


async def _not_found(request: web.Request) -> web.Response:
    raise ApiError(404, f"the embedded engine has nothing at {request.path}")


async def _not_offered(request: web.Request) -> web.Response:
    raise ApiError(
        501,
        f"the embedded engine of this version does not offer {request.method} {request.path}; the cloud may",
    )
