"""What is around every widget, on a bench with a fake kernel: its banner, its receipts, its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.widgets.page import Bench, axe

pytestmark = [pytest.mark.timeout(120), pytest.mark.shard_group("widgets on a bench")]
ROWS = [["src", "dir", 0, 0, "rwxr-xr-x", "", True], ["a.txt", "file", 12, 1, "rw-r--r--", "", True]]
LISTED = {"path": "/home/x", "total": 2, "hidden": 0, "more": False, "offset": 0, "rows": ROWS}
STOPPED = {
    "state": "stopped",
    "name": "box",
    "text": "The sandbox box is stopped: files are kept, variables are lost.",
    "offer": "Start it",
}
STARTED = {"state": "started", "name": "box", "text": "", "offer": ""}


@pytest.fixture(scope="module")
def made(browser: Browser) -> Iterator[Bench]:
    page = browser.new_context().new_page()
    yield Bench(page, "core.js")
    page.context.close()


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.answers.clear()
    made.answers["list"] = LISTED
    made.page.evaluate("() => { window.dmSilent = false }")
    return made


def banner(root: Locator) -> Locator:
    return root.locator(".dm-banner")


def calls(bench: Bench) -> list[Any]:
    return [one["name"] for one in bench.sent() if one.get("name", "marks") != "marks"]


def test_a_view_says_hello_and_shows_its_folder(bench: Bench) -> None:
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    assert bench.sent()[0] == {"hello": 0} and calls(bench) == ["list"]
    expect(banner(root)).to_be_hidden()
    axe(bench.page, "#dm-bench")


def test_a_sandbox_that_stops_is_said_and_one_that_starts_is_read_again(bench: Bench) -> None:
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    bench.change("_sandbox", STOPPED)
    expect(banner(root)).to_contain_text("is stopped: files are kept")
    # What was seen last stays, and is said to be that.
    expect(root.get_by_role("treeitem")).to_have_count(2)
    expect(root.locator(".dm-status")).to_contain_text("as they were last seen")
    root.get_by_role("button", name="Start it").click()
    expect(banner(root)).to_have_text("Starting the sandbox …")
    assert calls(bench) == ["list", "start"]
    bench.change("_sandbox", STARTED)
    wait_until(lambda: calls(bench) == ["list", "start", "list"], "the folder is read again")


def test_a_failure_is_said_once(bench: Bench) -> None:
    failure = {"code": "stopped", "text": STOPPED["text"], "hint": ""}
    bench.answers["list"] = {"error": failure}
    root = bench.mount("file-tree", _sandbox=STOPPED)
    expect(banner(root)).to_contain_text(STOPPED["text"])
    expect(root.locator(".dm-status")).to_have_text("")
    bench.answers["list"] = {"error": {"code": "failed", "text": "no <b>way</b>\u202e", "hint": "try x"}}
    root.get_by_role("button", name="Refresh").click()
    # Text stays text, and what reorders it is a mark.
    expect(root.locator(".dm-status")).to_have_text("no <b>way</b>\ufffd (try x)")


def test_a_busy_kernel_is_said_until_it_answers(bench: Bench) -> None:
    bench.page.evaluate("() => { window.dmSilent = true }")
    root = bench.mount("file-tree")
    expect(banner(root)).to_contain_text("busy with a cell")
    call = next(one["call"] for one in bench.sent() if "call" in one)
    bench.down(reply=call, value=LISTED)
    expect(banner(root)).to_be_hidden()
    expect(root.get_by_role("treeitem")).to_have_count(2)


def test_a_lost_kernel_is_said_and_one_that_comes_back_is_greeted(bench: Bench) -> None:
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    bench.kernel_gone()
    expect(banner(root)).to_contain_text("Run the cell again")
    bench.kernel_gone(False)
    expect(banner(root)).to_be_hidden()
    wait_until(lambda: bench.sent().count({"hello": 0}) == 2, "it says hello again")


def test_a_widget_that_has_ended_says_why(bench: Bench) -> None:
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    bench.change("_ended", {"why": "It was the oldest.", "text": "its record"})
    expect(banner(root)).to_have_text("It was the oldest.")
    expect(root.get_by_role("treeitem")).to_have_count(2)


def test_events_come_once_and_in_order_and_the_view_says_what_it_has_seen(bench: Bench) -> None:
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    bench.down(event=3, name="x")
    bench.down(event=2, name="x")
    bench.kernel_gone()
    bench.kernel_gone(False)
    wait_until(lambda: {"hello": 3} in bench.sent(), "it says what it has seen")


def test_what_is_focused_keeps_its_keys(bench: Bench) -> None:
    root = bench.mount("file-tree")
    for one in (root.get_by_role("tree"), root.get_by_role("button", name="Refresh")):
        one.focus()
        assert one.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_a_view_that_ends_shows_the_record_again(bench: Bench) -> None:
    bench.mount("file-tree")
    bench.page.evaluate(
        "() => document.body.append(Object.assign(document.createElement('div'),"
        " {className: 'dm-record dm-record-up', textContent: 'the record'}))"
    )
    record = bench.page.get_by_text("the record")
    expect(record).to_be_hidden()
    bench.unmount()
    expect(record).to_be_visible()


def test_marks_of_git_and_of_the_last_cell(bench: Bench) -> None:
    bench.answers["marks"] = {"branch": "main", "git": {"src": ".", "a.txt": "M"}, "changed": ["src"]}
    root = bench.mount("file-tree")
    expect(root.locator(".dm-branch")).to_have_text("⎇ main")
    row = root.get_by_role("treeitem", name="a.txt")
    expect(row.get_by_role("img", name="git: modified")).to_have_text("M")
    src = root.get_by_role("treeitem", name="src")
    expect(src.get_by_role("img", name="something in it was changed since the last cell")).to_be_visible()
    # A cell makes one file, changes one, and deletes a folder.
    rows = [["a.txt", "file", 13, 9, "rw-r--r--", "", True], ["b.txt", "file", 1, 9, "rw-r--r--", "", True]]
    bench.answers["list"] = {**LISTED, "rows": rows}
    bench.answers["marks"] = {
        "branch": "main",
        "git": {"a.txt": "M", "b.txt": "?"},
        "changed": ["a.txt", "b.txt"],
    }
    bench.down(event=1, name="cell")
    expect(root.locator(".dm-status")).to_contain_text(
        "Since the last cell: 1 new, 1 changed, 1 deleted (src)"
    )
    expect(root.get_by_role("treeitem", name="b.txt").get_by_role("img")).to_have_text(["new", "U"])
    axe(bench.page, "#dm-bench")


def test_the_menu_of_a_row(bench: Bench) -> None:
    bench.answers["remove"] = {}
    root = bench.mount("file-tree")
    expect(root.get_by_role("treeitem")).to_have_count(2)
    root.get_by_role("tree").focus()
    for key in ("End", "Shift+F10"):
        bench.page.keyboard.press(key)
    items = root.get_by_role("menuitem")
    expect(items).to_have_text(["Open", "Download", "Copy path", "Rename", "Delete"])
    axe(bench.page, "#dm-bench")
    bench.page.keyboard.press("Escape")
    expect(items).to_have_count(0)
    expect(root.get_by_role("tree")).to_be_focused()
    for key in ("Shift+F10", "ArrowUp", "Enter"):
        bench.page.keyboard.press(key)
    expect(root.get_by_text("Delete a.txt?")).to_be_visible()
    bench.page.keyboard.press("Escape")
    root.get_by_role("treeitem", name="src").click(button="right")
    expect(items).to_have_text(["Open as the top", "Copy path", "Rename", "Delete"])
    bench.page.keyboard.press("Escape")


def test_fifty_levels_leave_room_for_names(bench: Bench) -> None:
    bench.answers["list"] = {**LISTED, "total": 1, "rows": [["folder", "dir", 0, 0, "rwxr-xr-x", "", True]]}
    root = bench.mount("file-tree", 400)
    tree = root.get_by_role("tree")
    expect(root.get_by_role("treeitem")).to_have_count(1)
    tree.focus()
    for level in range(1, 51):
        bench.page.keyboard.press("ArrowRight")
        expect(root.locator(f"[aria-level='{level + 1}']")).to_have_count(1)
        bench.page.keyboard.press("ArrowRight")
    deepest = root.locator("[aria-level='51'] .dm-name")
    expect(deepest).to_be_in_viewport()
    box, frame = deepest.bounding_box(), tree.bounding_box()
    assert box and frame and box["width"] > 60 and box["x"] + box["width"] <= frame["x"] + frame["width"]
