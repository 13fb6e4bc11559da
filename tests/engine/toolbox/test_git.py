"""Git at the toolbox: giving up, answers that lie, what git inherits, and which names it is given."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daytona_magics.engine.launch.launcher import SandboxProcess
from daytona_magics.engine.toolbox import git_client, git_errors, git_names, git_run, processes, wire
from daytona_magics.engine.toolbox.agent import Inside, Refused
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from daytona_magics.engine.toolbox.git_client import Answer
from daytona_magics.engine.toolbox.git_run import environment

pytestmark = pytest.mark.timeout(60)

#: Accepts one connection, says so by a file, and is silent.
SILENT = """
import socket, time
s = socket.create_server(("127.0.0.1", 0)); open("port.new", "w").write(str(s.getsockname()[1]))
__import__("os").rename("port.new", "port")
c, _ = s.accept(); c.recv(99999); open("asked", "w").close(); time.sleep(60)
"""


async def sh(box: SandboxProcess, command: str) -> str:
    return (await box.toolbox.execute(command)).output.decode().strip()


async def until(box: SandboxProcess, command: str, wanted: bool) -> str:
    """What `command` prints, once it prints something (or, not `wanted`, nothing)."""
    for _ in range(500):
        if bool(said := await sh(box, command)) is wanted:
            return said
        await asyncio.sleep(0.02)
    raise AssertionError(f"{command} prints {said!r}")


async def test_giving_up_ends_git_and_removes_what_is_half_done(box: SandboxProcess) -> None:
    server = asyncio.ensure_future(box.toolbox.run_program(["python3", "-c", SILENT]))
    port = await until(box, "cat port 2>/dev/null", True)
    url = f"http://127.0.0.1:{port}/x.git"
    clone = asyncio.ensure_future(
        git_client.git(box.toolbox, "clone", url=url, path="half", username="a", password="secret-word")
    )
    await until(box, "ls asked 2>/dev/null", True)
    assert "git-remote-http" in await sh(box, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    clone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await clone
    await until(box, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'remote-[h]ttp'", False)
    await until(box, "ls -d half 2>/dev/null", False)
    assert (await git_client.git(box.toolbox, "init", path="next")).rest == {}
    server.cancel()


async def test_giving_up_leaves_no_descriptor_behind_that_the_loop_still_watches() -> None:
    """It would get no word of whatever had that number next, and nobody who waits for that would go on."""
    near, far = os.pipe()
    os.set_blocking(near, False)
    loop = asyncio.get_running_loop()
    child = processes.Child(0, loop.create_future())
    for reading in (git_run._read(near, git_run._Kept(1, whole=True), child), child.readable_or_ended(near)):
        task = asyncio.ensure_future(reading)
        while not loop.remove_reader(near):  # The control: it was being watched.
            await asyncio.sleep(0)
        loop.add_reader(near, lambda: None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not loop.remove_reader(near)
    os.close(near)
    os.close(far)


async def test_programs_of_the_user_inherit_nothing_of_git(box: SandboxProcess) -> None:
    """Many programs started while git is: none has a descriptor more than its three."""
    await git_client.git(box.toolbox, "init", path="repo")
    calls = [
        git_client.git(
            box.toolbox, "clone", url="http://127.0.0.1:9/x", path=f"c{n}", username="a", password="b"
        )
        for n in range(8)
    ]
    looks = [box.toolbox.run_program(["sh", "-c", "ls /proc/self/fd"]) for _ in range(8)]
    results = await asyncio.gather(*calls, *looks, return_exceptions=True)
    for result in results[:8]:
        assert isinstance(result, ToolboxError) and result.code == "GIT_TRANSPORT_FAILED", result
    for result in results[8:]:
        # 3 is the folder that ls reads.
        assert not isinstance(result, BaseException) and result.output.split() == [b"0", b"1", b"2", b"3"]


@contextlib.asynccontextmanager
async def liar(*messages: bytes) -> AsyncIterator[Toolbox]:
    """A toolbox that answers every operation with `messages`."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    toolbox = Toolbox(near)

    async def serve() -> None:
        while (packet := await wire.recv_packet(far)) is not None:
            connection = wire.Wire(socket.socket(fileno=packet[1][0]))
            with contextlib.suppress(OSError):
                for message in messages:
                    await connection.send(wire.JSON, message)
            connection.close()

    task = asyncio.ensure_future(serve())
    yield toolbox
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    near.close()
    far.close()


