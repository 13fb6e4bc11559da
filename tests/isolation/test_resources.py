"""Bombs, survivors and neighbours: a sandbox is bounded, ends completely, and sees no other sandbox."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.launch.launcher import Launcher, LaunchError, SandboxProcess, SandboxSpec
from daytona_magics.engine.toolbox.client import ToolboxGone
from tests import uids

pytestmark = [pytest.mark.isolation, pytest.mark.timeout(120)]


def execute(level: Any, box: SandboxProcess, command: str, timeout: float = 30) -> bytes:
    output: bytes = level.run(box.toolbox.execute(command, timeout=timeout)).output
    return output


def python(level: Any, box: SandboxProcess, code: str, *words: str) -> bytes:
    argv = [sys.executable, "-I", "-c", textwrap.dedent(code), *words]
    output: bytes = level.run(box.toolbox.run_program(argv, timeout=60)).output
    return output


def running(marker: str) -> list[int]:
    """Host pids whose command line holds `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(int(entry.name))
    return found


def gone(marker: str, *pids: int, within: float = 3.0) -> bool:
    """Do all processes with `marker`, and `pids`, end soon?"""
    deadline = time.monotonic() + within
    while running(marker) or any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] != b"Z"


def sleeper() -> str:
    """A `sleep` argument that no other process has."""
    return f"{86_400 + int.from_bytes(os.urandom(4), 'big')}"


BOMB = """
import os, sys, time
count = 0
while True:
    try:
        if os.fork() == 0:
            os.setsid(); time.sleep(600); os._exit(0)
        count += 1
    except OSError:
        print(count); break
"""


def test_a_fork_bomb_is_bounded_per_sandbox(l3: Any) -> None:
    bomb, neighbour = l3.spawn(processes=60), l3.spawn(processes=60)
    count = int(python(l3, bomb, BOMB))
    assert 30 <= count < 60
    # The toolbox itself needs no process for files, and says what is wrong with a command.
    assert [entry.name for entry in l3.run(bomb.toolbox.list_files("/home"))] == ["daytona"]
    last = asyncio.run_coroutine_threadsafe(bomb.toolbox.execute("exec sleep 600"), l3._loop)
    deadline = time.monotonic() + 10
    while (result := l3.run(bomb.toolbox.execute("true"))).exit_code == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not last.done()
    assert result.exit_code == -1 and b"Resource temporarily unavailable" in result.output
    # A neighbour has all of its own processes left, and the engine all of its power.
    assert int(python(l3, neighbour, BOMB)) >= count - 2
    l3.run(bomb.kill(), 20)
    with pytest.raises(ToolboxGone):
        last.result(10)
    l3.run(neighbour.kill(), 20)
    assert not bomb.alive


def test_memory_files_are_bounded(l3: Any) -> None:
    box = l3.spawn(tmp_size=8 << 20)
    code = """
        import os
        total = 0
        for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
            try:
                with open(folder + "/fill", "wb", buffering=0) as file:
                    while True:
                        total += file.write(bytes(1 << 20))
            except OSError as error:
                last = error.errno
        print(total >> 20, os.strerror(last))
    """
    assert python(l3, box, code) == b"8 No space left on device\n"
    for folder in ("/", "/etc", "/dev", "/home", "/var", "/usr", "/proc", "/root"):
        assert b"ok" not in execute(l3, box, f"touch {folder}/x && echo ok"), folder
    l3.run(box.kill())


def test_limits_hold(l3: Any) -> None:
    box = l3.spawn(open_files=300, file_size=1 << 20)
    assert execute(l3, box, "ulimit -Hn; ulimit -Hc") == b"300\n0\n"
    code = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nopen('f', 'wb').write(bytes(2 << 20))"
    )
    assert b"File too large" in python(l3, box, code)
    l3.run(box.kill())


def test_nothing_survives_a_kill(l3: Any) -> None:
    box, mark = l3.spawn(), sleeper()
    execute(
        l3, box, f"trap '' TERM HUP; (setsid sh -c 'sleep {mark} & sleep {mark}' &) ; nohup sleep {mark} &"
    )
    deadline = time.monotonic() + 10
    while len(running(f"sleep\0{mark}")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    l3.run(box.kill())
    # Not soon: when kill returns.
    assert running(mark) == [] and not _alive(box.pid)


def test_death_from_outside_is_noticed(l3: Any) -> None:
    box, ended = l3.spawn(), []
    box.add_exit_callback(ended.append)
    task = asyncio.run_coroutine_threadsafe(box.toolbox.execute("sleep 100"), l3._loop)
    os.kill(box.pid, signal.SIGKILL)
    with pytest.raises(ToolboxGone):
        task.result(10)
    l3.run(box.kill())
    assert ended == [box] and not box.alive


def test_sandboxes_do_not_see_each_other(l3: Any) -> None:
    one, two, mark = l3.spawn(), l3.spawn(), sleeper()
    server = f"""
        import ctypes, os, socket, sys
        unix = socket.socket(socket.AF_UNIX); unix.bind("\\x00{mark}"); unix.listen()
        tcp = socket.socket(); tcp.bind(("127.0.0.1", 4567)); tcp.listen()
        low = socket.socket(); low.bind(("127.0.0.1", 80)); low.listen()
        ctypes.CDLL(None).shmget({mark[:6]}, 4096, 0o1666)
        open("/tmp/shared", "w").close(); open("/dev/shm/shared", "w").close()
        if os.fork() == 0:
            os.setsid(); os.execvp("sleep", ["sleep", "{mark}"])
    """
    assert python(l3, one, server) == b""
    spy = f"""
        import ctypes, os, socket
        assert not os.path.exists("/tmp/shared") and not os.path.exists("/dev/shm/shared")
        assert ctypes.CDLL(None).shmget({mark[:6]}, 0, 0) == -1
        for family, address in ((socket.AF_UNIX, "\\x00{mark}"), (socket.AF_INET, ("127.0.0.1", 4567))):
            try:
                socket.socket(family).connect(address)
                print("connected", address)
            except ConnectionRefusedError:
                pass
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = open("/proc/" + pid + "/cmdline").read()
            except OSError:
                continue
            if "{mark}" in line and int(pid) != os.getpid():
                print("seen", pid)
        print(sorted(os.listdir(os.environ["HOME"])), os.listdir("/home"), socket.gethostname())
    """
    spied = python(l3, two, spy)
    assert spied == f"['.venv', '.zshrc'] ['daytona'] {two.id}\n".encode()
    assert running(mark)
    l3.run(one.kill())
    l3.run(two.kill())


#: A small engine: one sandbox with processes in it, then waits to be killed.
ENGINE = """
import asyncio, os, sys, tempfile
from pathlib import Path
from daytona_magics.engine.launch.launcher import Launcher, SandboxSpec
from tests import uids
async def main():
    folder = Path(sys.argv[1])
    launcher = Launcher(stderr_dir=folder)
    deaths = asyncio.Event()
    launcher.on_zygote_death = deaths.set
    await launcher.start()
    uid = uids.uid(1_600_000) if os.geteuid() == 0 else None
    launcher.prepare_home(folder / "home", uid)
    box = await launcher.spawn(SandboxSpec("box", folder / "home", uid, "box"))
    mark = sys.argv[2]
    await box.toolbox.execute(f"setsid sleep {mark} & nohup sleep {mark} & sleep 0.1")
    task = asyncio.ensure_future(box.toolbox.execute(f"sleep {mark}"))
    print(launcher._zygote.pid, box.pid, flush=True)
    try:
        await task
    except Exception as error:
        print(type(error).__name__, flush=True)
    await asyncio.wait_for(deaths.wait(), 10)
    await box.kill()
    print("noticed", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("target", ["engine", "zygote", "keeper"])
def test_sigkill_leaves_nothing(l3: Any, tmp_path: Path, target: str) -> None:
    mark = sleeper()
    repository = Path(__file__).resolve().parents[2]
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(tmp_path), mark],
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    with engine:
        try:
            assert engine.stdout is not None
            zygote, first = (int(word) for word in engine.stdout.readline().split())
            assert len(running(mark)) >= 3
            keeper = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
            pid = {"engine": engine.pid, "zygote": zygote, "keeper": keeper}[target]
            os.kill(pid, signal.SIGKILL)
            # The engine carries the mark on its own command line and may live on.
            if target == "engine":
                engine.wait(5)
                assert gone(mark, zygote, keeper, first)
            else:
                assert engine.stdout.readline() == "ToolboxGone\n"
                assert gone(f"sleep\0{mark}", keeper, first)
            if target == "zygote":
                assert engine.stdout.readline() == "noticed\n"
        finally:
            engine.kill()
    assert gone(mark)


def test_what_cannot_start_says_why(l3: Any) -> None:
    async def spawn(**changes: Any) -> None:
        uid = uids.uid(1_600_001) if os.geteuid() == 0 else None
        fields = {"id": "x", "home": l3.folder / "no-such-home", "uid": uid, "hostname": "x", **changes}
        await l3.launcher.spawn(SandboxSpec(**fields))

    with pytest.raises(LaunchError, match="no-such-home"):
        l3.run(spawn())
    with pytest.raises(LaunchError, match="id"):
        l3.run(spawn(id="../x"))
    with pytest.raises(LaunchError, match="larger than"):
        l3.run(spawn(env={"BIG": "x" * 500_000}))
    with pytest.raises(LaunchError, match="uid"):
        l3.run(spawn(uid=None if os.geteuid() == 0 else 12345))
    # And the zygote is as good as before.
    box = l3.spawn()
    assert execute(l3, box, "echo fine") == b"fine\n"
    l3.run(box.kill())


def test_many_at_once(l3: Any) -> None:
    async def spawn_all() -> list[SandboxProcess]:
        specs = []
        for number in range(20):
            home = l3.folder / f"many{number}"
            uid = uids.uid(1_610_000 + number) if os.geteuid() == 0 else None
            l3.launcher.prepare_home(home, uid)
            specs.append(SandboxSpec(f"many{number}", home, uid, f"many{number}"))
        boxes = await asyncio.gather(*(l3.launcher.spawn(spec) for spec in specs))
        names = await asyncio.gather(*(box.toolbox.execute("hostname") for box in boxes))
        assert [name.output for name in names] == [f"many{number}\n".encode() for number in range(20)]
        return list(boxes)

    boxes = l3.run(spawn_all())
    assert len({box.pid for box in boxes}) == 20
    for box in boxes:
        l3.run(box.kill())


def test_a_new_zygote_after_the_old_one_died(l3: Any) -> None:
    async def story() -> tuple[bytes, int]:
        died = asyncio.Event()
        launcher = Launcher(stderr_dir=l3.folder / "err-restart")
        launcher.on_zygote_death = died.set
        await launcher.start()
        home = l3.folder / "restart"
        uid = uids.uid(1_620_000) if os.geteuid() == 0 else None
        launcher.prepare_home(home, uid)
        spec = SandboxSpec("restart", home, uid, "restart")
        box = await launcher.spawn(spec)
        await box.toolbox.execute("echo kept > file")
        assert launcher._zygote is not None
        os.kill(launcher._zygote.pid, signal.SIGKILL)
        await asyncio.wait_for(died.wait(), 10)
        await asyncio.wait_for(box.kill(), 10)
        await launcher.stop()
        with pytest.raises(LaunchError):
            await launcher.spawn(spec)
        await launcher.start()
        await asyncio.sleep(0.3)  # A toolbox's socket is closed a moment after its sandbox has ended.
        before = len(os.listdir("/proc/self/fd"))
        box = await launcher.spawn(spec)
        output = (await box.toolbox.execute("cat file")).output
        await box.kill()
        await asyncio.sleep(0.3)
        after = len(os.listdir("/proc/self/fd"))
        await launcher.stop()
        await launcher.stop()
        return output, after - before

    assert l3.run(story()) == (b"kept\n", 0)
