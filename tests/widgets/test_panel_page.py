"""The panel's page on a bench with a fake kernel: what it shows, asks, and never does unasked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.widgets import panel_states as states
from tests.widgets.page import Bench, axe

pytestmark = [pytest.mark.timeout(120), pytest.mark.shard_group("widgets on a bench")]
FULL = {"resources": states.resources(), "inside": states.inside(), "others": states.others(7)}


@pytest.fixture(scope="module")
def made(browser: Browser) -> Iterator[Bench]:
    page = browser.new_context(viewport={"width": 1500, "height": 1400}).new_page()
    yield Bench(page, "core.js")
    page.context.close()


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.answers.clear()
    made.answers.update({name: {} for name in ("watch", "change", "keep", "mode", "context", "cancel")})
    made.answers.update({name: {} for name in ("end", "bind", "reap", "refresh", "shut")})
    made.page.evaluate("() => { window.dmSilent = false }")
    return made


def show(bench: Bench, width: int = 900, **state: Any) -> Locator:
    """The panel with all of its parts open."""
    given = {"view": states.view(), **FULL, **state}
    root = bench.mount("sandbox-panel", width, **given)
    bench.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
    return root


def calls(bench: Bench, but: str = "watch") -> list[Any]:
    return [(one["name"], one["with"]) for one in bench.sent() if "call" in one and one["name"] != but]


def button(root: Locator, name: str) -> Locator:
    return root.get_by_role("button", name=name, exact=True)


def test_it_shows_what_the_kernel_says(bench: Bench) -> None:
    root = show(bench)
    for text in (
        *(
            "analysis-3f9c2a",
            "● started",
            "embedded engine, isolation L3",
            "1.8 GiB of 4.0 GiB",
            "project=mvp",
        ),
        *("train.py", "running: flask run", "shell-1", "Contexts, cells and jobs (3) · 1 running"),
        *("All sandboxes (7) · 2 orphaned", "1 more carries the cells of notebooks."),
    ):
        expect(root).to_contain_text(text)
    expect(button(root, "Open a preview of port 8080")).to_be_visible()
    # The line that carries cells is nobody's to end.
    expect(root.get_by_text("daytona-magics-00")).to_have_count(0)
    expect(root.get_by_role("img", name="Memory over the last minutes")).to_be_visible()
    axe(bench.page, "#dm-bench")


def test_a_countdown_counts(bench: Bench) -> None:
    root = show(bench)
    stops = root.locator(".dm-time-row").first
    expect(stops).to_contain_text("11:3")
    first = stops.inner_text()
    wait_until(lambda: stops.inner_text() != first, "a second has passed")
    expect(root.locator(".dm-time-row").last).to_contain_text("2 d 7 h")
    button(root, "Keep the sandbox started 2 h without activity").click()
    assert calls(bench) == [("keep", {"minutes": 120})]


def test_nothing_is_lost_unasked(bench: Bench) -> None:
    root = show(bench)
    for name, question in (
        ("Stop analysis-3f9c2a", "variables are lost"),
        ("Reset analysis-3f9c2a", "Variables are lost"),
        ("Delete analysis-3f9c2a", "cannot be undone"),
        ("Reset context kernel-77aa0000", "another kernel may be using it"),
        ("End session serve-8000", "with all its processes"),
    ):
        button(root, name).first.click()
        asked = root.get_by_role("alertdialog")
        expect(asked).to_contain_text(question)
        # The focus is on the answer that changes nothing.
        bench.page.keyboard.press("Enter")
        expect(asked).to_have_count(0)
    assert calls(bench) == []
    button(root, "Delete analysis-3f9c2a").first.click()
    root.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    wait_until(lambda: bool(calls(bench)), "it is asked for")
    own = states.box()
    assert calls(bench) == [("change", {"what": "delete", "id": own["id"], "sure": own["name"]})]


def test_somebody_elses_needs_its_name(bench: Bench) -> None:
    root = show(bench)
    root.get_by_label("made on this machine only").uncheck()
    button(root, "Start box-002").click()
    expect(root.get_by_role("alertdialog")).to_contain_text("was not made by these magics on this machine")
    bench.page.keyboard.type("box-003")
    bench.page.keyboard.press("Enter")
    expect(root.locator(".dm-status")).to_contain_text("That is not its name")
    assert calls(bench) == []
    button(root, "Start box-002").click()
    bench.page.keyboard.type("box-002")
    bench.page.keyboard.press("Enter")
    wait_until(lambda: bool(calls(bench)), "it is asked for")
    assert calls(bench) == [("change", {"what": "start", "id": states.row(2)["id"], "sure": "box-002"})]


def test_two_hundred_sandboxes_by_the_page(bench: Bench) -> None:
    root = show(bench, others=states.others(200))
    table = root.get_by_role("table", name="All sandboxes")
    expect(root.get_by_text("Page 1 of 7, 134 sandboxes")).to_be_visible()
    root.get_by_label("made on this machine only").uncheck()
    expect(table.locator("tbody tr")).to_have_count(20)
    button(root, "Next page").click()
    expect(root.get_by_text("Page 2 of 10, 200 sandboxes")).to_be_visible()
    # The focus stays on the button although the list was drawn anew.
    bench.page.keyboard.press("Enter")
    expect(root.get_by_text("Page 3 of 10")).to_be_visible()
    root.get_by_label("Filter sandboxes").fill("orphan project=p3 stopped")
    expect(table.locator("tbody tr").first).to_contain_text("project=p3")
    assert table.locator("tbody tr").count() < 20
    root.get_by_label("Filter sandboxes").fill("no such thing")
    expect(root.get_by_text("No sandbox matches.")).to_be_visible()


def test_figures_that_come_take_the_focus_from_nothing(bench: Bench) -> None:
    root = show(bench)
    button(root, "Reset context kernel-77aa0000").focus()
    changed = states.inside(ports=[1, 2])
    changed["contexts"][0]["busy"] = ""
    bench.change("inside", changed)
    expect(button(root, "Reset context kernel-77aa0000")).to_be_focused()


def test_only_what_is_in_sight_is_watched(bench: Bench) -> None:
    root = show(bench)

    def last() -> Any:
        return calls(bench, but="")[-1]

    wait_until(lambda: last()[1].get("parts") == ["contexts", "processes", "ports", "others"], "all are open")
    assert last()[1]["on"] is True
    root.locator("summary", has_text="Listening ports").click()
    wait_until(lambda: last()[1]["parts"] == ["contexts", "processes", "others"], "one is closed")
    bench.page.evaluate("() => { document.getElementById('dm-bench').style.display = 'none' }")
    wait_until(lambda: last()[1]["on"] is False, "it is out of sight")
    bench.page.evaluate("() => { document.getElementById('dm-bench').style.display = '' }")
    wait_until(lambda: last()[1]["on"] is True, "it is in sight")
    bench.unmount()
    wait_until(lambda: last()[1]["on"] is False, "the view has ended")


def test_a_kernel_that_is_busy_and_takes_nothing_is_said(bench: Bench) -> None:
    root = show(bench)
    expect(root.locator(".dm-banner")).to_be_hidden()
    bench.page.evaluate("() => { window.dmSilent = true }")
    button(root, "Stop analysis-3f9c2a").first.click()
    root.get_by_role("alertdialog").get_by_role("button", name="Stop").click()
    expect(root.locator(".dm-banner")).to_contain_text("busy with a cell")
    expect(root.locator(".dm-banner")).to_contain_text("■")


def test_hostile_texts_stay_texts(bench: Bench) -> None:
    bench.page.evaluate("() => { window.alert = () => { window.dmRan = true } }")
    root = show(bench, **states.hostile())
    root.get_by_label("made on this machine only").uncheck()
    for name in ("End", "Reset", "Delete"):
        root.get_by_role("button", name=name).first.click()
        bench.page.keyboard.press("Escape")
    assert root.locator("img").count() == 0 and "\u202e" not in root.inner_text()
    assert states.SCRIPT in root.inner_text()
    assert bench.page.evaluate("() => window.dmRan === undefined")
    # The control: parsed, it runs.
    bench.page.evaluate("text => { document.getElementById('dm-bench').innerHTML = text }", states.SCRIPT)
    bench.page.wait_for_function("() => window.dmRan")


def test_it_fits_any_width(bench: Bench) -> None:
    """Nothing is wider than the panel."""
    for name, state in states.cases().items():
        for width in (400, 1400):
            root = show(bench, width, **state)
            assert root.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), (name, width)
