"""Twenty kernels of one user start at once: one engine serves them all, each in a sandbox of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forks
from tests.kernel_client import Kernel, close_loop, environment, stop_engine

KERNELS = 20
#: Seconds for all of them, from the first process to the last cell's end, on two cores.
BOUND = 150.0
#: What a kernel knows about its engine, without starting one.
ENGINE = "from daytona_magics.engine import address\nprint(address.find().pid)"
CELL = "%%sandbox\nimport os\nprint({number}, os.environ['DAYTONA_SANDBOX_ID'])"


@dataclass(frozen=True)
class Answer:
    """What one kernel learnt: the number its cell printed, its sandbox and its engine's pid."""

    number: int
    sandbox: str
    engine: int


@pytest.fixture
def home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="dm-"))
    yield made
    stop_engine(environment(made))
    shutil.rmtree(made, ignore_errors=True)


def engines_of(home: Path) -> list[int]:
    """The engine processes whose state lies in ``home``."""
    state = f"DAYTONA_MAGICS_HOME={home}/state".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            if b"daytona_magics.engine\0serve" in line and state in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


@pytest.mark.alone
@pytest.mark.timeout(BOUND + 90)
def test_twenty_kernels_get_one_engine_and_a_sandbox_each(home: Path) -> None:
    # Nobody runs a cell before everybody has loaded the extension, so that all of them find no engine.
    before: list[int] = []
    together = threading.Barrier(KERNELS, action=lambda: before.extend(engines_of(home)))

    def live(number: int) -> Answer:
        with ExitStack() as stack:
            stack.callback(close_loop)
            env: dict[str, str | None] = {forks.STARTS_ENGINES: "1"}
            kernel = stack.enter_context(Kernel(home, name=f"notebook {number}.ipynb", env=env))
            try:
                together.wait(BOUND)
            except BaseException:
                together.abort()
                raise
            cell = kernel.run(CELL.format(number=number), timeout=BOUND)
            assert cell.status == "ok", cell
            printed, sandbox = cell.stdout.split()
            return Answer(int(printed), sandbox, int(kernel.run(ENGINE).stdout))

    began = time.monotonic()
    with ThreadPoolExecutor(KERNELS) as pool:
        answers = list(pool.map(live, range(KERNELS)))
    seconds = time.monotonic() - began
    assert before == []
    assert [answer.number for answer in answers] == list(range(KERNELS))
    assert len({answer.sandbox for answer in answers}) == KERNELS
    pids = {answer.engine for answer in answers}
    assert len(pids) == 1 and os.getpid() not in pids
    assert engines_of(home) == list(pids)
    assert seconds < BOUND
