"""Attacks on previews, each with its control: the same thing without the trick, or with the guard off."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.engine import preview_house as house
from tests.engine.attacked import engine_with
from tests.engine_process import IsolatedEngine, isolated_engine, wait_until


@pytest.fixture(scope="module")
def street(shared: Any) -> Iterator[Any]:
    """A sandbox with the node app and the one that says what it should not."""
    house.start(shared, "node", "odd")
    yield shared


class Target:
    """The listener's port, and the host names of the two apps."""

    def __init__(self, box: Any) -> None:
        node = box.create_signed_preview_url(house.NODE_PORT, expires_in_seconds=3600)
        odd = box.create_signed_preview_url(house.ODD_PORT, expires_in_seconds=3600)
        self.node, self.odd = node.url, odd.url
        self.token = node.token
        self.port = int(urlsplit(node.url).port or 0)
        self.host = urlsplit(node.url).netloc

    def ask(
        self, *lines: str, host: str | None = None, rest: bytes = b"", first: str = "GET /x HTTP/1.1"
    ) -> bytes:
        """What the listener answers to a request made of these lines."""
        named = [f"Host: {self.host if host is None else host}"] if host != "" else []
        # Without a second request the listener shall close, which ends what is read.
        is_said = bool(rest) or any(line.startswith("Connection:") for line in lines)
        closing = [] if is_said else ["Connection: close"]
        head = "\r\n".join([first, *named, *lines, *closing, "", ""]).encode("latin-1")
        return house.exchange(self.port, head + rest)


@pytest.fixture(scope="module")
def target(street: Any) -> Target:
    return Target(street)


@pytest.fixture
async def anybody() -> AsyncIterator[aiohttp.ClientSession]:
    async with house.visitor() as session:
        yield session


