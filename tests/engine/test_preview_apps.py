"""Real apps behind previews: Flask and node, with WebSockets and server-sent events; HTTP's finer points."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.engine import preview_house as house
from tests.engine_process import IsolatedEngine


@pytest.fixture(scope="module")
def street(shared: Any) -> Iterator[Any]:
    """A sandbox with the three apps."""
    house.start(shared, "flask", "node", "odd")
    yield shared


@pytest.fixture(scope="module")
def urls(street: Any) -> dict[str, str]:
    """A signed address of each app; ``path:NAME`` is the path form."""
    ports = {"flask": house.FLASK_PORT, "node": house.NODE_PORT, "odd": house.ODD_PORT}
    found = {}
    for name, port in ports.items():
        signed = street.create_signed_preview_url(port, expires_in_seconds=3600)
        found[name] = signed.url
        found["path:" + name] = signed.additional_properties["pathUrl"]
    return found


@pytest.fixture
async def anybody() -> AsyncIterator[aiohttp.ClientSession]:
    async with house.visitor() as session:
        yield session


FORMS = ("flask", "path:flask", "node", "path:node")


@pytest.mark.parametrize("form", FORMS)
async def test_a_page_and_a_large_upload(
    form: str, urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    async with anybody.get(urls[form]) as answer:
        assert answer.status == 200
    path = "upload" if "flask" in form else ""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield bytes(1 << 20)

    for body in (bytes(8 << 20), pieces()):  # with a length, and in chunks
        async with anybody.post(urls[form] + path, data=body) as answer:
            said = await answer.json()
            assert said.get("bytes", said.get("size")) == 8 << 20


@pytest.mark.parametrize("form", ["flask", "path:flask"])
async def test_server_sent_events_come_one_by_one(
    form: str, urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    mark = secrets.token_hex(4)
    async with anybody.get(urls[form] + f"events?id={mark}") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for n in range(3):
            while not (line := await answer.content.readline()).startswith(b"data:"):
                assert line, "the stream ended"
            assert line == b"data: %d\n" % n
            # Nothing more comes until the app is told that this one arrived.
            async with anybody.post(urls[form] + f"seen/{n}?id={mark}") as said:
                assert said.status == 204


async def test_an_event_streams_head_comes_before_its_first_event_and_its_end_is_seen(
    urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    async with anybody.get(urls["node"] + "events") as answer:
        assert answer.status == 200  # The app has sent no byte of a body.
    for _ in range(400):
        async with anybody.get(urls["node"] + "left") as answer:
            if await answer.text() == "true":
                return
        await asyncio.sleep(0.05)
    raise AssertionError("the app does not see that the client left")


@pytest.mark.parametrize("form", FORMS)
async def test_websockets_carry_messages_of_ten_mebibytes(
    form: str, urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    message = os.urandom(10 << 20)
    async with anybody.ws_connect(urls[form] + "echo", max_msg_size=0, compress=0) as ws:
        await ws.send_str("é")
        assert await ws.receive_str() == "é"
        await ws.send_bytes(message)
        assert await ws.receive_bytes() == message
        assert await ws.close(code=4123, message=b"enough")
        if "node" in form:
            assert ws.close_code == 4123


async def test_compression_is_for_the_two_ends_to_agree_on(
    urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    }
    async with anybody.get(urls["node"], headers=headers) as answer:
        assert answer.status == 101
        assert answer.headers["X-Extensions"] == "permessage-deflate; client_max_window_bits"
        assert answer.headers["Set-Cookie"] == "theirs=1"
    async with anybody.get(urls["path:node"], headers=headers) as answer:
        assert answer.status == 101 and "Set-Cookie" not in answer.headers


async def test_an_app_may_refuse_a_websocket_or_break_it_off(
    urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await anybody.ws_connect(urls["node"] + "no")
    assert refused.value.status == 403 and refused.value.headers is not None
    assert refused.value.headers["X-Why"] == "no"
    async with anybody.ws_connect(urls["node"] + "die") as ws:
        assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert ws.close_code == 1006
    # One WebSocket that is over leaves room for the next.
    for _ in range(120):
        async with anybody.ws_connect(urls["node"] + "echo"):
            pass


async def test_methods_and_ranges(urls: dict[str, str], anybody: aiohttp.ClientSession) -> None:
    async with anybody.head(urls["node"] + "range") as answer:
        assert answer.headers["Content-Length"] == "10" and await answer.read() == b""
    async with anybody.get(urls["node"] + "range", headers={"Range": "bytes=2-4"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"234")
        assert answer.headers["Content-Range"] == "bytes 2-4/10"
    for method in ("OPTIONS", "PUT", "PATCH", "DELETE", "PROPFIND"):
        async with anybody.request(method, urls["node"] + "x") as answer:
            assert (await answer.json())["method"] == method
    # An app that says nothing of a type leaves it to the browser, as without the preview.
    async with anybody.get(urls["node"] + "untyped") as answer:
        assert answer.status == 200
        assert "Content-Type" not in answer.headers and "Server" not in answer.headers


async def test_odd_but_legal_answers(urls: dict[str, str], anybody: aiohttp.ClientSession) -> None:
    for name, body in (("interim", "ok"), ("trailers", "abcdef"), ("until-close", "all of it")):
        async with anybody.get(urls["odd"] + name) as answer:
            assert (answer.status, await answer.text()) == (200, body), name
    async with anybody.get(urls["odd"] + "big-header") as answer:
        assert len(answer.headers["X-A"]) == 20_000
    async with anybody.get(urls["odd"] + "not-modified") as answer:
        assert (answer.status, answer.headers["ETag"]) == (304, '"x"')
    async with anybody.post(urls["odd"] + "early", data=bytes(1000)) as answer:
        assert (answer.status, await answer.text()) == (413, "big")


async def test_an_app_that_breaks_off_or_makes_no_sense(
    urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    for name in ("half-length", "half-chunks"):
        with pytest.raises(aiohttp.ClientError):
            async with anybody.get(urls["odd"] + name) as answer:
                await answer.read()
    for name in ("nothing", "not-http", "two-lengths", "huge-header"):
        async with anybody.get(urls["odd"] + name) as answer:
            assert answer.status == 502, name
            said = await answer.json()
        assert (said["source"], said["code"], said["statusCode"]) == ("DAYTONA_PROXY", "BAD_GATEWAY", 502)
    async with anybody.get(urls["odd"] + "nothing", headers={"Accept": "text/html"}) as answer:
        assert "<h1>502</h1>" in await answer.text() and "Try again" in await answer.text()


async def test_connections_are_kept_on_both_sides(urls: dict[str, str]) -> None:
    async with house.visitor() as alone:
        peers = set()
        for _ in range(20):
            async with alone.get(urls["node"] + "x") as answer:
                peers.add((await answer.json())["peer"])
        assert len(peers) <= 2  # The app's side: at most one connection had to be made anew.
        connector = alone.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert sum(len(kept) for kept in connector._conns.values()) == 1


async def test_large_bodies_pass_in_bounded_memory(
    urls: dict[str, str], engine: IsolatedEngine, anybody: aiohttp.ClientSession
) -> None:
    size = 256 << 20

    def peak() -> int:
        status = Path(f"/proc/{engine.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size >> 20):
            yield bytes(1 << 20)

    before = peak()
    async with anybody.get(urls["flask"] + f"download/{size}") as answer:
        got = 0
        async for piece in answer.content.iter_chunked(1 << 20):
            got += len(piece)
            if got < 32 << 20:
                await asyncio.sleep(0.01)  # A slow reader at first: what the app has made must wait in it.
    assert got == size
    async with anybody.post(urls["flask"] + "upload", data=pieces()) as answer:
        assert (await answer.json())["bytes"] == size
    assert peak() - before < 48 << 20


async def test_what_a_websocket_client_does_not_read_is_not_held_by_the_engine(
    urls: dict[str, str], engine: IsolatedEngine, anybody: aiohttp.ClientSession
) -> None:
    def memory() -> int:
        return int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1]) * 4096

    before = memory()
    async with anybody.ws_connect(urls["node"] + "echo", max_msg_size=0, compress=0, autoping=False) as ws:
        message = bytes(1 << 20)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await ws.send_bytes(message)
                sent += 1

        transport = ws._conn.transport  # type: ignore[union-attr]
        transport.pause_reading()
        task = asyncio.ensure_future(send())
        await asyncio.wait([task], timeout=3)
        assert memory() - before < 48 << 20
        transport.resume_reading()
        for _ in range(100):
            assert len(await ws.receive_bytes()) == len(message)
        await task


async def test_redirects_stay_within_the_path_form(
    urls: dict[str, str], anybody: aiohttp.ClientSession
) -> None:
    for url in (urls["flask"], urls["path:flask"]):
        async with anybody.get(url + "login") as answer:
            assert str(answer.url) == url + "welcome?next=1" and answer.status == 404


async def test_scripts_of_other_origins_may_read_unless_it_is_switched_off(
    urls: dict[str, str], anybody: aiohttp.ClientSession, street: Any
) -> None:
    origin = {"Origin": "http://localhost:8888"}
    async with anybody.get(urls["node"], headers=origin) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:8888"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    async with anybody.get(urls["node"], headers={**origin, "X-Daytona-Disable-CORS": "true"}) as answer:
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert "x-daytona-disable-cors" not in (await answer.json())["headers"]
    # A page in the path form has the origin "null" and is given no credentials.
    async with anybody.get(urls["path:node"], headers={"Origin": "null"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
    asked = {**origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-mine"}
    private = f"http://{house.NODE_PORT}-{street.id}.localhost:{urls['node'].split(':')[-1]}"
    for url in (urls["node"], private):
        async with anybody.options(url, headers=asked) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Methods"]) == (204, "PUT")
            assert answer.headers["Access-Control-Allow-Headers"] == "x-mine"
    async with anybody.put(private, headers=origin) as answer:
        assert answer.status == 401 and "Access-Control-Allow-Origin" in answer.headers
    # Switched off, the question goes to the app, and needs the proof that any request needs.
    off = {**asked, "X-Daytona-Disable-CORS": "true"}
    async with anybody.options(private, headers=off) as answer:
        assert answer.status == 401
    async with anybody.options(urls["node"], headers=off) as answer:
        assert (await answer.json())["method"] == "OPTIONS"


def test_programs_that_know_no_localhost_names_use_the_path(urls: dict[str, str]) -> None:
    import urllib.error
    import urllib.request

    with urllib.request.urlopen(urls["path:flask"], timeout=30) as answer:
        assert answer.status == 200
    host = urls["flask"].split("/")[2].partition(":")[0]
    try:
        socket.getaddrinfo(host, 80)
    except OSError:
        # The control: this program cannot use the other form.
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(urls["flask"], timeout=30)
