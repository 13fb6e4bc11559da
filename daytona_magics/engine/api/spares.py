"""Keeping a sandbox ready for a client: ``/api/engine/spare``, and the header of a creation that may get it.

Our own, beside the platform's API; whoever does not know of it never gets a sandbox that somebody prepared.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from daytona_magics.engine.api.context import context
from daytona_magics.engine.api.errors import json_body
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.spares import Recipe

routes = web.RouteTableDef()

HEADER = "X-Daytona-Magics-Spare"
MAX_TEXT, MAX_DATA = 64 << 10, 4 << 20


@routes.post("/api/engine/spare")
async def want(request: web.Request) -> web.Response:
    """Have a sandbox kept ready: {key}, or {key, path, data (base64), command} when the key is not known.

    Answers {known, ready}: whether the key is (now), and whether there is one for it.
    """
    body = await json_body(request)
    key = _text(body, "key", 200)
    recipe = None
    if "data" in body:
        try:
            data = base64.b64decode(_text(body, "data", MAX_DATA), validate=True)
        except binascii.Error as error:
            raise ApiError(400, "data must be base64") from error
        recipe = Recipe(key, _text(body, "path", 1000), data, _text(body, "command", MAX_TEXT))
    spares = context(request).sandboxes.spares
    return web.json_response({"known": spares.want(key, recipe), "ready": spares.ready(key)})


def _text(body: dict[str, Any], name: str, most: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or "\0" in value:
        raise ApiError(400, f"{name} must be a text of at most {most:,} characters")
    return value