PART = b'{"entries":[' + b",".join([b"1"] * 50_000) + b"]}"


@pytest.mark.parametrize(
    "messages",
    [(b'{"entries":[]}',), (b'{"entries":{"a":1}}',), (PART,) * 5, (b"[]",), (b'{"entries":1}',), ()],
)
async def test_an_answer_that_makes_no_sense(messages: tuple[bytes, ...]) -> None:
    async with liar(*messages) as toolbox:
        with pytest.raises(ToolboxError) as caught:
            await asyncio.wait_for(git_client.git(toolbox, "status", path="x"), 10)
    assert caught.value.status == 502


STATUS = {"branch": "b", "detached": False, "upstream": "", "ahead": 0, "behind": 0}
FILE = {"name": "n", "extra": "", "staging": "Added", "worktree": "Modified"}
COMMIT = {"hash": "a" * 40, "author": "a", "email": "e", "message": "m", "timestamp": "t"}


@pytest.mark.parametrize(
    ("check", "entries", "rest"),
    [
        (git_client.status_json, [], {**STATUS, "branch": None}),
        (git_client.status_json, [], {**STATUS, "ahead": -1}),
        (git_client.status_json, [], {**STATUS, "ahead": True}),
        (git_client.status_json, [], {**STATUS, "behind": 1e300}),
        (git_client.status_json, [], {**STATUS, "detached": "no"}),
        (git_client.status_json, [], {**STATUS, "upstream": "u" * 5000}),
        (git_client.status_json, ["x"], STATUS),
        (git_client.status_json, [{**FILE, "staging": "Exploded"}], STATUS),
        (git_client.status_json, [{**FILE, "worktree": 1}], STATUS),
        (git_client.status_json, [{**FILE, "name": ["n"]}], STATUS),
        (git_client.branches_json, [{"name": 1}], {"current": ""}),
        (git_client.branches_json, [], {}),
        (git_client.remotes_json, [{"name": "n"}], {}),
        (git_client.history_json, [{**COMMIT, "hash": "../../etc"}], {}),
        (git_client.history_json, [{**COMMIT, "message": None}], {}),
        (git_client.hash_json, [], {"hash": "A" * 40}),
        (git_client.value_json, [], {"value": 5}),
        (git_client.value_json, [], {}),
    ],
)
def test_every_field_of_an_answer_is_checked(check: Any, entries: list[Any], rest: dict[str, Any]) -> None:
    with pytest.raises(ToolboxError) as caught:
        check(Answer(entries, rest))
    assert caught.value.status == 502
    # Control: what is as it should be passes.
    assert git_client.status_json(Answer([FILE], STATUS))["fileStatus"] == [FILE]
    assert git_client.history_json(Answer([COMMIT], {})) == [COMMIT]
    assert git_client.value_json(Answer([], {"value": None})) == {"value": None}


def test_what_git_is_told_of_the_environment() -> None:
    given = {
        "PATH": os.environ["PATH"],
        "HTTP_PROXY": "http://proxy:1",
        "NO_PROXY": "localhost",
        "GIT_DIR": "/elsewhere",
        "GIT_TRACE_CURL": "1",
        "GIT_ASKPASS": "/bin/evil",
        "GIT_SSL_NO_VERIFY": "1",
        "GIT_SSL_CAINFO": "/ca",
        "SSH_ASKPASS": "/bin/evil",
        "LANGUAGE": "de",
        "LC_ALL": "de_DE.UTF-8",
    }
    found = environment(Inside("/home/x", given))
    assert {
        "http_proxy": "http://proxy:1",
        "NO_PROXY": "localhost",
        "GIT_SSL_CAINFO": "/ca",
    }.items() <= found.items()
    assert found["LC_ALL"] == "C" and found["GIT_TERMINAL_PROMPT"] == "0" and found["GIT_ASKPASS"] == ""
    assert not {"GIT_DIR", "GIT_TRACE_CURL", "GIT_SSL_NO_VERIFY", "SSH_ASKPASS", "LANGUAGE"} & set(found)


