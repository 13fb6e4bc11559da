"""The line breaks, in three ways and at three moments: every line arrives once, the body runs once."""

from __future__ import annotations

import asyncio
import time

import pytest
from daytona import AsyncDaytona

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.runtime.channel import Channel
from daytona_magics.runtime.events import Event, Reconnected, Reconnecting, Stream
from tests.engine_process import isolated_engine
from tests.fault_proxy import Fault, FaultProxy

from .conftest import Cells, Ran

LINES = 200_000
PRINTING = f"""
open("count", "a").write("x")
import time
for i in range({LINES}):
    print(i, "abcdefghijklmnopqrstuvwxyz")
    if i % 20_000 == 19_999: time.sleep(0.02)
"""
EXPECTED = "".join(f"{i} abcdefghijklmnopqrstuvwxyz\n" for i in range(LINES))
#: The same lines, with a silence among them; the line before it tells the test that it has begun.
SILENCE = f"""
open("count", "a").write("x")
import time
for i in range({LINES}):
    print(i, "abcdefghijklmnopqrstuvwxyz")
    if i == {LINES} // 2 - 1:
        print("silence")
        time.sleep(3)
"""
HALF = EXPECTED.index(f"{LINES // 2} abc")
EXPECTED_SILENCE = EXPECTED[:HALF] + "silence\n" + EXPECTED[HALF:]
SLEEPING = """
open("count", "a").write("x")
import time
print("on", flush=True)
time.sleep(3)
print("off")
"""
#: Seconds the path stays broken.
OUTAGE = 1.0


@pytest.fixture(params=["rst", "fin", "hole"])
def fault(request: pytest.FixtureRequest) -> Fault:
    kind: Fault = request.param
    return kind


async def ran_once(cells: Cells) -> bool:
    return (await cells.run("print(open('count').read())")).out == "x\n"


async def break_line(proxy: FaultProxy, fault: Fault) -> float:
    """Break the path for OUTAGE seconds; returns when it came back."""
    proxy.down(fault)
    await asyncio.sleep(OUTAGE)
    proxy.up()
    return time.monotonic()


async def resumed(ran: Ran, back: float, *signs: type[Event]) -> float:
    """Seconds from the path's return to the first sign of the resumption (told so, unless said otherwise).

    An execution that ends without a sign fails the test.
    """
    seen = len(ran.events)

    def resumption() -> bool:
        nonlocal seen
        new = ran.events[seen:]
        seen += len(new)
        return any(isinstance(event, signs or Reconnected) for event in new)

    await ran.until(resumption)
    return time.monotonic() - back


async def test_while_printing(broken_cells: Cells, proxy: FaultProxy, fault: Fault) -> None:
    ran = broken_cells.start(PRINTING)
    await ran.until(lambda: len(ran.events) > 20)
    back = await break_line(proxy, fault)
    assert await resumed(ran, back) < 5
    assert (await ran.done()).status == "ok"
    assert ran.out == EXPECTED
    assert any(isinstance(event, Reconnecting) for event in ran.events)
    assert await ran_once(broken_cells)


async def test_during_a_silent_sleep(broken_cells: Cells, proxy: FaultProxy, fault: Fault) -> None:
    ran = broken_cells.start(SILENCE)
    await ran.until(lambda: any("silence" in e.text for e in ran.events[-3:] if isinstance(e, Stream)))
    count = len(ran.events)
    back = await break_line(proxy, fault)
    assert not any(isinstance(event, Stream) for event in ran.events[count:]), "it was not silent"
    assert await resumed(ran, back) < 5
    assert (await ran.done()).status == "ok"
    assert ran.out == EXPECTED_SILENCE
    assert await ran_once(broken_cells)


@pytest.mark.parametrize("kind", ["rst", "hole"])
async def test_a_longer_outage(broken_cells: Cells, proxy: FaultProxy, kind: Fault) -> None:
    ran = broken_cells.start(SLEEPING.replace("sleep(3)", "sleep(9)"))
    await ran.until(lambda: "on" in ran.out)
    proxy.down(kind)
    await asyncio.sleep(8.5)  # the tries are seconds apart by now
    proxy.up()
    assert await resumed(ran, time.monotonic()) < 5
    assert (await ran.done()).status == "ok"
    assert ran.out == "on\noff\n"
    assert await ran_once(broken_cells)


