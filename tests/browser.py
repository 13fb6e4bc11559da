"""Debian's Chromium, driven by playwright; nothing is downloaded.

The one without windows takes a fifth less of the processors than the whole browser, which does as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

_PROGRAMS = ("chromium-headless-shell", "chromium")
#: Milliseconds after which what is expected of a page is not expected any more, on a machine with much to do.
PATIENCE = 60_000
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; skips the test, or fails it under CI, where there is none."""
    path = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if path is None:
        reason = f"{_PROGRAMS[0]} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
