"""WebSockets on which only the engine has something to say, until it is said or the client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from daytona_magics.engine.tasks import until_one_ends


async def while_connected(socket: web.WebSocketResponse, sending: Coroutine[Any, Any, None]) -> None:
    """Run `sending` to its end, or until the client hangs up; what the client says is read and ignored.

    Raises what `sending` raised.
    """
    ended, _ = await until_one_ends(sending, _until_closed(socket))
    if ended is not None and not isinstance(ended, asyncio.CancelledError):
        raise ended


async def _until_closed(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
            return
