"""Two works side by side of which the first end is the end of both: both directions of a connection, say."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_one_ends(*works: Coroutine[Any, Any, None]) -> list[BaseException | None]:
    """Run them until one ends, then cancel the others and wait for them.

    Returns how each of them ended, in order: None, what it raised, or CancelledError for one that was still
    running. Cancelled itself, it cancels all.

    In: ``await until_one_ends(send(), receive())``
    Out: ``[None, CancelledError()]``
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    return list(ended)
