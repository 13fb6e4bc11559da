"""The terminal's page on a bench: acknowledgements, lost places, hostile output, pastes, several tabs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.widgets.page import Bench, axe

pytestmark = [pytest.mark.timeout(120), pytest.mark.shard_group("widgets on a bench")]

TAB = {"id": 1, "name": "shell 1", "state": "running", "said": "", "code": None, "cols": 80, "rows": 20}
#: Everything a terminal answers, one by one.
QUESTIONS = (
    *("\x1b[c", "\x1b[>c", "\x1b[6n", "\x1b[?6n", "\x1b[5n", "\x1b[?2004$p", "\x1b[4$p"),
    *("\x1bP$qm\x1b\\", "\x1b]10;?\x07", "\x1b]11;?\x07", "\x1b]4;1;?\x07"),
)
#: Keeps what calls carry, and what leaves the page.
_RECORD = """() => {
  window.dmTyped = []; window.dmOpened = []; window.dmClipboard = 0;
  const send = window.dmControl.send;
  window.dmControl.send = function (content, callbacks, buffers) {
    if (['key', 'type'].includes(content.name)) window.dmTyped.push(new TextDecoder().decode(buffers[0]));
    return send.call(this, content, callbacks, buffers);
  };
  window.open = (...given) => { window.dmOpened.push(given); return null; };
  for (const name of ['read', 'readText', 'write', 'writeText']) {
    if (navigator.clipboard) navigator.clipboard[name] = async () => { window.dmClipboard += 1; return ''; };
  }
}"""
_FEED = """([tab, at, coded]) => {
  const bytes = Uint8Array.from(atob(coded), letter => letter.charCodeAt(0));
  window.dmModel.fire('msg:custom', {tab, at}, [new DataView(bytes.buffer)]);
}"""
_ENDLESS = """([tab, at]) => {
  for (let part = 0; part < 3; part++) {
    const bytes = new Uint8Array(1e6).fill(65);
    window.dmModel.fire('msg:custom', {tab, at: at + part * 1e6}, [new DataView(bytes.buffer)]);
  }
}"""
_PASTE = """text => {
  const given = new DataTransfer();
  given.setData('text/plain', text);
  const area = document.querySelector('.xterm-helper-textarea');
  area.dispatchEvent(new ClipboardEvent('paste', {clipboardData: given, bubbles: true, cancelable: true}));
}"""


class Terminal:
    """The widget on its bench, with a kernel that the test plays."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.page, self.at = bench, bench.page, 0

    def mount(self, *tabs: dict[str, Any], speaks: bool = True, width: int = 900) -> Locator:
        told = [{"missing": 0, "at": 0, **one} for one in tabs or (TAB,)]
        self.tabs, self.at = told, 0
        self.bench.answers |= {"attach": {"tabs": told, "fresh": False, "speaker": "another"}, "speak": {}}
        self.bench.answers |= {
            name: {} for name in ("key", "type", "resize", "screen", "close_tab", "rename", "restart")
        }
        root = self.bench.mount("terminal", width)
        self.page.evaluate(_RECORD)
        expect(root.locator(".xterm-screen")).to_have_count(1)
        if speaks:
            self.area.focus()
            wait_until(lambda: "speak" in self.calls(), "the view that is typed into says so")
        return root

    @property
    def area(self) -> Locator:
        return self.page.locator(".xterm-helper-textarea")

    def feed(self, text: str | bytes, tab: int = 1) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.page.evaluate(_FEED, [tab, self.at, base64.b64encode(data).decode()])
        self.at += len(data)

    def shows(self, text: str) -> None:
        expect(self.page.locator(".xterm-rows").first).to_contain_text(text)

    def calls(self) -> list[str]:
        return [one["name"] for one in self.bench.sent() if "call" in one]

    def shown(self) -> list[Any]:
        return [one["shown"] for one in self.bench.sent() if "shown" in one]

    def typed(self) -> str:
        return "".join(self.page.evaluate("() => window.dmTyped"))


