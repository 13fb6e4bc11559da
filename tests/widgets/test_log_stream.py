"""The log in a real JupyterLab: colours, hostile text, search, rotated files, downloads, and what may end it.

The first tests look at one log, one after the other; from the line of 8 MiB on each has a log of its own, in
the last cell.
"""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("files, logs and terminals in JupyterLab")]

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
time.sleep(600)
"""
ENDS = r"""
import os, sys, time
print("begun", flush=True)
while not os.path.exists(os.path.expanduser("~/GO")): time.sleep(0.02)
sys.stdout.write("z" * (8 << 20) + "\nthe end\n")
sys.exit(3)
"""
SESSION = """from daytona import SessionExecuteRequest
from daytona_magics import sandboxes
from daytona_magics.runtime.loop import loop_thread
async def begin(name, command):
    process = sandboxes.current().bound().process
    await process.create_session(name)
    await process.execute_session_command(name, SessionExecuteRequest(command=command, run_async=True))
waits = "until [ -e ~/NAME ]; do sleep 0.1; done"
loop_thread().run(begin(NAME, f"echo out; echo err >&2; {waits}; sh -c 'exit 4'"))
"""
CELLS = (
    "%load_ext daytona_magics",
    JOB,
    "get_ipython().run_line_magic('sandbox', 'logs ' + (job := _).id)",
    "'the last cell'",
)
#: Run another code in the last cell; a log that it showed before ends by that.
_RUN_LAST = """async code => {
  const { content } = window.jupyterapp.shell.currentWidget;
  content.activeCellIndex = content.model.cells.length - 1;
  content.activeCell.model.sharedModel.setSource(code);
  await window.jupyterapp.commands.execute('notebook:run-cell');
}"""
_THERE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


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
        """What the rows in sight say, as soon as all of them are there."""
        found = self.box.locator(".dm-line .dm-text")
        wait_until(lambda: "…" not in found.all_inner_texts(), "the rows in sight are there", 60)
        return found.all_inner_texts()

    def shows(self, text: str | re.Pattern[str]) -> None:
        expect(self.line(text).first).to_be_visible(timeout=60_000)

    def counts(self, text: str | re.Pattern[str]) -> None:
        expect(self.box.locator(".dm-lines-count")).to_have_text(text, timeout=60_000)

    def sandbox(self, command: str) -> str:
        return self.kernel(f"get_ipython().run_line_magic('sandbox', {command!r})")

    def of(self, code: str) -> None:
        """From now on look at the log that this code shows, run in the last cell."""
        self.page.evaluate(_RUN_LAST, code)

    def of_file(self, *lines: str) -> str:
        """From now on look at the log of a new file with these lines; returns its path."""
        path = f"~/{unique('file')}.log"
        for line in lines:
            self.append(path, line)
        self.of(f"%sandbox logs {path}")
        for line in lines:
            self.shows(line)
        return path

    def append(self, path: str, line: str) -> None:
        said = self.sandbox(f"exec echo {line} >> {path}")
        assert said.strip() == "", said


def unique(name: str) -> str:
    """A name that no earlier run of a test took."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def log(server: Lab, browser: Browser) -> Iterator[Log]:
    made = Log(server, browser, "log", *CELLS, size=(1100, 1500))
    yield made
    made.close()


def test_it_follows_with_colours_and_nothing_runs(log: Log) -> None:
    log.counts("504 lines")
    log.list.focus()
    log.press("End")
    log.shows("line 499 of the log")
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
    # Whichever tests ran before this one: the job has printed all it will, and a file is followed beside it.
    log.sandbox("exec touch go")
    log.counts(re.compile(r"^80[4-9] lines$"))
    path = f"~/{unique('saved')}.log"
    log.append(path, "to be saved")
    log.box.get_by_role("button", name="Add …").click()
    log.box.get_by_role("menuitem", name="A file …").click()
    log.box.get_by_role("textbox", name="Path of the file").fill(path)
    log.press("Enter")
    log.list.focus()
    log.press("End")
    log.shows("to be saved")
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
    assert "later 299" in shown and f"{path}: to be saved\n" in shown


def test_an_end_and_a_line_of_8_mib_are_shown(log: Log) -> None:
    go = unique("go")
    code = ENDS.replace("GO", go)
    log.of(
        f"job = get_ipython().run_cell_magic('sandbox', '--bg -q', {code!r})\n"
        "get_ipython().run_line_magic('sandbox', 'logs ' + job.id)"
    )
    log.shows("begun")
    log.sandbox(f"exec touch {go}")
    expect(log.box.locator(".dm-chip")).to_contain_text("exit code 3", timeout=60_000)
    log.shows("the end")
    # However many rows it is, and with what Python says of an exit.
    log.counts(re.compile(r"^\d lines$"))
    assert log.box.locator(".dm-goes-on").count() > 0
    assert log.box.locator(".dm-line").count() < 200


def test_a_command_of_a_session_is_followed_to_its_end(log: Log) -> None:
    name = unique("session")
    assert log.kernel(SESSION.replace("~/NAME", f"~/{name}").replace("NAME", repr(name))) == ""
    log.of(f"%sandbox logs session:{name}")
    log.shows("out")
    expect(log.line("err").locator("xpath=..")).to_have_class(re.compile("dm-stderr"))
    log.sandbox(f"exec touch {name}")
    expect(log.box.locator(".dm-chip")).to_contain_text("exit code 4", timeout=60_000)
    log.counts("2 lines")