async def test_between_sending_and_acknowledgement(
    broken_cells: Cells, proxy: FaultProxy, fault: Fault
) -> None:
    ran = broken_cells.start(PRINTING)
    feed = broken_cells.channel._feeds
    while not (feed and next(iter(feed.values())).boot):
        await asyncio.sleep(0)
    assert not next(iter(feed.values())).acknowledged
    back = await break_line(proxy, fault)
    # A line that is remade at the first try, before any acknowledgement, is remade without a word.
    assert await resumed(ran, back, Reconnected, Stream) < 5
    assert (await ran.done()).status == "ok"
    assert ran.out == EXPECTED
    assert await ran_once(broken_cells)


async def test_the_answer_is_lost_but_not_the_question(
    broken_cells: Cells, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest runs the cell, and the line ends before the channel hears of it."""
    link = broken_cells.channel._link
    assert link is not None
    monkeypatch.setattr(link, "_reply", lambda message: None)
    ran = broken_cells.start(PRINTING)
    await asyncio.sleep(0.3)
    proxy.cut("rst")
    assert (await ran.done()).status == "ok"
    assert ran.out == EXPECTED
    assert await ran_once(broken_cells)


async def test_ten_cuts_in_one_cell(broken_cells: Cells, proxy: FaultProxy) -> None:
    ran = broken_cells.start(PRINTING.replace("0.02", "0.15"))
    for number in range(10):
        count = len(ran.events)
        await ran.until(lambda count=count: len(ran.events) > count + 3)  # type: ignore[misc]
        proxy.cut("rst" if number % 2 else "fin")
    assert (await ran.done()).status == "ok"
    assert ran.out == EXPECTED
    assert await ran_once(broken_cells)


async def test_two_cells_survive_one_cut(broken_cells: Cells, proxy: FaultProxy) -> None:
    one = broken_cells.start(PRINTING)
    two = broken_cells.start("for i in $(seq 1 20000); do echo $i; done; sleep 1; echo end", "bash")
    await one.until(lambda: len(one.events) > 20)
    await two.until(lambda: len(two.out) > 100)
    proxy.cut("rst")
    await asyncio.gather(one.done(), two.done())
    assert one.out == EXPECTED
    assert two.out == "".join(f"{i}\n" for i in range(1, 20_001)) + "end\n"


async def test_an_idle_line_that_broke_is_made_anew(broken_cells: Cells, proxy: FaultProxy) -> None:
    await broken_cells.run("x = 1")
    proxy.cut("rst")
    ran = await broken_cells.run("print(x)")
    assert ran.out == "1\n"


async def test_interrupting_while_the_path_is_down(broken_cells: Cells, proxy: FaultProxy) -> None:
    ran = broken_cells.start(SLEEPING.replace("sleep(3)", "sleep(60)"))
    await ran.until(lambda: "on" in ran.out)
    proxy.down("hole")
    began = time.monotonic()
    with pytest.raises(SandboxUnreachable, match="may be running"):
        await broken_cells.channel.interrupt(ran.request.id, 1)
    assert time.monotonic() - began < 2.5
    proxy.up()
    await resumed(ran, time.monotonic())
    await broken_cells.channel.interrupt(ran.request.id, 1)
    assert (await ran.done(10)).status == "interrupted"


async def test_the_engine_is_killed_under_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolated_engine() as engine:
        async with AsyncDaytona(engine.config()) as daytona:
            sandbox = await daytona.create()
            channel = Channel(sandbox, api_key=engine.key)
            ran = Cells(channel).start(SLEEPING.replace("sleep(3)", "sleep(60)"))
            await ran.until(lambda: "on" in ran.out)
            began = time.monotonic()
            await asyncio.to_thread(engine.kill)
            with pytest.raises(SandboxError, match="was started there"):
                await ran.done(30)
            assert time.monotonic() - began < 15
            await channel.close()


async def test_a_path_that_stays_broken(proxy: FaultProxy, sandbox: object, engine: object) -> None:
    channel = Channel(sandbox, api_key=engine.key, reconnect_for=2.0)  # type: ignore[arg-type, attr-defined]
    ran = Cells(channel).start(SLEEPING.replace("sleep(3)", "sleep(60)"))
    await ran.until(lambda: "on" in ran.out)
    proxy.down("rst")
    began = time.monotonic()
    with pytest.raises(SandboxUnreachable, match="could not be reached"):
        await ran.done(20)
    assert time.monotonic() - began < 8
    await channel.close()