@pytest.fixture(scope="module")
def made(browser: Browser) -> Iterator[Bench]:
    page = browser.new_context().new_page()
    problems: list[str] = []
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: said.type == "error" and problems.append(said.text))
    yield Bench(page, "terminal.js")
    page.context.close()
    assert problems == []


@pytest.fixture
def terminal(made: Bench) -> Terminal:
    made.answers.clear()
    return Terminal(made)


def test_what_is_shown_is_acknowledged(terminal: Terminal) -> None:
    terminal.mount()
    for _ in range(20):
        terminal.feed(b"0123456789abcde\n" * 1024)
    wait_until(lambda: terminal.shown() and terminal.shown()[-1][0][1] > terminal.at - 40_000, "it is shown")
    assert all(pair[0][0] == 1 for pair in terminal.shown())
    # Few messages: one for two of these, not one for each line.
    assert len(terminal.shown()) < 15


def test_a_number_that_is_not_expected_starts_over(terminal: Terminal) -> None:
    terminal.mount()
    terminal.feed("before ")
    terminal.shows("before")
    assert terminal.calls().count("attach") == 1
    terminal.tabs[0] |= {"missing": 4096, "at": 9000}
    terminal.at = 8000
    terminal.feed("never shown")
    terminal.shows("4,096 earlier bytes are not kept")
    assert terminal.calls().count("attach") == 2
    terminal.at = 9000
    terminal.feed("after")
    terminal.shows("after")
    text = terminal.page.locator(".xterm-rows").inner_text()
    assert "never shown" not in text and "before" not in text


def test_one_view_answers_programs_and_only_what_is_new(terminal: Terminal) -> None:
    # The control: the view that is typed into answers each of them.
    terminal.mount()
    for number, question in enumerate(QUESTIONS):
        before = terminal.typed()
        terminal.feed(question)
        terminal.feed(f"<{number}>")
        terminal.shows(f"<{number}>")
        wait_until(lambda: terminal.typed() != before, f"an answer to {question!r}")  # noqa: B023
    # Another view of the same terminal does not.
    terminal.mount(speaks=False)
    terminal.feed("".join(QUESTIONS) + "quiet")
    terminal.shows("quiet")
    assert terminal.typed() == ""


def test_hostile_output_reaches_nothing(terminal: Terminal) -> None:
    root = terminal.mount()
    title = "<img src=x onerror=alert(1)>\u202etxt.exe"
    terminal.feed(f"\x1b]0;{title}\x07\x1b]52;c;aGVsbG8=\x07\x1b]52;c;?\x07\x1b]1337;File=:aGVsbG8=\x07")
    terminal.feed(
        "\x1b[21t\x1b[20t\x1b[14t\x1b[18t\x1b[8;3;3t\x1b[3;0;0t\x1b[9;1t\x1b]9;notice\x07\x1b]50;font\x07"
    )
    terminal.feed("\x1bP1;1|41\x1b\\\x05\x07done<b>bold</b>")
    terminal.shows("done<b>bold</b>")
    assert terminal.typed() == "" and terminal.page.evaluate("() => window.dmClipboard") == 0
    expect(root.locator(".dm-where")).to_contain_text("<img src=x onerror=alert(1)>\ufffdtxt.exe")
    assert root.locator("img").count() == 0
    # A sequence without an end swallows no memory for ever, and the next screen is there.
    terminal.feed("\x1b]0;")
    for _ in range(4):
        terminal.page.evaluate(_ENDLESS, [1, terminal.at])
        terminal.at += 3_000_000
        wait_until(lambda: terminal.shown()[-1][0][1] == terminal.at, "it is swallowed")
    terminal.feed("\x1b\\\x18\r\nalive")
    terminal.shows("alive")


