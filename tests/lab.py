"""A JupyterLab of its own, and pages of it in a browser without a window.

The server gets folders of its own, as a kernel of :mod:`tests.kernel_client` does. The notebook is run by the
page itself, as by "Run All Cells": what it shows is then trusted by JupyterLab, like any output of a cell.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, Error, Page

from tests import forked_kernels
from tests.browser import chromium
from tests.kernel_client import environment, stop_engine

#: Settings of the page: no news, no dialogs about them.
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


class Lab:
    """The server. ``open`` shows a notebook in a page and runs all of its cells.

    Args:
        home: a folder for everything it writes.
        base: its base URL, as behind a hub: "/user/me/".
    """

    def __init__(self, home: Path, base: str = "/") -> None:
        self.home, self.base = home, base
        self.work = home / "work"
        self.work.mkdir()
        self._token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.env = {**environment(home), **forked_kernels.variables()}
        overrides = home / "settings"
        overrides.mkdir()
        (overrides / "overrides.json").write_text(json.dumps(_SETTINGS))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"]
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": self.port,
            "ServerApp.root_dir": self.work,
            "ServerApp.allow_root": True,
            "ServerApp.base_url": base,
            # An installation enables it by a file that an editable one may not have.
            "ServerApp.jpserver_extensions": "daytona_magics.server_extension=True",
            "IdentityProvider.token": self._token,
            "LabApp.app_settings_dir": overrides,
            "LabApp.news_url": "",
            "JupyterNotebookApp.expose_app_in_browser": True,
        }
        #: The page that shows one notebook after the other.
        self._page: Page | None = None
        self._dark = False
        self.log = (home / "lab.log").open("wb")
        self._process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=self.env,
            cwd=self.work,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.base}api", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.home / "lab.log").read_text()[-3000:]) from None
                time.sleep(0.2)

    def open(
        self,
        browser: Browser,
        name: str,
        *cells: str,
        dark: bool = False,
        front: str = "lab",
        size: tuple[int, int] = (1200, 4200),
        watch: Callable[[Page], None] = lambda page: None,
        again: bool = False,
    ) -> Page:
        """A page with the notebook, whose cells have all run.

        Args:
            browser: where to open it.
            name: of the notebook.
            cells: its code cells.
            dark: with JupyterLab's dark theme.
            front: "lab", or "notebook" for Notebook 7.
            size: of the page, in pixels.
            watch: called with the page while it is still empty, or shows nothing.
            again: show it in the page of the notebook before, if that is left to it (:meth:`leave`):
                opening a page takes seconds.
        """
        made = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(made, self.work / f"{name}.ipynb")
        viewport: Any = {"width": size[0], "height": size[1]}
        left, self._page = self._page, None
        if again and front == "lab" and left is not None:
            page = left
            page.set_viewport_size(viewport)
            watch(page)
            page.evaluate(_OPEN, f"{name}.ipynb")
            self._ready(page)
        else:
            page = browser.new_context(viewport=viewport).new_page()
            watch(page)
            self.visit(page, name, front)
        self.dress(page, dark)
        page.wait_for_function(_IDLE, timeout=60_000)
        page.evaluate(f"() => {{ {_RUN} }}")
        page.wait_for_function(_ALL_RAN, arg=len(cells), timeout=120_000)
        return page

    def dress(self, page: Page, dark: bool) -> None:
        """Give the page the dark theme, or the light one."""
        if dark != self._dark:
            # The server remembers it.
            self._dark = dark
            page.evaluate(_THEME, "JupyterLab Dark" if dark else "JupyterLab Light")
            page.wait_for_function("dark => document.body.dataset.jpThemeLight === String(!dark)", arg=dark)

    def visit(self, page: Page, name: str, front: str = "lab") -> None:
        """Open a notebook that is there, in the page; nothing is run."""
        where = f"lab/workspaces/{name}/tree/{name}.ipynb" if front == "lab" else f"notebooks/{name}.ipynb"
        page.goto(f"http://127.0.0.1:{self.port}{self.base}{where}?token={self._token}&reset")
        page.wait_for_function("window.jupyterapp && window.jupyterapp.restored", timeout=60_000)
        page.evaluate("() => window.jupyterapp.restored.then(() => true)")
        self._ready(page)

    def _ready(self, page: Page) -> None:
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)

    def leave(self, page: Page, front: str = "lab") -> None:
        """End the page's notebook and its kernel; the page may show another one then."""
        if front == "lab" and self._page is None:
            with suppress(Error):
                page.evaluate(_LEAVE)
                self._page = page
        if self._page is not page:
            page.context.close()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.log.close()


_IDLE = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
_THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
#: Opens a notebook in a page that is there; what a reload of it shows is that notebook.
_OPEN = """async path => {
  await window.jupyterapp.commands.execute('docmanager:open', {path});
  while (!window.location.href.includes(path)) await new Promise(done => setTimeout(done, 20));
}"""
_LEAVE = """async () => {
  const { shell } = window.jupyterapp;
  await shell.currentWidget?.sessionContext?.shutdown();
  for (const one of [...shell.widgets('main')]) one.dispose();
}"""
_RUN = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
#: Every code cell has a number, and the kernel has nothing to do.
_ALL_RAN = """count => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = Array.from(panel.content.model.cells);
  return cells.filter(cell => cell.executionCount).length >= count
    && panel.sessionContext.session.kernel.status === 'idle';
}"""


@contextmanager
def lab(base: str = "/") -> Iterator[Lab]:
    """Start a JupyterLab, under a base URL; it, its kernels and its engine end with the block."""
    home = Path(tempfile.mkdtemp(prefix="dm-lab-"))
    made: Lab | None = None
    try:
        made = Lab(home, base)
        yield made
    finally:
        if made is not None:
            made.close()
            stop_engine(made.env)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Lab]:
    """A JupyterLab; a module that uses it imports it."""
    with lab() as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; a module that uses it imports it."""
    with chromium() as made:
        yield made


def screenshot(page: Page, name: str) -> None:
    """Keep a picture of the page where ``DAYTONA_MAGICS_PICTURES`` names a folder; else nothing."""
    folder = os.environ.get("DAYTONA_MAGICS_PICTURES")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)
