"""``attacks.toml`` names every attack that must be made, and tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from tests.coverage.test_mission import ROOT, functions

ATTACKS = {
    name: entry
    for family in tomllib.loads(Path(__file__).with_name("attacks.toml").read_text()).values()
    for name, entry in family.items()
}

#: What nobody may take out of the list without saying so here.
REQUIRED = {
    *("../", "absolute path", "symbolic link", "symbolic link swapped during the request", "hard link"),
    *("FIFO", "/dev/zero", "NUL", "invalid UTF-8", "4 kB names", "zip-slip in a bulk upload"),
    *("decompression bomb", "another sandbox's id", "another sandbox's preview token"),
    *("another sandbox's signing key", "expired token", "revoked token", "Host", "Origin", "CRLF"),
    *("oversize headers", "oversize bodies", "slow loris: headers", "slow loris: bodies"),
    *("slow loris: WebSocket handshake", "slow loris: Socket.IO", "deep nesting", "huge numbers", "NaN"),
    *("duplicate keys", "lone surrogates", "unmasked", "reserved bits", "oversized control frames"),
    *("fragmented control", "4 GiB length", "invalid UTF-8 text"),
}


def test_nothing_is_missing() -> None:
    assert set(ATTACKS) >= REQUIRED


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_and_its_control_exist(name: str) -> None:
    for kind, proof in ATTACKS[name].items():
        assert kind in ("test", "control")
        path, _, function = proof.partition("::")
        assert function in functions(ROOT / path), f"{name}: {path} has no {function}"