def test_a_link_says_where_it_leads_before_it_is_opened(terminal: Terminal) -> None:
    root = terminal.mount()
    terminal.feed("\x1b]8;;http://evil.example/?a=1\x07harmless.txt\x1b]8;;\x07\r\n")
    terminal.feed("\x1b]8;;javascript:alert(1)\x07script\x1b]8;;\x07\r\nready")
    terminal.shows("ready")
    box = root.locator(".xterm-screen").bounding_box()
    assert box is not None

    def click(row: int) -> None:
        terminal.page.mouse.move(box["x"] + 100, box["y"] + 150)
        terminal.page.mouse.move(box["x"] + 20, box["y"] + 8 + row * 16, steps=4)
        terminal.page.mouse.click(box["x"] + 20, box["y"] + 8 + row * 16)

    click(0)
    question = root.get_by_role("alertdialog")
    expect(question).to_contain_text("http://evil.example/?a=1")
    assert terminal.page.evaluate("() => window.dmOpened") == []
    question.get_by_role("button", name="Open").click()
    opened = terminal.page.evaluate("() => window.dmOpened")
    assert opened == [["http://evil.example/?a=1", "_blank", "noopener,noreferrer"]]
    click(1)
    expect(question).to_have_count(0)
    assert len(terminal.page.evaluate("() => window.dmOpened")) == 1


def test_pastes(terminal: Terminal) -> None:
    root = terminal.mount()
    question = root.get_by_role("alertdialog")
    paste = lambda text: terminal.page.evaluate(_PASTE, text)  # noqa: E731
    paste("one line")
    wait_until(lambda: terminal.typed() == "one line", "it is typed")
    # Several lines could run one by one: the answer that types nothing has the focus.
    paste("rm -rf x\nrm -rf y\n")
    expect(question).to_contain_text("Paste 3 lines?")
    terminal.page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    assert terminal.typed() == "one line"
    # A shell that asks for brackets holds them back by itself; what would end the brackets early is gone.
    terminal.feed("\x1b[?2004h$ ")
    terminal.shows("$")
    paste("a\r\nb\x1b[201~\x03\x9b31mc")
    wait_until(lambda: terminal.typed().endswith("\x1b[201~"), "it is typed")
    assert terminal.typed() == "one line\x1b[200~a\rb[201~31mc\x1b[201~"
    # What is large goes in pieces, one after the other, after a question.
    paste("x" * 300_000)
    question.get_by_role("button", name="Paste").click()
    wait_until(lambda: len(terminal.typed()) > 300_000, "all of it is typed")
    pieces = terminal.page.evaluate("() => window.dmTyped.map(one => one.length)")
    assert max(pieces) <= 16 << 10 and terminal.typed().count("x") == 300_000


def test_keys(terminal: Terminal) -> None:
    root = terminal.mount()
    press = terminal.page.keyboard.press
    assert terminal.area.get_attribute("data-lm-suppress-shortcuts") == "true"
    for keys in ("a", "Escape", "Tab", "Control+Enter", "Control+c", "ArrowUp", "Control+s"):
        press(keys)
    wait_until(lambda: terminal.typed() == "a\x1b\t\r\x03\x1b[A\x13", "the keys are typed")
    # Away and back, without a mouse.
    press("Control+Shift+ArrowUp")
    expect(root.get_by_role("tab")).to_be_focused()
    assert "Control Shift Up" in (terminal.area.get_attribute("aria-label") or "")
    press("F2")
    terminal.page.keyboard.type("ed")
    press("Enter")
    wait_until(lambda: "rename" in terminal.calls(), "the tab is renamed")


