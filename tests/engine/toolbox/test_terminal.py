"""Terminals: a real one, made in the sandbox (L3) or given by the engine (below)."""

import asyncio
import contextlib
import os
import select

import pytest

from daytona_magics.engine.api.pty_session import PtySession
from daytona_magics.engine.launch.launcher import Launcher, SandboxProcess
from daytona_magics.engine.toolbox.client import PtyExit, PtyProcess, ToolboxError

pytestmark = pytest.mark.parametrize("launcher", ["L3", "L1"], indirect=True)

SHELL = ["/bin/sh", "-i"]


def read_until(pty: PtyProcess, wanted: bytes, timeout: float = 10) -> bytes:
    """Everything the terminal shows until `wanted` is in it."""
    seen = b""
    while wanted not in seen:
        assert select.select([pty.master], [], [], timeout)[0], seen
        seen += os.read(pty.master, 65536)
    return seen


async def test_type_resize_and_exit(box: SandboxProcess, launcher: Launcher) -> None:
    pty = await box.toolbox.open_pty(cols=100, rows=30, command=SHELL, env={"PS1": "> "}, cwd="/tmp")
    os.write(pty.master, b"stty size < /dev/tty; tty; pwd; echo $TERM$((1+1))\n")
    seen = read_until(pty, b"color2")
    assert b"30 100" in seen and b"not a tty" not in seen
    if launcher.level == "L3":
        assert b"/dev/pts/0" in seen and b"\n/tmp\r\n" in seen
    else:
        # Another one's name cannot be opened, whoever it belongs to.
        assert b"/.tmp\r\n" in seen
        os.write(
            pty.master,
            b"for t in ptmx pts pts/*; do test $t = 'pts/*' || cat /dev/$t; done; echo over$((1+1))\n",
        )
        assert b"ermission denied" in read_until(pty, b"over2")
    pty.resize(132, 40)
    os.write(pty.master, b"stty size\n")
    read_until(pty, b"40 132")
    os.write(pty.master, b"""sh -c 'trap "exit 5" INT; echo rea''dy; while :; do sleep 0.05; done'\n""")
    read_until(pty, b"ready")
    os.write(pty.master, b"\x03")
    read_until(pty, b"> ")
    os.write(pty.master, b"exit 7\n")
    assert await asyncio.wait_for(pty.wait(), 10) == PtyExit(7, "")
    pty.close()


async def test_kill(box: SandboxProcess) -> None:
    pty = await box.toolbox.open_pty(command=["sleep", "1000"])
    await pty.kill()
    assert await pty.wait() == PtyExit(137, "ended by SIGKILL")
    await pty.kill()
    pty.close()
    pty.close()


async def test_hanging_up_ends_the_program(box: SandboxProcess) -> None:
    pty = await box.toolbox.open_pty(command=["sleep", "1234"])
    assert (await box.toolbox.execute(f"kill -0 {pty.pid_inside}")).exit_code == 0
    pty.close()
    gone = f"while kill -0 {pty.pid_inside} 2>/dev/null; do sleep 0.02; done; echo gone"
    assert (await box.toolbox.execute(gone, timeout=20)).output == b"gone\n"


async def test_the_default_is_the_shell(box: SandboxProcess) -> None:
    pty = await box.toolbox.open_pty(env={"PS1": "> "})
    os.write(pty.master, b"echo shell is $0; exit\n")
    read_until(pty, b"shell is " + box.toolbox.shell.encode())
    await asyncio.wait_for(pty.wait(), 10)
    with contextlib.suppress(OSError):
        os.read(pty.master, 65536)
    pty.close()


async def test_what_cannot_start(box: SandboxProcess) -> None:
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.open_pty(command=["no-such-program"])
    assert caught.value.status == 400 and "no-such-program" in caught.value.message
    with pytest.raises(ToolboxError) as caught:
        await box.toolbox.open_pty(cwd="/nowhere")
    assert "/nowhere" in caught.value.message


async def test_a_blocking_terminal_does_not_block_the_engine(box: SandboxProcess) -> None:
    pty = await box.toolbox.open_pty(command=["cat"])
    with pytest.raises(BlockingIOError):
        pty.read(100)
    assert pty.write(b"line\n") == 5
    assert select.select([pty.master], [], [], 10)[0]
    assert pty.read(1) == b"l"
    # The flag belongs to the open file, which a hostile toolbox may have kept: here the test is the toolbox.
    # (Below L3 it never had the master: there the test is only a test.)
    kept = os.dup(pty.master)
    os.set_blocking(kept, True)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(OSError, match="changed"):
        pty.read(4096)
    with pytest.raises(OSError):
        pty.write(bytes(1 << 20))
    assert loop.time() - started < 5
    os.set_blocking(kept, False)
    with pytest.raises(OSError, match="closed"):
        pty.read(1)
    os.close(kept)
    pty.close()


@pytest.mark.timeout(20)
async def test_a_shared_terminal_does_not_wait_for_a_blocking_one(box: SandboxProcess) -> None:
    opened: list[PtyProcess] = []

    async def start(cols: int, rows: int) -> PtyProcess:
        opened.append(await box.toolbox.open_pty(command=["cat"], cols=cols, rows=rows))
        return opened[0]

    session = PtySession("s", cwd="", envs={}, cols=80, rows=24, lazy=False, start=start, on_end=lambda: None)
    await session.start()
    os.set_blocking(opened[0].master, True)
    # Far more than a terminal takes at once, and an echo that is read until nothing is left.
    await session.write(b"line\n" * 20_000)
    await asyncio.sleep(0.2)
    assert (await box.toolbox.execute("echo alive")).output == b"alive\n"
    await session.kill()
    assert session.end is not None
