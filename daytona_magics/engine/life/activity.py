"""Is anybody using the engine?  Decides when it may end by itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULT_IDLE_SECONDS = 600.0


class Activity:
    """Counts what keeps the engine up: open sockets, and the time since the last request.

    Attributes:
        idle_seconds: how long nobody must use it before it ends; ``DAYTONA_MAGICS_IDLE_SECONDS``.
        stop: set when the engine shall end.
    """

    def __init__(self) -> None:
        self.idle_seconds = float(os.environ.get("DAYTONA_MAGICS_IDLE_SECONDS") or DEFAULT_IDLE_SECONDS)
        self.stop = asyncio.Event()
        self._sockets = 0
        self._last = time.monotonic()

    def request(self) -> None:
        """A request was allowed in: whoever sent it may send another."""
        self._last = time.monotonic()

    @contextmanager
    def socket(self) -> Iterator[None]:
        """While inside, a client holds a connection open."""
        self.opened()
        try:
            yield
        finally:
            self.closed()

    def opened(self) -> None:
        """A client opened a connection that stays."""
        self._sockets += 1

    def closed(self) -> None:
        """It is gone."""
        self._sockets -= 1
        self._last = time.monotonic()

    @property
    def sockets(self) -> int:
        """Open connections."""
        return self._sockets

    def is_over(self, started_sandboxes: int) -> bool:
        """Whether the engine may end now."""
        if started_sandboxes or self._sockets:
            self._last = time.monotonic()
            return False
        return time.monotonic() - self._last >= self.idle_seconds
