"""The terminal in a real JupyterLab: typing, floods, sizes, reloads, tabs, ends, what stays."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("files, logs and terminals in JupyterLab")]

LOAD = "%load_ext daytona_magics"
#: Two views of one terminal, in two cells.
CELLS = (LOAD, "shells = %sandbox terminal --name first\nshells", "shells")
LIST = """listed = get_ipython().run_line_magic('sandbox', 'terminal --list')
print([row[0] for row in listed.rows])"""
ONE_SHELL = """from daytona_magics.runtime.loop import loop_thread
for tab in list(shells._tabs)[1:]:
    loop_thread().run(shells.call_close_tab({"tab": tab}, []))"""
SLOW = "import time; time.sleep({})"
BURST = "".join(f"{number}\r\n" for number in range(1, 430_001)).encode()


class Stream:
    """What arrived in the page of a tab's bytes, read from the messages of the web socket."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.messages = 0

    def connected(self, socket: Any) -> None:
        socket.on("framereceived", self.received)

    def received(self, frame: Any) -> None:
        if not isinstance(frame, bytes) or len(frame) < 16:
            return
        self.messages += 1
        # Jupyter's binary protocol: a count, so many offsets, and the parts between them.
        count = struct.unpack_from("<Q", frame)[0]
        ends = struct.unpack_from(f"<{count}Q", frame, 8)
        parts = [frame[start:end] for start, end in itertools.pairwise(ends)]
        if len(parts) < 6:
            return
        data = json.loads(parts[4]).get("data", {})
        content = data.get("content", {}) if isinstance(data, dict) else {}
        if isinstance(content, dict) and content.get("tab") == 1 and "at" in content:
            self.pieces[content["at"]] = bytes(parts[5])

    def since(self, at: int) -> bytes:
        """Everything from a number on; what is not in one piece ends it."""
        whole = bytearray()
        while (piece := self.pieces.get(at + len(whole))) is not None and piece:
            whole += piece
        return bytes(whole)

    @property
    def end(self) -> int:
        return max((at + len(piece) for at, piece in self.pieces.items()), default=0)


class Shells(Watched):
    """The notebook with its terminal."""

    def __init__(self, server: Lab, browser: Browser) -> None:
        self.stream = Stream()
        super().__init__(server, browser, "terminal", *CELLS)

    def _watch(self, page: Page) -> None:
        super()._watch(page)
        page.on("websocket", self.stream.connected)

    @property
    def box(self) -> Locator:
        return self.page.locator(".dm-terminal").first

    @property
    def other(self) -> Locator:
        return self.page.locator(".dm-terminal").nth(1)

    @property
    def engine_pid(self) -> int:
        record = next(Path(self.server.env["XDG_RUNTIME_DIR"]).rglob("engine.json"))
        return int(json.loads(record.read_text())["pid"])

    def focus(self, box: Locator | None = None) -> None:
        (box or self.box).locator(".dm-xterm:not([hidden]) .xterm-helper-textarea").focus()

    def enter(self, line: str) -> None:
        self.focus()
        self.page.keyboard.type(line)
        self.page.keyboard.press("Enter")

    def screen(self, box: Locator | None = None) -> str:
        return (
            (box or self.box)
            .locator(".dm-xterm:not([hidden]) .xterm-rows")
            .inner_text()
            .replace("\u00a0", " ")
        )

    def shows(self, pattern: str, box: Locator | None = None) -> str:
        """Wait until a pattern is on the screen; returns what it matched."""
        wait_until(lambda: re.search(pattern, self.screen(box), re.M), f"{pattern!r} in\n{self.screen(box)}")
        found = re.search(pattern, self.screen(box), re.M)
        return found[0] if found else ""

    def at_prompt(self) -> None:
        wait_until(lambda: self.screen().rstrip().endswith("$"), "the shell waits")

    def sessions(self) -> list[str]:
        """The terminals of the sandbox, as the kernel lists them."""
        said = self.kernel(LIST)
        lines = [line for line in said.splitlines() if line.startswith("[")]
        assert lines, said
        return [str(name) for name in ast.literal_eval(lines[-1])]

    def settle(self) -> None:
        """One shell that waits, whatever an earlier test has left."""
        for name in ("Start it", "Start it again"):
            button = self.box.get_by_role("button", name=name, exact=True)
            if button.count():
                button.click()
        self.kernel(ONE_SHELL)
        expect(self.box.get_by_role("tab")).to_have_count(1)
        expect(self.box.get_by_role("tab")).to_have_text("first", timeout=60_000)
        self.focus()
        begun = self.stream.end
        self.page.keyboard.press("Control+c")
        # The prompt before it may still be there; what is typed at that one may go with the interrupted line.
        self.until(lambda: b"$ " in self.stream.since(begun), "the next prompt")
        self.at_prompt()

    def clear(self) -> None:
        self.at_prompt()
        self.enter("clear")
        wait_until(lambda: len(self.screen().split()) <= 1, "an empty screen")


