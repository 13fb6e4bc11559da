"""Previews in a real JupyterLab under a base URL: cells that change the page, hostile pages, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Frame, FrameLocator, Locator, Page, Route, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("panels, previews and other front ends")]

APP = (Path(__file__).parent / "preview_app.py").read_text()
PAGE = (
    "<title>Hello</title><link rel=stylesheet href=a.css>"
    "<h1>One</h1><p>Some text.</p><script src=a.js></script>"
)
SCRIPT = """
const say = text => document.body.append(" " + text);
fetch("a.css").then(answer => answer.text()).then(text => say("fetched " + text.length));
fetch("x", {method: "POST", body: "12345"}).then(answer => answer.text()).then(text => say("posted " + text));
const socket = new WebSocket(location.href.replace(/^http/, "ws").replace(/[^/]*$/, "ws"), ["told"]);
socket.onmessage = event => say(socket.protocol + " " + event.data);
"""
FILES = f"""%%sandbox -q
import os
os.makedirs('site', exist_ok=True)
for name, text in {{'app.py': {APP!r}, 'index.html': {PAGE!r}, 'a.js': {SCRIPT!r},
                   'a.css': 'h1 {{ color: rgb(1, 2, 3) }}', 'two.html': '<h1>Two</h1>'}}.items():
    open('site/' + name, 'w').write(text)
"""
SERVE = "%sandbox serve --cwd site --port 3000 --name web python3 app.py 3000"
SHORT = "from daytona_magics.widgets import Preview\nPreview(3000, '/two.html', seconds=12)"
CELLS = ("%load_ext daytona_magics", FILES, SERVE, "%sandbox preview 3000", SHORT)


class Shown(Watched):
    """A notebook with a preview, and one whose address ends every few seconds."""

    @property
    def box(self) -> Locator:
        return self.page.locator(".dm-preview").first

    @property
    def inside(self) -> FrameLocator:
        return self.box.frame_locator("iframe")

    @property
    def frame(self) -> Frame:
        """The frame of the preview, as it is now; one that is being replaced is waited for."""
        return frame_of(self.box)

    def says(self, text: str | re.Pattern[str]) -> None:
        expect(self.box.locator(".dm-status")).to_contain_text(text, timeout=30_000)

    def go(self, path: str) -> None:
        where = self.box.get_by_label("Path")
        where.fill(path)
        where.press("Enter")

    def cell(self, code: str) -> str:
        """Run Python in the sandbox, as a cell."""
        return self.kernel(f"get_ipython().run_cell_magic('sandbox', '-q', {code!r})")

    def headed(self, before: str, after: str) -> None:
        """Change the page's heading, as a cell does."""
        self.cell(
            "with open('site/index.html') as file: text = file.read()\n"
            f"with open('site/index.html', 'w') as file: file.write(text.replace({before!r}, {after!r}))"
        )

    def line(self, line: str) -> str:
        return self.kernel(f"get_ipython().run_line_magic('sandbox', {line!r})")


def frame_of(box: Locator) -> Frame:
    """The frame of a preview. It has none for a moment when it is loaded again."""
    found: list[Frame] = []

    def there() -> bool:
        handle = box.locator("iframe").element_handle(timeout=30_000)
        frame = handle.content_frame()
        if frame is not None and not frame.is_detached() and frame.url not in ("", "about:blank"):
            found.append(frame)
        return bool(found)

    wait_until(there, "there is a page")
    return found[0]


@pytest.fixture(scope="module")
def shown(server: Lab, browser: Browser) -> Iterator[Shown]:
    made = Shown(server, browser, "preview", *CELLS)
    expect(made.inside.locator("h1")).to_have_text("One", timeout=60_000)
    screenshot(made.page, "preview")
    yield made
    made.close()


def loaded(shown: Shown) -> None:
    """The page has all it loads, has sent something, and its web socket was heard."""
    body = shown.inside.locator("body")
    for said in ("fetched 2", "posted 5 None", "told hello"):
        expect(body).to_contain_text(said, timeout=30_000)
    color = "one => getComputedStyle(one).color"
    wait_until(lambda: shown.inside.locator("h1").evaluate(color) == "rgb(1, 2, 3)", "it is styled")


def test_a_cell_changes_the_page_and_the_frame_shows_it(shown: Shown) -> None:
    loaded(shown)
    shown.says("HTTP 200 · “Hello”")
    assert urlsplit(shown.frame.url).hostname.endswith(".localhost")  # type: ignore[union-attr]
    shown.frame.evaluate("() => { window.mark = 1 }")
    looks = sum('"look"' in one for one in shown.frames)
    shown.cell("'nothing of the page changes'")
    shown.until(lambda: sum('"look"' in one for one in shown.frames) > looks + 1, "it has looked")
    assert shown.frame.evaluate("() => window.mark") == 1
    shown.headed("One", "Uno")
    expect(shown.inside.locator("h1")).to_have_text("Uno", timeout=30_000)
    # Also when only a file changes that the page loads.
    name = shown.box.locator("iframe").get_attribute("name")
    shown.cell("open('site/a.css', 'w').write('h1 { color: rgb(1,  2, 3) }')")
    expect(shown.box.locator("iframe")).not_to_have_attribute("name", str(name), timeout=30_000)


