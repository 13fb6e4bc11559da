"""Previews: real servers inside sandboxes, seen by programs and as browsers see them; attacks on the door."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from daytona import AsyncDaytona
from daytona.common.errors import DaytonaError, DaytonaNotFoundError

from daytona_magics.engine.preview.listener import listen
from tests.engine.preview_house import by_path, visitor
from tests.engine_process import IsolatedEngine

#: A server that says what it was asked, and does what it is asked.
SERVER = """
import asyncio, sys
from aiohttp import web, WSMsgType

async def show(request):
    body = await request.read()
    answer = web.json_response({
        "method": request.method, "path": request.raw_path, "body": body.decode("latin-1"),
        "headers": [[n.lower(), v] for n, v in request.headers.items()],
    })
    answer.set_cookie("theirs", "1")
    answer.headers["Service-Worker-Allowed"] = "/"
    answer.headers["Clear-Site-Data"] = '"*"'
    answer.headers["NEL"] = answer.headers["Report-To"] = "{}"
    answer.headers["X-Theirs"] = "kept"
    return answer

async def stream(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    for n in range(3):
        await answer.write(b"%d\\n" % n)
        await asyncio.sleep(0.3)
    return answer

async def broken(request):
    answer = web.StreamResponse(headers={"Content-Length": "100"})
    await answer.prepare(request)
    await answer.write(b"half")
    request.transport.abort()
    return answer

async def big(request):
    return web.Response(body=bytes(range(256)) * 40_000)

async def silent(request):
    await asyncio.sleep(600)

async def length(request):
    raw = await request.content.read()
    return web.json_response({"length": len(raw), "encoding": request.headers.get("Content-Encoding")})

async def moved(request):
    raise web.HTTPFound("http://127.0.0.1:1/secret")

async def talk(request):
    ws = web.WebSocketResponse(protocols=["other", "chat"])
    await ws.prepare(request)
    await ws.send_str("hello " + str(ws.ws_protocol))
    async for message in ws:
        if message.data == "close":
            await ws.close(code=4321, message=b"bye")
        elif message.type == WSMsgType.TEXT:
            await ws.send_str(message.data.upper())
        else:
            await ws.send_bytes(message.data[::-1])
    return ws

app = web.Application(client_max_size=1 << 30)
app.add_routes([web.get("/stream", stream), web.get("/broken", broken), web.get("/big", big),
                web.get("/moved", moved),
                web.get("/silent", silent), web.post("/length", length), web.get("/talk", talk),
                web.route("*", "/{rest:.*}", show)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), auto_decompress=False,
            print=lambda *_: print("up", flush=True))
"""


@pytest.fixture
async def anybody() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without the engine's key."""
    async with visitor() as session:
        yield session


async def serving(daytona: AsyncDaytona, *ports: int) -> Any:
    box = await daytona.create()
    await box.fs.upload_file(SERVER.encode(), "server.py")
    for port in ports:
        await box.process.exec(
            f"python3 server.py {port} > up{port} 2>&1 & while [ ! -s up{port} ]; do sleep 0.05; done"
        )
    return box


@pytest.fixture
async def box(async_daytona: AsyncDaytona) -> AsyncIterator[Any]:
    made = await serving(async_daytona, 3000)
    yield made
    await made.delete()


async def test_a_server_is_seen_by_its_standard_url(
    box: Any, anybody: aiohttp.ClientSession, engine: IsolatedEngine
) -> None:
    link = await box.get_preview_link(3000)
    for url in (
        link.url,
        f"http://3000-{box.id}.localhost:{urlsplit(link.url).port}/",
        by_path(link.url, box.id, 3000),
    ):
        async with anybody.get(url) as answer:
            assert answer.status == 401 and (await answer.json())["source"] == "DAYTONA_PROXY"
        headers = {
            "X-Daytona-Preview-Token": link.token,
            "X-Daytona-Skip-Preview-Warning": "true",
            "X-Mine": "1",
        }
        async with anybody.post(url + "a%2Fb/c?x=%20&y", data=b"\xff\x00", headers=headers) as answer:
            seen = await answer.json()
            assert (answer.status, answer.headers["X-Theirs"]) == (200, "kept")
        assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/a%2Fb/c?x=%20&y", "\xff\x00")
        names = dict(seen["headers"])
        assert names["x-mine"] == "1" and not [name for name in names if name.startswith("x-daytona")]
        async with anybody.get(url, headers={"Authorization": f"Bearer {engine.key}"}) as answer:
            assert answer.status == 200 and engine.key not in await answer.text()


async def test_a_signed_url_is_its_own_proof_until_it_expires_or_is_taken_back(
    box: Any, anybody: aiohttp.ClientSession
) -> None:
    signed = await box.create_signed_preview_url(3000, expires_in_seconds=3600)
    async with anybody.get(signed.url + "x") as answer:
        assert answer.status == 200
    async with anybody.get(by_path(signed.url, signed.token, 3000)) as answer:
        assert answer.status == 200
    # Not for another port, not in place of a standard token, nor the other way round.
    async with anybody.get(signed.url.replace("//3000-", "//3001-")) as answer:
        assert answer.status == 401
    link = await box.get_preview_link(3000)
    standard = f"http://3000-{box.id}.localhost:{urlsplit(signed.url).port}/"
    async with anybody.get(standard, headers={"X-Daytona-Preview-Token": signed.token}) as answer:
        assert answer.status == 401
    async with anybody.get(signed.url.replace(signed.token, link.token)) as answer:
        assert answer.status == 404
    short = await box.create_signed_preview_url(3000, expires_in_seconds=1)
    async with anybody.get(short.url) as answer:
        assert answer.status == 200
    await asyncio.sleep(1.1)
    async with anybody.get(short.url) as answer:
        assert answer.status == 404
    with pytest.raises(DaytonaNotFoundError):
        await box.expire_signed_preview_url(3001, signed.token)
    await box.expire_signed_preview_url(3000, signed.token)
    async with anybody.get(signed.url) as answer:
        assert answer.status == 404
    for port, seconds in ((0, 60), (70_000, 60), (3000, 86_401), (3000, -1)):
        with pytest.raises(DaytonaError):
            await box.create_signed_preview_url(port, expires_in_seconds=seconds)


async def test_a_query_parameter_becomes_a_cookie_and_neither_goes_inside(
    box: Any, anybody: aiohttp.ClientSession
) -> None:
    link = await box.get_preview_link(3000)
    url = f"http://3000-{box.id}.localhost:{urlsplit(link.url).port}/page?a=1&DAYTONA_SANDBOX_AUTH_KEY={link.token}&b=2"
    async with anybody.get(url) as answer:
        seen = await answer.json()
        cookies = answer.headers.getall("Set-Cookie")
    assert seen["path"] == "/page?a=1&b=2"
    ours = next(cookie for cookie in cookies if cookie.startswith("daytona-sandbox-auth="))
    assert "HttpOnly" in ours and "SameSite=Lax" in ours and any(c.startswith("theirs=") for c in cookies)
    value = ours.partition(";")[0]
    async with anybody.get(url.partition("?")[0], headers={"Cookie": f"own=2; {value}"}) as answer:
        seen = await answer.json()
    assert answer.status == 200 and dict(seen["headers"])["cookie"] == "own=2"
    # In the path form a cookie proves nothing: it would be the notebook's.
    async with anybody.get(by_path(link.url, box.id, 3000), headers={"Cookie": value}) as answer:
        assert answer.status == 401


async def test_the_path_form_takes_nothing_in_and_lets_nothing_out(
    box: Any, anybody: aiohttp.ClientSession
) -> None:
    signed = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    sent = {
        "Cookie": "_xsrf=secret",
        "Authorization": "token secret",
        "X-XSRFToken": "secret",
        "Proxy-X": "secret",
    }
    async with anybody.get(by_path(signed.url, signed.token, 3000) + "x", headers=sent) as answer:
        text, headers = await answer.text(), answer.headers
    assert "secret" not in text and headers["X-Theirs"] == "kept"
    assert not {"Set-Cookie", "Clear-Site-Data", "Service-Worker-Allowed", "NEL", "Report-To"} & set(headers)
    assert "sandbox allow-scripts" in headers["Content-Security-Policy"]
    assert "allow-same-origin" not in headers["Content-Security-Policy"]
    assert dict(json.loads(text)["headers"])["x-forwarded-prefix"] == f"/p/{signed.token}/3000"
    # The control: by its own host name, which shares nothing with the notebook, all of it passes.
    async with anybody.get(signed.url + "x", headers=sent) as answer:
        assert "secret" in await answer.text() and "Set-Cookie" in answer.headers
    # Behind a hub the Host is the hub's; a token in the path is proof, a sandbox's id is none.
    hub = {"Host": "hub.example", "X-Forwarded-Host": "lab.example", "X-Forwarded-Proto": "https"}
    async with anybody.get(by_path(signed.url, signed.token, 3000), headers=hub) as answer:
        inside = dict((await answer.json())["headers"])
        assert answer.status == 200
    assert (inside["x-forwarded-host"], inside["x-forwarded-proto"]) == ("lab.example", "https")
    # Where the Host is the preview's own, nobody else's word for it goes inside.
    async with anybody.get(signed.url, headers={"X-Forwarded-Host": "evil.example"}) as answer:
        assert dict((await answer.json())["headers"])["x-forwarded-host"] == urlsplit(signed.url).netloc
    await box.set_public(True)
    async with anybody.get(by_path(signed.url, box.id, 3000), headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def test_public_previews_need_no_proof_but_reserved_ports_do(
    box: Any, async_daytona: AsyncDaytona, anybody: aiohttp.ClientSession
) -> None:
    await box.set_public(True)
    signed = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    port = urlsplit(signed.url).port
    async with anybody.get(f"http://3000-{box.id}.localhost:{port}/") as answer:
        assert answer.status == 200
    for reserved in (2280, 22222, 33333):
        async with anybody.get(f"http://{reserved}-{box.id}.localhost:{port}/") as answer:
            assert answer.status == 401
    await box.set_public(False)
    async with anybody.get(f"http://3000-{box.id}.localhost:{port}/") as answer:
        assert answer.status == 401


async def test_answers_come_as_they_are_made(box: Any, anybody: aiohttp.ClientSession) -> None:
    url = (await box.create_signed_preview_url(3000, expires_in_seconds=60)).url
    times = []
    async with anybody.get(url + "stream") as answer:
        async for _ in answer.content:
            times.append(time.monotonic())
    assert len(times) == 3 and times[-1] - times[0] > 0.4
    async with anybody.get(url + "big") as answer:
        assert await answer.read() == bytes(range(256)) * 40_000
    async with anybody.post(url, data=b"x" * 5_000_000) as answer:
        assert len((await answer.json())["body"]) == 5_000_000
    async with anybody.head(url + "big") as answer:
        assert answer.status == 200
    with pytest.raises(aiohttp.ClientError):
        async with anybody.get(url + "broken") as answer:
            await answer.read()
    # A redirect is the client's business; the engine follows none.
    async with anybody.get(url + "moved", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1:1/secret")


async def test_websockets_pass_both_ways(box: Any, anybody: aiohttp.ClientSession) -> None:
    url = (await box.create_signed_preview_url(3000, expires_in_seconds=60)).url
    async with anybody.ws_connect(url + "talk", protocols=("chat", "x"), max_msg_size=0) as ws:
        assert await ws.receive_str() == "hello chat" and ws.protocol == "chat"
        await ws.send_str("text é")
        assert await ws.receive_str() == "TEXT É"
        await ws.send_bytes(bytes(range(256)) * 4000)
        assert await ws.receive_bytes() == (bytes(range(256)) * 4000)[::-1]
        await ws.send_str("close")
        message = await ws.receive()
        assert message.type == aiohttp.WSMsgType.CLOSE and message.data == 4321


async def test_signing_and_taking_back_at_once_lose_nothing(box: Any, anybody: aiohttp.ClientSession) -> None:
    first = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    _, *made = await asyncio.gather(
        box.expire_signed_preview_url(3000, first.token),
        *(box.create_signed_preview_url(3000, expires_in_seconds=60) for _ in range(10)),
    )
    async with anybody.get(first.url) as answer:
        assert answer.status == 404
    for signed in made:
        async with anybody.get(signed.url) as answer:
            assert answer.status == 200


async def test_clients_that_leave_hold_nothing(
    box: Any, anybody: aiohttp.ClientSession, engine: IsolatedEngine
) -> None:
    url = (await box.create_signed_preview_url(3000, expires_in_seconds=60)).url
    descriptors = Path(f"/proc/{engine.pid}/fd")
    async with anybody.get(url) as answer:
        assert answer.status == 200
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        with pytest.raises(asyncio.TimeoutError):
            async with anybody.get(url + "silent", timeout=aiohttp.ClientTimeout(total=0.2)):
                pass
    for _ in range(200):
        if len(list(descriptors.iterdir())) <= before + 4:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("connections into the sandbox stay open")


async def test_bodies_pass_as_they_are(box: Any, anybody: aiohttp.ClientSession) -> None:
    url = (await box.create_signed_preview_url(3000, expires_in_seconds=60)).url
    packed = gzip.compress(b"hello " * 1000)
    async with anybody.post(url + "length", data=packed, headers={"Content-Encoding": "gzip"}) as answer:
        assert (await answer.json()) == {"length": len(packed), "encoding": "gzip"}


async def test_tokens_are_in_no_log(box: Any, anybody: aiohttp.ClientSession, engine: IsolatedEngine) -> None:
    signed = await box.create_signed_preview_url(3999, expires_in_seconds=60)
    async with anybody.get(by_path(signed.url, signed.token, 3999) + "x") as answer:
        assert answer.status == 502
    with pytest.raises(DaytonaNotFoundError):
        await box.expire_signed_preview_url(3000, signed.token)
    said = (engine.state / "engine.log").read_text()
    assert signed.token not in said and "/p/***/3999/x" in said


async def test_what_is_not_there_is_said(box: Any, anybody: aiohttp.ClientSession) -> None:
    signed = await box.create_signed_preview_url(3999, expires_in_seconds=60)
    async with anybody.get(signed.url) as answer:
        assert answer.status == 502
        assert (await answer.json())["message"] == "nothing in the sandbox listens on port 3999"
    async with anybody.get(signed.url, headers={"Accept": "text/html"}) as answer:
        assert answer.status == 502 and "<h1>502</h1>" in await answer.text()
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    port = urlsplit(signed.url).port
    for url, status in (
        (f"http://127.0.0.1:{port}/", 404),
        (f"http://127.0.0.1:{port}/api/sandbox", 404),
        (f"http://127.0.0.1:{port}/toolbox/{box.id}/version", 404),
        (f"http://3000-{'a' * 26}.localhost:{port}/", 404),
        (f"http://0-{box.id}.localhost:{port}/", 400),
        (f"http://70000-{box.id}.localhost:{port}/", 400),
        (f"http://127.0.0.1:{port}/p/../api/3000/", 404),
    ):
        async with anybody.get(url) as answer:
            assert answer.status == status, url
    stopped = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    await box.stop()
    async with anybody.get(stopped.url) as answer:
        assert answer.status == 400 and "not started" in await answer.text()
    await box.start()
    # The server has ended with the sandbox; the address is good as before, its token was made anew.
    async with anybody.get(stopped.url) as answer:
        assert answer.status == 502


async def test_a_standard_token_ends_with_the_sandboxs_run(
    async_daytona: AsyncDaytona, anybody: aiohttp.ClientSession
) -> None:
    box = await serving(async_daytona, 3000)
    old = await box.get_preview_link(3000)
    await box.stop()
    await box.start()
    new = await box.get_preview_link(3000)
    assert new.token != old.token
    async with anybody.get(new.url, headers={"X-Daytona-Preview-Token": old.token}) as answer:
        assert answer.status == 401
    async with anybody.get(new.url, headers={"X-Daytona-Preview-Token": new.token}) as answer:
        assert answer.status == 502
    await box.delete()


async def test_one_sandbox_is_not_another(
    async_daytona: AsyncDaytona, anybody: aiohttp.ClientSession
) -> None:
    one, two = await serving(async_daytona, 3000), await async_daytona.create()
    link = await one.get_preview_link(3000)
    port = urlsplit(link.url).port
    async with anybody.get(
        f"http://3000-{two.id}.localhost:{port}/", headers={"X-Daytona-Preview-Token": link.token}
    ) as answer:
        assert answer.status == 401
    other = await two.create_signed_preview_url(3000, expires_in_seconds=60)
    async with anybody.get(other.url) as answer:
        assert answer.status == 502
    await one.delete()
    await two.delete()


async def test_ports_of_this_machine_are_not_reached(box: Any, anybody: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        signed = await box.create_signed_preview_url(port, expires_in_seconds=60)
        async with anybody.get(signed.url) as answer:
            assert answer.status == 502
        mine.settimeout(0.2)
        with pytest.raises(TimeoutError):
            mine.accept()


async def test_only_what_is_asked_keeps_a_sandbox_awake(box: Any, anybody: aiohttp.ClientSession) -> None:
    signed = await box.create_signed_preview_url(3000, expires_in_seconds=60)

    async def last() -> str:
        await box.refresh_data()
        return str(box.last_activity_at)

    before = await last()
    async with anybody.get(signed.url, headers={"X-Daytona-Skip-Last-Activity-Update": "true"}) as answer:
        assert answer.status == 200
    assert await last() == before
    async with anybody.get(signed.url) as answer:
        assert answer.status == 200
    assert await last() > before


def test_the_port_is_the_same_on_both_loopbacks() -> None:
    taken = listen(0)
    port = taken[0].getsockname()[1]
    assert {sock.getsockname()[1] for sock in taken} == {port}
    families = {sock.family for sock in taken}
    again = listen(port)
    assert again[0].getsockname()[1] != port
    for sock in (*taken, *again):
        sock.close()
    if len(families) == 2:
        # Somebody else has the port on ::1 only: another one is chosen.
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            theirs = other.getsockname()[1]
            found = listen(theirs)
            assert found[0].getsockname()[1] != theirs
            for sock in found:
                sock.close()


def test_signed_urls_outlive_the_engine(fresh_engine: IsolatedEngine) -> None:
    from daytona import Daytona

    fresh_engine.client_env()
    client = Daytona(fresh_engine.config())
    sandbox = client.create()
    signed = sandbox.create_signed_preview_url(3000, expires_in_seconds=3600)
    gone = sandbox.create_signed_preview_url(3000, expires_in_seconds=1)
    fresh_engine.kill()
    fresh_engine.client_env()
    client = Daytona(fresh_engine.config())
    client.get(sandbox.id).start()

    async def statuses() -> list[int]:
        async with visitor() as session:
            found = []
            for url in (signed.url, gone.url):
                async with session.get(url) as answer:
                    found.append(answer.status)
            return found

    time.sleep(1)
    assert asyncio.run(statuses()) == [502, 404]


async def test_whoever_knows_a_token_is_greeted_and_nobody_else(
    box: Any, anybody: aiohttp.ClientSession
) -> None:
    signed = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    where = by_path(signed.url, signed.token, 3000).removesuffix("/3000/")
    async with anybody.get(where, headers={"Origin": "http://notebook.example"}) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")
    async with anybody.get(where[:-1] + "~") as answer:
        assert answer.status == 404
    async with anybody.get(where.replace(signed.token, "a" * 26)) as answer:
        assert answer.status == 404 and "X-Daytona-Magics-Error" in answer.headers
    # Under a preview's own name the same path is its server's.
    async with anybody.get(f"{signed.url.rstrip('/')}/p/{signed.token}") as answer:
        assert answer.status == 200 and answer.headers["X-Theirs"] == "kept"
