"""Sessions: shells that keep their state, through both clients of the unmodified SDK."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daytona import SessionExecuteRequest
from daytona.common.errors import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaValidationError,
)

from daytona_magics.engine.toolbox.spool import ERR, OUT, Spool
from tests.engine_process import IsolatedEngine


def run(sandbox: Any, command: str, session: str = "s", **options: Any) -> Any:
    return sandbox.process.execute_session_command(session, SessionExecuteRequest(command=command, **options))


def soon(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_state_is_kept_and_streams_are_apart(shared: Any) -> None:
    process = shared.process
    process.create_session("s")
    first = run(
        shared, "cd /tmp; export A=1; b=2; f() { echo fun $1; }; echo out; echo err >&2; printf partial"
    )
    assert (first.exit_code, first.stdout, first.stderr) == (0, "out\npartial", "err\n")
    assert sorted(first.output) == sorted("out\npartialerr\n")
    second = run(shared, "pwd; echo $A$b; f x; (exit 3)")
    assert (second.exit_code, second.stdout, second.stderr) == (3, "/tmp\n12\nfun x\n", "")
    assert run(shared, "syntax error ( here").exit_code != 0
    assert run(shared, "cat; echo read").stdout == "read\n"
    found = process.get_session("s")
    assert [command.exit_code for command in found.commands][:2] == [0, 3]
    assert found.commands[0].command.startswith("cd /tmp")
    one = process.get_session_command("s", first.cmd_id)
    assert (one.id, one.exit_code) == (first.cmd_id, 0)
    logs = process.get_session_command_logs("s", first.cmd_id)
    assert (logs.stdout, logs.stderr) == ("out\npartial", "err\n")
    assert [session.session_id for session in process.list_sessions()] == ["s"]
    process.delete_session("s")
    assert process.list_sessions() == []


def test_awkward_commands_and_bytes(shared: Any) -> None:
    shared.process.create_session("s")
    try:
        assert run(shared, "echo 'a\nb' \"$(echo c)\" `echo d`; cat <<'EOF'\nit's $HOME\nEOF").stdout == (
            "a\nb c d\nit's $HOME\n"
        )
        assert run(shared, "printf 'é\\xff\\001\\001\\001\\0x'").stdout == "é\ufffd\x01\x01\x01\0x"
        assert run(shared, "# a comment only").exit_code == 0
        long = "x" * 200_000
        assert run(shared, f"echo {long} | wc -c").stdout.strip() == "200001"
        big = run(shared, "head -c 5000000 /dev/zero | tr '\\0' y; echo >&2 done")
        assert (len(big.stdout), big.stderr) == (5_000_000, "done\n")
        with pytest.raises(DaytonaValidationError):
            run(shared, "  \n ")
    finally:
        shared.process.delete_session("s")


def test_background_children_do_not_hold_a_command_up(shared: Any) -> None:
    shared.process.create_session("s")
    begun = time.monotonic()
    # The shell's own output is not the command's: what comes later is still this command's log.
    done = run(shared, "(sleep 0.6; echo late) & echo now")
    assert done.stdout == "now\n" and time.monotonic() - begun < 5
    soon(lambda: "late" in shared.process.get_session_command_logs("s", done.cmd_id).stdout)
    assert run(shared, "echo next").stdout == "next\n"
    shared.process.delete_session("s")


def test_asynchronous_commands_take_input_and_run_one_after_another(shared: Any) -> None:
    process = shared.process
    process.create_session("s")
    first = run(shared, 'read a; read -r b; echo "got $a and $b"', run_async=True)
    # As older examples spell it; the SDK sends it on.
    with pytest.warns(DeprecationWarning, match="var_async"):
        second = run(shared, "echo second", var_async=True)
    assert first.exit_code is None and process.get_session_command("s", second.cmd_id).exit_code is None
    process.send_session_command_input("s", first.cmd_id, "y")
    process.send_session_command_input("s", first.cmd_id, "n o\\\n")
    soon(lambda: process.get_session_command("s", second.cmd_id).exit_code == 0)
    # What is typed shows in the log, as on a terminal, unless the command was started without.
    assert process.get_session_command_logs("s", first.cmd_id).stdout.endswith("got y and n o\\\n")
    assert process.get_session_command_logs("s", first.cmd_id).stdout.startswith("y\nn o\\\n")
    with pytest.raises(DaytonaError, match="has ended") as caught:
        process.send_session_command_input("s", first.cmd_id, "more")
    assert caught.value.status_code == 410
    secret = run(shared, "read p; echo ${#p}", run_async=True, suppress_input_echo=True)
    process.send_session_command_input("s", secret.cmd_id, "hunter2")
    soon(lambda: process.get_session_command("s", secret.cmd_id).exit_code == 0)
    assert process.get_session_command_logs("s", secret.cmd_id).stdout == "7\n"
    process.delete_session("s")


async def test_following_a_log(box: Any) -> None:
    process = box.process
    await process.create_session("f")
    started = await process.execute_session_command(
        "f",
        SessionExecuteRequest(
            command='for i in 1 2 3; do echo $i; printf "no end $i" >&2;'
            " until [ -e ~/go ]; do sleep 0.05; done; done; exit 5",
            run_async=True,
        ),
    )
    out: list[str] = []
    err: list[str] = []
    going: list[asyncio.Future[Any]] = []

    def heard(texts: list[str], text: str) -> None:
        texts.append(text)
        if out and err and not going:
            # It came while the command ran, a line that has not ended too (the SDK keeps its last two bytes).
            going.append(asyncio.ensure_future(process.exec("touch ~/go")))

    await asyncio.wait_for(
        process.get_session_command_logs_async(
            "f", started.cmd_id, lambda text: heard(out, text), lambda text: heard(err, text)
        ),
        60,
    )
    await going[0]
    assert "".join(out) == "1\n2\n3\n" and "".join(err) == "no end 1no end 2no end 3"
    # `exit` ended the session; what it was is still there to be read, but it runs nothing more.
    command = await process.get_session_command("f", started.cmd_id)
    assert command.exit_code == 5
    with pytest.raises(DaytonaError, match="has ended") as caught:
        await process.execute_session_command("f", SessionExecuteRequest(command="echo no"))
    assert caught.value.status_code == 410
    again: list[str] = []
    await process.get_session_command_logs_async("f", started.cmd_id, again.append, lambda _: None)
    assert "".join(again) == "1\n2\n3\n"
    await process.delete_session("f")


async def test_a_slow_follower_loses_nothing_and_holds_up_nobody(box: Any, engine: IsolatedEngine) -> None:
    process = box.process
    await process.create_session("f")
    started = await process.execute_session_command(
        "f", SessionExecuteRequest(command="seq 1 400000; echo end", run_async=True)
    )
    url = f"{engine.url}/toolbox/{box.id}/process/session/f/command/{started.cmd_id}/logs?follow=true"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as session:
        async with session.ws_connect(url, max_msg_size=0) as socket:
            await asyncio.sleep(0.5)  # Reads nothing meanwhile; the command must not wait for it.
            # A busy machine may need long for it; a command that waits for its reader never ends.
            deadline = time.monotonic() + 60
            while (await process.get_session_command("f", started.cmd_id)).exit_code is None:
                assert time.monotonic() < deadline, "the command waited for its reader"
                await asyncio.sleep(0.02)
            data = b""
            async for message in socket:
                assert message.data[:3] == b"\x01\x01\x01"
                data += message.data[3:]
            assert socket.close_code == 1000
    assert data == b"".join(b"%d\n" % number for number in range(1, 400_001)) + b"end\n"


async def test_a_follower_that_leaves_frees_everything(box: Any, engine: IsolatedEngine) -> None:
    await box.process.create_session("f")
    started = await box.process.execute_session_command(
        "f", SessionExecuteRequest(command="sleep 100", run_async=True)
    )
    url = f"{engine.url}/toolbox/{box.id}/process/session/f/command/{started.cmd_id}/logs?follow=true"
    descriptors = Path(f"/proc/{engine.pid}/fd")
    before = len(list(descriptors.iterdir()))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as session:
        for _ in range(20):
            async with session.ws_connect(url):
                pass
    for _ in range(200):
        if len(list(descriptors.iterdir())) <= before + 2:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("connections stay open")
    begun = time.monotonic()
    await box.process.delete_session("f")
    assert time.monotonic() - begun < 5


def test_deleting_ends_what_runs_and_what_waits_for_it(shared: Any) -> None:
    process = shared.process
    process.create_session("s")
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(_outcome(lambda: run(shared, "sleep 4242"))))
    thread.start()
    soon(lambda: bool(process.get_session("s").commands))
    process.delete_session("s")
    thread.join(10)
    assert not thread.is_alive() and answers
    assert shared.process.exec("pgrep -f 'sleep 424[2]' || echo none").result.strip() == "none"


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except DaytonaError as error:
        return error


def test_what_cannot_be_is_refused(shared: Any) -> None:
    process = shared.process
    process.create_session("s")
    with pytest.raises(DaytonaConflictError):
        process.create_session("s")
    for name in ("", "entrypoint", "x" * 300):
        with pytest.raises(DaytonaError):
            process.create_session(name)
    for call in (
        lambda: process.get_session("no"),
        lambda: process.delete_session("no"),
        lambda: run(shared, "echo", "no"),
        lambda: process.get_session_command("s", "no"),
        lambda: process.get_session_command_logs("s", "no"),
        lambda: process.send_session_command_input("s", "no", "x"),
    ):
        with pytest.raises(DaytonaNotFoundError):
            call()
    ended = run(shared, "exit 7")
    assert ended.exit_code == 7
    with pytest.raises(DaytonaError, match="ended"):
        run(shared, "echo")
    process.delete_session("s")
    entry = process.get_entrypoint_session()
    assert (entry.session_id, entry.commands) == ("entrypoint", [])
    logs = process.get_entrypoint_logs()
    assert (logs.output, logs.stdout, logs.stderr) == ("", "", "")


async def test_the_entrypoint_log_can_be_followed_to_its_end(box: Any) -> None:
    seen: list[str] = []
    await asyncio.wait_for(box.process.get_entrypoint_logs_async(seen.append, seen.append), 10)
    assert seen == []


def test_the_number_of_sessions_is_bounded(shared: Any) -> None:
    for number in range(64):
        shared.process.create_session(f"many{number}")
    with pytest.raises(DaytonaValidationError, match="64 sessions"):
        shared.process.create_session("one-more")
    for number in range(64):
        shared.process.delete_session(f"many{number}")


def test_a_restart_ends_sessions(daytona: Any) -> None:
    sandbox = daytona.create()
    sandbox.process.create_session("s")
    run(sandbox, "echo kept > file")
    sandbox.stop()
    sandbox.start()
    assert sandbox.process.list_sessions() == []
    sandbox.process.create_session("s")
    assert run(sandbox, "cat file; ls ~/.daytona/sessions").stdout.split() == ["kept", "1"]
    daytona.delete(sandbox)


class TestSpool:
    """The log on disk by itself."""

    def read_all(self, spool: Spool, offset: int = 0) -> tuple[list[tuple[int, bytes]], int]:
        found, lost = [], 0
        while offset < spool.end:
            records, offset, dropped = spool.read(offset, 100)
            found += [tuple(record) for record in records]
            lost += dropped
        return found, lost

    async def test_the_last_part_is_kept(self, tmp_path: Path) -> None:
        spool = Spool(str(tmp_path), limit=1000)
        written = [(OUT if number % 3 else ERR, b"%03d" % number * (number % 20)) for number in range(300)]
        for kind, data in written:
            spool.append(kind, data)
        found, dropped = self.read_all(spool)
        assert found == written[-len(found) :] and dropped == spool.start > 0
        kept = spool.end - spool.start
        assert 500 <= kept <= 1000 and len(list(tmp_path.iterdir())) == 2
        spool.close()
        assert list(tmp_path.iterdir()) == []

    async def test_a_record_larger_than_what_is_asked_for(self, tmp_path: Path) -> None:
        spool = Spool(str(tmp_path))
        spool.append(OUT, b"x" * 50_000)
        spool.append(ERR, b"y")
        assert self.read_all(spool) == ([(OUT, b"x" * 50_000), (ERR, b"y")], 0)
        spool.close()

    async def test_a_log_somebody_else_changed_is_an_error_not_a_hang(self, tmp_path: Path) -> None:
        spool = Spool(str(tmp_path))
        spool.append(OUT, b"hello")
        next(tmp_path.iterdir()).write_bytes(b"")
        with pytest.raises(OSError, match="changed"):
            spool.read(0)
        spool.close()


async def test_a_change_between_looking_and_waiting_is_told(tmp_path: Path) -> None:
    """What waits begins to wait when it is called, not when the loop first runs it."""
    spool = Spool(str(tmp_path))
    asyncio.get_running_loop().call_soon(spool.append, OUT, b"the last word")
    waiting = asyncio.ensure_future(spool.changed())
    await asyncio.wait_for(waiting, 20)
    spool.close()
