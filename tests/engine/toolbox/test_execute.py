"""Commands in a sandbox: what they print, how they end, and that they end."""

import asyncio
import contextlib
import sys
import time

import pytest

from daytona_magics.engine.launch.launcher import SandboxProcess
from daytona_magics.engine.toolbox.client import ToolboxError, ToolboxGone

#: Shell: counts processes whose command line matches, without ps, which small images lack. A pattern in
#: brackets does not match itself.
COUNT = "count() { cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o -- \"$1\" | wc -l; }; "


async def test_output_and_exit_code(box: SandboxProcess) -> None:
    result = await box.toolbox.execute("echo out; echo err >&2; echo $GREETING $HOME; exit 3")
    assert result.exit_code == 3
    assert result.output == b"out\nerr\nhello /home/daytona\n"
    assert (box.toolbox.home, box.toolbox.work_dir) == ("/home/daytona", "/home/daytona")


async def test_environment_holds_nothing_of_the_host(
    box: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = await box.toolbox.run_program(["env"], env={"MINE": "a b\nc"})
    names = {line.partition(b"=")[0] for line in result.output.splitlines() if b"=" in line}
    assert names == {
        *(b"HOME", b"USER", b"LOGNAME", b"SHELL", b"LANG", b"PATH", b"TMPDIR", b"VIRTUAL_ENV"),
        *(b"DAYTONA_SANDBOX_ID", b"GREETING", b"MINE", b"NPM_CONFIG_PREFIX"),
    }
    assert b"MINE=a b\nc\n" in result.output


async def test_cwd_and_what_cannot_start(box: SandboxProcess) -> None:
    assert (await box.toolbox.execute("pwd", cwd="/tmp")).output == b"/tmp\n"
    await box.toolbox.create_folder("sub")
    assert (await box.toolbox.execute("pwd", cwd="sub")).output == b"/home/daytona/sub\n"
    nowhere = await box.toolbox.execute("pwd", cwd="/nowhere")
    assert nowhere.exit_code == -1 and b"/nowhere" in nowhere.output
    missing = await box.toolbox.run_program(["no-such-program"])
    assert missing.exit_code == -1 and b"no-such-program" in missing.output


@pytest.mark.parametrize("command", ["", "  \n"])
async def test_blank_command(box: SandboxProcess, command: str) -> None:
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.execute(command)
    assert caught.value.status == 400


async def test_bad_environment_name(box: SandboxProcess) -> None:
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.execute("true", env={"a b": "c"})
    assert caught.value.status == 400


async def test_stdin_of_a_program_of_any_bytes(box: SandboxProcess) -> None:
    data = bytes(range(256)) * 8000
    result = await box.toolbox.run_program(["cat"], stdin=data)
    assert result.output == data
    assert (await box.toolbox.run_program(["true"], stdin=data)).exit_code == 0


async def test_timeout_kills_the_group(box: SandboxProcess) -> None:
    start = time.monotonic()
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.execute("echo $$ > pid; sleep 300 & sleep 301", timeout=0.5)
    assert (caught.value.status, caught.value.code) == (408, "PROCESS_EXECUTION_TIMEOUT")
    assert time.monotonic() - start < 10
    left = await box.toolbox.execute(COUNT + "count 'sleep 30[01]'")
    assert left.output.strip() == b"0"


async def test_a_background_child_does_not_delay_the_answer_and_lives_on(box: SandboxProcess) -> None:
    wait = "while [ ! -e answered ]; do sleep 0.05; done"
    code = f"({wait}; echo late; echo later; touch survived; sleep 60) & echo first"
    result = await box.toolbox.execute(code, timeout=20)
    assert result.output == b"first\n"
    await box.toolbox.execute("touch answered")
    # Writing to the output nobody waits for any more must not kill it.
    seen = await box.toolbox.execute("while [ ! -e survived ]; do sleep 0.05; done; echo yes", timeout=20)
    assert seen.output == b"yes\n"


async def test_all_output_before_the_exit_arrives(box: SandboxProcess) -> None:
    result = await box.toolbox.run_program([sys.executable, "-c", "print('x' * 5_000_000, end='')"])
    assert len(result.output) == 5_000_000


async def test_too_much_output_is_stopped(box: SandboxProcess) -> None:
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.execute("yes", timeout=60)
    assert (caught.value.status, caught.value.code) == (413, "OUTPUT_TOO_LARGE")
    assert (await box.toolbox.execute(COUNT + "count '^ye[s] '")).output.strip() == b"0"


async def test_killed_by_signal(box: SandboxProcess) -> None:
    assert (await box.toolbox.execute("kill -9 $$")).exit_code == 137
    # Nothing inside can end pid 1.
    assert (await box.toolbox.execute("kill -9 1; kill -TERM 1; kill -INT 1; echo fine")).output == b"fine\n"
    assert (await box.toolbox.execute("echo still here")).output == b"still here\n"


@pytest.mark.parametrize("unread", [0, 4 << 20], ids=["silent", "with input it does not read"])
async def test_cancelling_kills_the_command(box: SandboxProcess, unread: int) -> None:
    command = ["sh", "-c", "rm -f started; touch started; sleep 333"]
    task = asyncio.ensure_future(box.toolbox.run_program(command, stdin=bytes(unread)))
    await box.toolbox.execute("while [ ! -e started ]; do sleep 0.02; done", timeout=20)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    gone = COUNT + "while [ $(count 'sleep 33[3]') != 0 ]; do sleep 0.02; done; echo gone"
    assert (await box.toolbox.execute(gone, timeout=20)).output == b"gone\n"


async def test_operations_run_side_by_side(box: SandboxProcess) -> None:
    slow = asyncio.ensure_future(box.toolbox.execute("while [ ! -e go ]; do sleep 0.05; done; echo went"))
    results = await asyncio.gather(*(box.toolbox.execute(f"echo {n}") for n in range(20)))
    assert [result.output for result in results] == [f"{n}\n".encode() for n in range(20)]
    await box.toolbox.list_files(".")
    assert not slow.done()
    await box.toolbox.execute("touch go")
    assert (await slow).output == b"went\n"


async def test_orphans_are_reaped(box: SandboxProcess) -> None:
    code = "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid sleep 0 &) ; done"
    await box.toolbox.execute(code)
    check = "while grep -ls '^State:.Z' /proc/[0-9]*/status; do sleep 0.02; done; echo clean"
    assert (await box.toolbox.execute(check, timeout=20)).output == b"clean\n"


async def test_the_sandbox_ends_while_a_command_runs(box: SandboxProcess) -> None:
    ended = asyncio.Event()
    box.add_exit_callback(lambda _: ended.set())
    task = asyncio.ensure_future(box.toolbox.execute("touch started; sleep 300"))
    await box.toolbox.execute("while [ ! -e started ]; do sleep 0.02; done", timeout=20)
    await box.kill()
    with pytest.raises(ToolboxGone):
        await asyncio.wait_for(task, 10)
    with pytest.raises(ToolboxGone):
        await box.toolbox.execute("true")
    await asyncio.wait_for(ended.wait(), 5)
    assert not box.alive
    await box.kill()
