"""Pause, archive, fork and recover with the unmodified SDK: what each keeps, and what it refuses."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import socketio
from daytona import CreateSandboxFromSnapshotParams, Resources, SandboxState
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaNotFoundError,
)

from tests.engine_process import IsolatedEngine, wait_until


def _codes(caught: Any) -> tuple[int, str, str]:
    return caught.value.status_code, caught.value.code, caught.value.source


@pytest.fixture
async def heard(engine: IsolatedEngine) -> Any:
    """Every state that any sandbox goes into, as a client of the event socket hears it."""
    states: list[tuple[str, str, str]] = []
    client = socketio.AsyncClient()

    @client.on("sandbox.state.updated")  # type: ignore[untyped-decorator]
    async def changed(data: dict[str, Any]) -> None:
        states.append((data["sandbox"]["id"], data["oldState"], data["newState"]))

    @client.on("sandbox.created")  # type: ignore[untyped-decorator]
    async def created(data: dict[str, Any]) -> None:
        states.append((data["id"], "", data["state"]))

    await client.connect(
        engine.url, socketio_path="/api/socket.io/", transports=["websocket"], auth={"token": engine.key}
    )
    yield lambda id: [(old, new) for sandbox, old, new in states if sandbox == id]
    await client.disconnect()


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# -- pause


async def test_a_paused_sandbox_stands_still_and_keeps_its_memory(
    async_daytona: Any, heard: Any, engine: IsolatedEngine
) -> None:
    sandbox = await async_daytona.create()
    await sandbox.code_interpreter.run_code("import os; x = 41; pid = os.getpid()")
    await sandbox.process.exec(
        "nohup sh -c 'while :; do echo tick >> ticks; sleep 0.01; done' >/dev/null 2>&1 &\n"
        "nohup sleep 1000 >/dev/null 2>&1 &\n"
        "until pkill -STOP -x -f 'sleep 1000'; do :; done"
    )
    handle = await sandbox.process.create_pty_session(id="t", on_data=lambda data: None)
    await handle.wait_for_connection()
    # A job in the foreground of a shell must not notice that it was stopped.
    await handle.send_input("bash --norc -i\nsleep 3; echo job-ended-$?\n")
    await sandbox.process.exec("until pgrep -x -f 'sleep 3'; do sleep 0.01; done")

    await sandbox.pause()
    assert sandbox.state == SandboxState.PAUSED
    home = engine.state / "sandboxes" / sandbox.id / "home"
    before = (home / "ticks").stat().st_size
    with pytest.raises(DaytonaBadRequestError, match="not started"):
        await sandbox.process.exec("true")
    await asyncio.sleep(0.5)
    assert (home / "ticks").stat().st_size == before
    # Pausing what is paused is no error.
    await sandbox.pause()
    assert (await async_daytona.get(sandbox.id)).state == SandboxState.PAUSED

    await sandbox.start()
    result = await sandbox.code_interpreter.run_code("print(x + 1, os.getpid() == pid)")
    assert result.stdout == "42 True\n"
    ticks = await sandbox.process.exec(f"until [ $(stat -c %s ticks) -gt {before} ]; do sleep 0.01; done")
    assert ticks.exit_code == 0
    # What somebody had stopped before stays stopped.
    states = await sandbox.process.exec("ps -eo stat,args | grep 'sleep 100[0]'")
    assert states.result.startswith("T"), states.result
    await handle.send_input("jobs; echo no-jobs-above; exit\nexit\n")
    await handle.wait()
    await _until(lambda: len(heard(sandbox.id)) >= 6)
    assert heard(sandbox.id)[2:] == [
        ("started", "pausing"),
        ("pausing", "paused"),
        ("paused", "resuming"),
        ("resuming", "started"),
    ]
    await sandbox.delete()


def test_a_paused_sandbox_can_be_stopped_and_deleted(daytona: Any) -> None:
    stopped, deleted = daytona.create(), daytona.create()
    stopped.fs.upload_file(b"kept", "file")
    for sandbox in (stopped, deleted):
        sandbox.pause()
    stopped.stop()
    stopped.start()
    assert stopped.fs.download_file("file") == b"kept"
    daytona.delete(deleted, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(deleted.id)
    daytona.delete(stopped)


# -- archive


async def test_an_archived_sandbox_comes_back(async_daytona: Any, engine: IsolatedEngine, heard: Any) -> None:
    sandbox = await async_daytona.create()
    await sandbox.process.exec(
        "echo kept > file; ln file same; ln -s /etc/passwd link; mkfifo fifo; chmod 4711 file;"
        "mkdir shut; echo inner > shut/inner; chmod 000 shut; truncate -s 1G holes;"
        "echo mine > /usr/local/bin/mine; rm /etc/issue; head -c 20000000 /dev/zero > zeros"
    )
    await sandbox.stop()
    home = engine.state / "sandboxes" / sandbox.id
    assert home.exists()
    await sandbox.archive()
    assert sandbox.state == SandboxState.ARCHIVED
    packed = engine.state / "archives" / f"{sandbox.id}.tar.gz"
    assert 0 < packed.stat().st_size < 2_000_000
    assert packed.stat().st_mode & 0o777 == 0o600
    assert not home.exists()
    # Archiving what is archived is no error; and it is in the list as such.
    await sandbox.archive()
    assert (await async_daytona.get(sandbox.id)).state == SandboxState.ARCHIVED

    await sandbox.start()
    assert sandbox.state == SandboxState.STARTED
    shown = await sandbox.process.exec(
        "cat file same; stat -c '%a %h %U %F' file link fifo shut; chmod 700 shut; cat shut/inner;"
        "stat -c '%s %b' holes; cat /usr/local/bin/mine; ls /etc/issue 2>&1; stat -c %s zeros"
    )
    lines = shown.result.splitlines()
    assert lines[:2] == ["kept", "kept"]
    assert lines[2:4] == ["4711 2 daytona regular file", "777 1 daytona symbolic link"]
    assert lines[4].endswith("1 daytona fifo")
    assert lines[5] == "0 2 daytona directory"
    assert lines[6:9] == ["inner", "1073741824 0", "mine"]
    assert "No such file" in lines[9]
    assert lines[10] == "20000000"
    assert not packed.exists()
    await _until(lambda: len(heard(sandbox.id)) >= 10)
    assert [new for _, new in heard(sandbox.id)][4:] == [
        "archiving",
        "archived",
        "restoring",
        "stopped",
        "starting",
        "started",
    ]
    await sandbox.delete()


def test_an_archived_sandbox_can_be_deleted(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create()
    sandbox.stop()
    sandbox.archive()
    packed = engine.state / "archives" / f"{sandbox.id}.tar.gz"
    assert packed.exists()
    daytona.delete(sandbox)
    wait_until(lambda: not packed.exists(), "the archive is gone")


# -- fork


async def test_a_fork_has_the_files_and_is_independent(async_daytona: Any, heard: Any) -> None:
    parent = await async_daytona.create(
        CreateSandboxFromSnapshotParams(name="origin", env_vars={"A": "b"}, labels={"x": "y"})
    )
    await parent.code_interpreter.run_code("x = 1")
    await parent.process.exec(
        "echo kept > file; chmod 600 file; echo mine > /usr/local/bin/mine;"
        "nohup sh -c 'n=0; while :; do n=$((n+1)); echo $n > a; echo $n > b; done' >/dev/null 2>&1 &"
        "until test -e b; do sleep 0.01; done"
    )
    fork = await parent.fork(name="branch")
    assert (fork.name, fork.state) == ("branch", SandboxState.STARTED)
    assert {**fork.labels, "x": "y"} == fork.labels
    shown = await fork.process.exec(
        "cat file /usr/local/bin/mine; stat -c %U file; echo $A; pgrep -c -f 'n=0'"
    )
    assert shown.result == "kept\nmine\ndaytona\nb\n0\n"
    # All of it is of one moment, though the parent wrote all the time.
    numbers = (await fork.process.exec("cat a b")).result.split()
    # One of them may be empty: the moment was between opening and writing it.
    assert len(numbers) < 2 or int(numbers[0]) - int(numbers[1]) in (0, 1), numbers
    # The parent's processes and memory live, those of the fork are new.
    result = await parent.code_interpreter.run_code("print(x)")
    assert result.stdout == "1\n"
    await fork.process.exec("echo changed > file")
    assert (await parent.process.exec("cat file")).result == "kept\n"

    again = await fork.fork()
    parents = await _get(async_daytona, again.id, "ancestors")
    assert [p["name"] for p in parents] == ["branch", "origin"]
    assert (await _get(async_daytona, again.id, "parent"))["id"] == fork.id
    assert [f["id"] for f in await _get(async_daytona, "origin", "forks")] == [fork.id]
    with pytest.raises(DaytonaConflictError, match=r"active fork children.*branch") as caught:
        await parent.delete()
    assert _codes(caught) == (409, "CONFLICT", "DAYTONA_API")
    assert (await async_daytona.get("origin")).state == SandboxState.STARTED
    await _until(lambda: ("forking", "started") in heard(parent.id))
    assert heard(fork.id)[:2] == [("", "creating"), ("creating", "started")]
    for sandbox in (again, fork, parent):
        await sandbox.delete()
    assert heard(parent.id)[2:4] == [("started", "forking"), ("forking", "started")]


async def _get(daytona: Any, id: str, what: str) -> Any:
    client = daytona._api_client
    url = f"{client.configuration.host}/sandbox/{id}/{what}"
    async with (
        aiohttp.ClientSession(headers={"Authorization": client.default_headers["Authorization"]}) as http,
        http.get(url) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


# -- what is refused


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("started", {"archive": "not stopped", "recover": "must be in error state"}),
        ("stopped", {"pause": "not started", "fork": "not started", "recover": "must be in error state"}),
        ("paused", {"archive": "not stopped", "fork": "not started", "recover": "must be in error state"}),
        ("archived", {"pause": "not started", "fork": "not started", "stop": "not started"}),
    ],
)
def test_what_a_state_does_not_allow(daytona: Any, state: str, refused: dict[str, str]) -> None:
    sandbox = daytona.create()
    if state == "paused":
        sandbox.pause()
    elif state != "started":
        sandbox.stop()
    if state == "archived":
        sandbox.archive()
    for verb, message in refused.items():
        with pytest.raises(DaytonaBadRequestError, match=message) as caught:
            getattr(sandbox, verb)()
        assert _codes(caught) == (400, "BAD_REQUEST", "DAYTONA_API")
    assert daytona.get(sandbox.id).state == state
    if state in ("paused", "archived"):
        with pytest.raises(DaytonaBadRequestError, match="must be started or stopped"):
            sandbox.resize(Resources(cpu=1))
    daytona.delete(sandbox)


def test_a_fork_of_memory_is_refused(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create()
    request = urllib.request.Request(
        f"{engine.url}/api/sandbox/{sandbox.id}/fork",
        b'{"includeMemory": true}',
        {"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 501
    assert b"not memory" in caught.value.read()
    daytona.delete(sandbox)


# -- several at once


async def test_everybody_at_once(async_daytona: Any) -> None:
    """Whatever order they come in, each is done or refused, and the sandbox ends up in one piece."""
    sandbox = await async_daytona.create()
    await sandbox.process.exec("echo kept > file; head -c 3000000 /dev/urandom > noise")
    twin = await async_daytona.get(sandbox.id)
    forks: list[Any] = []

    async def fork() -> None:
        forks.append(await sandbox.fork())

    for verbs in (
        (sandbox.stop, twin.start, sandbox.pause, twin.stop),
        (fork, twin.pause, fork, twin.stop),
        (sandbox.stop, twin.archive, sandbox.start, twin.start),
        (sandbox.archive, twin.start, fork, sandbox.stop, twin.archive),
    ):
        # The SDK goes on waiting for the state it asked for when somebody else has changed it again.
        begun = (asyncio.wait_for(verb(), 5) for verb in verbs)
        allowed = DaytonaBadRequestError | DaytonaConflictError | asyncio.TimeoutError
        for result in await asyncio.gather(*begun, return_exceptions=True):
            assert result is None or isinstance(result, allowed), result
        await sandbox.start()
        await sandbox.wait_for_sandbox_start()
        assert (await sandbox.process.exec("cat file; stat -c %s noise")).result == "kept\n3000000\n"
    for one in forks:
        assert (await one.process.exec("cat file; stat -c %s noise")).result == "kept\n3000000\n"
        await one.delete()
    await asyncio.gather(sandbox.delete(), twin.delete(), sandbox.stop(), return_exceptions=True)
    with pytest.raises(DaytonaNotFoundError):
        await async_daytona.get(sandbox.id)


# -- stop


def test_programs_are_asked_to_end_unless_forced(daytona: Any) -> None:
    kind, forced = daytona.create(), daytona.create()
    for sandbox in (kind, forced):
        sandbox.process.exec(
            'nohup sh -c \'trap "echo said goodbye > last; exit" TERM; : > ready;'
            " while :; do sleep 0.01; done' >/dev/null 2>&1 & until [ -e ready ]; do sleep 0.01; done"
        )
    kind.stop()
    forced.stop(force=True)
    for sandbox in (kind, forced):
        sandbox.start()
    assert kind.process.exec("cat last").result == "said goodbye\n"
    assert forced.process.exec("cat last").exit_code != 0
    for sandbox in (kind, forced):
        daytona.delete(sandbox)


# -- intervals and links


def test_intervals_that_exclude_each_other(daytona: Any) -> None:
    for wrong in (
        {"auto_stop_interval": 5, "auto_pause_interval": 5},
        {"auto_pause_interval": 5, "ephemeral": True},
        {"linked_sandbox": "x"},
        {"queue_timeout": 0},
        {"spot": True},
    ):
        with pytest.raises(DaytonaBadRequestError):
            daytona.create(CreateSandboxFromSnapshotParams(**wrong))
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(auto_pause_interval=60, queue_timeout=1))
    assert (sandbox.auto_stop_interval, sandbox.auto_pause_interval) == (0, 60)
    with pytest.raises(DaytonaBadRequestError, match="only one of"):
        sandbox.set_autostop_interval(5)
    sandbox.set_auto_pause_interval(0)
    sandbox.set_autostop_interval(5)
    sandbox.refresh_data()
    assert (sandbox.auto_stop_interval, sandbox.auto_pause_interval) == (5, 0)
    daytona.delete(sandbox)


def test_linked_sandboxes_go_with_the_one_they_are_linked_to(daytona: Any) -> None:
    base = daytona.create()
    linked = daytona.create(CreateSandboxFromSnapshotParams(linked_sandbox=base.id, ephemeral=True))
    with pytest.raises(DaytonaBadRequestError, match="itself linked"):
        daytona.create(CreateSandboxFromSnapshotParams(linked_sandbox=linked.id, ephemeral=True))
    with pytest.raises(DaytonaNotFoundError):
        daytona.create(CreateSandboxFromSnapshotParams(linked_sandbox="nobody", ephemeral=True))
    daytona.delete(base)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(linked.id)
