"""The host's own proxy, when it has one: found in its variables and in pip's settings.

A corporate machine often reaches the outside only through a proxy, and may not even resolve names. Then every
connection is made by asking that proxy. It resolves the name again, so what it can reach in its own network
is its business: the decision here is about the address this machine sees, or, when this machine cannot
resolve the name, about the name alone (then CIDR lists refuse). `NO_PROXY` is obeyed as curl does.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from daytona_magics.engine.proxy.targets import Target


@dataclass(frozen=True)
class Proxy:
    """One proxy: where it listens and what it wants to hear. ``repr`` does not show the password.

    Attributes:
        secure: it wants to be spoken to in TLS.
        problem: why it cannot be used, one sentence; empty when it can.
    """

    host: str
    port: int
    user: str = ""
    password: str = ""
    secure: bool = False
    problem: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"

    @property
    def authorization(self) -> list[tuple[bytes, bytes]]:
        """The header for it, if it wants a password."""
        if not self.user:
            return []
        pair = base64.b64encode(f"{self.user}:{self.password}".encode())
        return [(b"Proxy-Authorization", b"Basic " + pair)]


def parse_proxy(url: str) -> Proxy | None:
    """The proxy a variable names; None when it names none.

    In:  parse_proxy("http://me:secret@proxy.corp:3128")
    Out: Proxy(proxy.corp:3128)
    """
    url = url.strip()
    if not url:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
    except ValueError:
        return Proxy(
            "", 0, problem="the proxy this machine is told to use has an address that cannot be read"
        )
    problem = ""
    if not host:
        problem = "the proxy this machine is told to use has an address without a host"
    elif parts.scheme not in ("http", "https"):
        problem = (
            f"this machine is told to use a proxy of kind {parts.scheme}://, which the embedded engine "
            "cannot chain; set HTTPS_PROXY to an http:// or https:// proxy and restart the engine"
        )
    return Proxy(host, port, unquote(parts.username or ""), unquote(parts.password or ""), secure, problem)


@dataclass(frozen=True)
class Upstream:
    """Which proxy the host uses for what.

    Attributes:
        http, https: proxies for plain requests and for tunnels; None to connect directly.
        no_proxy: entries of ``NO_PROXY``.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str], fallback: str = "") -> Upstream:
        """From variables as curl and Python read them; ``fallback`` (pip's ``proxy``) if they name none."""

        def get(name: str) -> str:
            return environ.get(name.lower()) or environ.get(name.upper()) or ""

        everything = get("all_proxy")
        http, https = get("http_proxy") or everything, get("https_proxy") or everything
        if not http and not https:
            http = https = fallback
        bypass = tuple(filter(None, (entry.strip().lower() for entry in get("no_proxy").split(","))))
        return cls(parse_proxy(http), parse_proxy(https), bypass)

    def __bool__(self) -> bool:
        return self.http is not None or self.https is not None

    def for_(self, target: Target, *, tunnel: bool) -> Proxy | None:
        """The proxy to ask for a connection to ``target``; None to connect directly."""
        proxy = self.https if tunnel else self.http
        return None if proxy is None or self._bypasses(target) else proxy

    def _bypasses(self, target: Target) -> bool:
        if target.address is not None and target.address.is_loopback:
            return True  # To a proxy elsewhere that would be another machine.
        for entry in self.no_proxy:
            if entry == "*":
                return True
            name, _, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
            if port and port != str(target.port):
                continue
            name = name.strip("[]")
            if target.address is not None:
                try:
                    if target.address in ipaddress.ip_network(name, strict=False):
                        return True
                except (ValueError, TypeError):
                    continue
            else:
                name = name.removeprefix("*").removeprefix(".").removesuffix(".")
                if name and (target.host == name or target.host.endswith("." + name)):
                    return True
        return False
