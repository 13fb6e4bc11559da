"""Whatever shell a terminal runs, and whatever its start-up files do, the line to the guest opens."""

from __future__ import annotations

import shutil
from typing import Any, cast

import pytest
from daytona import AsyncSandbox

from daytona_magics.errors import SandboxUnreachable
from daytona_magics.runtime import start
from daytona_magics.runtime.channel import Channel
from tests.engine_process import IsolatedEngine

from .conftest import Cells
from .local_toolbox import KEY, LocalSandbox, LocalToolbox

NOISE = """
printf '\\033]0;title\\007Welcome \\327M\\n'
alias python3='echo no python' 2>/dev/null
stty -echo 2>/dev/null
PS1='\\033[31m$(date) > \\033[0m'
PROMPT_COMMAND='echo prompt'
for i in 1 2 3 4 5 6 7 8 9; do echo "noise $i"; done
"""
SWALLOW = "echo 'this shell takes your terminal'; exec sleep 1000\n"
ALIASED = "alias exec='echo no exec'\n"
STARTUP = {"bash": ".bashrc", "zsh": ".zshrc", "dash": ".shinit"}


def shell(toolbox: LocalToolbox, name: str, startup: str, *, fresh: bool = False) -> Channel:
    """A channel to a toolbox whose terminals run this shell with these start-up lines."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    toolbox.shell = (path, "-i")
    (toolbox.home / STARTUP[name]).write_text(startup)
    if name == "dash":
        toolbox.extra = {"ENV": str(toolbox.home / STARTUP[name])}
    return Channel(cast(Any, LocalSandbox(toolbox)), api_key=KEY, fresh=fresh)


async def finish(channel: Channel) -> None:
    await channel.ask("shutdown")
    await channel.close()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", list(STARTUP))
async def test_noise_is_no_hindrance(toolbox: LocalToolbox, name: str, fresh: bool) -> None:
    channel = shell(toolbox, name, NOISE, fresh=fresh)
    ran = await Cells(channel).run("print('clean')")
    assert ran.out == "clean\n"
    assert len(toolbox.opened) == 1
    await finish(channel)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("startup", [SWALLOW, ALIASED])
@pytest.mark.parametrize("name", list(STARTUP))
async def test_a_shell_that_swallows_the_line_gets_a_second_try(
    toolbox: LocalToolbox, name: str, startup: str, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "HELLO_WITHIN", 1.0)
    channel = shell(toolbox, name, startup, fresh=fresh)
    ran = await Cells(channel).run("print('clean')")
    assert ran.out == "clean\n"
    assert len(toolbox.opened) == 2
    await channel._attacher.settle()
    assert list(toolbox.ptys) == toolbox.opened[1:]  # the first was deleted
    # What worked is remembered.
    assert channel._link is not None
    channel._link.drop("test")
    assert (await Cells(channel).run("print('again')")).out == "again\n"
    assert len(toolbox.opened) == 3
    await finish(channel)


async def test_a_terminal_that_is_none_is_shown(
    toolbox: LocalToolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "HELLO_WITHIN", 0.5)
    toolbox.shell = ("/bin/sh", "-c", "for i in $(seq 50); do echo shown $i; done; exec sleep 100")
    channel = Channel(cast(Any, LocalSandbox(toolbox)), api_key=KEY)
    with pytest.raises(SandboxUnreachable, match="no hello from the guest") as caught:
        await channel.open()
    shown = str(caught.value).splitlines()
    assert [line.strip() for line in shown if "shown" in line][-1] == "shown 50"
    assert 5 < sum("shown" in line for line in shown) <= 20
    await channel.close()
    assert toolbox.ptys == {}


async def test_a_home_that_hides_standard_modules(sandbox: AsyncSandbox, engine: IsolatedEngine) -> None:
    for name in ("json.py", "socket.py", "random.py"):
        await sandbox.fs.upload_file(b"raise SystemExit('not the standard library')", name)
    channel = Channel(sandbox, api_key=engine.key, fresh=True)
    assert (await Cells(channel).run("print('clean')")).out == "clean\n"
    await channel.close()


async def test_noisy_start_up_files_in_a_real_sandbox(sandbox: AsyncSandbox, engine: IsolatedEngine) -> None:
    for name in (".bashrc", ".zshrc", ".profile", ".zprofile"):
        await sandbox.fs.upload_file(NOISE.encode(), f"/home/daytona/{name}")
    channel = Channel(sandbox, api_key=engine.key)
    assert (await Cells(channel).run("print('clean')")).out == "clean\n"
    await channel.close()


async def test_start_up_files_that_swallow_in_a_real_sandbox(
    sandbox: AsyncSandbox, engine: IsolatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "HELLO_WITHIN", 1.0)
    for name in (".bashrc", ".zshrc"):
        await sandbox.fs.upload_file(SWALLOW.encode(), f"/home/daytona/{name}")
    channel = Channel(sandbox, api_key=engine.key)
    assert (await Cells(channel).run("import os; print(os.environ['HOME'])")).out == "/home/daytona\n"
    await channel.close()
