"""Every rung of the ladder: starts, holds what is inside, hands out what it must, and ends completely.

Run as root the whole file is run once more as an ordinary user that exists nowhere else.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.launch import landlock, levels
from daytona_magics.engine.launch.launcher import Launcher, LaunchError
from daytona_magics.engine.toolbox import trees
from tests.isolation import as_user
from tests.isolation.conftest import Level

pytestmark = [pytest.mark.isolation, pytest.mark.timeout(180)]

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
CI = os.environ.get("CI", "").lower() in ("true", "1")
#: Below ABI 6 an ordinary user's L1 counts as L0.5.
BELOW_6 = "L1" if ROOT else "L0.5"
RUNGS: dict[str, dict[str, Any]] = {
    "L3": {"isolation": "L3", "launcher": "ctypes"},
    "L3 in bubblewrap": {"isolation": "L3", "launcher": "outer-bwrap"},
    "L3 by bubblewrap": {"isolation": "L3", "launcher": "bwrap"},
    "L2": {"isolation": "L2"},
    "L2 at ABI 3": {"isolation": "L2", "landlock_abi": 3},
    "L1": {"isolation": "L1"},
    "L1 at ABI 4": {"isolation": BELOW_6, "landlock_abi": 4},
    "L1 at ABI 3": {"isolation": BELOW_6, "landlock_abi": 3},
}


class Rung(Level):
    """A level and what was asked for to get it."""

    def __init__(self, **asked: Any) -> None:
        self.asked = asked
        super().__init__(**asked)


@pytest.fixture(scope="module", params=RUNGS)
def rung(request: pytest.FixtureRequest) -> Iterator[Rung]:
    try:
        level = Rung(**RUNGS[request.param])
    except LaunchError as error:
        if CI and ROOT:
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield level
    level.close()


def execute(level: Level, box: Any, command: str) -> str:
    output: bytes = level.run(box.toolbox.execute(command, timeout=60)).output
    return output.decode("utf-8", "replace")


def python(level: Level, box: Any, code: str, *words: str) -> str:
    # The engine's own Python may lie where a sandbox's uid cannot go.
    argv = ["python3", "-I", "-c", code, *words]
    output: bytes = level.run(box.toolbox.run_program(argv, timeout=60)).output
    return output.decode("utf-8", "replace")


# -- what works


def test_it_is_what_was_asked_for(rung: Rung) -> None:
    launcher, asked = rung.launcher, rung.asked
    assert launcher.level == asked["isolation"] and launcher.launcher == asked.get("launcher", "ctypes")
    assert launcher.attempts == [] and launcher.reason == "it was asked for by name"
    expected = 0 if launcher.level == "L3" else min(landlock.abi(), asked.get("landlock_abi", 99))
    assert launcher.landlock_abi == expected
    assert (launcher.open == ()) == (launcher.level == "L3")
    assert all(phrase and "\n" not in phrase for phrase in launcher.open)


WRITES = """
for place in "$HOME" "$TMPDIR" /usr /etc /opt /var/lib /proc/sys/kernel /dev /tmp /var/tmp /dev/shm %s; do
  (echo x > "$place/dm-rung") 2>/dev/null && echo "$place"
done
mkdir a b && echo 1 > a/f && mv a/f b/g && ln b/g b/h && ln -s g b/l && cat b/l && rm -r a b
"""


def test_only_its_own_places_can_be_written(rung: Rung) -> None:
    box = rung.spawn()
    home = box.toolbox.home
    other = rung.folder / "other"
    other.mkdir(exist_ok=True)
    other.chmod(0o777)
    lines = execute(rung, box, WRITES % other).split()
    own_tree = rung.launcher.level == "L3"
    scratch = ["/tmp", "/var/tmp", "/dev/shm"]
    expected = [home, *(["/tmp", *scratch] if own_tree else [f"{home}/.tmp"]), "1"]
    assert lines == expected
    assert not own_tree or home == "/home/daytona"
    assert list(other.iterdir()) == [] and not any(Path(place, "dm-rung").exists() for place in scratch)
    assert python(rung, box, "import ssl, sqlite3, ctypes; print('fine')") == "fine\n"
    assert (
        python(rung, box, "open('/dev/null', 'w').write('x'); print(len(open('/dev/urandom','rb').read(4)))")
        == "4\n"
    )
    rung.run(box.kill())


def test_nothing_is_left_of_privileges(rung: Rung) -> None:
    box = rung.spawn()
    text = execute(rung, box, "cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    names = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    # An ordinary user without a user namespace has no right to empty the bounding set, and no use for it.
    if ROOT or levels.with_shared_network(rung.launcher.level) is False:
        names.append("CapBnd")
    assert {name: int(status[name], 16) for name in names} == dict.fromkeys(names, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    if ROOT:
        assert "0" not in status["Uid"].split() + status["Gid"].split() and status["Groups"].split() in (
            [],
            status["Gid"].split()[:1],
        )
    rung.run(box.kill())


@contextlib.contextmanager
def service() -> Iterator[int]:
    """A service on the host's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