def test_an_interrupt_overtakes_what_has_not_left(terminal: Terminal) -> None:
    terminal.mount()
    terminal.bench.answers["type"] = None
    terminal.page.evaluate(_PASTE, "x" * 60_000)
    wait_until(lambda: len(terminal.typed()) == 16 << 10, "one piece is under way")
    terminal.page.keyboard.press("Control+c")
    wait_until(lambda: terminal.typed().endswith("\x03"), "the interrupt leaves")
    call = next(one["call"] for one in terminal.bench.sent() if one.get("name") == "type")
    terminal.bench.down(reply=call, value={})
    terminal.bench.answers["type"] = {}
    terminal.page.keyboard.press("a")
    wait_until(lambda: terminal.typed().endswith("\x03a"), "what is typed next follows")
    assert len(terminal.typed()) == (16 << 10) + 2


def test_finding_in_what_was_printed(terminal: Terminal) -> None:
    root = terminal.mount()
    press = terminal.page.keyboard.press
    lines = "".join(f"line {number} of them\r\n" for number in range(200))
    terminal.feed(lines + "Needle\r\n$ ")
    terminal.shows("Needle")
    press("Control+f")
    find = root.get_by_role("searchbox", name="Find in the terminal")
    expect(find).to_be_focused()
    assert terminal.typed() == ""
    terminal.page.keyboard.type("line 5")
    count = root.locator(".dm-find .dm-count")
    # 5 and 50 to 59; the newest first, and the scrollback goes there.
    expect(count).to_have_text("11 of 11")
    terminal.shows("line 59 of them")
    press("Enter")
    expect(count).to_have_text("10 of 11")
    press("Shift+Enter")
    expect(count).to_have_text("11 of 11")
    find.fill("needle")
    expect(count).to_have_text("1 of 1")
    root.get_by_role("button", name="Aa").click()
    expect(count).to_have_text("not there")
    axe(terminal.page, ".dm-find")
    find.focus()
    press("Escape")
    expect(find).to_be_hidden()
    expect(terminal.area).to_be_focused()
    # A program that has the whole screen has the key; not with Shift.
    terminal.feed("\x1b[?1049h")
    terminal.page.wait_for_function("() => document.querySelector('.xterm-rows').innerText.trim() === ''")
    press("Control+f")
    wait_until(lambda: terminal.typed() == "\x06", "it has the key")
    press("Control+Shift+F")
    expect(find).to_be_focused()


def test_tabs_and_ends(terminal: Terminal) -> None:
    ended = {
        **TAB,
        "id": 2,
        "name": "<b>build</b>",
        "state": "ended",
        "said": "The shell has ended with exit code 3.",
    }
    root = terminal.mount(TAB, {**ended, "code": 3})
    tabs = root.get_by_role("tab")
    expect(tabs).to_have_text(["shell 1", "<b>build</b>exit 3"])
    tabs.nth(0).click()
    root.get_by_role("tab", name="shell 1").focus()
    terminal.page.keyboard.press("ArrowRight")
    expect(tabs.nth(1)).to_be_focused()
    expect(root.get_by_role("alertdialog")).to_contain_text("ended with exit code 3")
    root.get_by_role("button", name="Restart shell").click()
    wait_until(lambda: "restart" in terminal.calls(), "a new shell is asked for")
    # The kernel says that one is gone.
    terminal.bench.down(tabs=[TAB], speaker="another")
    expect(tabs).to_have_count(1)
    expect(root.locator(".dm-xterm")).to_have_count(1)
    # One that runs is closed only after a question.
    tabs.nth(0).focus()
    terminal.page.keyboard.press("Delete")
    expect(root.get_by_role("alertdialog")).to_contain_text("end what runs in it?")
    assert "close_tab" not in terminal.calls()


def test_it_can_be_read_by_everybody(terminal: Terminal) -> None:
    terminal.mount(TAB, {**TAB, "id": 2, "name": "second"})
    terminal.feed("some text")
    axe(terminal.page, "#dm-bench")
    terminal.page.get_by_role("button", name="Let a screen reader").click()
    terminal.feed(" that is read\r\n", 2)
    expect(terminal.page.locator(".xterm-accessibility")).to_have_count(1)
    axe(terminal.page, "#dm-bench")
    terminal.page.get_by_role("button", name="Let a screen reader").click()
