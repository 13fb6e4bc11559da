"""What sandboxes use and say about themselves: figures now and before, logs and traces, the environment.

The engine collects no OpenTelemetry logs and traces of programs, so there are none to list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from daytona_magics.engine.api.context import context, sandbox_of, used
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.listing import parse_time
from daytona_magics.engine.api.models import rfc3339, whole
from daytona_magics.engine.api.process import SANDBOX
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.metrics import Sample
from daytona_magics.engine.toolbox.answers import check_env, protocol_errors

routes = web.RouteTableDef()

_SERIES: dict[str, Callable[[Sample], float]] = {
    "daytona.sandbox.cpu.utilization": lambda s: s.cpu_percent,
    "daytona.sandbox.cpu.limit": lambda s: s.cpu_count,
    "daytona.sandbox.memory.usage": lambda s: s.memory_used,
    "daytona.sandbox.memory.limit": lambda s: s.memory_total,
    "daytona.sandbox.memory.cache": lambda s: s.memory_cache,
    "daytona.sandbox.memory.utilization": lambda s: round(s.memory_used / s.memory_total * 100, 2),
    "daytona.sandbox.filesystem.usage": lambda s: s.disk_used,
    "daytona.sandbox.filesystem.total": lambda s: s.disk_total,
    "daytona.sandbox.filesystem.available": lambda s: max(0, s.disk_total - s.disk_used),
    "daytona.sandbox.filesystem.utilization": lambda s: round(s.disk_used / s.disk_total * 100, 2),
}


@routes.get(f"{SANDBOX}/system/metrics")
async def system_metrics(request: web.Request) -> web.Response:
    """What a started sandbox uses now."""
    sandbox, figures = sandbox_of(request), context(request).sandboxes.metrics
    with used(request, sandbox):
        sample = await figures.now(sandbox)
    figures.keep(sandbox, sample)
    return web.json_response(
        {
            "cpuCount": sample.cpu_count,
            "cpuUsedPct": sample.cpu_percent,
            "diskTotal": sample.disk_total,
            "diskUsed": sample.disk_used,
            "diskFree": max(0, sample.disk_total - sample.disk_used),
            "memTotal": sample.memory_total,
            "memUsed": sample.memory_used,
            "memCache": sample.memory_cache,
            "timestamp": rfc3339(sample.time),
            "timestampUnix": int(sample.time),
        }
    )


@routes.get("/api/sandbox/{sandbox}/telemetry/metrics")
async def metrics(request: web.Request) -> web.Response:
    """The figures of a time, one series for each that is named in ``metricNames`` (all when none is)."""
    sandbox = sandbox_of(request)
    since, until = _span(request)
    names = [name for text in request.query.getall("metricNames", []) for name in text.split(",") if name]
    found = context(request).sandboxes.metrics.history(sandbox, since, until)
    series = [
        {
            "metricName": name,
            "dataPoints": [{"timestamp": rfc3339(s.time), "value": figure(s)} for s in found],
        }
        for name, figure in _SERIES.items()
        if not names or name in names
    ]
    return web.json_response({"series": series})


@routes.get("/api/sandbox/{sandbox}/telemetry/logs")
@routes.get("/api/sandbox/{sandbox}/telemetry/traces")
async def nothing_collected(request: web.Request) -> web.Response:
    """A page of none."""
    sandbox_of(request)
    _span(request)
    page = whole(request.query.get("page", "1"), "page", 1)
    whole(request.query.get("limit", "100"), "limit", 1)
    return web.json_response({"items": [], "total": 0, "page": page, "totalPages": 0})


@routes.get("/api/sandbox/{sandbox}/telemetry/traces/{trace}")
async def trace(request: web.Request) -> web.Response:
    """The spans of a trace: none."""
    sandbox_of(request)
    return web.json_response([])


@routes.post(f"{SANDBOX}/env")
async def update_environment(request: web.Request) -> web.Response:
    """Variables for what is started from now on; ``unset`` names those that go first."""
    sandbox, body = sandbox_of(request), await json_body(request)
    new, unset = body.get("set") or {}, body.get("unset") or []
    prefix = body.get("unsetValuePrefix") or ""
    if not isinstance(new, dict) or not all(isinstance(value, str) for value in new.values()):
        raise ApiError(400, "set must be an object whose values are texts")
    if not isinstance(unset, list) or not all(isinstance(name, str) for name in unset):
        raise ApiError(400, "unset must be a list of names")
    if not isinstance(prefix, str):
        raise ApiError(400, "unsetValuePrefix must be a text")
    arguments: dict[str, Any] = {"set": check_env(new), "unset": unset, "unset_prefix": prefix}
    with used(request, sandbox):
        with await sandbox.toolbox.begin("environment", **arguments) as operation, protocol_errors():
            await operation.answer()
    return web.json_response({"message": "Environment updated"})


def _span(request: web.Request) -> tuple[float, float]:
    """Seconds since 1970 of the query's ``from`` and ``to``, both required."""
    for name in ("from", "to"):
        if name not in request.query:
            raise ApiError(400, f"{name} must be given")
    return parse_time(request.query["from"]), parse_time(request.query["to"])
