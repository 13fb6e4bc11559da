"""What a sandbox may reach: the platform's three settings, decided on the resolved address.

``network_block_all`` wins over everything. With lists, a destination passes when a CIDR holds its address or
a domain entry names its host; without lists every public address does. Addresses that are not public (this
machine, its networks, metadata services, and all IPv6 forms of those) pass only when a CIDR names them, that
is, when the CIDR lies inside the special range: ``10.1.0.0/16`` opens that private network, ``0.0.0.0/0``
means the internet and opens none. The ranges kept for documentation are treated as public: some networks
answer every public name with one of them. Ports 22 and 25 need a list that names the destination.

    In : Policy.parse(allow_list="10.1.0.0/16").refusal(parse_authority("10.1.2.3:80"),
    ip_address("10.1.2.3")) Out: ''
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daytona_magics.engine.proxy.targets import Address, BadTarget, Target, parse_name, shown

MAX_CIDRS = 10
MAX_DOMAINS = 100

ONLY_PROXY = (
    "only HTTP and HTTPS leave a sandbox, through its proxy; UDP, ICMP and raw TCP do not exist in it"
)
_OPEN = "`%sandbox network` changes it"

_CIDR = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/(?:[0-9]|[12][0-9]|3[0-2])\Z")
_LISTED_PORTS = {22: "SSH", 25: "mail"}

_SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this machine"),
    ("10.0.0.0/8", "a private network"),
    ("100.64.0.0/10", "a provider's internal network"),
    ("127.0.0.0/8", "this machine"),
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("169.254.0.0/16", "link-local, as metadata services are"),
    ("172.16.0.0/12", "a private network"),
    ("192.0.0.0/24", "reserved"),
    ("192.88.99.0/24", "an IPv6 relay"),
    ("192.168.0.0/16", "a private network"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/96", "this machine or an old form of IPv4"),
    ("::ffff:0:0:0/96", "a translated IPv4 address"),
    ("64:ff9b:1::/48", "a translated private address"),
    ("100::/64", "nowhere"),
    ("2001::/32", "a tunnelled address"),
    ("2002::/16", "a tunnelled address"),
    ("fc00::/7", "a private network"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "a private network"),
    ("ff00::/8", "multicast"),
)
_RANGES = [(ipaddress.ip_network(text), what) for text, what in _SPECIAL]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Names that are never public, whoever resolves them.
_LOCAL_NAMES = ("localhost", "local", "internal", "lan", "home.arpa", "localdomain", "intranet", "corp")


class BadList(ValueError):
    """A list of the network settings is wrong; the message is one sentence."""


def parse_cidrs(text: str) -> tuple[ipaddress.IPv4Network, ...]:
    """The networks of a ``network_allow_list``: IPv4 CIDRs with commas between, at most ten.

    Raises:
        BadList: naming the entry that is wrong.

    In:  parse_cidrs("192.168.1.0/16, 10.0.0.0/24")
    Out: (IPv4Network('192.168.0.0/16'), IPv4Network('10.0.0.0/24'))
    """
    entries = _entries(text, "network allow list", MAX_CIDRS)
    found = []
    for entry in entries:
        if not _CIDR.match(entry):
            raise BadList(
                f"{shown(entry)} in the network allow list is not an IPv4 CIDR such as 192.0.2.0/24 "
                "(a mask from /0 to /32 is needed; names belong into the domain allow list)"
            )
        try:
            # Host bits may be set, as in the platform's own examples.
            found.append(ipaddress.IPv4Network(entry, strict=False))
        except ValueError:
            raise BadList(f"{shown(entry)} in the network allow list is not an IPv4 CIDR") from None
    return tuple(found)


def parse_domains(text: str) -> tuple[str, ...]:
    """The entries of a ``domain_allow_list``: names and ``*.`` wildcards with commas between.

    Raises:
        BadList: naming the entry that is wrong.

    In:  parse_domains("PyPI.org, *.pythonhosted.org")
    Out: ('pypi.org', '*.pythonhosted.org')
    """
    found = []
    for entry in _entries(text, "domain allow list", MAX_DOMAINS):
        wild, name = ("*.", entry[2:]) if entry.startswith("*.") else ("", entry)
        name = name.removesuffix(".")
        try:
            if not name.isascii():
                name = name.encode("idna").decode("ascii")
            if re.fullmatch(r"[0-9.]*|.*\.[0-9]+", name):
                raise BadTarget("an address")
            found.append(wild + parse_name(name))
        except (BadTarget, UnicodeError):
            raise BadList(
                f"{shown(entry)} in the domain allow list is not a name such as pypi.org or *.pypi.org "
                "(no scheme, port or path; addresses belong into the network allow list)"
            ) from None
    return tuple(dict.fromkeys(found))


def _entries(text: str, what: str, most: int) -> list[str]:
    if not text.strip():
        return []
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries:
        raise BadList(f"the {what} has an empty entry")
    if len(entries) > most:
        raise BadList(f"the {what} has {len(entries)} entries; {most} are allowed")
    return entries


def is_own(address: Address) -> bool:
    """Whether ``address`` is one of this machine's, on whatever interface.

    A datagram socket connected there sends nothing, but is given the address it would send from.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except (OSError, ValueError):
        return False


