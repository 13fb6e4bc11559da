"""A sandbox cell shows what the same cell shows without ``%%sandbox``; what differs is listed.

The list (``deviations.toml``) is exact: a case that differs without being listed fails, and so does one that
is listed and no longer differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
import traitlets

from tests.kernel_client import Kernel
from tests.parity import compare, suite

CASES = suite.cases()
DEVIATIONS: dict[str, str] = tomllib.loads((Path(__file__).parent / "deviations.toml").read_text())[
    "deviations"
]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    # Under pytest a kernel does not listen to what is written to its descriptors.
    with Kernel(env={"PYTEST_CURRENT_TEST": None}) as made:
        first = made.run("%%sandbox --timeout 0\n0")
        assert first.status == "ok", first
        yield made


def check(kernel: Kernel, case: suite.Case) -> None:
    """Run a case on both sides: equal, or listed and different."""
    if not case.possible:
        pytest.skip("this Python is older than the case")
    local = compare.normal(case, suite.run(kernel, case, sandbox=False), sandbox=False)
    there = compare.normal(case, suite.run(kernel, case, sandbox=True), sandbox=True)
    if case.name in DEVIATIONS:
        assert there != local, f"{case.name} no longer differs: take it off the list"
    else:
        assert there == local


def package_is_there() -> str:
    """A cell that says whether a package of the machine can be seen in the sandbox."""
    return f"%%sandbox\nimport os\nos.path.exists({traitlets.__file__!r})"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sandbox_cell_shows_what_a_local_cell_shows(kernel: Kernel, case: suite.Case) -> None:
    check(kernel, case)


def test_the_machine_s_packages_are_there_unless_the_engine_is_told_otherwise(kernel: Kernel) -> None:
    assert kernel.run(package_is_there()).result == "True"
    assert kernel.run("%%sandbox\nimport traitlets").status == "ok"


def test_the_suite_is_large_and_every_deviation_has_a_case_and_a_reason() -> None:
    assert len(CASES) >= 360
    assert len(DEVIATIONS) <= 10 and all(len(reason) > 20 for reason in DEVIATIONS.values())
    assert set(DEVIATIONS) <= {case.name for case in CASES}
