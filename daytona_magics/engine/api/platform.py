"""Routes about the engine itself: health, configuration, regions, ending it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from aiohttp import web

from daytona_magics.engine.address import API_VERSION
from daytona_magics.engine.api.context import Context, context
from daytona_magics.engine.api.models import DEFAULT_SNAPSHOT, MAX_AUTO_ARCHIVE, ORGANIZATION, REGION
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.launch import venv
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.proxy.settings import HostNetwork
from daytona_magics.engine.proxy.targets import Target

routes = web.RouteTableDef()


def _is_idle(ctx: Context) -> bool:
    return ctx.sandboxes.awake == 0 and ctx.activity.sockets == 0


@routes.get("/api/health")
async def health(request: web.Request) -> web.Response:
    """The engine lives: the platform's answer plus what ``address`` verifies."""
    ctx = context(request)
    return web.json_response(
        {
            "status": "ok",
            "info": {"database": {"status": "up"}},
            "error": {},
            "details": {"database": {"status": "up"}},
            "engine": "daytona-magics",
            "pid": os.getpid(),
            "version": ctx.version,
            "api": API_VERSION,
            "isolation": ctx.sandboxes.isolation,
            "idle": _is_idle(ctx),
        }
    )


@routes.get("/api/config")
async def config(request: web.Request) -> web.Response:
    """The platform's configuration; everything about accounts is empty, for there are none."""
    ctx = context(request)
    return web.json_response(
        {
            "version": ctx.version,
            "oidc": {"issuer": "", "clientId": "", "audience": "", "provider": ""},
            "linkedAccountsEnabled": False,
            "announcements": {},
            "proxyTemplateUrl": "",
            "proxyToolboxUrl": ctx.toolbox_url,
            "defaultSnapshot": DEFAULT_SNAPSHOT,
            "dashboardUrl": "",
            "maxAutoArchiveInterval": MAX_AUTO_ARCHIVE,
            "maintananceMode": False,
            "environment": "embedded",
        }
    )


@routes.get("/api/regions")
@routes.get("/api/shared-regions")
async def regions(request: web.Request) -> web.Response:
    """The one region: this machine."""
    since = "1970-01-01T00:00:00.000Z"
    region: dict[str, Any] = {
        "id": REGION,
        "name": REGION,
        "organizationId": ORGANIZATION,
        "regionType": "shared",
        "createdAt": since,
        "updatedAt": since,
        "proxyUrl": context(request).base_url,
    }
    return web.json_response([region])


_BARE = (
    "new sandboxes have a bare Python: the engine was started with DAYTONA_MAGICS_HOST_PACKAGES=0, which "
    "hides the packages installed beside it"
)


def _isolation(launcher: Launcher) -> dict[str, Any]:
    """What the launcher found out about this machine, as of now: a zygote that died was started anew."""
    return {
        "launcher": launcher.launcher,
        "landlock_abi": launcher.landlock_abi,
        "why_not_higher": launcher.reason,
        "attempts": [asdict(attempt) for attempt in launcher.attempts],
        "open": list(launcher.open),
        "notes": [*launcher.notes, *([] if venv.host_packages() else [_BARE])],
        "asked_for": os.environ.get("DAYTONA_MAGICS_ISOLATION", ""),
    }


def _network(host: HostNetwork) -> dict[str, Any]:
    """The way out of sandboxes, and what of this machine's own settings they get; no passwords or paths."""
    proxies = [proxy for proxy in (host.upstream.https, host.upstream.http) if proxy is not None]
    direct = [Target(*place) for place in sorted(host.indexes.direct)]
    indexes = [*(origin.target() for origin in host.indexes.relayed), *direct]
    return {
        "way_out": "HTTP and HTTPS by the engine's proxy, to public addresses or to what a sandbox's own "
        "lists name; no UDP, ICMP or raw TCP",
        "host_proxy": ", ".join(dict.fromkeys(f"{p.host}:{p.port}" for p in proxies if not p.problem)),
        "host_proxy_problem": next((p.problem for p in proxies if p.problem), ""),
        "no_proxy": list(host.upstream.no_proxy),
        "indexes": list(dict.fromkeys(str(index) for index in indexes)),
        "variables": sorted(host.variables),
    }


def _system(ctx: Context) -> dict[str, Any]:
    """Whether sandboxes can write to their system, and why not."""
    reason = ctx.sandboxes.system.reason
    return {"writable": not reason, "reason": reason}


@routes.get("/api/engine/status")
async def status(request: web.Request) -> web.Response:
    """What ``status`` and ``doctor`` print; no secrets."""
    ctx = context(request)
    block = ctx.sandboxes.uid_block
    return web.json_response(
        {
            **ctx.facts,
            **_isolation(ctx.sandboxes.launcher),
            "pid": os.getpid(),
            "version": ctx.version,
            "api_version": API_VERSION,
            "url": f"{ctx.base_url}/api",
            "isolation": ctx.sandboxes.isolation,
            "unavailable": ctx.sandboxes.unavailable,
            "state_folder": str(ctx.folder.path),
            "state_folder_message": ctx.folder.message,
            "limits": ctx.sandboxes.limiter.describe_limits(ctx.sandboxes.isolation),
            "network": _network(ctx.sandboxes.egress.host),
            "system": _system(ctx),
            "uid_block": [block.start, block.count] if block else None,
            "sandboxes": [
                {"id": s.record.id, "name": s.record.name, "state": s.record.state} for s in ctx.sandboxes
            ],
            "sockets": ctx.activity.sockets,
            "idle_seconds": ctx.activity.idle_seconds,
        }
    )


@routes.post("/api/engine/stop")
async def stop(request: web.Request) -> web.Response:
    """End the engine; sandboxes are stopped, files are kept.  ``?if=idle``: only when nobody uses it."""
    ctx = context(request)
    if request.query.get("if") == "idle" and not _is_idle(ctx):
        raise ApiError(
            409, f"the engine is in use: {ctx.sandboxes.awake} started, {ctx.activity.sockets} connections"
        )
    ctx.activity.stop.set()
    return web.json_response({"stopping": True, "pid": os.getpid()})