SERVE = """
import os, socket, sys
first = int(os.environ.get("PORT") or 0)
for port in (first, first + 15, first + 16, first - 1):
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port)); sock.listen()
            with socket.create_connection(("127.0.0.1", port), 2):
                print("yes", end=" ")
    except OSError as error:
        print(error.errno, end=" ")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)
    print("reached")
except OSError as error:
    print(error.errno)
"""


def test_the_way_out_and_ports(rung: Rung) -> None:
    box = rung.spawn()
    launcher = rung.launcher
    if launcher.level in levels.OWN_NETWORK:
        assert box.ports is None
        listener = box.proxy
        assert listener.getsockname() == ("127.0.0.1", 3128) and not listener.getblocking()
        ask = (
            "import socket; s = socket.create_connection(('127.0.0.1', 3128), 10); print(s.recv(9).decode())"
        )
        running = rung.start(box.toolbox.run_program(["python3", "-I", "-c", ask], timeout=30))
        deadline = time.monotonic() + 20
        while True:
            try:
                connection, _ = listener.accept()
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        with connection:
            connection.sendall(b"way out")
        assert running.result(30).output == b"way out\n"
    else:
        first, count = box.ports
        assert box.proxy is None and count == 16
        with service() as port:
            found = python(rung, box, SERVE, str(port)).split()
        refused = "1" if launcher.landlock_abi < 4 else "13"
        yes = "yes" if launcher.landlock_abi >= 4 else refused
        # Without ports in Landlock there is no network at all: EPERM or EAFNOSUPPORT by the filter.
        found = ["1" if word == "97" else word for word in found]
        assert found == [yes, yes, refused, refused, refused]
        assert execute(rung, box, "echo $PORT") == f"{first}\n"
        second = rung.spawn()
        assert not set(range(*_block(box))) & set(range(*_block(second)))
        rung.run(second.kill())
    rung.run(box.kill())
    if box.proxy is not None:
        time.sleep(0.05)
        assert box.proxy.fileno() == -1, "the listener goes with the sandbox"


def _block(box: Any) -> tuple[int, int]:
    first, count = box.ports
    return first, first + count


def test_git_works(rung: Rung) -> None:
    """It ends when it may not read a configuration that is there."""
    box = rung.spawn()
    author = "git -c user.name=a -c user.email=a@b"
    command = (
        f"git init -q r && cd r && touch a && git add a && {author} commit -qm first && git log --format=%s"
    )
    assert execute(rung, box, command) == "first\n"
    rung.run(box.kill())


def test_the_environment_is_its_own(rung: Rung) -> None:
    box = rung.spawn()
    names = set(execute(rung, box, "env -0").replace("\n", "").split("\0"))
    names = {entry.partition("=")[0] for entry in names} - {"", "_", "SHLVL", "OLDPWD", "PWD"}
    expected = {"HOME", "SHELL", "DAYTONA_SANDBOX_ID", "LANG", "LOGNAME", "PATH", "TMPDIR", "USER"}
    assert names - {"PORT", "VIRTUAL_ENV"} <= expected | {
        "GIT_CONFIG_NOSYSTEM",
        "NPM_CONFIG_PREFIX",
        "TMPPREFIX",
    }, names
    if rung.launcher.level != "L3":
        assert execute(rung, box, 'stat -c %a "$TMPDIR"; ls -d "$TMPDIR"').split() == [
            "700",
            f"{box.toolbox.home}/.tmp",
        ]
    rung.run(box.kill())


