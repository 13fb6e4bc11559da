"""What a request names, read so that no two programs can read it differently.

An address has one spelling here: four decimal numbers, or IPv6 in brackets. The other spellings that some
resolvers accept (``0177.0.0.1``, ``0x7f.1``, ``2130706433``, ``127.1``) are refused rather than guessed at,
and so are user names, zone ids, percent signs and letters outside ASCII. Names are lower case and without the
final dot.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
# A name whose last label looks like a number is an IPv4 address to some resolvers.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?\Z")


class BadTarget(ValueError):
    """The destination cannot be read; the message is one sentence for the person inside."""


@dataclass(frozen=True)
class Target:
    """A destination: ``host`` (lower case, no brackets), ``port``, and ``address`` when the host is one."""

    host: str
    port: int
    address: Address | None = None

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{shown}:{self.port}"


def parse_authority(text: str, default_port: int | None = None) -> Target:
    """Read ``host:port``; without a port it is ``default_port``.

    Raises:
        BadTarget: it is not one host and one port from 1 to 65535.

    In:  parse_authority("PyPI.org.:443")
    Out: Target(host='pypi.org', port=443, address=None)
    """
    if "@" in text:
        raise BadTarget("a user name in front of the host is not accepted; send an Authorization header")
    found = _AUTHORITY.match(text)
    if found is None or not found[1]:
        raise BadTarget(f"{shown(text)} is not a host and a port")
    port = default_port if found[2] is None else int(found[2])
    if port is None:
        raise BadTarget(f"{shown(text)} names no port")
    if not 1 <= port <= 65535:
        raise BadTarget(f"{port} is not a port (1 to 65535)")
    host, address = parse_host(found[1])
    return Target(host, port, address)


def parse_host(text: str) -> tuple[str, Address | None]:
    """A host's one spelling, and its address when it is one.

    Raises:
        BadTarget: it is neither a name nor an address in its one spelling.
    """
    if text.startswith("["):
        if "%" in text:
            raise BadTarget(f"{shown(text)} has a zone id, which means nothing outside")
        try:
            six = ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise BadTarget(f"{shown(text)} is not an IPv6 address") from None
        return str(six), six
    name = text.lower().removesuffix(".")
    if _NUMBER.match(name.rpartition(".")[2]):
        try:
            four = ipaddress.IPv4Address(name)
        except ValueError:
            raise BadTarget(
                f"{shown(text)} is not an IPv4 address as four decimal numbers without leading zeros"
            ) from None
        return str(four), four
    return parse_name(name), None


def parse_name(name: str) -> str:
    """A host name in lower case.

    Raises:
        BadTarget: it is none.
    """
    lower = name.lower()
    if not lower.isascii():
        raise BadTarget(f"{shown(name)} has letters outside ASCII; write it in its xn-- form")
    if len(lower) > 253 or not all(_LABEL.match(label) for label in lower.split(".")):
        raise BadTarget(f"{shown(name)} is not a host name")
    return lower


def shown(text: str) -> str:
    """``text`` short and harmless enough for one line of an answer."""
    clean = "".join(letter if " " < letter <= "~" else "?" for letter in text[:80])
    return f"'{clean}…'" if len(text) > 80 else f"'{clean}'"
