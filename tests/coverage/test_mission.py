"""Checks ``mission.toml``: every row done names its proof, and the proof exists.

A proof is ``path::test_name`` (a function, possibly inside a class) or the path of a notebook. A row that is
about something else than this package says why in one sentence. A system is done when each of the rows it
stands on is in one of these two tables.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
MISSION = tomllib.loads(Path(__file__).with_name("mission.toml").read_text())
ROWS = sorted(MISSION["done"].items())
LEFT_OUT = MISSION["not_applicable"]
SYSTEMS = sorted(MISSION["systems"].items())
ROW = r"[A-Z]{2,5}-\d{2}"


@functools.cache
def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("row", "proofs"), ROWS, ids=[row for row, _ in ROWS])
def test_the_proof_exists(row: str, proofs: list[str]) -> None:
    assert re.fullmatch(ROW, row), "a row is named like LIF-02"
    assert proofs, "a row that is done names at least one proof"
    for proof in proofs:
        path, _, name = proof.partition("::")
        assert (ROOT / path).is_file(), f"{row}: {path} does not exist"
        if path.endswith(".py"):
            assert name.startswith("test_"), f"{row}: {proof} names no test"
            assert name in functions(ROOT / path), f"{row}: {path} has no {name}"
        else:
            assert path.endswith(".ipynb"), f"{row}: {proof} is neither a test nor a notebook"


def test_what_is_left_out_has_a_reason_and_no_proof() -> None:
    for row, reason in LEFT_OUT.items():
        assert re.fullmatch(ROW, row), row
        assert row not in MISSION["done"], f"{row} is done and left out"
        assert len(reason.split()) >= 5, f"{row}: why is it left out?"


def rows_of(spans: list[str]) -> Iterator[str]:
    """In: list(rows_of(["GIT-01..03", "PI-11"])) Out: ['GIT-01', 'GIT-02', 'GIT-03', 'PI-11']"""
    for span in spans:
        first, _, last = span.partition("..")
        section, _, number = first.partition("-")
        for each in range(int(number), int(last or number) + 1):
            yield f"{section}-{each:02d}"


def test_a_system_is_done_when_its_rows_are() -> None:
    for system, spans in SYSTEMS:
        assert re.fullmatch(r"S\d{2}", system) and spans, system
        missing = [row for row in rows_of(spans) if row not in MISSION["done"] and row not in LEFT_OUT]
        assert not missing, f"{system} stands on {', '.join(missing)}"
