"""Checks ``mission.toml``: every row done names its proof, and the proof exists.

A proof is ``path::test_name`` (a function, possibly inside a class) or the path of a notebook.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
MISSION = tomllib.loads(Path(__file__).with_name("mission.toml").read_text())
ROWS = sorted(MISSION["done"].items())


def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("row", "proofs"), ROWS, ids=[row for row, _ in ROWS])
def test_the_proof_exists(row: str, proofs: list[str]) -> None:
    assert re.fullmatch(r"[A-Z]{2,5}-\d{2}", row), "a row is named like LIF-02"
    assert proofs, "a row that is done names at least one proof"
    for proof in proofs:
        path, _, name = proof.partition("::")
        assert (ROOT / path).is_file(), f"{row}: {path} does not exist"
        if path.endswith(".py"):
            assert name.startswith("test_"), f"{row}: {proof} names no test"
            assert name in functions(ROOT / path), f"{row}: {path} has no {name}"
        else:
            assert path.endswith(".ipynb"), f"{row}: {proof} is neither a test nor a notebook"
