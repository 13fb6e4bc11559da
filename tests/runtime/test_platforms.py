"""Platforms differ: no create-connect, slow clients thrown out, the guest's file there or damaged."""

from __future__ import annotations

import os
from typing import Any, cast

from daytona_magics.runtime import launching
from daytona_magics.runtime.channel import Channel
from daytona_magics.runtime.events import Reconnected

from .conftest import Cells
from .local_toolbox import KEY, LocalSandbox, LocalToolbox


def over(toolbox: LocalToolbox) -> Channel:
    """A channel to this toolbox."""
    return Channel(cast(Any, LocalSandbox(toolbox)), api_key=KEY)


async def test_an_old_platform_runs_cells_too(toolbox: LocalToolbox) -> None:
    toolbox.two_step_only = True
    channel = over(toolbox)
    assert (await Cells(channel).run("print('two steps')")).out == "two steps\n"
    await channel.ask("shutdown")
    await channel.close()


async def test_the_guest_is_uploaded_once_and_again_when_damaged(toolbox: LocalToolbox) -> None:
    channel = over(toolbox)
    await channel.open()
    await channel.close()
    channel = over(toolbox)
    await channel.open()
    assert (toolbox.uploads, toolbox.executes) == (1, 3)
    await channel.ask("shutdown")
    await channel.close()
    (path,) = (toolbox.home / launching.FOLDER).glob("guest-*.pyz")
    path.write_bytes(path.read_bytes()[:-100])
    channel = over(toolbox)
    await channel.open()
    assert toolbox.uploads == 2
    await channel.ask("shutdown")
    await channel.close()
    assert sorted(os.listdir(toolbox.home / launching.FOLDER)) == sorted([path.name, "run"])


async def test_a_client_thrown_out_as_slow_resumes(toolbox: LocalToolbox) -> None:
    channel = over(toolbox)
    ran = Cells(channel).start(
        "import time\nfor i in range(100_000):\n print(i)\n if i % 10_000 == 0: time.sleep(0.05)"
    )
    for _ in range(3):
        count = len(ran.events)
        await ran.until(lambda count=count: len(ran.events) > count)  # type: ignore[misc]
        await toolbox.throw_out_clients()
    assert (await ran.done()).status == "ok"
    assert ran.out == "".join(f"{i}\n" for i in range(100_000))
    assert any(isinstance(event, Reconnected) for event in ran.events)
    await channel.ask("shutdown")
    await channel.close()
    assert toolbox.ptys == {}  # every terminal was deleted


async def test_a_terminal_deleted_under_a_cell_is_replaced(toolbox: LocalToolbox) -> None:
    channel = over(toolbox)
    ran = Cells(channel).start("import time\nprint('on', flush=True)\ntime.sleep(0.5)\nprint('off')")
    await ran.until(lambda: "on" in ran.out)
    toolbox.kill(toolbox.opened[0])
    await ran.done(20)
    assert ran.out == "on\noff\n"
    await channel.ask("shutdown")
    await channel.close()
