"""Preview routes: addresses under which servers inside a sandbox can be seen, and taking signed ones back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from daytona_magics.engine.api.context import context, sandbox_of
from daytona_magics.engine.api.models import whole
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.preview.address import resolves_localhost
from daytona_magics.engine.preview.tokens import DEFAULT_SECONDS, MAX_SECONDS

if TYPE_CHECKING:
    from daytona_magics.engine.preview.server import Previews

routes = web.RouteTableDef()

PORT = "/api/sandbox/{sandbox}/ports/{port}"


def _previews(request: web.Request) -> Previews:
    previews = context(request).previews
    if previews is None:
        raise ApiError(503, "this engine has no preview listener: no port was free on 127.0.0.1 and ::1")
    return previews


def _port(request: web.Request) -> int:
    port = whole(request.match_info["port"], "port", 1)
    if port > 65535:
        raise ApiError(400, "a port is a number from 1 to 65535")
    return port


@routes.get(f"{PORT}/preview-url")
async def preview_url(request: web.Request) -> web.Response:
    """The address for programs, and the token they send with it."""
    sandbox, previews, port = sandbox_of(request), _previews(request), _port(request)
    token = previews.tokens.standard(sandbox)
    by_path = not await asyncio.get_running_loop().run_in_executor(None, resolves_localhost)
    name = sandbox.record.id
    answer = {"sandboxId": name, "url": previews.url(name, port, by_path=by_path), "token": token}
    return web.json_response({**answer, "pathUrl": previews.url(name, port, by_path=True)})


@routes.get(f"{PORT}/signed-preview-url")
async def signed_preview_url(request: web.Request) -> web.Response:
    """An address that is its own proof until it expires, for browsers.

    ``pathUrl`` is the same for programs, most of which do not resolve names below ``localhost``.
    """
    sandbox, previews, port = sandbox_of(request), _previews(request), _port(request)
    seconds = whole(request.query.get("expiresInSeconds") or DEFAULT_SECONDS, "expiresInSeconds", 1)
    if seconds > MAX_SECONDS:
        raise ApiError(400, f"expiresInSeconds must be from 1 to {MAX_SECONDS}")
    token = await previews.tokens.sign(sandbox.record.id, port, seconds)
    answer = {"sandboxId": sandbox.record.id, "port": port, "token": token}
    urls = {
        "url": previews.url(token, port, by_path=False),
        "pathUrl": previews.url(token, port, by_path=True),
    }
    return web.json_response({**answer, **urls})


@routes.post(f"{PORT}/signed-preview-url/{{token}}/expire")
async def expire_signed(request: web.Request) -> web.Response:
    """Take a signed address back."""
    sandbox, previews, port = sandbox_of(request), _previews(request), _port(request)
    if not await previews.tokens.expire(request.match_info["token"], sandbox.record.id, port):
        raise ApiError(404, "there is no such signed preview URL for this port")
    return web.Response(status=200)
