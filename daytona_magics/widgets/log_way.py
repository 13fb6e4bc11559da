"""How the sources of a log reach their sandbox: by a channel that is not the notebook's.

A flood of lines then holds up no cell. The channel is made when the first source needs it, and again when the
notebook has another sandbox, or the same one at another address; a sandbox that does not run, or an engine
that ended, is not started by it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from daytona_magics.sandboxes import client as sdk
from daytona_magics.widgets import watching

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.runtime.channel import Channel
    from daytona_magics.sandboxes.binding import Binding


class Way:
    """The way to the sandbox of a binding. On the loop thread.

    Args:
        binding: whose sandbox.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._closing: asyncio.Future[None] | None = None

    async def sandbox(self) -> AsyncSandbox:
        """The sandbox. Raises SandboxError when there is none."""
        return self.binding.bound()

    async def channel(self) -> Channel:
        """The channel, opened when there is none. Raises SandboxError."""
        from daytona_magics.runtime.channel import Channel

        async with self._opening:
            sandbox = await self.sandbox()
            # An engine that was started again is another sandbox object: its address may be another one.
            if self._channel is not None and (self._channel.closed or self._channel.sandbox is not sandbox):
                await self.close()
            if self._channel is None:
                assert self.binding.endpoint is not None
                made = Channel(
                    sandbox,
                    api_key=self.binding.endpoint.api_key,
                    reconnect_for=self.binding.config.reconnect_for,
                )
                try:
                    await sdk.asked(made.open(), f"connecting to {sandbox.name}")
                except BaseException:
                    await made.close()
                    raise
                self._channel = made
            return self._channel

    @property
    def open(self) -> bool:
        """Whether the notebook itself reaches the sandbox now."""
        return self.binding.open_channel() is not None

    @property
    def started(self) -> bool:
        """Whether the sandbox runs, as far as is known here."""
        return watching.standing(self.binding).state == "started"

    def drop(self) -> None:
        """Give the channel up without waiting: the sandbox does not run."""
        if self._channel is not None:
            self._closing = asyncio.ensure_future(self.close())

    async def close(self) -> None:
        """Give the channel up. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
