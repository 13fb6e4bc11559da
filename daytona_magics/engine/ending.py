"""Ending what the engine has begun: one failure does not keep the rest from ending."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from daytona_magics.engine.log import log


async def end(what: str, how: Callable[[], Awaitable[None]]) -> None:
    """Call ``how``; a failure goes to the log, named by ``what`` ("closing the database")."""
    try:
        await how()
    except Exception as error:  # noqa: BLE001  the rest must be ended all the same
        log.error("%s failed", what, exc_info=error)
