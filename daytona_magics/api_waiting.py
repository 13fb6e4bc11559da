"""Waiting for work of the loop thread: on a thread that stands still for it, or on a caller's own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from daytona_magics.runtime.loop import loop_thread

T = TypeVar("T")

#: Seconds granted to the clean-up after an interrupt.
CLEAN_UP = 3.0
#: Seconds after which a caller's loop is woken: a kernel whose cell awaits learns of an interrupt only then.
WAKE = 0.2


def now(work: Coroutine[Any, Any, T]) -> T:
    """Do work on the loop thread and wait for it; interrupted, it is cancelled and may clean up."""
    ended = threading.Event()

    async def run() -> T:
        try:
            return await work
        finally:
            ended.set()

    try:
        return loop_thread().run(run())
    except KeyboardInterrupt:
        ended.wait(CLEAN_UP)
        raise


async def soon(work: Coroutine[Any, Any, T]) -> T:
    """Do work on the loop thread, awaited on the caller's loop; cancelled, it is cancelled there."""
    future = asyncio.wrap_future(loop_thread().submit(work))
    try:
        while not (await asyncio.wait([future], timeout=WAKE))[0]:
            continue
    finally:
        future.cancel()
    return future.result()
