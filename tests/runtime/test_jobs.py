"""Background jobs over a line that breaks, is slow, or repeats itself, and when what runs them is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from daytona import AsyncDaytona, AsyncSandbox

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.channel import Channel, ExecRequest, new_id
from daytona_magics.runtime.events import Done, Event, FlowWindow, Gap, Stream
from daytona_magics.runtime.records import Look
from tests.engine_process import isolated_engine
from tests.fault_proxy import Fault, FaultProxy, Garbling

from .conftest import Cells

LINES = 60_000
EXPECTED = "".join(f"{i} abcdefghijklmnopqrstuvwxyz\n" for i in range(LINES))
#: Counts its runs; prints with pauses, so that faults fall between its lines.
COUNTED = f"""
open("count", "a").write("x")
import time
for i in range({LINES}):
    print(i, "abcdefghijklmnopqrstuvwxyz")
    if i % 6000 == 5999: time.sleep(0.1)
"""


def request(code: str, **more: Any) -> ExecRequest:
    return ExecRequest(new_id(), "main", "python", code, job=True, **more)


async def ended(channel: Channel, job: ExecRequest, within: float = 60) -> Look:
    async def wait() -> Look:
        while (look := await channel.look(job.id, 1000)).state != "done":
            await asyncio.sleep(0.05)
        return look

    return await asyncio.wait_for(wait(), within)


async def text(channel: Channel, job: ExecRequest, **more: Any) -> str:
    seen: list[Event] = []
    done = await asyncio.wait_for(channel.follow(job.id, seen.append, **more), 60)
    assert done.status == "ok"
    return "".join(event.text for event in seen if isinstance(event, Stream))


async def test_a_job_is_handed_over_once_whatever_the_line_does(
    broken_cells: Cells, proxy: FaultProxy
) -> None:
    channel = broken_cells.channel
    faults: tuple[Fault, ...] = ("rst", "fin", "rst")
    for number, fault in enumerate(faults):
        job = request(f"open('runs{number}', 'a').write('x')\n1 + 1")
        handing = asyncio.ensure_future(channel.submit(job))
        await asyncio.sleep(0.001 * number)
        proxy.cut(fault)
        await asyncio.wait_for(handing, 30)
        await channel.submit(job)
        assert (await ended(channel, job)).status == "ok"
        assert (await broken_cells.run(f"print(open('runs{number}').read())")).out == "x\n"


async def test_the_answer_to_the_hand_over_is_lost(
    broken_cells: Cells, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = broken_cells.channel._link
    assert link is not None
    monkeypatch.setattr(link, "_reply", lambda message: None)
    job = request(COUNTED)
    handing = asyncio.ensure_future(broken_cells.channel.submit(job))
    await asyncio.sleep(0.3)
    proxy.cut("rst")
    await asyncio.wait_for(handing, 30)
    await ended(broken_cells.channel, job)
    assert await text(broken_cells.channel, job) == EXPECTED
    assert (await broken_cells.run("print(open('count').read())")).out == "x\n"


async def test_following_survives_cuts(broken_cells: Cells, proxy: FaultProxy) -> None:
    job = request(COUNTED)
    await broken_cells.channel.submit(job)
    following = asyncio.ensure_future(text(broken_cells.channel, job))
    for fault in ("rst", "fin", "rst", "fin"):
        await asyncio.sleep(0.2)
        proxy.cut(fault)  # type: ignore[arg-type]
    assert await following == EXPECTED


@pytest.mark.parametrize("spoil", ["delay", "throttle", "duplicate", "reorder"])
async def test_a_line_of_bad_quality(broken_cells: Cells, proxy: FaultProxy, spoil: str) -> None:
    job = request(COUNTED.replace("0.1", "0.02"))
    await broken_cells.channel.submit(job)
    following = asyncio.ensure_future(text(broken_cells.channel, job))
    await asyncio.sleep(0.05)
    if spoil == "delay":
        proxy.slow(delay=0.02)
    elif spoil == "throttle":
        proxy.slow(rate=500_000)
    else:
        how: Garbling = "duplicate" if spoil == "duplicate" else "reorder"
        for _ in range(5):
            proxy.garble(how, 1)
            await asyncio.sleep(0.05)
    assert await asyncio.wait_for(following, 60) == EXPECTED
    assert proxy.to_garble == 0, "nothing was spoiled"
    proxy.slow()
    assert (await broken_cells.run("print(open('count').read())")).out == "x\n"


@pytest.mark.parametrize("fault", ["none", "rst", "throttle"])
async def test_skimming_counts_every_byte_once(broken_cells: Cells, proxy: FaultProxy, fault: str) -> None:
    ran = broken_cells.start(COUNTED, window=(window := FlowWindow(64 << 10)))
    await ran.until(lambda: len(ran.out) > 30_000)
    if fault == "throttle":
        proxy.slow(rate=300_000)
    await broken_cells.channel.skim(ran.request.id)
    taken = 0

    async def consume() -> None:
        nonlocal taken
        while True:
            for event in ran.events[taken:]:
                window.consumed(event)
            taken = len(ran.events)
            await asyncio.sleep(0.005)

    consuming = asyncio.ensure_future(consume())
    await asyncio.sleep(0.2)
    if fault == "rst":
        proxy.cut("rst")
    assert (await ran.done()).status == "ok"
    consuming.cancel()
    gaps = [event for event in ran.events if isinstance(event, Gap)]
    assert gaps and all(gap.kept for gap in gaps)
    first = next(number for number, event in enumerate(ran.events) if isinstance(event, Gap))
    assert not any(isinstance(event, Stream) for event in ran.events[first:]), "no text behind the first gap"
    assert EXPECTED.startswith(ran.out) and len(ran.out) + sum(gap.bytes for gap in gaps) == len(EXPECTED)
    proxy.slow()
    assert await text(broken_cells.channel, ran.request) == EXPECTED, "kept whole"


async def test_what_there_is_so_far(cells: Cells, channel: Channel) -> None:
    await channel.open()
    job = request("import time\nprint('one', flush=True)\nwhile True: time.sleep(1)")
    await channel.submit(job)
    while not (await channel.look(job.id, 10)).tail:
        await asyncio.sleep(0.02)
    seen: list[Event] = []
    done = await asyncio.wait_for(channel.follow(job.id, seen.append, so_far=True), 20)
    assert done == Done("running") and [e.text for e in seen if isinstance(e, Stream)] == ["one\n"]
    await channel.interrupt(job.id, 3)
    look = await ended(channel, job)
    assert (look.status, look.job, look.printed, look.dropped) == ("interrupted", True, 4, False)


async def test_the_tail_never_cuts_a_character(cells: Cells, channel: Channel) -> None:
    await channel.open()
    job = request("print('€' * 100, end='')")
    await channel.submit(job)
    assert (await ended(channel, job)).printed == 300
    for limit in range(1, 20):
        look = await channel.look(job.id, limit)
        assert look.tail == "€" * (limit // 3) and look.tail_bytes == limit - limit % 3


async def test_a_worker_killed_under_a_job(cells: Cells, channel: Channel) -> None:
    await cells.run("x = 1")
    job = request("import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    await channel.submit(job)
    assert (await ended(channel, job)).status == "died"
    seen: list[Event] = []
    assert (await channel.follow(job.id, seen.append)).status == "died"
    assert [e.text for e in seen if isinstance(e, Stream)] == ["before\n"]
    assert (await cells.run("print(x)")).out == "1\n", "the notebook's own worker is another"


async def test_a_guest_killed_under_a_job(cells: Cells, channel: Channel, sandbox: AsyncSandbox) -> None:
    await channel.open()
    job = request("open('runs', 'a').write('x')\nprint('on', flush=True)\nimport time; time.sleep(60)")
    await channel.submit(job)
    following = asyncio.ensure_future(channel.follow(job.id, lambda event: None))
    await asyncio.sleep(0.3)
    await sandbox.process.exec("pkill -KILL -f 'pyz daemon'")
    with pytest.raises(SandboxError, match=r"started anew|knows no execution"):
        await asyncio.wait_for(following, 30)
    with pytest.raises(SandboxError, match="never saw"):
        await channel.look(job.id)
    assert (await cells.run("print(open('runs').read())")).out == "x\n", "it is not run again"


async def test_the_engine_killed_under_a_job() -> None:
    with isolated_engine() as engine:
        async with AsyncDaytona(engine.config()) as daytona:
            sandbox = await daytona.create()
            channel = Channel(sandbox, api_key=engine.key, reconnect_for=5.0)
            await channel.open()
            job = request("print('on', flush=True)\nimport time; time.sleep(60)")
            await channel.submit(job)
            following = asyncio.ensure_future(channel.follow(job.id, lambda event: None))
            await asyncio.sleep(0.3)
            await asyncio.to_thread(engine.kill)
            with pytest.raises(SandboxError, match=r"could not be reached|started there"):
                await asyncio.wait_for(following, 60)
            with pytest.raises(SandboxError, match="could not be reached"):
                await asyncio.wait_for(channel.look(job.id), 60)
            await channel.close()


async def test_what_a_job_is_told_by_nobody_else(cells: Cells, channel: Channel) -> None:
    """A guest's words about a job are checked like all others; see test_decode."""
    await channel.open()
    job = request("1")
    await channel.submit(job)
    await ended(channel, job)
    with pytest.raises(SandboxError, match="refused"):
        await channel.ask("describe", id=job.id, tail=1 << 30)
    with pytest.raises(SandboxError, match="refused"):
        await channel.ask("skim", id="f" * 32)
