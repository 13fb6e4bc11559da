"""Chromium and previews: names below localhost, the warning, a page under the notebook's own origin."""

from __future__ import annotations

import http.server
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.browser import chromium
from tests.engine import preview_house as house
from tests.engine_process import IsolatedEngine, wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with cookies of its own."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def street(shared: Any) -> Iterator[Any]:
    """A sandbox with the Flask and the node app."""
    house.start(shared, "flask", "node")
    yield shared


def test_a_page_is_shown_after_one_warning(street: Any, page: Page) -> None:
    url = street.create_signed_preview_url(house.FLASK_PORT, expires_in_seconds=600).url
    answer = page.goto(url + "?a=1")
    assert answer is not None and answer.status == 200
    assert page.title() == "A page from a sandbox" and "flask" not in page.content()
    page.get_by_role("button", name="Show the page").click()
    page.wait_for_function("document.title === 'ran'")
    assert page.url == url + "?a=1" and page.locator("h1").inner_text() == "flask"
    accepted = {cookie["name"]: cookie for cookie in page.context.cookies()}["daytona-preview-page-accepted"]
    assert accepted["httpOnly"] and accepted["sameSite"] == "Lax"
    page.goto(url)
    assert page.title() == "ran"


def test_whoever_says_so_is_not_warned_and_neither_is_a_frame(street: Any, browser: Browser) -> None:
    url = street.create_signed_preview_url(house.FLASK_PORT, expires_in_seconds=600).url
    context = browser.new_context(extra_http_headers={"X-Daytona-Skip-Preview-Warning": "true"})
    page = context.new_page()
    page.goto(url)
    assert page.title() == "ran"
    context.close()
    page = browser.new_page()
    page.set_content(f'<iframe src="{url}"></iframe>')
    page.frame_locator("iframe").locator("h1", has_text="flask").wait_for()
    page.close()


def test_the_key_in_the_address_becomes_a_cookie_for_the_rest_of_the_page(street: Any, page: Page) -> None:
    link = street.get_preview_link(house.FLASK_PORT)
    host = f"http://{house.FLASK_PORT}-{street.id}.localhost:{urlsplit(link.url).port}/"
    page.set_extra_http_headers({"X-Daytona-Skip-Preview-Warning": "true"})
    refused = page.goto(host)
    assert refused is not None and refused.status == 401
    page.goto(f"{host}?DAYTONA_SANDBOX_AUTH_KEY={link.token}")
    assert page.title() == "ran"
    page.goto(host)
    assert page.title() == "ran"
    assert page.evaluate(
        "fetch('/upload', {method: 'POST', body: 'x'.repeat(1000)}).then(r => r.json())"
    ) == {"bytes": 1000}
    cookie = {c["name"]: c["value"] for c in page.context.cookies()}["daytona-sandbox-auth"]
    assert link.token not in cookie


def test_events_and_sockets_reach_a_script(street: Any, page: Page) -> None:
    url = street.create_signed_preview_url(house.FLASK_PORT, expires_in_seconds=600).url
    page.set_extra_http_headers({"X-Daytona-Skip-Preview-Warning": "true"})
    page.goto(url)
    mark = secrets.token_hex(4)
    got = page.evaluate(
        """async (mark) => {
            const got = [], source = new EventSource("/events?id=" + mark);
            await new Promise((done, failed) => {
                source.addEventListener("tick", async (event) => {
                    got.push(event.data);
                    await fetch(`/seen/${event.data}?id=${mark}`, {method: "POST"});
                    if (event.data === "2") done();
                });
            });
            source.close();
            const socket = new WebSocket("ws://" + location.host + "/echo");
            await new Promise((done) => { socket.onopen = done; });
            socket.send("over the socket");
            got.push(await new Promise((done) => { socket.onmessage = (event) => done(event.data); }));
            socket.close();
            return got;
        }""",
        mark,
    )
    assert got == ["0", "1", "2", "over the socket"]


