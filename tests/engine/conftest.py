"""Fixtures: one engine for the tests that only use it, a fresh one for those that break it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Helper modules beside the tests are not a package; load this one by path and under one name.
_PATH = Path(__file__).resolve().parents[1] / "engine_process.py"
if "engine_process" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("engine_process", _PATH)
    assert _spec is not None and _spec.loader is not None
    sys.modules["engine_process"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["engine_process"])

from engine_process import IsolatedEngine, isolated_engine  # noqa: E402


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
