"""The panel in a real JupyterLab with the embedded engine: what is true of it, and what its buttons do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("panels, previews and other front ends")]

SCRIPT = "<img src=x onerror=alert(1)>"
#: The sandbox serves a port, has a session, a terminal, and labels nobody should parse.
FILL = """%%sandbox -q
import subprocess, sys
server = subprocess.Popen([sys.executable, '-m', 'http.server', '8123'], stderr=subprocess.DEVNULL)
"""
LABEL = f"""import daytona_magics
box = daytona_magics.sandboxes.current().sandbox
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import labels
loop_thread().run(labels.merge(box, {{'note': {SCRIPT!r}}}))
loop_thread().run(box.process.create_session({SCRIPT!r}))"""
#: Sandboxes of others: of a kernel that is dead, and one that no magics made.
OTHERS = """import time
from daytona import CreateSandboxFromSnapshotParams as Params
from daytona_magics import sandboxes
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import labels
binding = sandboxes.current()
who = binding.who()
dead = {**labels.ours(who, 'x'), labels.KERNEL: '0123456789abcdef'}
make = lambda name, given: loop_thread().run(binding.client.create(Params(name=name, labels=given)))
make('left-behind', dead)
make('of-somebody', {'project': 'theirs'})
print('made')"""
CELLS = ("%load_ext daytona_magics", FILL, LABEL, "%sandbox panel")


class Panel:
    """The panel in its page."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.page = watched, watched.page

    @property
    def box(self) -> Locator:
        return self.page.locator(".dm-panel").first

    def button(self, name: str | re.Pattern[str]) -> Locator:
        exact = isinstance(name, str)
        return self.box.get_by_role("button", name=name, exact=exact).first

    def open(self, part: str) -> None:
        details = self.box.locator("details", has=self.page.locator("summary", has_text=part))
        if details.get_attribute("open") is None:
            details.locator("summary").click()

    def agree(self, yes: str) -> None:
        self.box.get_by_role("alertdialog").get_by_role("button", name=yes, exact=True).click()

    def says(self, text: str | re.Pattern[str]) -> None:
        expect(self.box.locator(":scope > .dm-status")).to_contain_text(text, timeout=30_000)

    def shows(self, text: str | re.Pattern[str]) -> None:
        expect(self.box).to_contain_text(text, timeout=30_000)

    def is_in(self, state: str) -> None:
        expect(self.box.locator(".dm-panel-title")).to_contain_text(f"● {state}", timeout=30_000)

    @property
    def name(self) -> str:
        return self.box.locator(".dm-panel-title strong").inner_text()

    def magic(self, line: str) -> str:
        return self.watched.kernel(f"get_ipython().run_line_magic('sandbox', {line!r})")


@pytest.fixture(scope="module")
def panel(server: Lab, browser: Browser) -> Iterator[Panel]:
    watched = Watched(server, browser, "panel", *CELLS)
    made = Panel(watched)
    made.is_in("started")
    yield made
    watched.close()


def test_what_it_shows_is_true(panel: Panel) -> None:
    panel.shows("embedded engine, isolation ")
    panel.shows("Auto-stop")
    expect(panel.box.locator(".dm-time-row").first).to_contain_text(re.compile(r"1[45]:\d\d"))
    panel.shows(re.compile(r"MiB of "))
    panel.shows("(this notebook)")
    panel.open("Listening ports")
    panel.shows("8123")
    panel.open("Sessions and terminals")
    panel.shows(f"{SCRIPT}session")
    panel.shows("1 more carries the cells of notebooks.")
    panel.shows(f"note={SCRIPT}")
    assert panel.box.locator("img").count() == 0
    screenshot(panel.page, "panel")


def test_looking_asks_little_and_uses_nothing(panel: Panel) -> None:
    """Requests while it is in sight, faster than life; none when it is not; none of them is activity."""
    measured = json.loads(panel.watched.kernel(_MEASURE).splitlines()[-1])
    assert 3 <= measured["asked"] <= measured["most"]
    assert measured["unseen"] == 0
    assert measured["active"] == measured["before"]
    # The control: an ordinary question counts as activity.
    assert measured["used"] > measured["before"]


