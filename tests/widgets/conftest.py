"""One JupyterLab, under a base URL as behind a hub, and one browser, for all tests of a group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.lab import Lab, lab


@pytest.fixture(scope="session")
def server() -> Iterator[Lab]:
    """A JupyterLab; starting one takes longer than most tests."""
    with lab("/user/me/") as made:
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser."""
    with chromium() as made:
        yield made
