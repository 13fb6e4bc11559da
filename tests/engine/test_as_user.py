"""The engine for an ordinary user: tests of its families once more, at L3, as such a user.

What they assert is the same for both accounts. The SDK's methods, every family of them, are walked as an
ordinary user in ``tests/contract/test_columns.py``; these files are about what is not seen from there. Signed
URLs and charts know nothing of accounts, and are not among them.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.isolation import as_user

FILES = {
    "files and states": ("sandboxes", "toolbox_routes", "sessions", "searching", "states"),
    "programs and previews": ("git", "interpreter", "pty", "previews"),
    "limits and the way out": ("limits", "egress", "egress_sandbox", "links", "ports"),
    "lives and faults": ("lifecycle", "janitor", "states_faults", "engine_faults"),
}
#: Only root has these: control groups to rely on, and disks of its own.
SKIPPED = {"limits and the way out": 4, "lives and faults": 2}
_SANDBOXES = "tests/engine/test_sandboxes.py::"
#: Ends a sandbox's first process from outside, which only root can find; loads the machine, which root does
#: in the same suite.
FOR_ROOT = (f"{_SANDBOXES}test_a_sandbox_that_ends_by_itself_is_stopped", f"{_SANDBOXES}test_many_at_once")


@pytest.mark.timeout(330)
@pytest.mark.skipif(os.geteuid() != 0, reason="this process already is an ordinary user")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.shard_group(f"{name} as an ordinary user")) for name in FILES],
)
def test_the_families_as_an_ordinary_user(name: str) -> None:
    files = [f"tests/engine/test_{file}.py" for file in FILES[name]]
    left_out = [f"--deselect={test}" for test in FOR_ROOT]
    said = as_user.run_tests(*files, *left_out, "--timeout=60", timeout=300)
    passed, skipped = re.search(r"(\d+) passed", said), re.search(r"(\d+) skipped", said)
    assert passed is not None and int(passed[1]) > 30, said[-3000:]
    assert (int(skipped[1]) if skipped else 0) == SKIPPED.get(name, 0), said[-3000:]
    assert ("2 deselected" in said) == (_SANDBOXES.removesuffix("::") in files), said[-3000:]