def test_logins_are_taken_out_of_addresses() -> None:
    take = git_names.take_login
    assert take("https://u:p%40q@host:8/x?a@b") == ("https://host:8/x?a@b", "u", "p@q")
    assert take("HTTPS://a@b:c@host/x") == ("HTTPS://host/x", "a@b", "c")
    for url in ("https://host/x@y", "git@host:x", "/path", "ssh://u@h/x"):
        assert take(url) == (url, "", "")
    assert git_names.hide_password("https://u:p@h/x") == "https://u@h/x"
    said = "fatal: https://u:p@h/x, http://t@h/ and ssh://a:b@h: word p-ssw"
    assert (
        git_names.scrub(said, ("p-ssw",)) == "fatal: https://***@h/x, http://***@h/ and ssh://***@h: word ***"
    )
    long = "x://" + "@a" * 30_000
    assert len(git_names.scrub(long)) < len(long)


def test_who_may_know_a_login() -> None:
    login = git_names.login("http://Host/x", "u", "p")
    assert login is not None
    assert git_names.may_know(login, "http", "host") and git_names.may_know(login, "https", "host")
    for scheme, host in (
        ("http", "host:81"),
        ("https", "host:444"),
        ("http", "other"),
        ("ftp", "host"),
        ("", ""),
    ):
        assert not git_names.may_know(login, scheme, host)
    secure = git_names.login("https://host:8443/x", "", "token")
    assert secure is not None and secure.username == "git"
    assert not git_names.may_know(secure, "http", "host:8443")
    assert git_names.login("ssh://host/x", "u", "p") is None


@pytest.mark.parametrize(
    "url", ["", "-x", "ext::sh", "fd::3", "a\nb", "x://y", "file+x://y", "ssh://u:p@h/x", "a\0"]
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        git_names.address(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://h/x",
        "http://[::1]:8/x",
        "git@h:x/y.git",
        "ssh://git@h/x",
        "/p",
        "../p",
        "file:///p",
        "git://h/x",
    ],
)
def test_addresses_that_are_taken(url: str) -> None:
    assert git_names.address(url) == url


SAID = {
    "remote: Repository not found.\nfatal: repository 'https://x/' not found": (404, "GIT_REPO_NOT_FOUND"),
    "remote: Authentication failed\nfatal: Could not resolve host: x": (502, "GIT_TRANSPORT_FAILED"),
    "git@x.com: Permission denied (publickey).\nfatal: Could not read from remote": (401, "GIT_AUTH_FAILED"),
    "fatal: unable to access 'x': The requested URL returned error: 403": (403, "FORBIDDEN"),
    "error: CONNECT tunnel failed, response 403\nfatal: unable to access 'x'": (502, "GIT_TRANSPORT_FAILED"),
    "fatal: write error: No space left on device": (507, "DISK_FULL"),
    "fatal: Unable to create '/x/.git/index.lock': File exists.": (409, "CONFLICT"),
    "error: could not open '.git/x': Permission denied": (403, "FILE_ACCESS_DENIED"),
    "fatal: something new": (400, "BAD_REQUEST"),
}


@pytest.mark.parametrize("said", SAID)
def test_what_git_says_becomes_the_platforms_error(said: str) -> None:
    answer = git_errors.failure("git x", said.encode()).answer["error"]
    assert (answer["status"], answer["code"]) == SAID[said]
    assert answer["message"]


def test_messages_are_short_and_printable() -> None:
    said = b"hint: do this\n\x1b[31mfatal: \xff https://u:p@h/ failed\x1b[0m\x07\rremote: " + b"x" * 9000
    message = git_errors.failure("git x", said).answer["error"]["message"]
    assert message.startswith("\udcff https://***@h/ failed\nremote: x")
    assert len(message) < 2100
    assert git_errors.failure("git x", b"").answer["error"]["message"] == "git x failed and said nothing"
