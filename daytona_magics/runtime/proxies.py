"""The way out through a proxy, for requests that bring credentials of their own.

aiohttp's ``trust_env`` does two things: it takes the environment's proxies, and a login from ``~/.netrc``.
The second is not wanted here: beside an ``Authorization`` header it is an error, and without one it would
send a login of this machine to whoever is asked, servers inside a sandbox among them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from daytona_magics.engine.loopback import is_loopback


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


def proxy_only(session: aiohttp.ClientSession, url: str) -> None:
    """Have a session of somebody else's, that trusts the environment, take only its proxy for ``url``."""
    session._trust_env = False
    if not is_loopback(URL(url).host):
        try:
            session._default_proxy, session._default_proxy_auth = get_env_proxy_for_url(URL(url))
        except LookupError:
            return
