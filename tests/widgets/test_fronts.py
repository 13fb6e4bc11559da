"""Every widget in JupyterLab and in Notebook 7, and what is left of it when its kernel or its engine is gone.

A widget is added by a line in ``WIDGETS``.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("panels, previews and other front ends")]


@dataclass(frozen=True)
class Widget:
    """One widget.

    Attributes:
        opens: the cell that shows it.
        selector: of its element.
        shows: a text in it once it is ready.
        record: a text in what the notebook keeps of it.
    """

    opens: str
    selector: str
    shows: str
    record: str


WIDGETS = (
    Widget("%sandbox files ~/seen", ".dm-files", "hello.txt", "hello.txt"),
    Widget("%sandbox logs ~/heard/app.log", ".dm-log", "heard from a file", "heard/app.log"),
    Widget("%sandbox terminal", ".dm-terminal", "shell 1", "Terminal of sandbox"),
    Widget("%sandbox preview 3000", ".dm-preview", "“Served”", "Preview of port 3000"),
    Widget("%sandbox panel", ".dm-panel", "Auto-stop", "runs on"),
)
FILES = """%%sandbox -q
import os
page = '<title>Served</title><h1>A page</h1>'
files = {'seen/hello.txt': '', 'heard/app.log': 'heard from a file\\n', 'served/index.html': page}
for name, text in files.items():
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, 'w') as file:
        file.write(text)
"""
CELLS = (
    "%load_ext daytona_magics",
    FILES,
    "%sandbox serve --cwd served --port 3000 python3 -m http.server 3000",
    *(widget.opens for widget in WIDGETS),
)


@pytest.fixture(scope="module", params=["lab", "notebook"])
def page(request: pytest.FixtureRequest, server: Lab, browser: Browser) -> Iterator[Watched]:
    made = Watched(server, browser, f"in-{request.param}", *CELLS, front=request.param)
    yield made
    made.close()


def shown(page: Watched, widget: Widget) -> Locator:
    return page.page.locator(f".jp-OutputArea-output {widget.selector}").last


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda one: one.selector)
def test_each_is_drawn_usable_and_quiet(page: Watched, widget: Widget) -> None:
    expect(shown(page, widget)).to_contain_text(widget.shows, timeout=30_000)
    # The record is there, and hidden while the widget is drawn.
    record = page.page.locator(".dm-record").filter(has_text=widget.record)
    expect(record.first).to_be_attached(timeout=30_000)
    expect(record.first).to_be_hidden()
    hostile_keys(page, shown(page, widget).get_by_role("button", disabled=False).first)
    axe(page.page, widget.selector)


def test_pages_load_the_code_once_and_nothing_leaks(page: Watched) -> None:
    expect(page.page.frame_locator(".dm-preview iframe").locator("h1")).to_have_text("A page", timeout=30_000)
    assert page.previews
    page.nothing_leaks()
    page.kernel("from daytona_magics.widgets import FileTree\ntrees = [FileTree('~') for _ in range(20)]")
    sent = [frame for frame in page.frames if "dm-tree" in frame and '"version"' in frame]
    assert len(sent) <= 1
    assert page.page.evaluate("() => [...window.__daytona_magics.keys()].length") <= 1 + len(WIDGETS)


def test_another_run_of_a_cell_ends_what_the_first_made(page: Watched) -> None:
    alive = (
        "from daytona_magics.widgets import live\nprint(len([w for w in live._living.values() if w._cell]))"
    )
    before = page.kernel(alive)
    numbers = (
        "() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells, c => c.executionCount)"
    )
    first = page.page.evaluate(numbers)
    page.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    wait_until(
        lambda: all(now and now > max(first) for now in page.page.evaluate(numbers)),
        "all cells have run again",
    )
    for widget in WIDGETS:
        expect(shown(page, widget)).to_contain_text(widget.shows, timeout=30_000)
    assert page.kernel(alive) == before


def test_an_engine_that_dies_is_said_and_started_again(page: Watched) -> None:
    record = next(Path(page.server.env["XDG_RUNTIME_DIR"]).rglob("engine.json"))
    os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    for widget in WIDGETS:
        expect(shown(page, widget).locator(".dm-banner")).to_contain_text("engine has ended", timeout=30_000)
    screenshot(page.page, "engine_ended")
    shown(page, WIDGETS[0]).get_by_role("button", name="Start it again").click()
    for widget in WIDGETS:
        expect(shown(page, widget).locator(".dm-banner")).to_be_hidden(timeout=60_000)
    expect(shown(page, WIDGETS[0])).to_contain_text(WIDGETS[0].shows, timeout=30_000)


def test_a_kernel_that_restarts_is_said_and_a_notebook_without_it_is_read(page: Watched) -> None:
    front = page.name.removeprefix("in-")
    page.saved()
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    for widget in WIDGETS:
        expect(shown(page, widget).locator(".dm-banner")).to_contain_text(
            "Run the cell again", timeout=30_000
        )
    screenshot(page.page, f"restarted_{front}")
    # Opened again: the widgets are gone, their records are there.
    page.server.visit(page.page, page.name, front)
    for widget in WIDGETS:
        record = page.page.locator(".dm-record").filter(has_text=widget.record).first
        expect(record).to_be_visible(timeout=30_000)
    screenshot(page.page, f"reopened_{front}")


def test_converted_to_html_each_has_its_record(server: Lab) -> None:
    from nbconvert import HTMLExporter

    saved = server.work / "in-lab.ipynb"
    text, _ = HTMLExporter().from_filename(str(saved))
    body = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    for widget in WIDGETS:
        assert widget.record in body
