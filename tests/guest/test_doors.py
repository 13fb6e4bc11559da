# ruff: noqa: UP031  (cells are written as they are typed)
"""The two kinds of line to the daemon: which is taken, how each ends, and what comes to the door besides."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from daytona_magics.runtime.guest import doors, paths

from . import no_unix_sockets
from .harness import MODULE, Guest, alive

pytestmark = pytest.mark.skipif(
    not no_unix_sockets.supported(), reason="the system call numbers of this machine are not known"
)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def open_files(pid: int) -> int:
    return len(os.listdir("/proc/%d/fd" % pid))


def lines(guest: Guest) -> list[str]:
    return [name for name in os.listdir(guest.run) if name.startswith("line-")]


@pytest.fixture(params=[False, True], ids=["socket", "pipes"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    one = Guest(request.param)
    yield one
    one.close()


def test_sockets_are_taken_unless_they_are_refused(guest: Guest) -> None:
    kind, other = (paths.DOOR, paths.SOCKET) if guest.pipes else (paths.SOCKET, paths.DOOR)
    info = os.stat(os.path.join(guest.run, kind))
    assert (stat.S_ISFIFO if guest.pipes else stat.S_ISSOCK)(info.st_mode) and info.st_mode & 0o777 == 0o600
    assert not os.path.lexists(os.path.join(guest.run, other))
    client = guest.client()
    # A cell finds what the daemon found.
    cell = "import socket\ntry: socket.socket(socket.AF_UNIX); print('ok')\nexcept OSError: print('refused')"
    assert client.run(cell).text == ("refused\n" if guest.pipes else "ok\n")
    assert lines(guest) == []


def test_killed_clients_leave_nothing(guest: Guest) -> None:
    first = guest.client()
    before = open_files(guest.hello["pid"])
    run = first.start("for i in range(200_000): print(i)", context="flood")
    for number in range(5):
        other = guest.client()
        other.request("subscribe", id=run.id, after=0)
        # In the middle of whatever it is sending or receiving.
        os.kill(other.pid, signal.SIGKILL)
        other.close()
        assert first.request("ping")["ok"], number
    first.wait(run)
    assert run.text == "".join("%d\n" % i for i in range(200_000))
    until(lambda: open_files(guest.hello["pid"]) <= before + 4, "descriptors of dead clients are closed")
    assert lines(guest) == []


def terminals_of(pid: int) -> list[str]:
    held = "/proc/%d/fd" % pid
    found = []
    for name in os.listdir(held):
        try:
            found.append(os.readlink(os.path.join(held, name)))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith("/dev/pts/")]


def test_nothing_stands_between_the_daemon_and_a_terminal(guest: Guest) -> None:
    client = guest.client()
    theirs = os.readlink("/proc/%d/fd/0" % client.pid)
    assert (theirs in terminals_of(guest.hello["pid"])) is not guest.pipes
    client.run("1")
    assert terminals_of(client.request("status")["contexts"][0]["worker_pid"]) == []
    client.close()
    until(lambda: theirs not in terminals_of(guest.hello["pid"]), "a terminal that was left is closed")


@pytest.mark.parametrize("what", ["nothing", "one", "pipes", "file", "many"])
def test_what_is_handed_in_and_is_no_terminal(what: str) -> None:
    guest = Guest()
    try:
        client = guest.client()
        before = open_files(guest.hello["pid"])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, open(os.devnull) as file:
            ours, theirs = socket.socketpair()
            inward, outward = os.pipe()
            given = {
                "nothing": [],
                "one": [client.fd],
                "pipes": [inward, outward],
                "file": [file.fileno(), theirs.fileno()],
                "many": [client.fd, theirs.fileno(), inward, outward] * 20,
            }[what]
            sock.connect(os.path.join(guest.run, paths.TERMINALS))
            for _ in range(20):
                socket.send_fds(sock, [b"t"], given)
            for one in (ours, theirs):
                one.close()
            os.close(inward)
            os.close(outward)
        assert client.run("6 * 7").result == "42"
        until(lambda: open_files(guest.hello["pid"]) <= before + 4, "what was handed in is closed")
    finally:
        guest.close()


def test_a_killed_daemon_ends_its_clients_and_another_one_serves(guest: Guest) -> None:
    client = guest.client()
    client.run("x = 1")
    os.kill(guest.hello["pid"], signal.SIGKILL)
    with pytest.raises(EOFError):
        client.until(lambda: False, timeout=20)
    client.close()
    until(lambda: not alive(guest.hello["pid"]), "the daemon is gone")
    # What it left does not answer ...
    attach = subprocess.run(
        [*MODULE, "attach"],
        env=guest.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
        preexec_fn=no_unix_sockets.refuse if guest.pipes else None,
    )
    assert attach.returncode == 1 and b"no guest is running here" in attach.stderr
    # ... and is in nobody's way.
    guest.hello = guest.daemon()
    assert guest.hello["started"] is True
    assert guest.client().run("'x' in globals()").result == "False"


def test_the_way_may_change_between_two_daemons(guest: Guest) -> None:
    """A sandbox that is stopped may be started at another level."""
    os.kill(guest.hello["pid"], signal.SIGKILL)
    until(lambda: not alive(guest.hello["pid"]), "the daemon is gone")
    guest.pipes = not guest.pipes
    guest.hello = guest.daemon()
    assert guest.client().run("6 * 7").result == "42"


def test_more_clients_than_are_served(guest: Guest) -> None:
    connected = [doors.connect(guest.run) for _ in range(80)]
    # The late ones are told by an end of file, not left waiting.
    told = [first_word(read) for read, _ in connected]
    assert sum(map(bool, told)) == 64 and told[-1] == b""
    close(connected)

    def served() -> bool:
        line = doors.connect(guest.run)
        try:
            return bool(first_word(line[0]))
        finally:
            close([line])

    until(served, "there is room again")


def first_word(fd: int) -> bytes:
    os.set_blocking(fd, True)
    return os.read(fd, 10)


def close(connected: list[tuple[int, int]]) -> None:
    for line in connected:
        for fd in line:
            os.close(fd)


@pytest.fixture
def door() -> Iterator[tuple[Guest, int]]:
    guest = Guest(pipes=True)
    fd = os.open(os.path.join(guest.run, paths.DOOR), os.O_WRONLY)
    yield guest, fd
    os.close(fd)
    guest.close()


def test_what_comes_to_the_door_and_is_no_client(door: tuple[Guest, int]) -> None:
    guest, fd = door
    guest.client().run("1")
    before = open_files(guest.hello["pid"])
    name = "0123456789abcdef"
    inward, outward = (os.path.join(guest.run, "line-%s.%s" % (name, end)) for end in ("in", "out"))
    secret = os.path.join(guest.home, "file")

    def tell(*words: bytes) -> None:
        for word in words:
            os.write(fd, word + b"\n")
        # Served in order: when this one is, the others were.
        assert guest.client().request("ping")["ok"]

    tell(b"", b"../../../etc/passwd", b"x" * 4000, b"\xff\xfe", b"0" * 15, b"0" * 17, name.upper().encode())
    tell(name.encode())  # nothing there
    # Files and links in the place of pipes: neither opened for good nor written to.
    with open(secret, "w") as file:
        file.write("untouched")
    os.symlink(secret, inward)
    os.symlink(secret, outward)
    tell(name.encode())
    os.mkfifo(inward)
    with open(outward, "w") as file:
        file.write("untouched")
    tell(name.encode())
    os.mkfifo(inward)
    os.mkfifo(outward)  # nobody reads it
    tell(name.encode())
    with open(secret) as file:
        assert file.read() == "untouched"
    assert lines(guest) == []
    os.write(fd, b"y" * 4096 * 3)
    os.write(fd, b"\n")
    assert guest.client().run("1").result == "1"
    for client in guest.clients:
        client.close()
    until(lambda: open_files(guest.hello["pid"]) <= before + 4, "nothing was left open")
    assert "Traceback" not in guest.errors()
