"""The preview's side in the page, on a bench with a fake kernel: addresses, refusals, looking, renewing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.engine_process import wait_until
from tests.lab import screenshot
from tests.widgets.page import Bench, axe

pytestmark = [pytest.mark.timeout(120), pytest.mark.shard_group("widgets on a bench")]

TOKEN = "abcdefghijklmnopqrstuvwxyz"
SEEN: dict[str, Any] = {
    "status": 200,
    "reason": "",
    "title": "Hello",
    "kind": "text/html",
    "to": "",
    "frame_options": "",
    "ancestors": None,
    "absolute": False,
    "digest": "1",
    "port": 3000,
    "path": "/",
    "public": False,
}
OPENED = {
    **SEEN,
    "url": f"http://3000-{TOKEN}.localhost:41000/",
    "listener": 41000,
    "below": f"/p/{TOKEN}/3000/",
    "left": 3600,
    "number": 1,
}
DOWN = {**SEEN, "status": 0, "reason": "nothing answers on port 3000"}


@pytest.fixture(scope="module")
def made(browser: Browser) -> Iterator[Bench]:
    page = browser.new_context().new_page()
    known = {"greets": True}

    def serve(route: Route) -> None:
        headers = {"Access-Control-Allow-Origin": "*"}
        if route.request.url.endswith(TOKEN):
            route.fulfill(status=204 if known["greets"] else 200, headers=headers)
        else:
            route.fulfill(status=200, content_type="text/html", body="<h1>the page</h1>")

    page.route(re.compile("^http:"), serve)
    bench = Bench(page, "core.js")
    bench.known = known  # type: ignore[attr-defined]
    yield bench
    page.context.close()


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.answers.clear()
    made.answers.update(open=OPENED, look=SEEN)
    made.known["greets"] = True  # type: ignore[attr-defined]
    return made


def mounted(bench: Bench, **how: Any) -> Locator:
    return bench.mount("preview", view={"port": 3000, "path": "/"}, **how)


def calls(bench: Bench, name: str) -> list[Any]:
    return [one["with"] for one in bench.sent() if one.get("name") == name]


def test_the_page_is_shown_confined_and_its_address_is_not_in_the_document(bench: Bench) -> None:
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    frame = root.locator("iframe")
    assert frame.get_attribute("sandbox") == "allow-scripts allow-forms allow-popups allow-same-origin"
    assert frame.get_attribute("referrerpolicy") == "no-referrer" and frame.get_attribute("src") is None
    assert TOKEN not in bench.page.evaluate("() => document.documentElement.outerHTML")
    expect(root.locator(".dm-term")).to_contain_text("address good for 60 min")
    axe(bench.page, "#dm-bench")
    for width in (340, 900):
        mounted(bench, width=width)
        expect(root.frame_locator("iframe").locator("h1")).to_be_visible()
        wide = root.evaluate("one => one.scrollWidth")
        assert wide <= width
        screenshot(bench.page, f"preview_{width}")


def test_a_frame_that_is_moved_or_comes_late_into_the_page_is_filled(bench: Bench) -> None:
    """A frame outside of the page cannot be shown anything, and loses what it showed."""
    page = bench.page
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    page.evaluate("() => document.body.append(document.getElementById('dm-bench'))")
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    del bench.answers["open"]
    mounted(bench)
    page.evaluate("() => { window.dmAway = document.getElementById('dm-bench'); window.dmAway.remove() }")
    windows = len(page.context.pages)
    asked = next(one["call"] for one in bench.sent() if one.get("name") == "open")
    bench.down(reply=asked, value=OPENED)
    page.wait_for_function("() => window.dmAway.querySelector('iframe')")
    page.evaluate("() => document.body.append(window.dmAway)")
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    assert len(page.context.pages) == windows


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"frame_options": "deny"}, "X-Frame-Options: DENY"),
        ({"frame_options": "SAMEORIGIN"}, "X-Frame-Options: SAMEORIGIN"),
        ({"frame_options": "nonsense"}, ""),
        ({"ancestors": []}, "frame-ancestors (nothing)"),
        ({"ancestors": ["'none'"]}, "frame-ancestors 'none'"),
        ({"ancestors": ["https://*.example.org:*"]}, "frame-ancestors https://*.example.org:*"),
        ({"ancestors": ["*"], "frame_options": "DENY"}, ""),
    ],
)
def test_a_page_that_refuses_frames_is_explained(bench: Bench, headers: Any, refused: str) -> None:
    bench.answers["open"] = {**OPENED, **headers}
    root = mounted(bench)
    if refused:
        expect(root.locator(".dm-notice")).to_contain_text(refused)
        expect(root.locator("iframe")).to_have_count(0)
    else:
        expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
        expect(root.locator(".dm-notice")).to_be_hidden()


def test_what_no_way_leads_to_is_said(bench: Bench) -> None:
    bench.known["greets"] = False  # type: ignore[attr-defined]
    root = mounted(bench)
    expect(root.locator(".dm-notice")).to_contain_text("cannot reach the preview")
    expect(root.locator(".dm-notice")).to_contain_text("port 41000 of the kernel's machine")
    bench.known["greets"] = True  # type: ignore[attr-defined]
    root.get_by_role("button", name="Try again").click()
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")


def test_the_clouds_address_is_taken_as_it_is(bench: Bench) -> None:
    bench.known["greets"] = False  # type: ignore[attr-defined]
    bench.answers["open"] = {**OPENED, "listener": 0, "below": "", "url": f"http://3000-{TOKEN}.example.org/"}
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")


def test_cells_that_change_the_page_load_it_again(bench: Bench) -> None:
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_be_visible()
    bench.down(event=1, name="cell")
    wait_until(lambda: any(one["files"] for one in calls(bench, "look")), "it has looked")
    assert len(calls(bench, "open")) == 1
    bench.answers["look"] = {**SEEN, "digest": "2"}
    bench.answers["open"] = {**OPENED, "digest": "2"}
    bench.down(event=2, name="cell")
    wait_until(lambda: len(calls(bench, "open")) == 2, "it is loaded again")
    # Not by hand: then nothing looks at files after a cell.
    root.get_by_label("When to load").select_option("never")
    wait_until(lambda: "Changed" in root.locator(".dm-status").inner_text(), "it is said")
    looked = len([one for one in calls(bench, "look") if one["files"]])
    bench.down(event=3, name="cell")
    wait_until(lambda: any(not one["files"] for one in calls(bench, "look")), "it looks by itself")
    assert len([one for one in calls(bench, "look") if one["files"]]) == looked


def test_a_server_is_waited_for_and_its_words_are_text(bench: Bench) -> None:
    bench.answers["open"] = {**DOWN, "reason": "<img src=x onerror=alert(1)>\u202e"}
    bench.answers["log"] = {"lines": ["a <b>", "c"], "running": False, "code": 3, "id": "12345678"}
    root = mounted(bench)
    notice = root.locator(".dm-notice")
    expect(notice).to_contain_text("<img src=x onerror=alert(1)>\ufffd. As soon as it does")
    root.get_by_role("button", name="Show its output").click()
    expect(notice.locator("pre")).to_have_text("a <b>\nc")
    expect(notice).to_contain_text("It has ended (exit code 3).")
    axe(bench.page, "#dm-bench")
    bench.answers["open"] = OPENED
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page", timeout=30_000)
    expect(notice).to_be_hidden()


def test_an_address_is_renewed_before_it_ends(bench: Bench) -> None:
    bench.answers["open"] = {**OPENED, "left": 2}
    mounted(bench)
    wait_until(lambda: any(one["renew"] == 1 for one in calls(bench, "open")), "it is renewed")


def test_an_address_that_another_view_had_renewed_is_asked_for(bench: Bench) -> None:
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    name = root.locator("iframe").get_attribute("name")
    bench.down(event=1, name="renewed", port=4000, number=7)
    bench.down(event=2, name="renewed", port=3000, number=1)
    assert len(calls(bench, "open")) == 1
    bench.answers["open"] = {**OPENED, "number": 2}
    bench.down(event=3, name="renewed", port=3000, number=2)
    wait_until(lambda: len(calls(bench, "open")) == 2, "it is asked for")
    assert calls(bench, "open")[1]["renew"] == 0
    expect(root.locator("iframe")).not_to_have_attribute("name", str(name))


def test_one_that_has_ended_or_stands_still_asks_for_nothing(bench: Bench) -> None:
    stopped = {"state": "stopped", "name": "box", "text": "It is stopped.", "offer": "Start it"}
    root = mounted(bench)
    expect(root.frame_locator("iframe").locator("h1")).to_be_visible()
    bench.change("_sandbox", stopped)
    expect(root.locator("iframe")).to_have_count(0)
    before = len(bench.sent())
    bench.page.wait_for_timeout(2500)
    assert len(bench.sent()) == before
    bench.change("_sandbox", {"state": "started", "name": "box", "text": "", "offer": ""})
    expect(root.frame_locator("iframe").locator("h1")).to_have_text("the page")
    bench.unmount()
    before = len(bench.sent())
    bench.page.wait_for_timeout(2500)
    assert len(bench.sent()) == before
