"""The sandbox's copy of one cell's output, as the main thread sees it."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.loop import loop_thread

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.runtime.records import Look

#: Characters of an execution's id that name it.
NAME = 8


class ChannelSpool:
    """See :class:`daytona_magics.notebook.flow.Spool`.

    Args:
        channel: the way to the sandbox.
        exec_id: the execution.
    """

    def __init__(self, channel: Channel, exec_id: str) -> None:
        self._channel, self._id = channel, exec_id
        self.name = exec_id[:NAME]

    def skim(self) -> None:
        """Have only the amount of further text sent."""
        loop_thread().submit(self._channel.skim(self._id))

    def look(self, tail: int, within: float) -> Look | None:
        """What the sandbox says of the cell, with the end of its text; None when it does not answer."""
        future = loop_thread().submit(self._channel.look(self._id, tail))
        try:
            return future.result(within)
        except (SandboxError, concurrent.futures.TimeoutError):
            future.cancel()
            return None

    def release(self) -> None:
        """The copy is not needed."""
        loop_thread().loop.call_soon_threadsafe(self._channel.forget_soon, self._id)


class Kept(ChannelSpool):
    """The copy that is being shown again, and stays."""

    def release(self) -> None:
        """It is kept."""