@pytest.fixture(scope="module")
def shells(server: Lab, browser: Browser) -> Iterator[Shells]:
    made = Shells(server, browser)
    made.at_prompt()
    yield made
    made.close()


def test_typing_and_the_size(shells: Shells) -> None:
    shells.enter("echo $((6 * 7)) $TERM; stty size")
    size = shells.shows(r"^42 xterm-256color\n(\d+) (\d+)").split()[-2:]
    assert f"{size[1]}×{size[0]}" in shells.box.locator(".dm-where").inner_text()
    # Its place grows: programs are told.
    shells.box.locator(".dm-stage").evaluate("stage => { stage.style.height = '520px' }")
    wait_until(lambda: f"×{size[0]}" not in shells.box.locator(".dm-where").inner_text(), "it is refitted")
    cols, rows = re.findall(r"(\d+)×(\d+)", shells.box.locator(".dm-where").inner_text())[0]
    wait_until(
        lambda: shells.kernel("print(next(iter(shells._tabs.values())).shell.rows)").strip() == rows, rows
    )
    shells.clear()
    shells.enter("stty size")
    shells.shows(rf"^{rows} {cols}")
    # The other view shows the same, at the same size.
    shells.shows(rf"^{rows} {cols}", shells.other)


def test_an_editor_changes_a_file(shells: Shells) -> None:
    shells.enter("vim -u NONE note.txt")
    shells.shows("note.txt")
    shells.page.keyboard.type("ihello from vim")
    shells.press("Enter")
    shells.page.keyboard.type("second line")
    shells.press("Escape")
    shells.page.keyboard.type(":wq")
    shells.press("Enter")
    shells.at_prompt()
    read = "get_ipython().run_line_magic('sandbox', 'exec cat note.txt')"
    assert shells.kernel(read) == "hello from vim\nsecond line\n"


def test_three_megabytes_at_once_are_exact(shells: Shells) -> None:
    shells.clear()
    before, messages = shells.stream.end, shells.stream.messages
    shells.enter("seq 1 430000")
    shells.shows(r"^430000$")
    shells.at_prompt()
    printed = shells.stream.since(before)
    assert BURST in printed and len(printed) < len(BURST) + 2000
    # Far from what the server lets through in three seconds.
    assert shells.stream.messages - messages < 1000


def test_an_endless_program_is_interrupted(shells: Shells) -> None:
    shells.settle()
    shells.clear()
    start = shells.stream.end
    shells.enter("yes flood")
    shells.until(lambda: shells.stream.end > start + 4_000_000, "it floods")
    # The page and the kernel are there meanwhile.
    assert shells.kernel("print(1 + 1)") == "2\n"
    shells.press("Control+c")
    shells.at_prompt()
    shells.enter("echo still $((40 + 2))")
    shells.shows("^still 42$")
    shells.clear()


def test_keys_belong_to_the_terminal_and_the_reader_gets_out(shells: Shells) -> None:
    area = shells.box.locator(".dm-xterm:not([hidden]) .xterm-helper-textarea")
    hostile_keys(shells, area)
    shells.press("Escape", "Shift+Enter", "Control+Enter", "Control+c")
    shells.at_prompt()
    shells.press("Control+Shift+ArrowUp")
    expect(shells.box.get_by_role("tab")).to_be_focused()
    hostile_keys(shells, shells.box.get_by_role("tab"))
    shells.press("Tab", "Tab")
    expect(shells.box.get_by_role("button", name="Copy")).to_be_focused()


def test_tabs(shells: Shells) -> None:
    shells.settle()
    shells.box.get_by_role("button", name="New shell").focus()
    shells.press("Enter")
    tabs = shells.box.get_by_role("tab")
    expect(tabs).to_have_count(2)
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    shells.at_prompt()
    shells.enter("echo in the second; exit 7")
    expect(tabs.nth(1)).to_have_text("shell 2exit 7")
    expect(shells.other.get_by_role("tab").nth(1)).to_have_text("shell 2exit 7")
    # Enter in a terminal that has ended, or the button.
    shells.focus()
    shells.press("Enter")
    expect(tabs.nth(1)).to_have_text("shell 2")
    shells.at_prompt()
    assert len(shells.sessions()) == 2
    tabs.nth(1).focus()
    shells.press("Delete", "Shift+Tab", "Enter")
    expect(tabs).to_have_count(1)
    wait_until(lambda: len(shells.sessions()) == 1, "the session ended, too")


def test_keys_are_taken_while_a_cell_runs(shells: Shells) -> None:
    shells.settle()
    shells.clear()
    shells.begin(SLOW.format(60))
    shells.enter("echo typed while $((1 + 1)) wait")
    shells.shows("^typed while 2 wait$")
    assert shells.page.evaluate("() => Promise.race([window.dmLate, Promise.resolve('runs')])") == "runs"
    shells.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()"
    )
    shells.ended()


