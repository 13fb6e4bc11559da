"""Cells through the whole path: engine, isolated sandbox, guest, PTY, channel."""

from __future__ import annotations

import asyncio
import time

import pytest
from daytona import AsyncSandbox

from daytona_magics.errors import SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.bundle import bundle
from daytona_magics.runtime.channel import Channel
from daytona_magics.runtime.events import Display, Done, Error, FlowWindow, Result, Stream
from daytona_magics.runtime.guest import frames
from tests.engine_process import IsolatedEngine

from .conftest import Cells


async def test_opening_tells_about_the_guest(channel: Channel, sandbox: AsyncSandbox) -> None:
    info = await channel.open()
    assert info.protocol == 1 and info.started and info.boot and info.python.startswith("3.")
    assert await channel.open() is info
    files = await sandbox.fs.list_files("/home/daytona/.daytona-magics")
    assert bundle().name in [file.name for file in files]


async def test_a_cell_with_streams_value_and_state(cells: Cells) -> None:
    ran = await cells.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 20")
    assert (ran.out, ran.err) == ("out\n", "err\n")
    ran = await cells.run("x + 1")
    assert [e.data["text/plain"] for e in ran.events if isinstance(e, Result)] == ["21"]
    ran = await cells.run("1/0")
    done = ran.events[-1]
    assert isinstance(done, Done) and done.status == "error"
    assert [e.ename for e in ran.events if isinstance(e, Error)] == ["ZeroDivisionError"]


async def test_bash(cells: Cells) -> None:
    await cells.run("cd /tmp; export A=5", "bash")
    ran = await cells.run("echo $PWD $A; echo no >&2; exit 3", "bash")
    assert (ran.out, ran.err) == ("/tmp 5\n", "no\n")
    done = ran.events[-1]
    assert isinstance(done, Done) and (done.status, done.exit_code) == ("error", 3)


async def test_a_second_channel_finds_the_guest_running(
    cells: Cells, channel: Channel, sandbox: AsyncSandbox, engine: IsolatedEngine
) -> None:
    await cells.run("kept = 'yes'")
    second = Channel(sandbox, api_key=engine.key)
    info = await second.open()
    assert channel.info is not None
    assert (info.boot, info.started) == (channel.info.boot, False)
    assert (await Cells(second).run("print(kept)")).out == "yes\n"
    await second.close()
    assert (await cells.run("print(kept)")).out == "yes\n"


async def test_closing_deletes_the_terminal_and_leaves_the_guest(
    cells: Cells, channel: Channel, sandbox: AsyncSandbox
) -> None:
    await cells.run("1")
    assert len(await sandbox.process.list_pty_sessions()) == 1
    await channel.close()
    assert await sandbox.process.list_pty_sessions() == []
    done = await sandbox.process.exec("pgrep -fc 'pyz daemon'")
    assert int(str(done.result).strip()) >= 1


async def test_tidying_up_what_the_guest_does_not_know_disturbs_no_cell(
    cells: Cells, channel: Channel
) -> None:
    """The output of a cell of the guest before, say; there are refusals and answers that nobody waits for."""
    await channel.open()
    link = channel._link
    assert link is not None
    running = asyncio.create_task(cells.run("import time; time.sleep(0.5)\nprint('ran')"))
    for _ in range(3):
        channel.forget_soon("nobody-knows-it")
        link.tell("forget", id="nobody-knows-it")
        link._send({"op": "forget", "id": "nobody-knows-it"})
        link._send({"op": "look at this"})
        await asyncio.sleep(0.05)
    assert (await running).out == "ran\n" and channel._link is link and link.alive


async def test_a_value_is_one_whatever_other_threads_show(cells: Cells) -> None:
    await cells.run(
        "import threading, time\nfrom IPython.display import display\nover = threading.Event()\n"
        "def show():\n    while not over.is_set(): display(1)\n"
        "thread = threading.Thread(target=show)\nthread.start()"
    )
    for number in range(60):
        ran = await cells.run(f"{number}")
        values = [event.data["text/plain"] for event in ran.events if isinstance(event, Result)]
        assert values == [str(number)]
    await cells.run("over.set(); thread.join()")


