"""Checks ``levels.toml`` itself; what it says is proven by ``tests/isolation``."""

from __future__ import annotations

import ast

import pytest

from tests.coverage import levels
from tests.isolation import attacks


def test_names_are_known_and_nothing_is_said_twice() -> None:
    known = [attack.name for attack in attacks.TABLE]
    assert len(set(known)) == len(known), "two attacks have one name"
    said: set[tuple[str, tuple[str, str]]] = set()
    for entry in levels.TABLE["open"]:
        for place in levels.places(entry):
            assert place[0] in levels.COLUMNS, f"{place[0]} is no column"
            for name in entry["attacks"]:
                assert name in known, f"there is no attack {name!r}"
                assert (name, place) not in said, f"{name!r} is said twice at {place}"
                said.add((name, place))
    for container in levels.CONTAINERS:
        assert container.column in levels.COLUMNS
        assert set(container.also) <= set(known) - levels.leaks(container.column, "root")


def test_nothing_is_open_at_the_default_level() -> None:
    for column in ("L3", "outer-bwrap", "bwrap"):
        for user in levels.USERS:
            assert levels.leaks(column, user) == set()


def test_the_table_in_the_architecture_is_this_one() -> None:
    assert levels.published() == levels.markdown(), (
        "paste what `python -m tests.coverage.levels` prints between the markers"
    )


@pytest.mark.parametrize("number", range(1, 59))
def test_every_probe_is_accounted_for(number: int) -> None:
    by_attacks = [attack.name for attack in attacks.TABLE if attack.probe == number]
    proofs = levels.TABLE["probes"].get(str(number), [])
    assert by_attacks or proofs, f"probe {number} is neither an attack nor proven elsewhere"
    for proof in [] if isinstance(proofs, str) else proofs:
        path, _, name = proof.partition("::")
        tree = ast.parse((levels.ROOT / path).read_text())
        names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in names, f"{path} has no {name}"