def test_what_stays_in_the_notebook(shells: Shells) -> None:
    shells.enter("echo stays $((2 * 4))")
    wait_until(
        lambda: "stays 8" in shells.kernel("print(shells.record()[0])"), "the page reported its screen"
    )
    hidden = shells.page.locator(".dm-record")
    wait_until(lambda: "stays 8" in (hidden.first.text_content() or ""), "the record is renewed in place")
    expect(hidden.first).to_be_hidden()
    cells = json.loads(shells.saved())["cells"]
    outputs = [one["data"] for one in cells[1]["outputs"] if "data" in one]
    record = next(one for one in outputs if "stays 8" in "".join(one.get("text/plain", "")))
    assert "<pre>" in "".join(record["text/html"])
    axe(shells.page, ".dm-terminal")


def test_a_reloaded_page_has_it_again(shells: Shells) -> None:
    shells.clear()
    # What was asked of the terminal before is not answered again.
    shells.enter(r"printf 'kept\n\033[6n\033[c'; read -t 1 -s -d c; read -t 1 -s -d c; echo answered")
    shells.shows("^answered$")
    shells.at_prompt()
    shells.reload()
    shells.box.wait_for(timeout=60_000)
    shells.shows("^answered$")
    shells.at_prompt()
    assert shells.screen().rstrip().splitlines()[-1].endswith(":~$"), shells.screen()
    shells.enter("echo alive $((2 * 4))")
    shells.shows("^alive 8$")
    screenshot(shells.page, "terminal")
    shells.nothing_leaks()


def test_a_stopped_sandbox_is_said_and_a_new_shell_comes_with_its_start(shells: Shells) -> None:
    shells.settle()
    shells.kernel("get_ipython().run_line_magic('sandbox', 'stop')")
    expect(shells.box.locator(".dm-banner")).to_contain_text("is stopped", timeout=30_000)
    expect(shells.box.get_by_role("tab")).to_have_text("firststopped", timeout=30_000)
    screenshot(shells.page, "terminal_stopped")
    shells.focus()
    shells.box.get_by_role("button", name="Start it").click()
    expect(shells.box.get_by_role("tab")).to_have_text("first", timeout=30_000)
    shells.at_prompt()
    shells.enter("cat note.txt")
    shells.shows("^hello from vim$")


def test_a_dead_engine_is_said_and_a_new_shell_comes_with_its_start(shells: Shells) -> None:
    shells.settle()
    os.kill(shells.engine_pid, signal.SIGKILL)
    expect(shells.box.locator(".dm-banner")).to_contain_text("The embedded engine has ended", timeout=30_000)
    expect(shells.box.get_by_role("tab")).to_have_text("firstlost", timeout=30_000)
    shells.focus()
    shells.box.get_by_role("button", name="Start it again").click()
    expect(shells.box.get_by_role("tab")).to_have_text("first", timeout=60_000)
    shells.at_prompt()
    shells.clear()
    shells.enter("cat note.txt")
    shells.shows("^hello from vim$")


def test_a_folder_that_is_not_there_is_said(shells: Shells) -> None:
    said = shells.kernel("get_ipython().run_line_magic('sandbox', 'terminal --cwd ~/nowhere')")
    assert "there is no folder '~/nowhere'" in said


def test_no_session_outlives_its_widget_or_its_kernel(shells: Shells) -> None:
    assert any(name.startswith("terminal-") for name in shells.sessions())
    shells.kernel("shells.close()")
    wait_until(lambda: not shells.sessions(), "its sessions have ended")
    assert shells.page.locator(".dm-terminal").count() == 0
    expect(shells.page.locator(".dm-record").first).to_be_visible()
    # One that a killed kernel left is ended by the next life of that kernel.
    left = "from daytona_magics.sandboxes import terminals as t; t._life = {!r}\n"
    shells.kernel("again = get_ipython().run_line_magic('sandbox', 'terminal')")
    opened = "from daytona_magics.runtime.loop import loop_thread as l\nl().run({})"
    shells.kernel(left.format("an-earlier-life"))
    shells.kernel(opened.format("again.call_open({'first': True, 'cols': 80, 'rows': 24}, [])"))
    assert "an-earlier-life" in shells.kernel(LIST)
    shells.kernel(left.format("this-life"))
    shells.kernel("more = get_ipython().run_line_magic('sandbox', 'terminal')")
    shells.kernel(opened.format("more.call_open({'first': True, 'cols': 80, 'rows': 24}, [])"))
    listed = shells.kernel(LIST)
    assert "this-life" in listed and "an-earlier-life" not in listed
    # A kernel that is restarted ends its own before it goes.
    shells.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    shells.kernel("get_ipython().run_line_magic('load_ext', 'daytona_magics')")
    wait_until(lambda: not shells.sessions(), "its sessions have ended")
