"""What sandboxes see of the host, how homes end, and what is said where isolation cannot be had."""

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine import daemon
from daytona_magics.engine.launch import folders, seccomp, tree, visible
from daytona_magics.engine.launch import launcher as launcher_module
from daytona_magics.engine.launch.launcher import Launcher, LaunchError
from daytona_magics.engine.proxy.settings import HostNetwork
from daytona_magics.engine.store.folder import StateFolder
from daytona_magics.engine.toolbox import trees

REPOSITORY = Path(__file__).resolve().parents[2]


# -- what is visible


def test_the_plan_shows_python_and_hides_homes() -> None:
    plan = visible.plan()
    for path in (
        sys.executable,
        os.path.realpath(sys.executable),
        sys.prefix,
        sys.base_prefix,
        "/usr/bin",
        "/bin/sh",
    ):
        assert plan.shows(path), path
    for path in (
        "/",
        "/home",
        "/root",
        "/etc/shadow",
        "/etc/passwd",
        "/var",
        "/tmp",
        "/proc/1",
        os.path.expanduser("~"),
    ):
        assert not plan.shows(path), path
    assert [bind[1] for bind in plan.binds] == sorted(bind[1] for bind in plan.binds), "parents first"


@pytest.mark.parametrize("home", [".", "me"])
def test_a_prefix_that_holds_a_home_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not visible.plan().shows(str(tmp_path))


def test_links_on_the_way_to_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tmp_path / "real" / "python"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "python3").touch()
    alias = tmp_path / "alias"
    alias.symlink_to(tmp_path / "real")
    launcher = tmp_path / "shim"
    launcher.symlink_to(alias / "python/bin/python3")
    monkeypatch.setattr(sys, "prefix", str(alias / "python"))
    monkeypatch.setattr(sys, "executable", str(launcher))
    plan = visible.plan()
    for path in (alias / "python/bin/python3", real / "bin/python3", launcher):
        assert plan.shows(str(path)), path
    assert not plan.shows(str(tmp_path)) and not plan.shows(str(tmp_path / "real"))


#: Names below a prefix at which passwords may lie.
SECRETS = (
    "etc/jupyter/token",
    "etc/conda/token",
    "share/jupyter/token",
    "pip.conf",
    ".condarc",
    "conda-meta/state",
)


def put_secrets(prefix: Path, *names: str) -> None:
    for name in names:
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text("secret")


@pytest.fixture
def prefixed(l3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Path]]:
    """A level whose launcher has started with another, empty prefix, and this prefix."""
    prefix = l3.folder / f"prefix-{os.urandom(4).hex()}"
    (prefix / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "exec_prefix", str(prefix))
    fresh = Launcher(stderr_dir=l3.folder / "err-masked")
    l3.run(fresh.start())
    former, l3.launcher = l3.launcher, fresh
    yield l3, prefix
    l3.run(fresh.stop())
    l3.launcher = former


def read(level: Any, prefix: Path) -> bytes:
    """What a new sandbox finds in the files of `prefix`."""
    box = level.spawn()
    command = f"cd {prefix} && cat lib/public $(find -L . -type f 2>/dev/null)"
    output: bytes = level.run(box.toolbox.execute(command)).output
    level.run(box.kill())
    return output


@pytest.mark.isolation
def test_configuration_is_masked(prefixed: tuple[Any, Path]) -> None:
    level, prefix = prefixed
    (prefix / "lib/public").write_text("fine ")
    # They come after the engine's start, and so does what a link leads to.
    assert read(level, prefix) == b"fine fine "
    put_secrets(prefix, *SECRETS)
    output = read(level, prefix)
    assert output == b"fine fine ", output
    assert (prefix / "etc/jupyter/token").read_text() == "secret"