async def test_a_hundred_thousand_lines_in_order(cells: Cells) -> None:
    ran = await cells.run("for i in range(100_000): print(i, 'some words on every line')")
    assert ran.out == "".join(f"{i} some words on every line\n" for i in range(100_000))
    assert len([e for e in ran.events if isinstance(e, Stream)]) < 5_000


async def test_a_large_display(cells: Cells) -> None:
    code = "display({'text/plain': 'x' * 3_000_000}, raw=True)"
    ran = await cells.run(code)
    shown = [e for e in ran.events if isinstance(e, Display)]
    assert [len(e.data["text/plain"]) for e in shown] == [3_000_000]


async def test_a_long_body_arrives_whole(cells: Cells) -> None:
    body = "x = '" + "äö" * 300_000 + "'\nprint(len(x))"
    assert (await cells.run(body)).out == "600000\n"


async def test_a_slow_consumer_stops_the_flow_and_loses_nothing(cells: Cells) -> None:
    window = FlowWindow(limit=200_000)
    ran = cells.start("for i in range(300_000): print('line', i)", window=window)
    await ran.until(lambda: window.outstanding >= window.limit)
    await asyncio.sleep(0.5)
    assert window.outstanding < window.limit + 400_000  # what was under way, and not the 3.6 MB
    consumed = 0
    while ran.future is not None and not ran.future.done():
        for event in ran.events[consumed:]:
            window.consumed(event)
            consumed += 1
        await asyncio.sleep(0.001)
    assert ran.out == "".join(f"line {i}\n" for i in range(300_000))


async def test_an_interrupt_ends_a_sleep(cells: Cells) -> None:
    await cells.run("import time, os\nalive = os.getpid()")
    ran = cells.start("print('on', flush=True)\ntime.sleep(60)")
    await ran.until(lambda: "on" in ran.out)
    began = time.monotonic()
    said = await cells.channel.interrupt(ran.request.id, 1)
    done = await ran.done(5)
    assert said
    assert (done.status, done.worker) == ("interrupted", "kept")
    assert time.monotonic() - began < 2
    assert (await cells.run("print(alive == os.getpid())")).out == "True\n"


async def test_the_line_cannot_be_written_from_a_cell(cells: Cells) -> None:
    """A program's terminal is its own, never the one the guest's frames travel on."""
    ran = await cells.run(
        "try:\n open('/dev/tty', 'w').write('x' * 10000)\n print('wrote')\n"
        "except OSError as e: print('refused', e.errno)"
    )
    assert ran.out.startswith("refused")
    link = cells.channel._link
    assert link is not None
    before = link._decoder.dropped
    forged = frames.encode(frames.STDOUT, 1, 1, b"forged")
    octal = "".join(f"\\{byte:03o}" for byte in forged)
    ran = await cells.run(f"for i in $(seq 500); do printf '{octal}' > /dev/tty; done; echo end", "bash")
    assert ran.out.endswith("end\n")
    assert (await cells.run("print('fine')")).out == "fine\n"
    assert cells.channel._link is link and link._decoder.dropped == before, "nothing foreign came on the line"


async def test_following_from_another_channel(
    cells: Cells, sandbox: AsyncSandbox, engine: IsolatedEngine
) -> None:
    ran = cells.start("import time\nfor i in range(5):\n print(i, flush=True)\n time.sleep(0.1)")
    await ran.until(lambda: "1" in ran.out)
    second = Channel(sandbox, api_key=engine.key)
    seen: list[object] = []
    done = await asyncio.wait_for(second.follow(ran.request.id, seen.append), 20)
    assert "".join(e.text for e in seen if isinstance(e, Stream)) == "0\n1\n2\n3\n4\n"
    assert (await ran.done()) == done
    with pytest.raises(SandboxError, match="knows no execution"):
        await second.follow("f" * 32, print)
    await second.close()


