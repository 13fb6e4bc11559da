"""``%sandbox asyncio on``: snippets of Daytona's documentation run as they are, and no message is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel_client import Kernel

#: As the documentation writes it, with the endpoint of this machine.
SNIPPET = """
import asyncio
from daytona import AsyncDaytona, DaytonaConfig

async def main():
    async with AsyncDaytona(DaytonaConfig(api_key=key, api_url=url)) as daytona:
        sandbox = await daytona.create()
        try:
            response = await sandbox.process.exec("echo from the snippet")
            print(response.result, end="")
        finally:
            await sandbox.delete()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\nkept = 1").status == "ok"
        made.run(
            "from daytona_magics import sandboxes\nend = sandboxes.current().endpoint\n"
            "key, url = end.api_key, end.api_url"
        )
        yield made


@pytest.fixture(autouse=True)
def off(kernel: Kernel) -> Iterator[None]:
    yield
    assert kernel.run("%sandbox asyncio off").status == "ok"


def test_snippets_of_the_documentation(kernel: Kernel) -> None:
    refused = kernel.run(SNIPPET)
    assert refused.ename == "RuntimeError" and "running event loop" in refused.traceback
    kernel.run("%sandbox asyncio on")
    cell = kernel.run(SNIPPET, timeout=100)
    assert cell.stdout == "from the snippet\n", cell


def test_cells_that_wait_in_the_queue_still_run_in_order(kernel: Kernel) -> None:
    kernel.run("%sandbox asyncio on\nimport asyncio, time")
    kernel.run("order = []")
    waiting = [kernel.send(f"asyncio.run(asyncio.sleep(0.5))\norder.append({number})") for number in range(3)]
    waiting.append(kernel.send("await asyncio.sleep(0.1)\norder.append(3)"))
    waiting.append(kernel.send("%%sandbox\nkept + 1"))
    ended = [kernel.finish(cell) for cell in waiting]
    assert [cell.status for cell in ended] == ["ok"] * 5 and ended[-1].result == "2"
    assert kernel.run("order").result == "[0, 1, 2, 3]"
    assert kernel.complete("orde") == ["order"]


def test_it_can_be_interrupted(kernel: Kernel) -> None:
    kernel.run("%sandbox asyncio on\nimport asyncio")
    press = kernel.interrupt_when("begun")
    cell = kernel.run("print('begun', flush=True)\nasyncio.run(asyncio.sleep(100))", on=press)
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.run("asyncio.run(asyncio.sleep(0, 5))").result == "5"


def test_sandbox_cells_work_the_same_with_it_and_after_it(kernel: Kernel) -> None:
    kernel.run("import asyncio\nbefore = asyncio.Task, asyncio.Future, asyncio.run, asyncio.get_event_loop")
    kernel.run("%sandbox asyncio on")
    flood = kernel.run("%%sandbox\nfor n in range(20_000): print(n)")
    assert flood.stdout == "".join(f"{n}\n" for n in range(20_000))
    assert kernel.run("%%sandbox\nimport asyncio\nasyncio.run(asyncio.sleep(0, 7))").result == "7"
    kernel.run("%sandbox asyncio off")
    same = kernel.run("before == (asyncio.Task, asyncio.Future, asyncio.run, asyncio.get_event_loop)")
    assert same.result == "True"
    assert "running event loop" in kernel.run("asyncio.run(asyncio.sleep(0))").traceback
    assert kernel.run("await asyncio.sleep(0, 3)").result == "3"
    assert kernel.run("%%sandbox\nkept").result == "1"


def test_the_older_package_is_refused(kernel: Kernel) -> None:
    kernel.run("import asyncio\nasyncio._nest_patched = True")
    try:
        cell = kernel.run("%sandbox asyncio on")
        assert cell.ename == "SandboxError" and "loses messages" in cell.traceback
        assert "applied by something else" in kernel.run("%sandbox asyncio").notes
    finally:
        kernel.run("del asyncio._nest_patched")
    assert "machine: off" in kernel.run("%sandbox asyncio").notes