@pytest.mark.isolation
def test_links_to_configuration_are_followed_inside(prefixed: tuple[Any, Path]) -> None:
    level, prefix = prefixed
    put_secrets(prefix, "kept/jupyter/token", "kept/pip.conf", "kept/more/pip.conf")
    (prefix / "lib/public").write_text("fine ")
    (prefix / "etc").symlink_to(prefix / "kept")  # An absolute link in the middle of etc/jupyter
    (prefix / "share").mkdir()
    (prefix / "share/jupyter").symlink_to(prefix / "kept/more")
    (prefix / "pip.conf").symlink_to("../../../../../../.." + str(prefix / "kept/more/pip.conf"))
    (prefix / ".condarc").symlink_to("/nowhere")
    (prefix / "condarc").symlink_to("condarc")
    assert read(level, prefix) == b"fine fine "


def test_links_are_resolved_below_the_root(tmp_path: Path) -> None:
    """An absolute link means another place inside than on the host."""
    put_secrets(tmp_path / "root", "usr/share/x/token", "target")
    (tmp_path / "root/prefix").mkdir()
    (tmp_path / "root/prefix/jupyter").symlink_to("/usr/share/x")
    (tmp_path / "root/prefix/up").symlink_to("../../../../../../target")
    (tmp_path / "root/prefix/host").symlink_to("/etc/hostname")
    top = os.open(tmp_path / "root", os.O_PATH)
    try:
        for path, wanted in (
            ("/prefix/jupyter", "usr/share/x"),
            ("/prefix/jupyter/token", "usr/share/x/token"),
            ("/prefix/up", "target"),
            ("/prefix/host", None),
            ("/prefix/nothing", None),
        ):
            expected = wanted and str(tmp_path / "root" / wanted)
            assert tree._resolve(top, path) == expected, path
    finally:
        os.close(top)


async def test_the_engine_s_folder_may_not_be_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    monkeypatch.setattr(sys, "exec_prefix", str(prefix))
    (tmp_path / "alias").symlink_to(prefix)
    plan = visible.plan()
    for folder in (prefix, prefix / "a/b", tmp_path / "alias/a", prefix / "../prefix/x"):
        assert plan.showing(str(folder)) == str(prefix), folder
    for folder in (tmp_path, tmp_path / "prefix-2", Path("/"), Path("/nowhere")):
        assert plan.showing(str(folder)) is None, folder
    for options in (
        {"stderr_dir": prefix / "state/stderr"},
        {"stderr_dir": tmp_path / "err", "private": (tmp_path, tmp_path / "alias/run")},
    ):
        with pytest.raises(LaunchError, match=r"every sandbox can read;.*DAYTONA_MAGICS_HOME") as caught:
            await Launcher(**options).start()  # type: ignore[arg-type]
        assert str(prefix) in str(caught.value) and "\n" not in str(caught.value)