_MEASURE = """import asyncio, json, time
from daytona_magics import sandboxes
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import glances
from daytona_magics.widgets import live, panel_watch
panel = [one for one in live._alive() if one.kind == 'sandbox-panel'][0]
watcher, box = panel._watcher, sandboxes.current().sandbox
count, ask = [], panel_watch.Watcher._ask
async def counted(self, part):
    asked = await ask(self, part)
    count.extend([part] * asked)
    return asked
async def activity():
    await box.refresh_data()
    return box.last_activity_at
async def measure():
    panel_watch.EVERY, every = 0.5, panel_watch.EVERY
    panel_watch.PERIODS, periods = {part: 0.1 for part in panel_watch.PERIODS}, panel_watch.PERIODS
    panel_watch.Watcher._ask = counted
    watcher._next = 0
    views = dict(watcher._views)
    before = await activity()
    start = time.monotonic()
    await asyncio.sleep(3)
    while len(count) < 3 and time.monotonic() < start + 60:
        await asyncio.sleep(0.1)
    taken = time.monotonic() - start
    asked = len(count)
    active = await activity()
    watcher._views.clear()
    # What was asked for while somebody looked may still be answered.
    await asyncio.wait([watcher._task])
    count.clear()
    await asyncio.sleep(1.5)
    unseen = len(count)
    await box.get_metrics_latest()
    used = await activity()
    panel_watch.EVERY, panel_watch.PERIODS = every, periods
    panel_watch.Watcher._ask = ask
    for view, (until, opened) in views.items():
        watcher.seen(view, opened)
    return {'asked': asked, 'most': taken / 0.5 + 3, 'unseen': unseen, 'before': before, 'active': active,
            'used': used}
print(json.dumps(loop_thread().run(measure())))
"""


def test_where_cells_run_and_how_long(panel: Panel) -> None:
    switch = panel.box.get_by_role("switch", name="Run every cell in the sandbox")
    switch.focus()
    panel.watched.press("Enter")
    panel.says("every cell runs in the sandbox")
    expect(switch).to_have_attribute("aria-checked", "true")
    switch.press("Enter")
    panel.says("Cells run on this machine again")
    panel.button("Keep the sandbox started 2 h without activity").click()
    panel.says("stops after 2 hours without activity")
    panel.shows(re.compile(r"1:59:\d\d"))
    panel.magic("keep default")
    panel.button("Refresh").click()
    panel.shows("15 min without activity")


def test_a_job_is_seen_and_cancelled(panel: Panel) -> None:
    panel.watched.kernel(
        "get_ipython().run_cell_magic('sandbox', '--bg -q', 'import time\\ntime.sleep(600)')"
    )
    panel.button("Refresh").click()
    panel.shows("1 running")
    panel.button(re.compile("^Cancel ")).click()
    panel.says("sent Ctrl-C to the cell")
    panel.button("Refresh").click()
    expect(panel.box.locator("summary").first).not_to_contain_text("running", timeout=30_000)


def test_by_keyboard_and_by_ear(panel: Panel) -> None:
    hostile_keys(panel.watched, panel.button("Refresh"))
    hostile_keys(panel.watched, panel.box.locator("summary").first)
    axe(panel.page, ".dm-panel")


def test_all_sandboxes_orphans_and_those_of_others(panel: Panel) -> None:
    assert "made" in panel.watched.kernel(OTHERS)
    panel.open("All sandboxes")
    panel.button("Refresh").click()
    table = panel.box.get_by_role("table", name="All sandboxes")
    expect(table.locator("tr", has_text="left-behind")).to_contain_text("orphan", timeout=30_000)
    expect(table.locator("tr", has_text="of-somebody")).to_have_count(0)
    panel.box.get_by_label("made on this machine only").uncheck()
    expect(table.locator("tr", has_text="of-somebody")).to_contain_text("another program")
    # What is nobody's here to touch stays untouched without its name, also when the page is not asked.
    panel.button("Stop of-somebody").click()
    panel.page.keyboard.type("of-nobody")
    panel.watched.press("Enter")
    panel.says("That is not its name")
    assert "confirm" in panel.watched.kernel(_FORGED)
    expect(table.locator("tr", has_text="of-somebody")).to_contain_text("started")
    panel.button("Delete of-somebody").click()
    panel.page.keyboard.type("of-somebody")
    panel.watched.press("Enter")
    expect(table.locator("tr", has_text="of-somebody")).to_have_count(0, timeout=30_000)
    panel.button(re.compile(r"^Delete \d+ of dead kernels$")).click()
    panel.agree("Delete them")
    panel.says(re.compile(r"\d+ sandbox(es)? of dead kernels deleted\."))
    expect(table.locator("tr", has_text="left-behind")).to_have_count(0, timeout=30_000)
    screenshot(panel.page, "panel_all")


