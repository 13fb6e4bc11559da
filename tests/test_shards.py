"""``python -m tests --shards 2`` of small suites: side by side, apart, and no failure gets lost or hidden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards import COUNT_VARIABLE, FOLDER_VARIABLE, NUMBER_VARIABLE, SPARE_VARIABLE
from tests.teller import AT_MOST_AGAIN

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root the suite is one pytest")

#: Waits for another test at the end of the suite's folder, which holds what tests tell each other.
MEET = """
import os, socket, time
from pathlib import Path
import pytest
FOLDER = Path(__file__).parent

def meet(mine, other):
    (FOLDER / mine).touch()
    deadline = time.monotonic() + 60
    while not (FOLDER / other).exists():
        assert time.monotonic() < deadline, f"no {other}"
        time.sleep(0.02)
"""


def run(folder: Path, spare: float = 60, **files: str) -> tuple[int, str]:
    """Exit status and output of a suite of these files."""
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(MEET + text)
    paths = [str(folder / f"test_{name}.py") for name in files]
    ours = (COUNT_VARIABLE, FOLDER_VARIABLE, NUMBER_VARIABLE)
    done = subprocess.run(
        [sys.executable, "-m", "tests", "--shards", "2", *paths],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name not in ours}
        | {SPARE_VARIABLE: str(spare)}
        # Other plugins take most of the time of so small a suite.
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_timeout -p no:warnings"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


BOTH_LISTEN = """
def test_same_port():
    with socket.create_server(("127.0.0.1", 8123)):
        meet("{mine}", "{other}")
        (FOLDER / "processes-{mine}").write_text(os.readlink("/proc/self/ns/pid"))
        meet("{mine}-done", "{other}-done")
"""
ALONE = """
@pytest.mark.alone
def test_the_others_have_ended():
    assert {name for name in ("a-done", "b-done") if (FOLDER / name).exists()} == {"a-done", "b-done"}
"""


def test_side_by_side_and_apart_then_alone(tmp_path: Path) -> None:
    first, second = (BOTH_LISTEN.format(mine=mine, other=other) for mine, other in ("ab", "ba"))
    status, said = run(tmp_path, alone=ALONE, first=first, second=second)
    assert status == 0 and "3 passed" in said, said
    assert (tmp_path / "processes-a").read_text() != (tmp_path / "processes-b").read_text()


FAILS = """
def test_fine():
    pass

def test_wrong():
    print("said before")
    assert 40 + 2 == 41

"""
SECOND = """
made = []

@pytest.fixture(scope="module")
def fresh():
    made.append(os.getpid())
    return made

def test_before(fresh):
    assert len(fresh) == 1

def test_at_the_second_run(fresh):
    tried = FOLDER / "tried"
    first = not tried.exists()
    with tried.open("a") as file:
        print(os.environ["DAYTONA_MAGICS_TEST_SHARD"], file=file)
    assert not first, "the first run"
    assert len(set(tried.read_text().splitlines())) == 2
"""
SKIPS = """
def test_skipped():
    pytest.skip("its reason")
"""


#: One test that kills its process as often as it is told.
DIES = """
def test_dies():
    deaths = len(list(FOLDER.glob("died-*")))
    if deaths < {often}:
        (FOLDER / f"died-{{deaths}}").touch()
        meet("dying", "tried")
        os.kill(os.getpid(), 9)

def test_after():
    pass
"""


def unfinished(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("groups that were not run to their end")]


def test_what_failed_or_died_is_run_once_more_whole_and_in_fresh_processes(tmp_path: Path) -> None:
    status, said = run(tmp_path, dies=DIES.format(often=1), second=SECOND, skips=SKIPS)
    assert status == 0 and "4 passed, 1 skipped, 1 rerun" in said, said
    for text in (
        "RERUN",
        "test_second.py::test_at_the_second_run",
        "the first run",
        "a shard died",
        "its reason",
    ):
        assert text in said, text
    assert not unfinished(said), said


def test_what_fails_or_dies_twice_fails(tmp_path: Path) -> None:
    status, said = run(tmp_path, second=SECOND, fails=FAILS)
    assert status == 1 and "1 failed, 3 passed, 2 rerun" in said, said
    assert "test_fails.py::test_wrong" in said and "said before" in said, said
    (tmp_path / "tried").touch()
    status, said = run(tmp_path, dies=DIES.format(often=2), skips=SKIPS)
    assert status not in (0, 1) and "1 skipped" in said, said
    (left,) = unfinished(said)
    assert left.endswith("test_dies.py") and "," not in left, said


def test_when_many_groups_fail_nothing_is_run_again(tmp_path: Path) -> None:
    status, said = run(tmp_path, **{f"fails{number}": FAILS for number in range(AT_MOST_AGAIN + 1)})
    assert status == 1, said
    assert f"{AT_MOST_AGAIN + 1} failed, {AT_MOST_AGAIN + 1} passed in" in said, said


HANGS = """
@pytest.fixture
def for_ever():
    yield
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass

@pytest.mark.timeout(1)
def test_hangs_at_its_end(for_ever):
    pass
"""


def test_what_hangs_ends_its_shard_and_says_where(tmp_path: Path) -> None:
    status, said = run(tmp_path, spare=1, hangs=HANGS, skips=SKIPS)
    assert status not in (0, 1) and "1 skipped" in said, said
    assert "in for_ever" in said and "Timeout (0:00:02)!" in said, said