def test_a_million_lines(log: Log) -> None:
    name = unique("million")
    assert log.sandbox(f"exec seq -f 'row %.0f' 0 999999 > {name}.log").strip() == ""
    log.of(f"%sandbox logs ~/{name}.log")
    log.shows("row 999999")
    log.counts("1,000,000 lines")
    assert log.box.locator(".dm-line").count() < 200
    log.box.get_by_label("Filter").fill("row 777777")
    log.counts("1 of 1,000,000 lines")
    log.shows("row 777777")
    log.box.get_by_label("Filter").fill("")
    log.counts("1,000,000 lines")
    log.list.focus()
    log.press("Home")
    log.shows(re.compile("^row 0$"))
    # Anywhere in between.
    log.list.evaluate("box => { box.scrollTop = box.scrollHeight / 2 }")
    log.shows(re.compile("^row (499|500)"))
    log.box.get_by_role("button", name="Wrap").click()
    log.list.focus()
    log.press("End")
    log.shows("row 999999")


def test_a_busy_kernel_loses_nothing(log: Log) -> None:
    path = log.of_file("busy one", "busy two")
    log.begin("import time; time.sleep(3)")
    log.box.get_by_label("Filter").fill("one")
    # Answered at once where the kernel can, else when the cell has ended.
    log.counts("1 of 2 lines")
    log.ended()
    log.append(path, "busy three")
    log.counts("1 of 3 lines")


def test_everybody_can_read_it(log: Log) -> None:
    log.of_file("for everybody")
    log.page.locator(".dm-log").first.get_by_role("log").focus()
    log.press("Home")
    expect(log.page.locator(".dm-log").first.locator(".dm-fore-1")).to_be_visible(timeout=25_000)
    axe(log.page, ".dm-log")


def test_clearing(log: Log) -> None:
    path = log.of_file("before one", "before two")
    log.box.get_by_label("Filter").fill("r")
    log.counts("2 of 2 lines")
    log.box.get_by_role("button", name="Clear").click()
    log.counts("0 of 0 lines")
    expect(log.line("before")).to_have_count(0)
    log.append(path, "after clearing")
    log.shows("after clearing")
    log.counts("1 of 1 line")


def test_a_reloaded_page_has_it_again(log: Log) -> None:
    path = log.of_file("before the reload")
    log.reload()
    log.page.wait_for_function(_THERE, timeout=60_000)
    expect(log.line("before the reload")).to_be_visible(timeout=60_000)
    log.append(path, "behind the reload")
    log.shows("behind the reload")
    log.counts("2 lines")


def test_nothing_runs_and_nothing_leaks(log: Log) -> None:
    log.nothing_leaks()
    # What the notebook keeps of it is renewed while it is followed.
    expect(log.page.locator(".dm-record").filter(has_text="later 299")).to_have_count(1, timeout=60_000)
    outputs = json.loads(log.saved())["cells"][2]["outputs"]
    data = next(one["data"] for one in outputs if "text/html" in one.get("data", {}))
    plain, markup = "".join(data["text/plain"]), "".join(data["text/html"])
    assert "Log of sandbox" in plain and "later 299" in plain
    assert "<img" not in markup and "<script" not in markup


def test_a_stop_and_a_start_are_said_and_it_goes_on(log: Log) -> None:
    path = log.of_file("before the stop")
    log.sandbox("stop")
    expect(log.box.locator(".dm-banner")).to_contain_text("is stopped", timeout=30_000)
    expect(log.box.locator(".dm-chip")).to_contain_text("not followed", timeout=30_000)
    # Which of the sandbox's states, or of the line's, was met first, is a matter of moments.
    log.shows(re.compile("^not followed any more: .*sandbox"))
    screenshot(log.page, "log_stream_stopped")
    # By whomever it is started.
    log.sandbox("start")
    expect(log.box.locator(".dm-banner")).to_be_hidden(timeout=60_000)
    log.append(path, "alive again")
    log.shows("alive again")
    expect(log.box.locator(".dm-chip")).to_contain_text("following", timeout=30_000)
    # What ended with the sandbox is said to have.
    expect(log.page.locator(".dm-log").first.locator(".dm-chip").first).to_contain_text(
        re.compile("output is gone|died"), timeout=30_000
    )


def test_a_dead_engine_is_said_and_it_goes_on_with_the_next(log: Log) -> None:
    path = log.of_file("before the death")
    record = next(Path(log.server.env["XDG_RUNTIME_DIR"]).rglob("engine.json"))
    os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    # A log that is followed starts no engine.
    expect(log.box.locator(".dm-banner")).to_contain_text("engine has ended", timeout=30_000)
    expect(log.box.locator(".dm-chip")).to_contain_text("not followed", timeout=30_000)
    log.box.get_by_role("button", name="Start it again").click()
    expect(log.box.locator(".dm-banner")).to_be_hidden(timeout=60_000)
    log.append(path, "behind the death")
    log.shows("behind the death")


def test_a_restarted_kernel_is_said(log: Log) -> None:
    log.of_file("before the restart")
    log.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    expect(log.box.locator(".dm-banner")).to_contain_text("Run the cell again", timeout=30_000)
    log.shows("before the restart")
