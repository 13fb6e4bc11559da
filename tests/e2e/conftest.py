"""One JupyterLab, and a browser, for the tests that look at a page."""

from tests.lab import browser, server

__all__ = ["browser", "server"]
