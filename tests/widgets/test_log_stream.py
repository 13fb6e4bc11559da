"""The log in a real JupyterLab: colours, hostile text, search, rotated files, downloads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, hostile_keys

pytestmark = pytest.mark.timeout(300)

JOB = r"""%%sandbox --bg -q
import os, sys, time
sys.stderr.write("\033[1;31mERROR\033[0m first \033[38;5;208morange\033[0m\n"); sys.stderr.flush()
print("<img src=x onerror=alert(1)><script>alert(2)</script>\033]52;c;c2VjcmV0\007\033[2J", end="")
print("\033]8;;javascript:alert(3)\007link\033]8;;\007", flush=True)
for step in range(101): print("\rprogress %d%%" % step, end="", flush=True)
print()
sys.stdout.buffer.write(b"\xff\xfe is no text\n")
for number in range(500): print("line %03d of the log" % number, flush=True)
while not os.path.exists(os.path.expanduser("~/go")): time.sleep(0.02)
for number in range(300): print("later %03d" % number, flush=True)
while not os.path.exists(os.path.expanduser("~/end")): time.sleep(0.02)
sys.stdout.write("z" * (8 << 20) + "\nthe end\n")
sys.exit(3)
"""
CELLS = (
    "%load_ext daytona_magics",
    JOB,
    "get_ipython().run_line_magic('sandbox', 'logs ' + (job := _).id)",
)


class Log(Watched):
    """One log in a page."""

    @property
    def box(self) -> Locator:
        return self.page.locator(".dm-log").last

    @property
    def list(self) -> Locator:
        return self.box.get_by_role("log")

    def line(self, text: str | re.Pattern[str]) -> Locator:
        return self.box.locator(".dm-line .dm-text").filter(has_text=text)

    def texts(self) -> list[str]:
        return self.box.locator(".dm-line .dm-text").all_inner_texts()

    def shows(self, text: str | re.Pattern[str]) -> None:
        expect(self.line(text).first).to_be_visible(timeout=25_000)

    def counts(self, text: str | re.Pattern[str]) -> None:
        expect(self.box.locator(".dm-lines-count")).to_have_text(text, timeout=25_000)

    def sandbox(self, command: str) -> str:
        return self.kernel(f"get_ipython().run_line_magic('sandbox', {command!r})")


@pytest.fixture(scope="module")
def log(server: Lab, browser: Browser) -> Iterator[Log]:
    made = Log(server, browser, "log", *CELLS, size=(1100, 1500))
    yield made
    made.close()


def test_it_follows_with_colours_and_nothing_runs(log: Log) -> None:
    log.shows("line 499 of the log")
    log.counts("504 lines")
    log.list.focus()
    log.press("Home")
    log.shows("ERROR first orange")
    error = log.line("ERROR first").locator("xpath=..")
    expect(error).to_have_class(re.compile("dm-stderr"))
    expect(error.locator(".dm-fore-1.dm-bold")).to_have_text("ERROR")
    expect(error.locator(".dm-true")).to_have_text("orange")
    texts = log.texts()
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>link" in texts
    assert "progress 100%" in texts and "\ufffd\ufffd is no text" in texts
    assert log.box.locator("img, script, a").count() == 0
    screenshot(log.page, "log_stream")


def test_by_keyboard(log: Log) -> None:
    hostile_keys(log, log.list)
    log.press("End")
    log.shows("line 499")
    log.press("PageUp", "ArrowUp")
    expect(log.box.locator(".dm-newer")).to_be_visible()
    log.press("/")
    log.page.keyboard.type("line 04")
    expect(log.box.locator(".dm-group .dm-count")).to_have_text(re.compile(r"\d+ of 10"), timeout=30_000)
    before = log.box.locator(".dm-line[data-current]").inner_text()
    log.press("Enter")
    wait_until(lambda: log.box.locator(".dm-line[data-current]").inner_text() != before, "the next is shown")
    expect(log.box.locator(".dm-line[data-current] mark")).to_have_text("line 04")
    # The way out of the field, and out of the list.
    log.press("Escape")
    expect(log.list).to_be_focused()
    log.press("n", "N")
    log.press("Tab")
    expect(log.list).not_to_be_focused()
    log.box.get_by_label("Find").fill("")


def test_filter_and_streams(log: Log) -> None:
    log.box.get_by_label("Filter").fill("LINE 49")
    log.counts(re.compile("^10 of 504 lines$"))
    assert [text for text in log.texts() if text.startswith("line 49")] == log.texts()[:10]
    log.box.get_by_role("button", name=".*", exact=True).click()
    log.box.get_by_label("Filter").fill("line (")
    expect(log.box.locator(".dm-status")).to_contain_text("is no regular expression")
    expect(log.box.get_by_label("Filter")).to_have_attribute("aria-invalid", "true")
    log.box.get_by_label("Filter").fill(r"line 0[12]\d of")
    log.counts(re.compile("^20 of 504 lines$"))
    log.box.get_by_label("Filter").fill("")
    log.box.get_by_role("button", name="stdout").click()
    log.counts(re.compile("^1 of 504 lines$"))
    log.box.get_by_role("button", name="stdout").click()
    log.box.get_by_role("button", name=".*", exact=True).click()
    log.counts("504 lines")


def test_who_reads_is_not_moved(log: Log) -> None:
    log.list.focus()
    log.press("End", "Home")
    log.shows("ERROR first")
    log.sandbox("exec touch go")
    expect(log.box.locator(".dm-newer")).to_have_text("300 new lines ↓", timeout=30_000)
    assert log.texts()[0] == "ERROR first orange"
    log.box.locator(".dm-newer").click()
    log.shows("later 299")
    expect(log.box.locator(".dm-newer")).to_be_hidden()


def test_a_file_beside_it_is_followed_through_rotation(log: Log) -> None:
    log.sandbox("exec echo from a file > app.log")
    log.box.get_by_role("button", name="Add …").click()
    expect(log.box.get_by_role("menu")).to_contain_text("Cell In[2]", timeout=30_000)
    log.box.get_by_role("menuitem", name="A file …").click()
    log.box.get_by_role("textbox", name="Path of the file").fill("~/app.log")
    log.press("Enter")
    log.shows("from a file")
    expect(log.box.locator(".dm-source").last).to_have_text("~/app.log")
    log.sandbox("exec echo last words >> app.log; mv app.log app.log.1; echo new file > app.log")
    log.shows("new file")
    texts = log.texts()
    assert texts.index("last words") < texts.index("another file is ~/app.log now") < texts.index("new file")
    log.sandbox("exec truncate -s 0 app.log")
    log.shows("the file was cut off and begins anew")
    log.sandbox("exec echo after the cut >> app.log")
    log.shows("after the cut")
    # Only one of them.
    log.box.get_by_role("button", name="Cell In[2]").click()
    log.counts(re.compile(r"^\d of 808 lines$"))
    assert "later 299" not in log.texts()
    log.box.get_by_role("button", name="Cell In[2]").click()


def test_the_whole_log_is_saved(log: Log) -> None:
    log.box.get_by_role("button", name="Download").click()
    with log.page.expect_download() as download:
        log.box.get_by_role("menuitem", name="Cell In[2]").click()
    content = Path(download.value.path()).read_bytes()
    # As the job wrote it, byte for byte.
    assert b"\xff\xfe is no text\n" in content and b"\rprogress 99%" in content
    assert content.count(b"line ") == 500 and b"\x1b]52;c;c2VjcmV0" in content
    log.box.get_by_role("button", name="Download").click()
    with log.page.expect_download() as download:
        log.box.get_by_role("menuitem", name="All, as they").click()
    shown = Path(download.value.path()).read_text()
    assert "later 299" in shown and "~/app.log: new file\n" in shown


def test_nothing_runs_and_nothing_leaks(log: Log) -> None:
    log.nothing_leaks()
    outputs = json.loads(log.saved())["cells"][2]["outputs"]
    data = next(one["data"] for one in outputs if "text/html" in one.get("data", {}))
    plain, markup = "".join(data["text/plain"]), "".join(data["text/html"])
    assert "Log of sandbox" in plain and "line 499 of the log" in plain
    assert "<img" not in markup and "<script" not in markup