#: A page that was taken over asks for what nobody confirmed.
_FORGED = """from daytona_magics.runtime.loop import loop_thread
from daytona_magics.widgets import live
panel = [one for one in live._alive() if one.kind == 'sandbox-panel'][0]
key = [key for key, box in panel._watcher.boxes.items() if box.name == 'of-somebody'][0]
for sure in ('', 'of-nobody'):
    for what in ('stop', 'delete'):
        try:
            loop_thread().run(panel.call_change({'what': what, 'id': key, 'sure': sure}, []))
        except live.CallError as error:
            print(error.code)
"""


def test_another_widget_opens_below(panel: Panel) -> None:
    panel.button("Open Files below").click()
    expect(panel.box.get_by_role("tree")).to_be_visible(timeout=30_000)
    panel.button("Close FileTree").click()
    expect(panel.box.get_by_role("tree")).to_have_count(0)


def test_stop_acts_while_a_cell_runs(panel: Panel) -> None:
    panel.watched.begin("get_ipython().run_cell_magic('sandbox', '-q', 'import time\\ntime.sleep(300)')")
    panel.shows("1 running")
    panel.button(re.compile("^Stop ")).click()
    panel.agree("Stop")
    # Where a kernel takes no call beside a cell, it says so; this one does, and the cell ends with a reason.
    assert "stopped" in panel.watched.ended()
    panel.is_in("stopped")
    panel.shows("variables are lost, files kept")
    screenshot(panel.page, "panel_stopped")
    panel.button(re.compile("^Start ")).click()
    panel.is_in("started")
    panel.says("Started.")


def test_a_reloaded_page_has_it_again(panel: Panel) -> None:
    name = panel.name
    panel.watched.reload()
    panel.is_in("started")
    assert panel.name == name
    panel.shows(re.compile(r"MiB of "))


def test_somebody_else_deletes_it(panel: Panel) -> None:
    assert panel.watched.kernel(_DELETE) == ""
    panel.is_in("gone")
    panel.shows("with its files")
    panel.button("Create another").click()
    panel.is_in("started")


#: As another program would: the binding knows nothing of it.
_DELETE = """from daytona_magics import sandboxes
from daytona_magics.runtime.loop import loop_thread
binding = sandboxes.current()
async def delete():
    await (await binding.client.get(binding.sandbox.id)).delete(wait=True)
loop_thread().run(delete())"""


def test_the_engine_dies_and_comes_back(panel: Panel, server: Lab) -> None:
    record = json.loads(next(Path(server.env["XDG_RUNTIME_DIR"]).rglob("engine.json")).read_text())
    os.kill(record["pid"], 9)
    panel.shows("The embedded engine has ended")
    panel.button("Start it again").click()
    panel.is_in("started")


def test_delete_asks_first(panel: Panel) -> None:
    panel.button(re.compile("^Delete ")).click()
    panel.watched.press("Escape")
    panel.is_in("started")
    panel.button(re.compile("^Delete ")).click()
    panel.agree("Delete")
    panel.says("is deleted with all its files")
    panel.shows("No sandbox yet")


def test_nothing_leaks_and_the_record_can_be_read(panel: Panel) -> None:
    panel.watched.nothing_leaks()
    saved = json.loads(panel.watched.saved())
    outputs = saved["cells"][3]["outputs"]
    text = "".join("".join(one["data"].get("text/plain", "")) for one in outputs)
    markup = "".join("".join(one["data"].get("text/html", "")) for one in outputs)
    assert "embedded engine, isolation" in text and "runs on" in markup
    assert SCRIPT not in markup and "onerror=alert(1)&gt;" in markup


def test_a_restarted_kernel_is_said(panel: Panel) -> None:
    panel.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart().then(() => true)"
    )
    panel.shows("Run the cell again")
