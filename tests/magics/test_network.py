"""``%sandbox network``: what was typed becomes the platform's settings, or one clear sentence."""

from __future__ import annotations

import pytest

from daytona_magics.engine.proxy.policy import parse_domains
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar
from daytona_magics.magics.handles import network
from daytona_magics.magics.line_network import reach, sort_entries
from daytona_magics.magics.parser import parse
from daytona_magics.sandboxes.network import GROUPS, spelled_out


class Settings:
    def __init__(self, block: bool = False, cidrs: str | None = None, domains: str | None = None) -> None:
        self.network_block_all, self.network_allow_list, self.domain_allow_list = block, cidrs, domains


def test_the_line() -> None:
    command = grammar.BY_NAME["network"]
    assert (parse(command, "").action, parse(command, "").entries) == ("show", [])
    typed = parse(command, "allow pypi.org, 10.0.0.0/8  # both")
    assert sort_entries(typed.entries) == (["10.0.0.0/8"], ["pypi.org"])
    with pytest.raises(SandboxUsageError, match="blok"):
        parse(command, "blok")
    made = parse(grammar.BY_NAME["create"], "--network-block-all --domain-allow-list a.test,*.b.test")
    assert made.network_block_all and made.domain_allow_list == "a.test,*.b.test"
    assert made.network_allow_list is None


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ([], "needs what to allow"),
        ([","], "needs what to allow"),
        (["10.0.0.1"], "has no mask"),
        (["10.0.0.0/33"], "is not an IPv4 network"),
        (["https://pypi.org/"], "neither a name nor"),
        (["pypi.org:443"], "neither a name nor"),
        (["::/0"], "neither a name nor"),
        ([",".join(["10.0.0.0/8"] * 11)], "11 networks are too many"),
    ],
)
def test_entries_that_are_refused(typed: list[str], says: str) -> None:
    with pytest.raises(SandboxUsageError, match=says):
        sort_entries(typed)


def test_short_words_stand_for_names() -> None:
    assert sort_entries(["debian,10.0.0.0/8", "*.debian.org"]) == (
        ["10.0.0.0/8"],
        ["*.debian.org", "*.ubuntu.com"],
    )
    everything = spelled_out(["essential"])
    assert {name for group in GROUPS.values() for name in group} == set(everything)
    # What the engine takes: names that are names, and not too many of them.
    assert parse_domains(",".join(everything)) == tuple(everything)
    assert spelled_out(["registry", "python.org"]) == ["registry", "python.org"]
    with pytest.raises(SandboxUsageError, match="did you mean python"):
        sort_entries(["pyhton"])


def test_what_a_sandbox_reaches_in_words() -> None:
    assert "through the engine's proxy" in network(Settings(), {"proxy": ""}, "embedded")
    assert network(Settings(), {}, "embedded") == "none"
    assert "tiers 1 and 2 only essential services" in network(Settings(), {}, "cloud")
    assert network(Settings(), {}, "self-hosted") == ""
    assert network(Settings(block=True), {}, "cloud") == "blocked"
    assert reach(Settings()) == "all public addresses"
    assert reach(Settings(block=True, cidrs="10.0.0.0/8")) == "nothing"
    assert (
        reach(Settings(cidrs="10.0.0.0/8,1.0.0.0/8", domains="pypi.org"))
        == "only 10.0.0.0/8, 1.0.0.0/8, pypi.org"
    )
