"""multiprocessing where /dev/shm and unix sockets are refused: works, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daytona_magics.engine.launch import landlock
from daytona_magics.runtime.guest import multi

from . import no_unix_sockets
from .test_sources import other_pythons

pytestmark = pytest.mark.skipif(
    not no_unix_sockets.supported() or not landlock.abi(), reason="this kernel has no Landlock"
)

PREPARE = """
import sys
sys.path.insert(0, sys.argv[1])
from guest import multi
assert multi.needed()
multi.spread(sys.argv[2], sys.argv[2] + "/shm")
multi.spread(sys.argv[2], sys.argv[2] + "/shm")
import os
os.mkdir(sys.argv[2] + "/shm")
"""

PROGRAM = """
import multiprocessing as mp
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

def square(x):
    return x * x

def count(name, lock, times):
    memory = shared_memory.SharedMemory(name=name)
    for _ in range(times):
        with lock:
            memory.buf[0] += 1
    memory.close()

def use(how):
    context = mp.get_context(how)
    with context.Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    lock, memory = context.Lock(), shared_memory.SharedMemory(create=True, size=1000)
    memory.buf[0] = 0
    workers = [context.Process(target=count, args=(memory.name, lock, 100)) for _ in range(2)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert memory.buf[0] == 200
    memory.close()
    memory.unlink()
    queue, value, event = context.Queue(), context.Value("i", 3), context.Event()
    queue.put(value.value)
    event.set()
    assert queue.get() == 3 and event.wait(1)
    recursive, bounded = context.RLock(), context.BoundedSemaphore(1)
    with recursive, recursive:
        assert bounded.acquire() and not bounded.acquire(block=False)
    bounded.release()
    # The way to a semaphore keeps it.
    acquire = context.Lock().acquire
    assert acquire() and not acquire(False)

def twice():
    # As a worker does it that was forked from a daemon which did it already.
    import site, _sandbox_multi
    finders = len(sys.meta_path)
    del sys.modules["_sandbox_multi"]
    site.addsitedir(os.path.dirname(_sandbox_multi.__file__))
    assert "_sandbox_multi" in sys.modules and len(sys.meta_path) == finders

def refused(what):
    try:
        what()
    except OSError as error:
        return str(error)

if __name__ == "__main__":
    twice()
    use("fork")
    use("spawn")
    print(mp.get_context("spawn").Manager().dict({1: 2}) if sys.argv[1] == "net" else refused(mp.Manager))
    print(refused(lambda: mp.get_context("forkserver").Pool(1)))
"""


@pytest.mark.parametrize(
    "python", [sys.executable, *other_pythons()[:1]], ids=["this", "another"][: 1 + len(other_pythons()[:1])]
)
@pytest.mark.parametrize("net", ["net", "no net"])
def test_what_works_works_and_the_rest_says_why(tmp_path: Path, python: str, net: str) -> None:
    home, program = tmp_path / "home", tmp_path / "program.py"
    home.mkdir()
    program.write_text(PROGRAM)

    def close() -> None:
        no_unix_sockets.refuse()
        with landlock.Ruleset(landlock.abi(), ports=net != "net") as rules:
            for name in set(os.listdir("/")) - {"dev"}:
                rules.allow("/" + name, landlock.READ | landlock.OWN)
            for name in ("null", "urandom"):
                rules.allow("/dev/" + name, landlock.USE_DEVICE)
            rules.enter()

    def run(*words: str) -> str:
        environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        # The interpreter below a virtual environment: that has no packages in this home.
        real = os.path.realpath(python)
        done = subprocess.run(
            [real, *words],
            env=environment,
            preexec_fn=close,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
        return done.stdout

    guest = Path(multi.__file__).parent.parent
    run("-c", PREPARE, str(guest), str(home))
    manager, forkserver = run(str(program), net).splitlines()
    assert manager == ("{1: 2}" if net == "net" else multi.NO_SOCKETS % "multiprocessing.Manager")
    assert forkserver == multi.NO_SOCKETS % "forkserver"
    assert list((home / "shm").iterdir()) == []


def test_nothing_is_done_where_there_is_shared_memory() -> None:
    assert multi.needed() is False
