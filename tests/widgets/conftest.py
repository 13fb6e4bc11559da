"""Fixtures: one JupyterLab, and a browser, for the tests of widgets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.lab import Lab, lab


@pytest.fixture(scope="module")
def server() -> Iterator[Lab]:
    """A JupyterLab."""
    with lab() as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with chromium() as made:
        yield made
