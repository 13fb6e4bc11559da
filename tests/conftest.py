"""Fixtures for all tests; a real engine comes from :mod:`tests.engine_process`."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator

import pytest

from tests import engine_process


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is imported here is ever garbage: to look for it takes a quarter of this time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def isolated_engine() -> Iterator[engine_process.IsolatedEngine]:
    """Folders of its own for an embedded engine, which starts on demand and is stopped afterwards."""
    with engine_process.isolated_engine() as engine:
        yield engine
