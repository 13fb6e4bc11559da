"""The way out through a proxy, for requests that bring credentials of their own.

aiohttp's ``trust_env`` does two things: it takes the environment's proxies, and a login from ``~/.netrc``.
The second is not wanted here: beside an ``Authorization`` header it is an error, and without one it would
send a login of this machine to whoever is asked, servers inside a sandbox among them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL


async def through(url: str) -> dict[str, Any]:
    """What a request to ``url`` is given so that it goes through the environment's proxy, if it has one.

    In:  await session.get(url, **await through(url))
    """
    try:
        # Some systems keep their proxies in files.
        proxy, auth = await asyncio.to_thread(get_env_proxy_for_url, URL(url))
    except LookupError:
        return {}
    return {"proxy": proxy, **({"proxy_auth": auth} if auth is not None else {})}
