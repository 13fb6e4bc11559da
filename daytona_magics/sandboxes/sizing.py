"""Giving a new sandbox the size that was asked for.

The platform takes sizes when it builds an image and when a sandbox is resized, but not when one is made from
a snapshot. So a new sandbox is resized: at once where it only grows, else between a stop and a start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daytona_magics.sandboxes import client as sdk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daytona import AsyncSandbox


def grows(sandbox: AsyncSandbox, wanted: Mapping[str, int]) -> bool:
    """Whether a running sandbox can be given this size: CPUs and memory may grow, its disk may not change."""
    return "disk" not in wanted and all(value > getattr(sandbox, name) for name, value in wanted.items())


async def fit(sandbox: AsyncSandbox, size: Mapping[str, int], timeout: float) -> None:
    """Resize a sandbox that was just created.

    Args:
        size: ``cpu`` (CPUs), ``memory`` and ``disk`` (GiB), those that were asked for.
        timeout: seconds each step may take.

    Raises:
        SandboxError: the endpoint refuses; its sentence says why.
    """
    wanted = {name: value for name, value in size.items() if value != getattr(sandbox, name)}
    if not wanted:
        return
    from daytona import Resources

    async def resize() -> None:
        running = grows(sandbox, wanted)
        if not running:
            await sandbox.stop(timeout=timeout)
        await sandbox.resize(Resources(**wanted), timeout=timeout)
        if not running:
            await sandbox.start(timeout=timeout)

    await sdk.asked(resize(), "giving the sandbox its size")