class _Thief(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>thief</title>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""


class _Server6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def test_another_process_on_the_other_loopback_gets_no_token(
    fresh_engine: IsolatedEngine, page: Page
) -> None:
    from daytona import Daytona

    sandbox = Daytona(fresh_engine.config()).create()
    before = sandbox.create_signed_preview_url(house.FLASK_PORT, expires_in_seconds=600)
    port = urlsplit(before.url).port
    assert port is not None
    fresh_engine.command("stop")
    with _Server6(("::1", port), _Thief) as thief:
        threading.Thread(target=thief.serve_forever, daemon=True).start()
        client = Daytona(fresh_engine.config())
        sandbox = client.get(sandbox.id)
        sandbox.start()
        house.start(sandbox, "flask")
        signed = sandbox.create_signed_preview_url(house.FLASK_PORT, expires_in_seconds=600)
        assert urlsplit(signed.url).port != port
        page.set_extra_http_headers({"X-Daytona-Skip-Preview-Warning": "true"})
        page.goto(signed.url)
        assert page.title() == "ran"
        # The control: on that port, the browser does go to the other process, with whatever the name holds.
        page.goto(before.url)
        assert page.title() == "thief"
        thief.shutdown()
    # So a token that was given out for that port is worth nothing any more.
    old = signed.url.replace(signed.token, before.token)
    answer = page.goto(old)
    assert answer is not None and answer.status == 404


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Jupyter Server with jupyter-server-proxy under a base URL: its address and token."""
    base = tmp_path_factory.mktemp("jupyter")
    root = base / "root"
    root.mkdir()
    (root / "secret.txt").write_text("secret")
    token = secrets.token_hex(8)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{kind}_DIR": str(base / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.base_url=/user/me/"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += ["--ServerApp.jpserver_extensions=jupyter_server_proxy=True"]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **folders}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/user/me/"

    def is_up() -> bool:
        assert process.poll() is None, (base / "log").read_text()
        try:
            with urllib.request.urlopen(f"{url}api/status?token={token}", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_until(is_up, "the Jupyter Server answers", 60)
        yield url, token
    finally:
        process.terminate()
        process.wait(20)


def _behind(notebook: tuple[str, str], signed: Any) -> str:
    """The address of a preview through jupyter-server-proxy."""
    path = urlsplit(signed.additional_properties["pathUrl"])
    return f"{notebook[0]}proxy/{path.port}{path.path}"


def test_no_credentials_of_the_notebook_come_in(street: Any, notebook: tuple[str, str], page: Page) -> None:
    url = _behind(notebook, street.create_signed_preview_url(house.NODE_PORT, expires_in_seconds=600))
    page.goto(f"{notebook[0]}api/status?token={notebook[1]}")
    assert page.context.cookies(), "the notebook's cookies are there to be stolen"
    answer = page.goto(url + "headers")
    assert answer is not None and answer.status == 200
    sent = answer.request.all_headers()
    got = answer.json()["headers"]
    assert "cookie" in sent and not {"cookie", "authorization", "x-xsrftoken", "referer"} & set(got)
    headers = {"Authorization": f"token {notebook[1]}", "X-XSRFToken": "secret", "Cookie": "_xsrf=secret"}
    asked = urllib.request.Request(url + "headers", headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as plain:
        text = plain.read().decode()
    assert notebook[1] not in text and "secret" not in text
    assert json.loads(text)["headers"]["x-forwarded-prefix"].startswith("/p/")


REFUSED = ("cookie", "storage", "read", "write", "frame", "worker")


def test_a_page_in_a_tab_of_its_own_cannot_use_the_notebook(
    street: Any, notebook: tuple[str, str], page: Page
) -> None:
    url = _behind(notebook, street.create_signed_preview_url(house.NODE_PORT, expires_in_seconds=600))
    kernels = f"{notebook[0]}api/kernels?token={notebook[1]}"
    page.goto(f"{notebook[0]}login")  # its form brings the token against forged requests
    page.goto(f"{notebook[0]}api/status?token={notebook[1]}")

    def tries() -> dict[str, str]:
        page.goto(url + "attack")
        page.wait_for_function("document.title === 'done'")
        return dict(json.loads(page.locator("body").inner_text()))

    tried = tries()
    assert tried["origin"] == "null"
    for name in REFUSED:
        assert tried[name].startswith("refused") or tried[name] == "403", (name, tried)
    with urllib.request.urlopen(kernels, timeout=30) as answer:
        assert json.load(answer) == []

    # The control: the same page, served without the policy, does all of it.
    def without_policy(route: Route) -> None:
        answer = route.fetch()
        headers = {n: v for n, v in answer.headers.items() if n != "content-security-policy"}
        route.fulfill(response=answer, headers=headers)

    page.route(url + "attack", without_policy)
    tried = tries()
    assert tried["read"] == "200 secret.txt" and tried["write"] == "201", tried
    assert tried["frame"] == "secret.txt" and "_xsrf" in tried["cookie"], tried


def test_a_redirect_does_not_lead_to_the_notebook(street: Any, notebook: tuple[str, str], page: Page) -> None:
    house.start(street, "odd")
    signed = street.create_signed_preview_url(house.ODD_PORT, expires_in_seconds=600)
    page.goto(f"{notebook[0]}api/status?token={notebook[1]}")
    origin = notebook[0].removesuffix("/user/me/")
    url = _behind(notebook, signed)
    for to in (f"{origin}/user/me/api/contents", "/user/me/api/contents", f"//{urlsplit(origin).netloc}/x"):
        answer = page.request.get(url + "location/" + to.replace("/", "%2F"), max_redirects=0)
        assert answer.status == 302 and "refresh" not in answer.headers
        assert answer.headers["location"].startswith("../"), to
    # The control: under a name of its own a preview may lead wherever it likes.
    host = urlsplit(signed.url).netloc
    request = f"GET /location/%2Flab HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    said = house.exchange(int(urlsplit(signed.url).port or 0), request.encode())
    assert b"\r\nLocation: /lab\r\n" in said and b"\r\nRefresh: " in said