async def test_output_kept_by_the_sandbox_can_be_read_again(cells: Cells, channel: Channel) -> None:
    ran = cells.start("for i in range(5000): print(i)")
    channel.retain(ran.request.id)
    done = await ran.done()
    again: list[object] = []
    assert await asyncio.wait_for(channel.follow(ran.request.id, again.append), 10) == done
    assert "".join(e.text for e in again if isinstance(e, Stream)) == ran.out
    await channel.forget(ran.request.id)
    with pytest.raises(SandboxError, match="no longer has the output"):
        await asyncio.wait_for(channel.follow(ran.request.id, again.append), 10)


async def test_status_and_reset(cells: Cells, channel: Channel) -> None:
    await cells.run("x = 1")
    status = await channel.status()
    assert ("main", "python") in [(c["name"], c["language"]) for c in status["contexts"]]
    await channel.reset(["main"])
    ran = await cells.run("x")
    assert [e.ename for e in ran.events if isinstance(e, Error)] == ["NameError"]


async def test_a_worker_that_dies_is_reported_and_replaced(cells: Cells) -> None:
    ran = await cells.run(
        "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)"
    )
    done = ran.events[-1]
    assert isinstance(done, Done) and (done.status, done.signal) == ("died", 11)
    assert ran.out == "before\n"
    assert (await cells.run("print('new')")).out == "new\n"


async def test_a_guest_killed_under_a_cell_is_an_error_not_a_second_run(
    cells: Cells, sandbox: AsyncSandbox
) -> None:
    ran = cells.start("open('count', 'a').write('x')\nprint('on', flush=True)\nimport time; time.sleep(60)")
    await ran.until(lambda: "on" in ran.out)
    await sandbox.process.exec("pkill -KILL -f 'pyz daemon'")
    with pytest.raises(SandboxUnreachable, match=r"started anew.*was started there"):
        await ran.done(20)
    assert (await cells.run("print(open('count').read())")).out == "x\n"


async def test_a_sandbox_stopped_under_a_cell(cells: Cells, sandbox: AsyncSandbox) -> None:
    ran = cells.start("print('on', flush=True)\nimport time; time.sleep(60)")
    await ran.until(lambda: "on" in ran.out)
    began = time.monotonic()
    await sandbox.stop()
    with pytest.raises(SandboxUnreachable, match="is stopped"):
        await ran.done(20)
    assert time.monotonic() - began < 5


async def test_a_sandbox_deleted_under_a_cell(engine: IsolatedEngine) -> None:
    from daytona import AsyncDaytona

    async with AsyncDaytona(engine.config()) as daytona:
        sandbox = await daytona.create()
        channel = Channel(sandbox, api_key=engine.key)
        cells = Cells(channel)
        ran = cells.start("print('on', flush=True)\nimport time; time.sleep(60)")
        await ran.until(lambda: "on" in ran.out)
        began = time.monotonic()
        await daytona.delete(sandbox)
        with pytest.raises(SandboxGone):
            await ran.done(20)
        assert time.monotonic() - began < 5
        await channel.close()


async def test_a_sandbox_without_python(sandbox: AsyncSandbox, engine: IsolatedEngine) -> None:
    made = await sandbox.process.exec("echo $PATH")
    assert made.exit_code == 0
    original = sandbox.process.exec

    async def no_path(command: str, timeout: int = 30) -> object:
        return await original("PATH=/nowhere-but-tools:/tmp/t\n" + command, timeout=timeout)

    tools = "mkdir -p /tmp/t; for t in mkdir ln mv wc; do ln -sf $(command -v $t) /tmp/t/$t; done"
    await sandbox.process.exec(tools)
    sandbox.process.exec = no_path  # type: ignore[method-assign, assignment]
    channel = Channel(sandbox, api_key=engine.key)
    with pytest.raises(SandboxError, match=r"no Python ≥ 3\.8"):
        await channel.open()
    await channel.close()
