"""What is signalled: descendants of the daemon and nobody else, whatever /proc shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from daytona_magics.runtime.guest import processes

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def test_a_number_that_became_another_process_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.read(sleeper.pid)
    assert found is not None and found.lives() and processes.send([found], 0) == 1
    earlier = processes.Process(found.shown, found.pid, "S", found.parent, found.session, found.start - 1)
    assert not earlier.lives() and processes.send([earlier], signal.SIGKILL) == 0
    assert sleeper.poll() is None
    assert processes.send([found], signal.SIGKILL) == 1
    assert sleeper.wait() == -signal.SIGKILL
    assert processes.send([found], signal.SIGKILL) == 0 and not found.lives()


def test_without_handles(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    found = processes.read(sleeper.pid)
    assert found is not None and processes.send([found], signal.SIGKILL) == 1
    assert sleeper.wait() == -signal.SIGKILL


#: Run where /proc shows the namespace outside: children of several kinds, with two numbers each.
OTHER_NUMBERS = """
import ctypes, os, signal, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000000 | (0 if os.geteuid() == 0 else 0x10000000)):
    print("skip", os.strerror(ctypes.get_errno()))
    sys.exit()
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
from daytona_magics.runtime.guest import processes
assert os.getpid() == 1 and processes.own_number() != 1
processes.become_subreaper()
since = processes.now_ticks() - 1
sleep = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
worker = subprocess.Popen(["sh", "-c", '"$@" & "$@"; :', "sh", *sleep], start_new_session=True)
other = subprocess.Popen(sleep, start_new_session=True)
# An orphan that left the worker's session, known by its mark.
orphan = subprocess.run(
    ["sh", "-c", '(setsid "$@" >/dev/null & echo $!)', "sh", *sleep],
    env={**os.environ, processes.MARK: "mine"}, stdout=subprocess.PIPE, check=True,
)
orphan = int(orphan.stdout)
deadline = time.monotonic() + 20
while True:
    found = processes.started_by(worker.pid, "mine", since, (worker.pid, other.pid))
    if len(found) == 3 or time.monotonic() > deadline:
        break
    time.sleep(0.01)
pids = sorted(p.pid for p in found)
assert len(pids) == 3 and orphan in pids and max(pids) < 100, (pids, orphan)
assert not {worker.pid, other.pid} & set(pids)
assert all(p.shown != p.pid for p in found)
assert processes.send(found, signal.SIGKILL) == 3
worker.wait()
while any(p.lives() for p in found):
    assert time.monotonic() < deadline
    time.sleep(0.01)
assert other.poll() is None
other.kill()
print("fine")
"""


def test_where_proc_counts_otherwise() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_NUMBERS], capture_output=True, text=True, timeout=60, check=False
    )
    if done.stdout.startswith("skip"):
        if os.environ.get("CI", "").lower() in ("true", "1") and os.geteuid() == 0:
            pytest.fail(done.stdout)
        pytest.skip(done.stdout)
    assert done.stdout == "fine\n", done.stderr


#: While it is looked for, a process loses its parent and becomes a child of whoever looks.
MOVES = """
import os, signal, subprocess, time
from daytona_magics.runtime.guest import processes
processes.become_subreaper()
since = processes.now_ticks() - 1
worker = subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & wait' & wait; wait"], start_new_session=True)
listed, below = processes.children, []
while not below:
    middle = listed(worker.pid)
    below = listed(middle[0]) if middle else []
    time.sleep(0.01)

def moving(shown):
    if shown == worker.pid and middle:
        os.kill(middle.pop(), signal.SIGKILL)
        while below[0] not in listed(os.getpid()):
            time.sleep(0.001)
    return listed(shown)

processes.children = moving
found = [process.pid for process in processes.started_by(worker.pid, "", since)]
print(below[0] in found)
os.killpg(worker.pid, signal.SIGKILL)
"""


def test_who_loses_its_parent_during_the_look_is_found() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MOVES], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "True\n", done.stderr
