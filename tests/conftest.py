"""Fixtures for all tests; a real engine comes from :mod:`tests.engine_process`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import engine_process


@pytest.fixture
def isolated_engine() -> Iterator[engine_process.IsolatedEngine]:
    """Folders of its own for an embedded engine, which starts on demand and is stopped afterwards."""
    with engine_process.isolated_engine() as engine:
        yield engine