def test_by_keyboard(shown: Shown) -> None:
    box = shown.box
    hostile_keys(shown, box.get_by_role("button", name="Load the page again"))
    hostile_keys(shown, box.get_by_role("separator"))
    back, forward = (box.get_by_role("button", name=name) for name in ("Back to", "Forward to"))
    expect(back).to_be_disabled()
    shown.go("two.html")
    expect(shown.inside.locator("h1")).to_have_text("Two", timeout=30_000)
    back.focus()
    shown.press("Enter")
    expect(shown.inside.locator("h1")).to_have_text("Uno", timeout=30_000)
    forward.focus()
    shown.press("Space")
    expect(shown.inside.locator("h1")).to_have_text("Two", timeout=30_000)
    grip = box.get_by_role("separator")
    before = int(grip.get_attribute("aria-valuenow") or 0)
    grip.focus()
    shown.press("ArrowUp", "ArrowUp")
    assert int(grip.get_attribute("aria-valuenow") or 0) == before - 48
    box.get_by_label("Width", exact=True).select_option("phone")
    assert box.locator("iframe").bounding_box()["width"] == 390  # type: ignore[index]
    box.get_by_label("Width", exact=True).select_option("full")
    port = box.get_by_label("Port", exact=True)
    port.focus()
    expect(port.locator("option")).to_contain_text(["Port 3000: python3 app.py 3000"], timeout=30_000)
    for wrong in ("https://example.org/", "//example.org", "\\\\x"):
        shown.go(wrong)
        shown.says("Only paths of this server")
    shown.go("/missing")
    shown.says("HTTP 404")
    expect(shown.inside.locator("h1")).to_have_text("missing")


def test_a_reloaded_page_has_it_again(shown: Shown) -> None:
    shown.go("/two.html")
    expect(shown.inside.locator("h1")).to_have_text("Two", timeout=30_000)
    shown.reload()
    expect(shown.inside.locator("h1")).to_have_text("Two", timeout=60_000)
    shown.go("/")
    expect(shown.inside.locator("h1")).to_have_text("Uno", timeout=30_000)


def test_a_page_that_wants_no_frame_or_leads_away_is_explained(shown: Shown) -> None:
    shown.go("/deny")
    expect(shown.box.locator(".dm-notice")).to_contain_text("X-Frame-Options: DENY", timeout=30_000)
    expect(shown.box.locator("iframe")).to_have_count(0)
    screenshot(shown.page, "preview_refused")
    with shown.page.context.expect_page() as tab:
        shown.box.get_by_role("button", name="Open in a tab").click()
    tab.value.get_by_role("button", name="Show the page").click()
    expect(tab.value.locator("h1")).to_have_text("no frames")
    assert tab.value.evaluate("() => [window.opener, document.referrer]")[0] is None
    tab.value.close()
    shown.go("/away")
    # The kernel does not follow it: what it reaches the sandbox must not.
    expect(shown.box.locator(".dm-notice")).to_contain_text("http://127.0.0.1:1/secret", timeout=30_000)
    shown.go("/")
    expect(shown.inside.locator("h1")).to_have_text("Uno", timeout=30_000)


def outcome(shown: Shown) -> Any:
    """What the hostile page says of its tries."""
    expect(shown.inside.locator("#out")).not_to_be_empty(timeout=30_000)
    return json.loads(shown.inside.locator("#out").inner_text())


def test_a_hostile_page_reaches_nothing(shown: Shown, browser: Browser) -> None:
    shown.go("/attack")
    tried = outcome(shown)
    assert tried["parent"].startswith("refused"), tried
    before = shown.page.url
    address = shown.frame.url

    def refused() -> bool:
        # A frame that is filled again has forgotten the click before.
        shown.inside.locator("#go").click()
        return shown.frame.title().startswith("refused")

    wait_until(refused, "it cannot navigate the notebook")
    assert shown.page.url == before
    assert "stolen" not in shown.problems
    # The control: the same page in a frame without our attributes takes the notebook's place, and asks.
    bare = browser.new_context().new_page()
    dialogs: list[str] = []
    bare.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    bare.set_content(f'<iframe src="{address}"></iframe>')
    expect(bare.frame_locator("iframe").locator("#out")).not_to_be_empty(timeout=30_000)
    assert dialogs == ["stolen"]
    bare.frame_locator("iframe").locator("#go").click()
    # It navigates whoever shows it so.
    bare.wait_for_url("about:blank#taken")
    bare.context.close()


def elsewhere(page: Page, on: bool) -> None:
    """Let the page be, or not be, on another machine than the kernel: the engine does not answer it."""

    def not_the_engine(route: Route) -> None:
        if "/daytona-magics/" in route.request.url:
            route.continue_()
        else:
            route.fulfill(status=200, body="", headers={"Access-Control-Allow-Origin": "*"})

    if on:
        page.route(re.compile(r"/p/[a-z0-9]{26}$"), not_the_engine)
    else:
        page.unroute_all()


