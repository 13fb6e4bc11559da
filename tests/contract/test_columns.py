"""The contract at every level, as root and as an ordinary user.

``test_contract.py`` runs once more in each column: all methods of both clients with the same effects, all
operations with the same answers, and exactly the differences that ``differences.toml`` lists. In root's
columns Python is put where every account can walk, as it is on machines that people use.
"""

from __future__ import annotations

import os

import pytest

from tests.isolation import as_user

#: Level and account; root at the engine's own choice, L3, is ``test_contract.py`` itself.
COLUMNS = [("L2", "root"), ("L1", "root"), ("L3", "an ordinary user"), ("L1", "an ordinary user")]
TESTS = 7

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be either account"),
]


@pytest.mark.parametrize(
    ("level", "account"),
    [
        pytest.param(level, account, marks=pytest.mark.shard_group(f"the contract at {level} as {account}"))
        for level, account in COLUMNS
    ],
)
def test_the_contract(level: str, account: str) -> None:
    said = as_user.run_tests(
        "tests/contract/test_contract.py", timeout=380, as_root=account == "root", CONTRACT_LEVEL=level
    )
    assert f"\n{TESTS} passed" in said, said[-3000:]
