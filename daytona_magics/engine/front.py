"""What the engine serves: the API on its listener, and previews on a listener of their own.

It is apart from `daemon` because reading this, with the libraries behind it, takes most of an engine's start:
it is read on a thread while other processes try how to isolate.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

from aiohttp import web

from daytona_magics.engine.api.context import Context
from daytona_magics.engine.api.door import Door, most_connections
from daytona_magics.engine.api.guard import Guard
from daytona_magics.engine.ending import end
from daytona_magics.engine.log import log
from daytona_magics.engine.preview.listener import listen
from daytona_magics.engine.preview.server import Previews
from daytona_magics.engine.preview.tokens import Tokens
from daytona_magics.engine.server import MAX_HEADER, build_app
from daytona_magics.engine.store.database import Database

SHUTDOWN_SECONDS = 1.0


async def open_front(
    ctx: Context, database: Database, key: str, listener: socket.socket, ends: AsyncExitStack
) -> None:
    """Answer requests from now on, until ``ends`` does; ``ctx`` learns where the previews are.

    Args:
        key: the bearer token of the API.
        listener: bound, listening.
        ends: ends, in this order: new requests, the sandboxes, their clients, the previews.
    """
    guard = Guard(key, listener.getsockname()[1])
    await _open_previews(ctx, guard, database, ends)
    door = Door(most_connections())
    app, events = build_app(ctx, guard, door.admit)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_field_size=MAX_HEADER,
        keepalive_timeout=75,
        auto_decompress=False,
    )
    await runner.setup()
    ends.push_async_callback(end, "closing connections", runner.cleanup)
    ends.push_async_callback(end, "closing event connections", events.close)
    ends.push_async_callback(end, "stopping the sandboxes", ctx.sandboxes.stop_all)
    await door.start(runner, listener)
    ends.push_async_callback(end, "closing the listener", door.stop)


async def _open_previews(ctx: Context, guard: Guard, database: Database, ends: AsyncExitStack) -> None:
    """Serve previews on a port of their own; it is the same one after a restart when it is still free."""
    tokens = Tokens(database)
    await tokens.load()
    previews = Previews(ctx.sandboxes, tokens, guard)
    try:
        wanted = int(await database.get_meta("preview_port") or 0)
        sockets = listen(wanted)
    except OSError as error:
        log.error("there are no previews: %s", error)
        return
    port = sockets[0].getsockname()[1]
    if port != wanted:
        # Somebody else may have listened on the old one meanwhile, and been sent tokens.
        await tokens.forget()
        await database.set_meta("preview_port", port)
    await previews.start(sockets)
    ends.push_async_callback(end, "closing previews", previews.close)
    ctx.previews = previews
