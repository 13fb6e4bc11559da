"""The suite once more in sandboxes that have a bare Python: no IPython, no package of the machine.

Cells that use packages are left out. What cells import from ``IPython.display`` is the guest's stand-in here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.kernel_client import Kernel
from tests.parity import suite
from tests.parity.test_parity import check, package_is_there

CASES = [case for case in suite.cases() if "lib" not in case.options]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(env={"PYTEST_CURRENT_TEST": None, "DAYTONA_MAGICS_HOST_PACKAGES": "0"}) as made:
        first = made.run(
            "%%sandbox --timeout 0\nimport importlib.metadata as m\nlen(list(m.distributions()))"
        )
        assert first.result == "0", first
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bare_sandbox_shows_what_a_local_cell_shows(kernel: Kernel, case: suite.Case) -> None:
    check(kernel, case)


def test_the_machine_s_packages_are_not_there(kernel: Kernel) -> None:
    for name in ("IPython.core.formatters", "traitlets", "numpy"):
        ran = kernel.run(f"%%sandbox\nimport {name}")
        assert ran.ename == "ModuleNotFoundError", (name, ran)
    # Below L3 a sandbox sees names of what it cannot read, and where there is one prefix it is needed.
    isolation = re.search(r"isolation +L3", kernel.run("%sandbox doctor").result or "")
    if isolation and sys.prefix != sys.base_prefix:
        assert kernel.run(package_is_there()).result == "False"
    assert kernel.run("%%sandbox\n!pip --version").stdout.startswith("pip ")
    assert "bare Python" in (kernel.run("%sandbox doctor").result or "")


def test_the_bare_suite_is_large() -> None:
    assert len(CASES) >= 250