def status(answer: bytes) -> int:
    """The status of the first answer; 0 when the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def test_names_that_are_not_exactly_a_previews(target: Target, street: Any) -> None:
    name = target.host.partition(":")[0]
    assert status(target.ask()) == 200  # the control
    assert status(target.ask(host=target.host.upper())) == 200
    for host in (
        *(
            name,
            f"{name}:1",
            f"{name}.:{target.port}",
            f"{name}.evil.example:{target.port}",
            f"x.{target.host}",
        ),
        *(
            f"localhost:{target.port}",
            f"{target.host}@evil.example",
            f" {target.host} x",
            f"{target.host}\t1",
        ),
    ):
        assert status(target.ask(host=host)) in (400, 404), host
    assert status(target.ask(f"Host: {target.host}")) in (400, 404)  # two of them
    assert status(target.ask(host="")) in (400, 404)
    # A target that names a host itself, and what only proxies are sent.
    for first in (
        f"GET http://{target.host}/x HTTP/1.1",
        f"CONNECT {target.host} HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ):
        assert status(target.ask(first=first)) in (400, 404), first


def test_control_characters_do_not_pass(target: Target) -> None:
    clean = target.ask("X-A: b")
    assert status(clean) == 200 and b'"x-a":"b"' in clean
    for line in (
        "X-A: b\rX-Evil: 1",
        "X-A: b\nX-Evil: 1",
        "X-A: b\x00c",
        "X-A: b\r\n X-Evil: 1",
        "X A: b",
        "X-A : b",
    ):
        said = target.ask(line)
        assert status(said) in (0, 400), (line, said)
    for first in ("GET /a\x01b HTTP/1.1", "GET /a b HTTP/1.1", "G\x00T /a HTTP/1.1"):
        assert status(target.ask(first=first)) in (0, 400), first


async def test_an_app_cannot_write_headers_by_others_values(
    target: Target, anybody: aiohttp.ClientSession
) -> None:
    for name in ("split", "nul"):
        async with anybody.get(target.odd + name) as answer:
            assert answer.status == 502, name
            assert "Set-Cookie" not in answer.headers
    # The control: the app's bytes do hold it, and a legal header of the app passes.
    async with anybody.get(target.odd + "big-header") as answer:
        assert answer.status == 200 and "X-A" in answer.headers
    assert b"\rSet-Cookie: evil=1" in (house.APPS / "odd.py").read_bytes().replace(b"\\r", b"\r")


SECOND = b"GET /smuggled HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"


def test_no_second_request_hides_in_a_first(target: Target) -> None:
    second = SECOND % target.host.encode()
    post = "POST /first HTTP/1.1"
    open_one = target.ask("Content-Length: 0", first=post, rest=second)
    assert open_one.count(b"HTTP/1.1 200") == 2 and b"/smuggled" in open_one  # the control: two in a row
    chunked = b"0\r\n\r\n" + second
    for lines, rest in (
        (("Content-Length: 5", "Transfer-Encoding: chunked"), chunked),
        (("Transfer-Encoding: chunked", "Content-Length: 5"), chunked),
        (("Content-Length: 0", f"Content-Length: {len(second)}"), second),
        (("Content-Length: +0",), second),
        (("Content-Length: 0x0",), second),
        (("Content-Length: 0, 5",), second),
        (("Transfer-Encoding: xchunked",), chunked),
        (("Transfer-Encoding: chunked, identity",), chunked),
        (("Transfer-Encoding : chunked",), chunked),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), chunked),
        (("Transfer-Encoding: chunked",), b"0x0\r\n\r\n" + second),
        (("Transfer-Encoding: chunked",), b"-1\r\n\r\n" + second),
        (("Transfer-Encoding: chunked",), b"5;a\nx\r\nhello\r\n0\r\n\r\n" + second),
    ):
        said = target.ask(*lines, first=post, rest=rest)
        assert b'"url":"/smuggled"' not in said, (lines, said)
        assert status(said) in (0, 400, 502), (lines, said)


async def test_no_second_answer_hides_in_a_first(target: Target, anybody: aiohttp.ClientSession) -> None:
    for _ in range(5):
        async with anybody.get(target.odd + "smuggled") as answer:
            assert await answer.text() == "ok"
        async with anybody.get(target.odd + "head") as answer:
            assert json.loads(await answer.text())["head"].startswith("GET /head")


def test_only_websockets_are_upgraded(target: Target) -> None:
    settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    said = target.ask("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", settings)
    assert status(said) == 200 and b'"upgrade"' not in said and b"http2-settings" not in said
    websocket = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert status(target.ask(*websocket, "Sec-WebSocket-Version: 13")) == 101  # the control
    assert (
        status(
            target.ask(
                *websocket, "Connection: close", "Content-Length: 5", first="POST /x HTTP/1.1", rest=b"hello"
            )
        )
        == 400
    )
    # A request behind a handshake that the app refuses is a request like any other.
    behind = f"GET / HTTP/1.1\r\nHost: 22222-{'a' * 20}.localhost:{target.port}\r\nConnection: close\r\n\r\n"
    said = target.ask(*websocket, first="GET /no HTTP/1.1", rest=behind.encode())
    assert status(said) == 403 and b"HTTP/1.1 404" in said


def test_oversize_heads(target: Target) -> None:
    odd = urlsplit(target.odd).netloc
    large = "X-A: " + "a" * 30_000
    assert status(target.ask(large, host=odd, first="GET /head HTTP/1.1")) == 200  # the control
    assert status(target.ask("X-A: " + "a" * 40_000)) == 400
    assert status(target.ask(first=f"GET /{'a' * 40_000} HTTP/1.1")) == 400
    assert status(target.ask(*(f"X-{n}: 1" for n in range(500)))) in (0, 400)


async def test_a_cookie_is_good_for_one_port_of_one_run_and_no_other_page(
    street: Any, anybody: aiohttp.ClientSession, target: Target, async_daytona: Any
) -> None:
    box = await async_daytona.create()
    link = await box.get_preview_link(house.NODE_PORT)

    def at(name: str, port: int) -> str:
        return f"http://{port}-{name}.localhost:{target.port}/"

    async with anybody.get(at(box.id, house.NODE_PORT) + f"?DAYTONA_SANDBOX_AUTH_KEY={link.token}") as answer:
        assert answer.status == 502  # let in; nothing listens there
    async with anybody.get(
        at(street.id, house.NODE_PORT), headers={"X-Daytona-Preview-Token": link.token}
    ) as answer:
        assert answer.status == 401

    own = street.get_preview_link(house.NODE_PORT)
    url = at(street.id, house.NODE_PORT)
    async with anybody.get(f"{url}?DAYTONA_SANDBOX_AUTH_KEY={own.token}") as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    proof = {"Cookie": cookie}
    for origin in ({}, {"Origin": url.rstrip("/")}):
        async with anybody.get(url, headers={**proof, **origin}) as answer:
            assert answer.status == 200  # the control
    # Another local user's page below the same name, on another port, would be sent the cookie by a browser.
    for origin in ("http://evil.example", f"http://{house.NODE_PORT}-{street.id}.localhost:9", "null"):
        async with anybody.get(url, headers={**proof, "Origin": origin}) as answer:
            assert answer.status == 401
    expires, seal = cookie.partition("=")[2].split("-")
    for other, value in (
        (at(street.id, house.ODD_PORT), cookie),
        (at(street.id, 22222), cookie),
        (at(box.id, house.NODE_PORT), cookie),
        (url, f"daytona-sandbox-auth={int(expires) + 1}-{seal}"),
        (url, f"daytona-sandbox-auth={own.token}"),
        (url, "daytona-sandbox-auth=-"),
        (url, f"daytona-sandbox-auth={'9' * 400}-{seal}"),
    ):
        async with anybody.get(other, headers={"Cookie": value}) as answer:
            assert answer.status == 401, value
    await box.delete()


async def test_the_warnings_button_leads_nowhere_else(target: Target, anybody: aiohttp.ClientSession) -> None:
    accept = target.node + "daytona-preview-accept?to="
    for to, leads in (
        ("%2Fpage%3Fa%3D1", "/page?a=1"),  # the control
        ("%2F%2Fevil.example", "/"),
        ("%2F%5Cevil.example", "/"),
        ("http%3A%2F%2Fevil.example", "/"),
        ("%2Fa%0d%0aSet-Cookie%3A%20evil%3D1", "/"),
        ("", "/"),
    ):
        async with anybody.post(accept + to, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, leads)
            assert len(answer.headers.getall("Set-Cookie")) == 1
    # Another page cannot press it for the user: what it sends goes to the app, like anything else.
    async with anybody.post(accept + "%2F", headers={"Origin": "http://evil.example"}) as answer:
        assert "Set-Cookie" not in answer.headers and (await answer.json())["method"] == "POST"


QUICK = """
from daytona_magics.engine.api import door
from daytona_magics.engine.preview import listener
door.STRANGER_SECONDS, listener.MAX_CONNECTIONS = 1.5, 40
"""
OPEN = (
    QUICK
    + """