def plain(address: Address) -> Address:
    """The address that is meant: of an IPv4-mapped one the IPv4 address."""
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def special(address: Address) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str] | None:
    """The range that makes ``address`` not public, and what it is; None for a public address."""
    address = plain(address)
    if address in _NAT64:
        # Behind a translator every public IPv4 host looks like this; judge the host.
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    for network, what in _RANGES:
        if address.version == network.version and address in network:
            return network, what
    return None


@dataclass(frozen=True)
class Policy:
    """The network settings of one sandbox.

    Attributes:
        block_all: nothing passes.
        cidrs, domains: the lists, parsed.
        own: tells this machine's own addresses.
    """

    block_all: bool = False
    cidrs: tuple[ipaddress.IPv4Network, ...] = ()
    domains: tuple[str, ...] = ()
    own: Callable[[Address], bool] = is_own

    @classmethod
    def parse(cls, block_all: bool = False, allow_list: str = "", domain_list: str = "") -> Policy:
        """The policy of the three settings as the API takes them.

        Raises:
            BadList
        """
        return cls(block_all, parse_cidrs(allow_list), parse_domains(domain_list))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Policy:
        """The policy of a sandbox's remembered options."""
        return cls.parse(
            options.get("networkBlockAll") is True,
            options.get("networkAllowList") or "",
            options.get("domainAllowList") or "",
        )

    @property
    def has_lists(self) -> bool:
        return bool(self.cidrs or self.domains)

    @property
    def only_names(self) -> bool:
        """Whether nothing but a name can let a named destination pass."""
        return bool(self.domains) and not self.cidrs

    def names(self, host: str) -> bool:
        """Whether a domain entry names ``host``; a wildcard stands for one label or more, not for none."""
        return any(
            host.endswith(entry[1:]) and len(host) > len(entry) - 1
            if entry.startswith("*.")
            else host == entry
            for entry in self.domains
        )

    def refusal(self, target: Target, address: Address | None, *, granted: bool = False) -> str:
        """Why ``target`` is refused, one sentence; empty when it passes.

        Args:
            target: what was asked for. address: what it resolved to; None when only the name is known,
            because the host's own proxy resolves. granted: the host's own settings name this destination, so
            it need not be public.
        """
        if self.block_all:
            return f"{target} is refused: --network-block-all is set for this sandbox ({_OPEN})"
        named = target.address is None and self.names(target.host)
        meant = None if address is None else plain(address)
        inside = [net for net in self.cidrs if meant is not None and meant in net]
        if why := "" if granted else self._not_public(target, meant, inside, named):
            return why
        if self.has_lists and not named and not inside:
            seen = "" if address is None or target.address else f" ({address})"
            entries = ", ".join([*map(str, self.cidrs), *self.domains])
            return f"{target}{seen} is refused: this sandbox may reach only {_cut(entries)} ({_OPEN})"
        if target.port in _LISTED_PORTS and not named and not inside:
            what = _LISTED_PORTS[target.port]
            port = f"port {target.port} ({what}) needs an allow list that names the host"
            return f"{target} is refused: {port}; {ONLY_PROXY}"
        return ""

    def _not_public(
        self, target: Target, address: Address | None, inside: list[ipaddress.IPv4Network], named: bool
    ) -> str:
        if address is None:
            last = target.host.rpartition(".")
            local = not last[1] or any(target.host.endswith("." + name) for name in _LOCAL_NAMES)
            loop = target.host == "localhost" or target.host.endswith(".localhost")
            if loop or (local and not named):
                return f"{target} is refused: it is not a public name, and cannot be resolved on this machine"
            return ""
        found = special(address)
        if found is not None:
            network, what = found
            if any(net.subnet_of(network) for net in inside if network.version == 4):
                return ""
        elif self.own(address):
            what = "this machine"
            if any(net.prefixlen == 32 for net in inside):
                return ""
        else:
            return ""
        seen = "" if target.address else f" ({address})"
        listed = "no CIDR of the network allow list names it"
        return f"{target}{seen} is refused: the address is not public ({what}), and {listed}"


def _cut(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
