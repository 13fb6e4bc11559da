"""One JupyterLab, and a browser, for the tests of widgets."""

from tests.lab import browser, server

__all__ = ["browser", "server"]
