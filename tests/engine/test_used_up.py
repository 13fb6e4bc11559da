"""What cells and commands are told when a sandbox's disk or processes are used up, and what then helps."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.limits.limiter import Limiter
from tests.engine_process import ON_DISK, wait_until
from tests.kernel_client import Kernel

FULL = "1 GiB of disk; delete files, or ask for more with `%sandbox create --disk`"
FILL = "for n in $(seq 40); do head -c 128M /dev/zero > fill$n || exit 3; done"
#: Takes every process, also those that become free, and ends by itself.
FORKS = """
import os, time
end = time.time() + 15
if os.fork():
    time.sleep(1)
    print("no more", flush=True)
    os._exit(0)
os.setsid()
while time.time() < end:
    try:
        if not os.fork():
            time.sleep(max(0, end - time.time()))
            os._exit(0)
    except OSError:
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory(prefix="dm-", dir=ON_DISK) as folder:
        Path(folder).chmod(0o711)
        Path(folder, "state").mkdir(mode=0o700)
        with Kernel(env={"DAYTONA_MAGICS_HOME": f"{folder}/state"}) as kernel:
            assert kernel.run("%sandbox create --disk 1 --memory 1 --cpu 1").status == "ok"
            yield kernel


def test_a_cell_that_fills_the_disk_is_told_so_and_the_next_can_delete(kernel: Kernel) -> None:
    failed = kernel.run("%%sandbox bash\n" + FILL)
    assert failed.status == "error" and FULL in failed.traceback, failed
    assert "out of memory" not in failed.traceback
    python = kernel.run("%%sandbox\nopen('small', 'w').write('written')\n1 / 0")
    assert "ZeroDivisionError" in python.traceback and FULL in python.traceback, python
    deleted = kernel.run("%%sandbox bash\nrm -f fill* && ls fill* 2>/dev/null | wc -l; cat small")
    assert deleted.status == "ok" and deleted.stdout == "0\nwritten", deleted

    def fine() -> bool:
        cell = kernel.run("%%sandbox\nopen('more', 'wb').write(bytes(1 << 20))\n1 / 0")
        return "ZeroDivisionError" in cell.traceback and "disk" not in cell.traceback

    wait_until(fine, "the sandbox writes again")


def test_a_cell_that_finds_no_process_left_names_the_way_out(kernel: Kernel) -> None:
    begun = kernel.run(f"%%sandbox\nimport subprocess\nsubprocess.Popen(['python3', '-c', {FORKS!r}]).wait()")
    assert begun.status == "ok", begun
    refused = kernel.run("%%sandbox bash\necho never")
    assert "processes are used up; `%sandbox restart` ends them" in refused.traceback, refused
    assert kernel.run("%sandbox restart").status == "ok"
    assert kernel.run("%%sandbox bash\necho again").stdout == "again\n"


def test_a_command_that_finds_no_process_left_names_the_way_out(daytona: Any) -> None:
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot="daytona-small"))
    try:
        assert sandbox.process.exec("python3 -c " + shlex.quote(FORKS)).result.startswith("no more\n")
        time.sleep(0.2)
        refused = sandbox.process.exec("echo never")
        assert refused.exit_code and "`%sandbox restart` ends them" in refused.result, refused.result
    finally:
        daytona.delete(sandbox)


def test_a_large_upload_is_counted_once_also_when_the_disk_is_measured_meanwhile(tmp_path: Path) -> None:
    watched = SimpleNamespace(full=False, used=1, disk=10, worked=False)
    limiter = Limiter(tmp_path)
    limiter._dog = SimpleNamespace(get=lambda sandbox: watched)  # type: ignore[assignment]
    count = asyncio.run(limiter.room_for("one"))
    for measured in (1, 4, 7):
        watched.used = measured
        count(3)
    with pytest.raises(ApiError, match="does not fit"):
        count(1)
    # What is on the disk besides counts as soon as it is measured.
    watched.used = 10
    with pytest.raises(ApiError, match="does not fit"):
        asyncio.run(limiter.room_for("one"))(1)
