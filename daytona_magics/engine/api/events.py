"""State changes pushed over Socket.IO, the way the SDK subscribes to them.

A client connects a WebSocket to ``/api/socket.io/`` and sends its key in the first packet. Until then it is
nobody: only so many of those are let in at once, a wrong key is answered with CONNECT_ERROR, and after 5
seconds whoever is still nobody is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import socketio
from aiohttp import web

from daytona_magics.engine.api.guard import SOCKETIO_PATH, Guard, unanswered
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.activity import Activity

MAX_STRANGERS = 16
STRANGER_SECONDS = 5.0
REFUSED_SECONDS = 0.5


class Events:
    """The Socket.IO server.

    Args:
        guard: knows the key.
        activity: an authenticated client keeps the engine up.
        admit: called with the request of a client that has shown the key.
    """

    def __init__(
        self,
        guard: Guard,
        activity: Activity,
        admit: Callable[[web.BaseRequest], None] = lambda request: None,
    ) -> None:
        self._admit = admit
        self._guard = guard
        self._activity = activity
        self._strangers: dict[int, web.Request] = {}  # by id(): requests cannot be hashed
        self._all: dict[int, web.Request] = {}
        # Origins are the guard's business; it has refused foreign ones before the server sees them.
        self._server = socketio.AsyncServer(
            async_mode="aiohttp", transports=["websocket"], cors_allowed_origins=[], allow_upgrades=False
        )
        self._server.on("connect", self._connect)
        self._server.on("disconnect", self._disconnect)

    def attach(self, app: web.Application) -> None:
        """Serve under ``app``."""
        # python-socketio adds its own route; ours replaces it to count and to time who is not known yet.
        inner = web.Application()
        self._server.attach(inner, socketio_path=SOCKETIO_PATH.strip("/"))
        app.router.add_get(SOCKETIO_PATH, self._handle, expect_handler=unanswered)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(400, "events are served over WebSocket only")
        if len(self._strangers) >= MAX_STRANGERS:
            raise ApiError(503, "too many unauthenticated event connections; try again in a few seconds")
        self._strangers[id(request)] = self._all[id(request)] = request
        timer = asyncio.get_running_loop().call_later(STRANGER_SECONDS, self._cut_off, request)
        try:
            response: web.StreamResponse = await self._server.handle_request(request)
            if isinstance(response, web.Response) and response.status >= 400:
                raise ApiError(response.status, f"no event connection: {response.text}")
            return response
        finally:
            timer.cancel()
            self._strangers.pop(id(request), None)
            self._all.pop(id(request), None)

    def _cut_off(self, request: web.Request) -> None:
        if id(request) in self._strangers and request.transport is not None:
            request.transport.abort()

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        request: web.Request = environ["aiohttp.request"]
        if not self._guard.is_key(auth.get("token") if isinstance(auth, dict) else None):
            # The refusal is sent when this returns; then there is nothing left to say.
            asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._cut_off, request)
            raise socketio.exceptions.ConnectionRefusedError("Unauthorized")
        self._strangers.pop(id(request), None)
        self._admit(request)
        self._activity.opened()

    async def _disconnect(self, sid: str, reason: object = None) -> None:
        self._activity.closed()

    async def emit(self, event: str, data: dict[str, Any]) -> None:
        """Tell every client."""
        await self._server.emit(event, data)

    async def close(self) -> None:
        """End all connections."""
        await self._server.shutdown()
        for request in list(self._all.values()):
            if request.transport is not None:
                request.transport.close()
