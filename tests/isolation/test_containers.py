"""In containers as Docker and Podman make them the engine finds its level, and keeps what it promises."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests import containers
from tests.coverage import levels
from tests.isolation import host

# Both put passwords into the configuration of this machine.
pytestmark = [pytest.mark.isolation, pytest.mark.timeout(180), pytest.mark.shard_group("attacks")]

CI = os.environ.get("CI", "").lower() in ("true", "1")


@pytest.fixture(scope="module", autouse=True)
def configuration() -> Iterator[None]:
    if why := containers.unavailable():
        if CI and os.geteuid() == 0:
            pytest.fail(why)
        pytest.skip(why)
    with host.configuration(os.environ["DM_TEST_SECRET"]):
        yield


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("container", levels.CONTAINERS, ids=lambda container: container.name)
def test_level_and_leaks(container: levels.Container, uid: int) -> None:
    column = "auto" if container.landlock_abi is None else container.column
    done = containers.run_in_container(
        [sys.executable, "-m", "tests.isolation.matrix", column],
        profile=container.profile,
        uid=uid,
        masked=not container.unmasked,
        memory=2 << 30 if containers.cgroups_writable() else None,
        env={"DM_TEST_SECRET": os.environ["DM_TEST_SECRET"]},
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    user = "user" if uid else "root"
    level = container.column.partition("-")[0]
    if container.landlock_abi is not None and uid:
        level = "L0.5"
    assert result["level"] == level, result["attempts"]
    expected = levels.leaks(container.column, user) | set(container.also)
    found = {name for name, (verdict, _) in result["verdicts"].items() if verdict != "SAFE"}
    assert found == expected, {name: result["verdicts"][name] for name in found ^ expected}


def test_why_not_higher_is_said() -> None:
    """With Docker's profile no way of making namespaces works, and each is told with its reason."""
    code = (
        "import json\nfrom tests.isolation.conftest import Level\nlevel = Level()\nlevel.close()\n"
        "print(json.dumps([level.launcher.reason, [str(a) for a in level.launcher.attempts]]))\n"
    )
    done = containers.run_in_container([sys.executable, "-c", code], profile="docker", uid=1000)
    assert done.returncode == 0, done.stderr
    reason, attempts = json.loads(done.stdout.splitlines()[-1])
    assert "namespaces" in reason and "not permitted" in reason.lower(), reason
    assert len(attempts) >= 2
