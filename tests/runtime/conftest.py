"""Fixtures: channels to real sandboxes of a real embedded engine, also through a line that breaks."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from daytona import AsyncDaytona, AsyncSandbox

from daytona_magics.runtime.channel import Channel, ExecRequest, new_id
from daytona_magics.runtime.events import Done, Event, FlowWindow, Stream
from tests.engine_process import IsolatedEngine, isolated_engine
from tests.fault_proxy import FaultProxy

from .local_toolbox import LocalToolbox


@dataclass
class Ran:
    """One execution and all its events."""

    request: ExecRequest
    events: list[Event] = field(default_factory=list)
    future: asyncio.Future[Done] | None = None

    @property
    def out(self) -> str:
        """What it wrote to stdout so far."""
        return "".join(e.text for e in self.events if isinstance(e, Stream) and e.name == "stdout")

    @property
    def err(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(e.text for e in self.events if isinstance(e, Stream) and e.name == "stderr")

    async def until(self, condition: Callable[[], bool], within: float = 20.0) -> None:
        """Wait for a condition on what was received, which must come true before the execution ends."""
        assert self.future is not None
        deadline = asyncio.get_running_loop().time() + within
        while not condition():
            assert not self.future.done(), (self.future, self.err[-500:])
            assert asyncio.get_running_loop().time() < deadline, "waited in vain"
            await asyncio.sleep(0.002)

    async def done(self, within: float = 60.0) -> Done:
        """Its end."""
        assert self.future is not None
        return await asyncio.wait_for(self.future, within)


class Cells:
    """Starts cells on a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def start(
        self, code: str, language: str = "python", window: FlowWindow | None = None, **more: Any
    ) -> Ran:
        """Start a cell without waiting for it."""
        fields = {"context": "main", **more}
        ran = Ran(ExecRequest(new_id(), language=language, code=code, **fields))
        ran.future = asyncio.ensure_future(self.channel.execute(ran.request, ran.events.append, window))
        return ran

    async def run(self, code: str, language: str = "python", within: float = 60.0, **more: Any) -> Ran:
        """Run a cell to its end."""
        ran = self.start(code, language, **more)
        await ran.done(within)
        return ran


@pytest.fixture
async def toolbox() -> AsyncIterator[LocalToolbox]:
    """A toolbox in miniature with a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="dm-"))
    async with LocalToolbox(home) as made:
        yield made
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def engine() -> Iterator[IsolatedEngine]:
    """A running engine shared by the tests of this folder."""
    with isolated_engine() as own:
        own.client_env()
        yield own


@pytest.fixture
async def daytona(engine: IsolatedEngine) -> AsyncIterator[AsyncDaytona]:
    """The SDK's asynchronous client."""
    async with AsyncDaytona(engine.config()) as client:
        yield client


@pytest.fixture
async def sandbox(daytona: AsyncDaytona) -> AsyncIterator[AsyncSandbox]:
    """A started sandbox."""
    made = await daytona.create()
    yield made
    await daytona.delete(made)


@pytest.fixture
async def channel(sandbox: AsyncSandbox, engine: IsolatedEngine) -> AsyncIterator[Channel]:
    """A channel to the sandbox, not yet opened."""
    made = Channel(sandbox, api_key=engine.key)
    yield made
    await made.close()


@pytest.fixture
def cells(channel: Channel) -> Cells:
    """Cells on that channel."""
    return Cells(channel)


@pytest.fixture
async def proxy(sandbox: AsyncSandbox) -> AsyncIterator[FaultProxy]:
    """A breakable line between the channel and the engine; the SDK's own calls go past it."""
    split = urlsplit(sandbox.toolbox_proxy_url)
    assert split.hostname and split.port
    async with FaultProxy(split.hostname, split.port) as made:
        sandbox.toolbox_proxy_url = split._replace(netloc=f"127.0.0.1:{made.port}").geturl()
        yield made


@pytest.fixture
async def broken_cells(
    proxy: FaultProxy, sandbox: AsyncSandbox, engine: IsolatedEngine
) -> AsyncIterator[Cells]:
    """Cells whose channel goes through the breakable line."""
    made = Channel(sandbox, api_key=engine.key)
    await made.open()
    yield Cells(made)
    await made.close()
