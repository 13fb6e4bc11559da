"""Which addresses are this very machine, and keeping what is sent to them away from proxies.

A client that obeys ``HTTP_PROXY`` would send the engine's bearer to the proxy. Standard library only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping

NO_PROXY_HOSTS = ("127.0.0.1", "localhost", ".localhost", "::1")


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` (of a URL, without the port) is this very machine, whatever a name server says.

    True for 127.0.0.0/8, ``::1``, ``localhost`` and every name below ``localhost``; nothing is looked up.

    Example:
        >>> [is_loopback(host) for host in ("127.8.0.1", "a.localhost", "localhost.example.com")]
        [True, True, False]
    """
    name = (host or "").lower().removeprefix("[").removesuffix("]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback


def no_proxy_value(current: str, *hosts: str) -> str:
    """``current`` (a NO_PROXY value) with the loopback names and ``hosts`` added; ``"*"`` stays as it is."""
    names = [name.strip() for name in current.split(",") if name.strip()]
    # Next to other names a star means nothing to urllib.
    if names == ["*"]:
        return "*"
    return ",".join(dict.fromkeys([*names, *NO_PROXY_HOSTS, *hosts]))


def add_no_proxy(environ: MutableMapping[str, str], *hosts: str | None) -> None:
    """Add the loopback names to ``NO_PROXY`` and ``no_proxy`` of ``environ``.

    Without them a client that obeys ``HTTP_PROXY`` sends the engine's bearer to the proxy.

    Args:
        environ: the environment to change.
        hosts: hosts of the caller's own endpoints, as in their URLs.  Those that are loopback are added as
            well (few clients understand ``127.0.0.0/8``); the others are left to the proxy.

    Example:
        >>> env = {"NO_PROXY": "corp.example"}
        >>> add_no_proxy(env, "127.0.0.9", "app.daytona.io")
        >>> env["NO_PROXY"]
        'corp.example,127.0.0.1,localhost,.localhost,::1,127.0.0.9'
    """
    own = [host.lower().strip("[]") for host in hosts if host and is_loopback(host)]
    for name in ("NO_PROXY", "no_proxy"):
        other = environ.get("no_proxy" if name == "NO_PROXY" else "NO_PROXY", "")
        environ[name] = no_proxy_value(environ.get(name, other), *own)
