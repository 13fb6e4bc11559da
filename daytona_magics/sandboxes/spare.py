"""Asking the embedded engine to keep a sandbox ready for the next notebook, with our guest running in it.

Our creations name the guest's file as a key; a creation that is given the sandbox kept ready for it finds the
guest there (:mod:`daytona_magics.runtime.start` tries). A while after one has begun to use a sandbox, the
engine is asked for the next; it is told how to prepare one only when it does not know yet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from daytona_magics.runtime import launching
from daytona_magics.runtime.bundle import bundle

if TYPE_CHECKING:
    from daytona_magics.sandboxes.endpoint import Endpoint

HEADER = "X-Daytona-Magics-Spare"
#: Seconds after a sandbox was made until the next is asked for: its first cell comes first.
AFTER = 1.0
#: Seconds a request may take.
WITHIN = 10.0


def header() -> dict[str, str]:
    """What a creation is sent with, so that it may get the sandbox kept ready."""
    return {HEADER: bundle().name}


async def ask(endpoint: Endpoint) -> None:
    """Ask for one, after a while; without it the next creation takes longer, and nothing else."""
    import aiohttp

    await asyncio.sleep(AFTER)
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    timeout = aiohttp.ClientTimeout(total=WITHIN)

    async def asked(body: dict[str, Any]) -> bool:
        url = f"{endpoint.api_url}/engine/spare"
        async with http.post(url, json=body) as answer:
            # One that refuses has its reasons, and would again.
            return answer.status != 200 or (await answer.json()).get("known") is not False

    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
            guest = bundle()
            if not await asked({"key": guest.name}):
                await asked({"key": guest.name, **launching.recipe(guest)})
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
        return