door.STRANGER_SECONDS = 3600.0
door.Door._cut_oldest = lambda self: False
"""
)


def _besieged(engine: IsolatedEngine) -> tuple[int, int]:
    """Status of a visitor's request behind 60 silent connections, and how many of those are cut off."""
    from daytona import Daytona

    box = Daytona(engine.config()).create()
    house.start(box, "node")
    target = Target(box)
    with contextlib.ExitStack() as stack:
        silent = []
        for n in range(60):
            raw = socket.create_connection(("127.0.0.1", target.port), timeout=20)
            stack.callback(raw.close)
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-" if n % 2 else b"")
            silent.append(raw)
            if n % 5 == 4:
                target.ask("Connection: close")  # its answer comes when those before it have been seen
        answered = status(target.ask("Connection: close"))
        deadline, cut = time.monotonic() + 10, 0
        for raw in silent:
            raw.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                cut += raw.recv(1000) == b""
            except ConnectionError:
                cut += 1
            except TimeoutError:
                break
        return answered, cut


def test_those_who_say_nothing_keep_nobody_out() -> None:
    with engine_with(QUICK) as engine:
        assert _besieged(engine) == (200, 60)
    with engine_with(OPEN) as engine:
        answered, cut = _besieged(engine)
        assert answered == 503 and cut == 0


def test_sandboxes_that_share_the_machines_ports_are_apart() -> None:
    """At L1 there is one loopback for all: a preview still reaches only what its own sandbox listens on."""
    from daytona import Daytona

    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L1") as engine:
        client = Daytona(engine.config())
        one, two = client.create(), client.create()
        port = int(one.process.exec("echo $PORT").result)
        one.process.exec(f"nohup python3 -m http.server {port} > log 2>&1 &")

        def asked(box: Any, wanted: int) -> int:
            signed = box.create_signed_preview_url(wanted, expires_in_seconds=60)
            host = urlsplit(signed.url).netloc
            request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            return status(house.exchange(int(urlsplit(signed.url).port or 0), request.encode()))

        wait_until(lambda: asked(one, port) == 200, "the server inside answers")  # the control
        assert asked(two, port) == 502
        with socket.create_server(("127.0.0.1", 0)) as mine:
            own = mine.getsockname()[1]
            assert asked(one, own) == 502
            mine.settimeout(0.2)
            with pytest.raises(TimeoutError):
                mine.accept()
            with socket.create_connection(("127.0.0.1", own)):
                mine.settimeout(20)
                mine.accept()[0].close()  # the control: somebody outside does get there
