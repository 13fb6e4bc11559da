"""The network settings of a sandbox: what a request may say, and the route that changes them live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from daytona_magics.engine.api.context import context, sandbox_of
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.api.models import sandbox_json
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

routes = web.RouteTableDef()

_BLOCK, _CIDRS, _DOMAINS = "networkBlockAll", "networkAllowList", "domainAllowList"


def changed(options: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """A sandbox's options after a change of its network settings, by the platform's rules.

    Blocking clears the lists, and so does restoring access (``networkBlockAll: false``). A list replaces the
    one before it and means not blocking everything; an empty one clears it.

    Raises:
        ApiError: 400 when nothing is set, or of the wrong kind.

    In:  changed({"networkBlockAll": True}, {"networkAllowList": "10.0.0.0/8"})
    Out: {'networkBlockAll': False, 'networkAllowList': '10.0.0.0/8'}
    """
    asked = {name: body.get(name) for name in (_BLOCK, _CIDRS, _DOMAINS)}
    if all(value is None for value in asked.values()):
        raise ApiError(400, f"at least one of {_BLOCK}, {_CIDRS} or {_DOMAINS} must be set")
    if not isinstance(asked[_BLOCK], bool | None):
        raise ApiError(400, f"{_BLOCK} must be true or false")
    after = dict(options)
    if asked[_BLOCK] is not None:
        after[_BLOCK] = asked[_BLOCK]
        after.pop(_CIDRS, None)
        after.pop(_DOMAINS, None)
    for name in (_CIDRS, _DOMAINS):
        value = asked[name]
        if value is None or asked[_BLOCK] is True:
            continue
        if not isinstance(value, str):
            raise ApiError(400, f"{name} must be a text")
        after.pop(name, None)
        if value.strip():
            after[name] = ",".join(entry.strip() for entry in value.split(","))
            after[_BLOCK] = False
    return after


@routes.post("/api/sandbox/{sandbox}/network-settings")
async def set_network(request: web.Request) -> web.Response:
    """Replace what a sandbox may reach; connections that are no longer allowed are cut before the answer."""
    sandbox, ctx = sandbox_of(request), context(request)
    body = await json_body(request)

    def change(record: SandboxRecord) -> None:
        record.options = changed(record.options, body)

    await ctx.sandboxes.set_network(sandbox, change)
    sandbox.touch()
    return web.json_response(sandbox_json(sandbox.record, ctx.toolbox_url, ctx.version))
