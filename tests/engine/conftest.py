"""Fixtures: one engine for the tests that only use it, a fresh one for those that break it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.engine_process import IsolatedEngine, isolated_engine
from tests.git_box import GitBox


@pytest.fixture(scope="module")
def engine() -> Iterator[IsolatedEngine]:
    """A running engine shared by the tests of a module."""
    with isolated_engine() as own:
        own.client_env()
        yield own


@pytest.fixture
def fresh_engine() -> Iterator[IsolatedEngine]:
    """An engine for one test, not started."""
    with isolated_engine() as own:
        yield own


@pytest.fixture(scope="module")
def daytona(engine: IsolatedEngine) -> Iterator[Any]:
    """The unmodified SDK's synchronous client."""
    from daytona import Daytona

    client = Daytona(engine.config())
    yield client
    client._sandbox_api.api_client.rest_client.pool_manager.clear()


@pytest.fixture
async def async_daytona(engine: IsolatedEngine) -> AsyncIterator[Any]:
    """The unmodified SDK's asynchronous client."""
    from daytona import AsyncDaytona

    async with AsyncDaytona(engine.config()) as client:
        yield client


@pytest.fixture
def sandbox(daytona: Any) -> Iterator[Any]:
    """A started sandbox of the synchronous client."""
    made = daytona.create()
    yield made
    if made.state != "destroyed":
        daytona.delete(made)


@pytest.fixture(scope="module")
def shared(daytona: Any) -> Iterator[Any]:
    """One sandbox for the tests of a module that leave nothing behind."""
    made = daytona.create()
    yield made
    daytona.delete(made)


@pytest.fixture
async def box(async_daytona: Any) -> AsyncIterator[Any]:
    """A started sandbox of the asynchronous client."""
    made = await async_daytona.create()
    yield made
    await made.delete()


@pytest.fixture(scope="module")
def hub(daytona: Any, engine: IsolatedEngine) -> Iterator[GitBox]:
    """A sandbox with a git server in it, shared by the tests of a module."""
    made = daytona.create()
    found = GitBox(made, engine)
    found.serve()
    yield found
    daytona.delete(made)