def test_the_engine_names_its_own_folders(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state", tmp_path / "state", "", False)
    launcher = daemon._Engine(tmp_path / "run", state, HostNetwork())._launcher
    assert {tmp_path / "run", tmp_path / "state"} <= set(launcher._private)


def test_libraries_outside_the_prefix_are_found() -> None:
    plan = visible.plan()
    assert visible.host_libraries(plan) == []
    blind = replace(plan, binds=tuple(bind for bind in plan.binds if bind[1] != "/usr"), links=())
    found = visible.host_libraries(blind)
    assert any("libc" in path for path in found)
    assert all(blind.with_libraries(found).shows(path) for path in found)


# -- the filter


def test_other_architectures_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "riscv64" in (visible.obstacle() or "")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program()


#: Calls that the kernel would answer otherwise: refused by the filter, unless nothing is isolated.
CALLS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
pair, buffer = (ctypes.c_int * 2)(), ctypes.create_string_buffer(64)
def show(result):
    print(errno.errorcode[ctypes.get_errno()] if result < 0 else "done", end=" ")
show(libc.syscall(53, 1, 1, 0, pair))    # socketpair: AF_UNIX
show(libc.syscall(53, 2, 1, 0, pair))    # AF_INET
show(libc.syscall(53, 38, 5, 0, pair))   # AF_ALG
show(libc.syscall(154, 0, buffer, 64))   # modify_ldt: read
"""


@pytest.mark.isolation
def test_socket_pairs_and_segment_tables(l3: Any, l0: Any) -> None:
    answers = {}
    for level in (l0, l3):
        box = level.spawn()
        result = level.run(box.toolbox.run_program([sys.executable, "-I", "-c", CALLS]))
        answers[level.launcher.level] = result.output.split()
        level.run(box.kill())
    assert answers["L3"] == [b"done", b"EAFNOSUPPORT", b"EAFNOSUPPORT", b"EPERM"]
    assert answers["L0"][:2] == [b"done", b"ENOTSUP"] and answers["L0"][3] in (b"done", b"ENOSYS")


# -- levels


@pytest.mark.parametrize("name", ["L4", "l0", "none", " "])
async def test_levels_that_are_not_offered(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="not offered"):
        await Launcher(isolation=name, stderr_dir=tmp_path).start()


def test_l0_says_what_it_is(l0: Any) -> None:
    assert l0.launcher.level == "L0" and "nothing is isolated" in l0.launcher.reason
    box = l0.spawn()
    assert box.toolbox.home == str(l0.folder / "home1") or box.toolbox.home.startswith(str(l0.folder))
    result = l0.run(box.toolbox.execute("pwd; echo $HOME"))
    assert result.output == f"{box.toolbox.home}\n{box.toolbox.home}\n".encode()
    l0.run(box.kill())


def test_l3_says_what_it_is(l3: Any) -> None:
    assert l3.launcher.level == "L3"


# -- what is left of privileges and mounts


@pytest.mark.isolation
def test_pid_1_has_no_power_left(l3: Any) -> None:
    box = l3.spawn()
    output = l3.run(box.toolbox.run_program(["cat", "/proc/1/status"])).output.decode()
    status = dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()) == ("1", "2", ["1000"] * 4)
    assert status["Name"] == "toolbox"
    assert l3.run(box.toolbox.run_program(["cat", "/proc/1/cmdline"])).output.strip(b"\0") == b"toolbox"
    l3.run(box.kill())


@pytest.mark.isolation
def test_the_mount_table_holds_what_was_planned(l3: Any) -> None:
    box = l3.spawn()
    output = l3.run(box.toolbox.run_program(["cat", "/proc/self/mountinfo"])).output.decode()
    rows = [line.split() for line in output.splitlines()]
    mounts = {row[4].replace("\\040", " "): row for row in rows}
    assert len(mounts) == len(rows), "nothing is mounted over anything"
    devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    writable = {"/home/daytona", "/tmp", "/var/tmp", "/run", "/dev/shm"}
    special = {"/", "/proc", "/dev/pts"}
    plan = visible.plan()
    shown = {inside for _, inside in plan.binds}
    # A folder of the host may hold mounts of its own, which then come along.
    ours = {path for path in mounts if not any(path.startswith(place + "/") for place in shown)}
    masks = {name for path in plan.masks for name in (path, os.path.realpath(path)) if name in mounts}
    assert ours - shown == devices | writable | special
    assert shown <= mounts.keys()
    for path in filter(os.path.exists, plan.masks):
        assert {path, os.path.realpath(path)} & masks, path
    for path, row in mounts.items():
        flags = set(row[5].split(","))
        assert "nosuid" in flags, path
        assert "ro" in flags or path in devices | writable | {"/proc", "/dev/pts"}, path
        assert "nodev" in flags or path in devices | {"/dev/pts"} or path in masks, path
    l3.run(box.kill())


#: An engine that may not make namespaces, as under a container's system call filter.
FORBIDDEN = """
import asyncio, sys
from pathlib import Path
from daytona_magics.engine.launch import privileges, seccomp
from daytona_magics.engine.launch.launcher import Launcher, LaunchError
privileges.load_filter(seccomp.program())
async def main():
    launcher = Launcher(isolation="L3", stderr_dir=Path(sys.argv[1]))
    try:
        await launcher.start()
    except LaunchError as error:
        print(error, "|", launcher.level, "|", launcher._zygote)
asyncio.run(main())
"""


def test_where_namespaces_are_forbidden(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    sentence, level, zygote = done.stdout.strip().split(" | ")
    assert sentence.startswith("this machine cannot isolate sandboxes (level L3): "), (
        done.stdout + done.stderr
    )
    assert "Operation not permitted" in sentence and "\n" not in sentence
    assert (level, zygote) == ("", "None")


async def test_a_zygote_is_replaced_though_the_machine_refuses_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "RESTART_PAUSES", (0.0, 0.0))
    launcher = Launcher(stderr_dir=tmp_path)
    await launcher.start()
    level, open_zygote, refusals = launcher.level, launcher._open_zygote, []

    def refuse(far: socket.socket) -> Any:
        if len(refusals) < limit:
            refusals.append(launcher.level)
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        return open_zygote(far)

    monkeypatch.setattr(launcher, "_open_zygote", refuse)
    limit = 10_000
    with pytest.raises(LaunchError, match="no more processes"):
        await launcher.restart()
    assert launcher.level == "" and launcher.settled.is_set()
    # Every way was tried three times; in the last of three tries all is well now.
    limit, tried = len(refusals) + len(refusals) * 2 // 3, list(refusals)
    await launcher.restart()
    assert launcher.level == level and len(refusals) == limit and tried.count(level) >= 3
    await launcher.stop()


# -- homes


def test_a_home_is_private(tmp_path: Path) -> None:
    folders.make_private(tmp_path / "home", None)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    trees.remove_tree(tmp_path / "home")
    (tmp_path / "home").mkdir()
    folders.make_private(tmp_path / "home", None)
    assert list((tmp_path / "home").iterdir()) == [], "only a new home gets a skeleton"
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError):
        folders.make_private(tmp_path / "link", None)


def test_removing_a_hostile_home(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    home = tmp_path / "home"
    (home / "locked" / "inner" / "innermost").mkdir(parents=True)
    (home / "locked" / "inner" / "file").touch()
    (home / "link").symlink_to(precious)
    (home / "locked" / "link").symlink_to(precious / "file")
    (home / ".removing-1").mkdir()
    (home / ".removing-2").touch()
    os.mkfifo(home / "fifo")
    (home / os.fsdecode(b"bad-\xff\n")).touch()
    (home / "locked" / "inner").chmod(0)
    (home / "locked").chmod(0)
    trees.remove_tree(home)
    assert sorted(tmp_path.iterdir()) == [precious] and (precious / "file").exists()
    trees.remove_tree(home)
    (tmp_path / "home").symlink_to(precious)
    trees.remove_tree(home)
    assert (precious / "file").exists() and not home.is_symlink()


def test_removing_a_very_deep_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    folder = os.open(home, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("down", dir_fd=folder)
        deeper = os.open("down", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    trees.remove_tree(home)
    assert not home.exists()


# -- other systems

#: The engine's command line on another system: what Windows lacks is not there.
ELSEWHERE = """
import os, sys
sys.platform = sys.argv.pop(1)
if sys.platform == "win32":
    for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty"):
        sys.modules[name] = None
    for name in ("fork", "getuid", "geteuid", "O_NOFOLLOW", "O_CLOEXEC"):
        delattr(os, name)
from daytona_magics.engine import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["env", "serve", "status", "doctor", "stop"])
@pytest.mark.parametrize(
    ("system", "words"), [("darwin", ("macOS", "Docker")), ("win32", ("Windows", "WSL", "Docker"))]
)
def test_other_systems_are_told_where_to_go(system: str, words: tuple[str, ...], command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, system, command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert all(word in done.stderr for word in (*words, "DAYTONA_API_KEY")), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
