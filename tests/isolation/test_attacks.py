"""Every attack at every level: what succeeds is exactly what ``tests/coverage/levels.toml`` says.

At L0, where nothing is isolated, each must work, which proves that it is an attack. As root all of it is done
twice: as root, and as an ordinary user that exists nowhere else.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import uids
from tests.coverage import levels
from tests.isolation import attacks, host

# Both put passwords into the configuration of this machine.
pytestmark = [pytest.mark.isolation, pytest.mark.timeout(180), pytest.mark.shard_group("attacks")]

ROOT = Path(__file__).resolve().parents[2]
CI = os.environ.get("CI", "").lower() in ("true", "1")
USERS = ("root", "user") if os.geteuid() == 0 else ("user",)


@pytest.fixture(scope="module", autouse=True)
def configuration() -> Iterator[None]:
    """Passwords in the configuration of pip and Jupyter, which an ordinary user could not put there."""
    with host.configuration(os.environ["DM_TEST_SECRET"]):
        yield


@pytest.fixture(scope="module")
def columns() -> Iterator[Any]:
    """columns(column, user): what running all attacks there has found; each is run once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="dm-user-", dir="/tmp") as home:
        uid = uids.account(1_800_000)
        if "root" in USERS:
            os.chown(home, uid, uid)

        def run(column: str, user: str) -> dict[str, Any]:
            if (column, user) not in found:
                become = ["-m", "tests.isolation.as_user", str(uid), home, "tests.isolation.matrix"]
                other = user == "user" and "root" in USERS
                found[column, user] = _run(column, become if other else ["-m", "tests.isolation.matrix"])
            return found[column, user]

        yield run


def _run(column: str, words: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *words, column],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    if done.returncode and "LaunchError" in done.stderr and not CI:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("column", levels.COLUMNS)
def test_open_is_what_the_table_says(column: str, user: str, columns: Any) -> None:
    result = columns(column, user)
    launcher = column if "bwrap" in column else "ctypes"
    level = "L3" if "bwrap" in column else column.partition("-")[0]
    if (level, user) == ("L1", "user") and column != "L1":
        level = "L0.5"
    assert (result["level"], result["launcher"]) == (level, launcher)
    assert surprises(result, levels.leaks(column, user)) == {}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("column", levels.COLUMNS)
def test_the_engine_tells_what_is_open(column: str, user: str, columns: Any) -> None:
    assert set(columns(column, user)["open"]) == levels.phrases(column, user)


def surprises(result: dict[str, Any], expected: set[str]) -> dict[str, str]:
    """Attacks whose verdict is not the one of the table, with the verdict and its detail."""
    found = {}
    for name, (verdict, detail) in result["verdicts"].items():
        wanted = "LEAK" if name in expected and name not in result["refused"] else "SAFE"
        if verdict != wanted:
            found[name] = f"{verdict} instead of {wanted}: {detail}"
    return found


@pytest.mark.parametrize("user", USERS)
def test_every_attack_works_where_nothing_is_isolated(user: str, columns: Any) -> None:
    result = columns("L0", user)
    controls = {attack.name: attack.control for attack in attacks.TABLE}
    surprising = surprises(result, {name for name, kind in controls.items() if kind != attacks.NONE})
    if user != "root":
        # What the plain kernel may refuse to an ordinary user has its control as root.
        surprising = {name: text for name, text in surprising.items() if controls[name] != attacks.ROOT}
    if not CI:
        # A machine's kernel may have reasons of its own that are not listed.
        surprising = {name: text for name, text in surprising.items() if controls[name] != attacks.KERNEL}
    assert surprising == {}


def test_every_attack_that_may_lack_its_control_is_named() -> None:
    by_control = {
        kind: [attack.name for attack in attacks.TABLE if attack.control == kind]
        for kind in (attacks.NONE, attacks.KERNEL)
    }
    assert by_control[attacks.NONE] == ["descriptors nobody gave"]
    # The rest of the KERNEL ones must succeed at L0 wherever the suite runs under CI.
    assert set(attacks.KERNEL_REFUSES) <= set(by_control[attacks.KERNEL])


@pytest.mark.parametrize("thing", attacks.REACHES)
def test_what_must_never_be_reached_is_attacked_and_has_its_control_for_every_user(thing: str) -> None:
    mine = [attack for attack in attacks.TABLE if attack.reaches == thing]
    assert {attack.control for attack in mine} <= {attacks.ALWAYS, attacks.ROOT}
    assert any(attack.control == attacks.ALWAYS for attack in mine)
