"""Port routes: what programs in the sandbox listen on."""

from __future__ import annotations

from aiohttp import web

from daytona_magics.engine.api.context import sandbox_of, used
from daytona_magics.engine.api.process import SANDBOX
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.toolbox.answers import protocol_errors
from daytona_magics.engine.toolbox.client import Toolbox
from daytona_magics.engine.toolbox.wire import WireError

routes = web.RouteTableDef()


async def listening(toolbox: Toolbox) -> list[int]:
    """The TCP ports that programs of a sandbox listen on, in order. Raises ToolboxError."""
    with await toolbox.begin("ports") as operation, protocol_errors():
        ports = (await operation.answer()).get("ports")
        if not isinstance(ports, list) or not all(type(p) is int and 0 < p < 65536 for p in ports):
            raise WireError("the ports are not a list of ports")
        return sorted(set(ports))


@routes.get(f"{SANDBOX}/port")
async def list_ports(request: web.Request) -> web.Response:
    """All ports that are listened on."""
    sandbox = sandbox_of(request)
    with used(request, sandbox):
        return web.json_response({"ports": await listening(sandbox.toolbox)})


@routes.get(f"{SANDBOX}/port/{{port}}/in-use")
async def in_use(request: web.Request) -> web.Response:
    """Whether one port is listened on."""
    sandbox = sandbox_of(request)
    text = request.match_info["port"]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):
        raise ApiError(400, f"a port is a number from 1 to 65535, not {text!r}")
    with used(request, sandbox):
        return web.json_response({"isInUse": int(text) in await listening(sandbox.toolbox)})
