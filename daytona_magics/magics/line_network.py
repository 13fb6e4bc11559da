"""``%sandbox network``: what the sandbox may reach, changed while it runs."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.notebook.card import Card, Table
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import network as settings

#: As many entries as the platform takes in one list of addresses.
MAX_CIDRS = 10


def network(shell: Any, options: Any) -> Card | Table | None:
    """``%sandbox network [block|open|allow ENTRIES|test [URL...]]``"""
    binding = sandboxes.current()
    action, entries = options.action, list(options.entries)
    if action == "test":
        return _tested(wait(lambda tell: settings.probe(binding, tell, _urls(entries)), "asking from inside"))
    if entries and action != "allow":
        raise SandboxUsageError(
            f"%sandbox network {action} takes no {entries[0]}",
            hint="%sandbox network allow pypi.org,10.0.0.0/8",
        )
    if action == "show":
        return _card(wait(lambda tell: settings.settings(binding, tell), "asking for the settings"))
    wanted = _wanted(action, entries)
    changed = wait(lambda tell: settings.change(binding, tell, wanted), "changing the network settings")
    note(f"{changed.name} now reaches {reach(changed)}")
    return None


def _wanted(action: str, entries: list[str]) -> dict[str, Any]:
    if action == "block":
        return {"network_block_all": True}
    if action == "open":
        return {"network_block_all": False}
    cidrs, domains = sort_entries(entries)
    return {"network_allow_list": ",".join(cidrs), "domain_allow_list": ",".join(domains)}


def sort_entries(entries: list[str]) -> tuple[list[str], list[str]]:
    """Part what was typed into networks and names.

    Raises:
        SandboxUsageError: nothing was typed, or something that is neither.

    In:  sort_entries(["pypi.org,10.0.0.0/8", "*.example.com"])
    Out: (['10.0.0.0/8'], ['pypi.org', '*.example.com'])
    """
    words = [word.strip() for entry in entries for word in entry.split(",") if word.strip()]
    if not words:
        raise SandboxUsageError(
            "%sandbox network allow needs what to allow",
            hint="%sandbox network allow pypi.org,*.pythonhosted.org,10.0.0.0/8",
        )
    cidrs: list[str] = []
    domains: list[str] = []
    for word in words:
        if "://" in word or ":" in word:
            raise SandboxUsageError(
                f"{word!r} is neither a name nor an IPv4 network",
                hint="Without scheme and port: pypi.org, 10.0.0.0/8",
            )
        if re.fullmatch(r"[0-9.]+", word):
            raise SandboxUsageError(f"{word!r} has no mask", hint=f"One address alone is {word}/32.")
        (cidrs if "/" in word else domains).append(word)
    domains = settings.spelled_out(domains)
    for cidr in cidrs:
        try:
            ipaddress.IPv4Network(cidr, strict=False)
        except ValueError:
            raise SandboxUsageError(
                f"{cidr!r} is not an IPv4 network", hint="Like 10.0.0.0/8, with a mask from /0 to /32."
            ) from None
    if len(cidrs) > MAX_CIDRS:
        raise SandboxUsageError(f"{len(cidrs)} networks are too many; {MAX_CIDRS} are allowed")
    return cidrs, domains


def reach(sandbox: Any) -> str:
    """What a sandbox may reach, in a few words."""
    if sandbox.network_block_all:
        return "nothing"
    lists = [getattr(sandbox, f"{kind}_allow_list", None) for kind in ("network", "domain")]
    allowed = ", ".join(each for each in lists if each).replace(",", ", ").replace(",  ", ", ")
    return f"only {allowed}" if allowed else "all public addresses"


def _card(sandbox: Any) -> Card:
    return Card(
        f"Network of {sandbox.name}",
        [("reaches", reach(sandbox))],
        foot=(
            "`%sandbox network block`, `open` and `allow pypi.org,10.0.0.0/8` change it at once; "
            "`test` asks from inside.",
        ),
    )


def _urls(entries: list[str]) -> list[str]:
    return [entry if "://" in entry else f"https://{entry}/" for entry in entries]


def _tested(found: list[settings.Reached]) -> Table:
    rows = [
        (each.url, "ok" if each.ok else "failed", each.said, f"{each.took * 1000:.0f} ms") for each in found
    ]
    return Table(("destination", "check", "answer", "took"), rows, found)