REFUSED = ("parent", "storage", "cookie", "read")


def test_through_the_notebooks_own_server(shown: Shown) -> None:
    elsewhere(shown.page, True)
    try:
        shown.go("/")
        here = f"http://127.0.0.1:{shown.server.port}/user/me/daytona-magics/p/"
        wait_until(lambda: shown.frame.url.startswith(here), "it comes through the notebook's server")
        loaded(shown)
        assert shown.frame.evaluate("() => self.origin") == "null"
        shown.headed("Uno", "Eins")
        expect(shown.inside.locator("h1")).to_have_text("Eins", timeout=30_000)
        shown.go("/attack")
        tried = outcome(shown)
        assert all(tried[name].startswith("refused") for name in REFUSED), tried
        assert "stolen" not in shown.problems
        _without_protection(shown.page, shown.frame.url)
    finally:
        elsewhere(shown.page, False)
    shown.go("/")
    wait_until(lambda: ".localhost:" in shown.frame.url, "it has its own origin again")


def _without_protection(page: Page, address: str) -> None:
    """The control: without the policy, and without a frame with our attributes, the attack succeeds."""

    def without_policy(route: Route) -> None:
        answer = route.fetch()
        headers = {n: v for n, v in answer.headers.items() if n != "content-security-policy"}
        route.fulfill(response=answer, headers=headers)

    tab = page.context.new_page()
    tab.on("dialog", lambda dialog: dialog.dismiss())
    tab.route(address, without_policy)
    tab.goto(address)
    out = tab.locator("#out")
    expect(out).not_to_be_empty(timeout=30_000)
    tried = json.loads(out.inner_text())
    assert tried["storage"] == "written" and tried["read"] == "200", tried
    tab.close()


def test_the_address_is_renewed_in_time_and_when_asked(shown: Shown) -> None:
    def name(box: Locator) -> str:
        return urlsplit(frame_of(box).url).netloc

    short = shown.page.locator(".dm-preview").nth(1)
    expect(short.frame_locator("iframe").locator("h1")).to_have_text("Two", timeout=30_000)
    before = name(short)
    wait_until(lambda: name(short) != before, "it is renewed by itself", 60)
    expect(short.frame_locator("iframe").locator("h1")).to_have_text("Two", timeout=30_000)
    before, old = name(shown.box), shown.frame.url
    shown.box.get_by_role("button", name="Renew").click()
    shown.says("The address was renewed.")
    expect(shown.box.locator(".dm-term")).to_contain_text(re.compile("address good for (60|59|58) min"))
    wait_until(lambda: name(shown.box) != before, "it has another name")
    # The old one is worth nothing any more.
    answer = shown.page.context.request.get(
        old.replace(urlsplit(old).netloc, f"127.0.0.1:{urlsplit(old).port}"),
        headers={"Host": urlsplit(old).netloc},
    )
    assert answer.status == 404


def test_a_server_that_ends_is_said_with_its_output_and_one_that_comes_is_shown(shown: Shown) -> None:
    shown.line("serve --stop web")
    notice = shown.box.locator(".dm-notice")
    expect(notice).to_contain_text("Nothing answers on port 3000", timeout=30_000)
    shown.box.get_by_role("button", name="Show its output").click()
    expect(notice.locator("pre")).to_contain_text("GET /a.css", timeout=30_000)
    screenshot(shown.page, "preview_down")
    shown.line(SERVE.removeprefix("%sandbox "))
    expect(shown.inside.locator("h1")).to_have_text("Eins", timeout=30_000)
    expect(notice).to_be_hidden()


def test_a_stopped_sandbox_is_said_and_started_when_asked(shown: Shown) -> None:
    shown.line("stop")
    expect(shown.box.locator(".dm-banner")).to_contain_text("is stopped: files are kept", timeout=30_000)
    expect(shown.box.locator("iframe")).to_have_count(0)
    shown.box.get_by_role("button", name="Start it").click()
    expect(shown.box.locator(".dm-notice")).to_contain_text("Nothing answers on port 3000", timeout=60_000)
    shown.line(SERVE.removeprefix("%sandbox "))
    expect(shown.inside.locator("h1")).to_have_text("Eins", timeout=30_000)


def test_everybody_can_use_it_and_nothing_leaks(shown: Shown) -> None:
    axe(shown.page, ".dm-preview")
    assert shown.previews
    # What the hostile page tried is all that went wrong outside of the previews.
    shown.problems[:] = [one for one in shown.problems if "api/contents" not in one]
    token = str(urlsplit(shown.frame.url).hostname).partition(".")[0].partition("-")[2]
    assert len(token) == 26
    shown.nothing_leaks(token)
    saved: Any = json.loads(shown.saved())
    texts = json.dumps(saved["cells"][3]["outputs"])
    assert "Preview of port 3000" in texts and "Some text." in texts and ".localhost" not in texts
