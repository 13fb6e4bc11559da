"""``python -m tests --shards 2`` of small suites: side by side, apart, and no failure gets lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards import COUNT_VARIABLE, FOLDER_VARIABLE, NUMBER_VARIABLE, SPARE_VARIABLE

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
        | {SPARE_VARIABLE: str(spare)},
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

def test_at_the_second_try():
    first = not (FOLDER / "tried").exists()
    (FOLDER / "tried").touch()
    assert not first, "the first try"
"""
SKIPS = """
def test_skipped():
    pytest.skip("its reason")
"""


DIES = """
def test_dies():
    meet("dying", "tried")
    os.kill(os.getpid(), 9)

def test_never():
    pass
"""


def test_failures_second_tries_skips_and_a_shard_that_dies_are_told(tmp_path: Path) -> None:
    status, said = run(tmp_path, dies=DIES, fails=FAILS, skips=SKIPS)
    assert status not in (0, 1), said
    assert "1 failed, 2 passed, 1 skipped, 2 rerun" in said, said
    for text in ("test_fails.py::test_wrong", "said before", "the first try", "its reason"):
        assert text in said, text
    left = next(
        line for line in said.splitlines() if line.startswith("groups that were not run to their end")
    )
    assert left.endswith("test_dies.py") and "," not in left, said


HANGS = """
@pytest.mark.timeout(1)
def test_hangs_at_the_second_try_too():
    while True:
        time.sleep(1)
"""


def test_what_hangs_ends_its_shard_and_says_where(tmp_path: Path) -> None:
    status, said = run(tmp_path, spare=1, hangs=HANGS, skips=SKIPS)
    assert status not in (0, 1) and "1 skipped" in said, said
    assert "in test_hangs_at_the_second_try_too" in said and "Timeout (0:00:03)!" in said, said