def test_configuration_in_a_prefix_is_hidden(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = rung.folder / "prefix"
    for name in ("lib/a/b", "etc/jupyter/token", "etc/other", "kept/jupyter/token", "kept/x", ".condarc"):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(f"{name} ")
    (prefix / "share").symlink_to(prefix / "kept")
    monkeypatch.setattr(sys, "exec_prefix", str(prefix))
    launcher = Launcher(stderr_dir=rung.folder / "err-prefix", **rung.asked)
    rung.run(launcher.start())
    former, rung.launcher = rung.launcher, launcher
    try:
        box = rung.spawn()
        read = f"cat $(find {prefix} -type f) 2>/dev/null"
        assert sorted(execute(rung, box, read).split()) == ["etc/other", "kept/x", "lib/a/b"]
        (prefix / "lib/a/new").write_text("lib/a/new")
        (prefix / "pip.conf").write_text("password ")
        found = execute(rung, box, read)
        assert "lib/a/new" in found
        # A mount shows a whole folder; Landlock grants what is known.
        assert ("password" in found) == (rung.launcher.level == "L3")
        second = rung.spawn()
        assert "password" not in execute(rung, second, read)
    finally:
        rung.run(launcher.stop())
        rung.launcher = former
        trees.remove_tree(prefix)


@pytest.mark.parametrize("rung", ["L3 by bubblewrap"], indirect=True)
def test_what_is_to_be_covered_may_go_while_bubblewrap_starts(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes a pip.conf between the look at the prefix and the mount over it."""
    prefix, tools = rung.folder / "prefix", rung.folder / "tools"
    for folder in (prefix / "lib", tools):
        folder.mkdir(parents=True)
    (tools / "bwrap").write_text(
        f"#!/bin/sh\n[ -e {prefix}/pip.conf ] && rm {prefix}/pip.conf && echo >>{prefix}/lib/tries\n"
        f'exec {shutil.which("bwrap")} "$@"\n'
    )
    (tools / "bwrap").chmod(0o755)
    monkeypatch.setattr(sys, "exec_prefix", str(prefix))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    launcher = Launcher(stderr_dir=rung.folder / "err-going", **rung.asked)
    (prefix / "pip.conf").write_text("password ")
    rung.run(launcher.start())
    former, rung.launcher = rung.launcher, launcher
    try:
        (prefix / "pip.conf").write_text("password ")
        box = rung.spawn()
        assert "password" not in execute(rung, box, f"cat {prefix}/pip.conf 2>&1; true")
        assert (prefix / "lib/tries").read_text() == "\n\n"
    finally:
        rung.run(launcher.stop())
        rung.launcher = former
        trees.remove_tree(prefix)


def test_processes_of_the_same_account_elsewhere_leave_room(rung: Rung) -> None:
    """The kernel counts all processes of a uid, and this account has more than one."""
    if ROOT or rung.launcher.level in levels.OWN_PROCESSES:
        pytest.skip("here a sandbox's processes are counted by themselves")
    box = rung.spawn(processes=1)
    assert execute(rung, box, "echo $(echo fine)") == "fine\n"
    rung.run(box.kill())


# -- how it ends

#: Processes that try to outlive their sandbox: they leave group, session and parent, ignore what can be
#: ignored, and one is never the same process for long.
SURVIVORS = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    time.sleep(0.2); os._exit(0)
os.setsid()
for _ in range(3):
    if os.fork():
        continue
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(600); os._exit(0)
if os.fork():
    time.sleep(600)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    if os.fork():
        os._exit(0)
"""


def running(marker: str) -> list[int]:
    """Host pids whose command line holds `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line.split(b"\0"):
                found.append(int(entry.name))
    return found


def test_a_kill_leaves_nothing(rung: Rung) -> None:
    box, mark = rung.spawn(), "mark-" + os.urandom(8).hex()
    python(rung, box, SURVIVORS, mark)
    assert len(running(mark)) >= 4
    rung.run(box.kill())
    # Not soon: when kill returns.
    assert running(mark) == []
    assert not box.alive


#: A small engine. For every line it reads it starts a sandbox with survivors in it and tells process numbers.
ENGINE = """
import asyncio, os, sys
from pathlib import Path
from daytona_magics.engine.launch.launcher import Launcher, SandboxSpec
from tests import uids
async def main():
    folder, survivors, options = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
    launcher = Launcher(stderr_dir=folder / "err", **options)
    uid = uids.account(1_700_000) if os.geteuid() == 0 else None
    launcher.prepare_home(folder / "home", uid)
    await launcher.start()
    while mark := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if launcher._zygote.poll() is not None:
            await launcher.stop()
            await launcher.start()
        box = await launcher.spawn(SandboxSpec("box", folder / "home", uid, "box"))
        await box.toolbox.run_program(["python3", "-I", "-c", survivors, mark], timeout=60)
        with open(f"/proc/{box.pid}/status") as file:
            keeper = next(line.split()[1] for line in file if line.startswith("PPid:"))
        print(launcher._zygote.pid, keeper, box.pid, flush=True)
asyncio.run(main())
"""
PARTS = ("first process", "keeper", "zygote", "engine")


@pytest.mark.parametrize("name", [name for name in RUNGS if "ABI 3" not in name])
def test_a_killed_part_takes_the_sandbox_along(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="dm-rung-") as folder:
        os.chmod(folder, 0o711)
        with subprocess.Popen(
            [sys.executable, "-c", ENGINE, folder, SURVIVORS, repr(RUNGS[name])],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as engine:
            assert engine.stdout is not None and engine.stdin is not None
            try:
                for part in PARTS:
                    mark = "mark-" + os.urandom(8).hex()
                    engine.stdin.write(mark + "\n")
                    line = engine.stdout.readline()
                    if not line and part == PARTS[0] and not (CI and ROOT):
                        pytest.skip("this rung does not work here")
                    zygote, keeper, first = map(int, line.split())
                    numbers = dict(zip(PARTS, (first, keeper, zygote, engine.pid), strict=True))
                    assert len(running(mark)) >= 4
                    os.kill(numbers[part], signal.SIGKILL)
                    # It takes some milliseconds; this is a limit for a machine with more to do.
                    deadline = time.monotonic() + 30
                    while running(mark) and time.monotonic() < deadline:
                        time.sleep(0.01)
                    assert running(mark) == [], part
            finally:
                engine.kill()


# -- what is chosen

#: An engine on a machine that refuses what a filter, written here, refuses.
REFUSED = """
import asyncio, sys
from pathlib import Path
from daytona_magics.engine.launch import numbers, privileges, seccomp
from daytona_magics.engine.launch.launcher import Launcher, LaunchError
architecture = numbers.ARCHITECTURES[seccomp.platform.machine()]
code = seccomp._Code(architecture)
code.add(0x20, 0)
code.refuse(sys.argv[2].split(), 1)
if "unshare" in sys.argv[2]:
    code.refuse(["clone3"], 38)
    code.on("clone", seccomp._clone(architecture))
code.add(6, 0x7FFF0000)
privileges.load_filter(code.packed())
async def main():
    launcher = Launcher(stderr_dir=Path(sys.argv[1]))
    try:
        await launcher.start()
    except LaunchError as error:
        print("error", error)
    print(launcher.level, launcher.launcher, launcher.landlock_abi)
    print(launcher.reason)
    for attempt in launcher.attempts:
        print(attempt.level, attempt.launcher, attempt.problem)
    await launcher.stop()
asyncio.run(main())
"""
MOUNTS = "mount umount2 pivot_root open_tree move_mount fsopen fsmount mount_setattr"


def refused(folder: Path, calls: str, **variables: str) -> list[str]:
    """What a launcher reports where `calls` are refused: level, reason, attempts."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(folder), calls],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_where_mounts_are_refused(tmp_path: Path) -> None:
    level, reason, *attempts = refused(tmp_path, MOUNTS)
    assert level == f"L2 ctypes {landlock.abi()}"
    ways = [" ".join(attempt.split()[:2]) for attempt in attempts]
    assert ways == ["L3 ctypes", "L3 outer-bwrap", "L3 bwrap"]
    assert reason.startswith("L3: ") and "docker run --security-opt apparmor=unconfined" in reason
    assert reason.count("docker run") == 1


@pytest.mark.parametrize("abi", [None, 4, 3, 0])
def test_where_namespaces_are_refused(tmp_path: Path, abi: int | None) -> None:
    limit = {} if abi is None else {"DAYTONA_MAGICS_LANDLOCK_ABI": str(abi)}
    level, reason, *attempts = refused(tmp_path, f"unshare setns {MOUNTS}", PATH="/nowhere", **limit)
    used = landlock.abi(abi)
    if abi == 0:
        assert level.startswith("error this machine cannot isolate sandboxes: L3: ") and "Landlock" in level
        return
    assert level == f"{'L1' if ROOT or used >= 6 else 'L0.5'} ctypes {used}"
    ways = [" ".join(attempt.split()[:2]) for attempt in attempts]
    assert ways[:4] == ["L3 ctypes", "L3 outer-bwrap", "L3 bwrap", "L2 ctypes"]
    assert (len(ways) == 5) == level.startswith("L0.5")
    assert "L3 by bubblewrap: bubblewrap is not installed (package bubblewrap)" in reason
    assert "docker run --security-opt seccomp=unconfined" in reason and "; L2: " in reason


def test_the_best_that_works_is_chosen(tmp_path: Path) -> None:
    level, reason, *attempts = refused(tmp_path, "acct")
    assert level == "L3 ctypes 0" and reason == "" and attempts == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "L4"}, "L0, L0.5, L1, L2, L3"),
        ({"launcher": "docker"}, "ctypes, outer-bwrap, bwrap"),
        ({"isolation": "L0.5"}, "here they can"),
        ({"isolation": "L2", "landlock_abi": 0}, "Landlock"),
        ({"isolation": "L2", "launcher": "bwrap"}, "L2"),
    ],
)
async def test_what_cannot_be_had_is_said(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    launcher = Launcher(stderr_dir=tmp_path, **options)
    with pytest.raises(LaunchError, match=message) as caught:
        await launcher.start()
    assert "\n" not in str(caught.value) and launcher.level == ""


@pytest.mark.shard_group("rungs as an ordinary user")
@pytest.mark.skipif(not ROOT, reason="this process already is an ordinary user")
def test_the_same_as_an_ordinary_user() -> None:
    as_user.run_tests(__file__)
