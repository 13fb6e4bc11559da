"""Who is let in: every route, REST and WebSocket, with every kind of wrong credentials and foreign names."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from daytona_magics.engine.api.context import Context
from daytona_magics.engine.api.guard import SOCKETIO_PATH, Guard
from daytona_magics.engine.launch.launcher import Launcher
from daytona_magics.engine.life.activity import Activity
from daytona_magics.engine.life.lifecycle import Sandboxes
from daytona_magics.engine.server import build_app
from daytona_magics.engine.store.database import Database
from daytona_magics.engine.store.folder import StateFolder
from tests.engine_process import IsolatedEngine

ERROR_KEYS = {"statusCode", "message", "code", "source", "timestamp", "path", "method"}

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def _routes(tmp_path: Path) -> list[tuple[str, str]]:
    """Every (method, path) the application registers; names in the path stand for themselves."""
    folder = StateFolder(tmp_path, tmp_path, "", False)
    sandboxes = Sandboxes(Database(tmp_path), Launcher(stderr_dir=tmp_path), tmp_path)
    app, _ = build_app(Context(sandboxes, Activity(), folder, "", ""), Guard("key", 1))
    found = []
    for route in app.router.routes():
        resource = route.resource
        assert resource is not None
        path = resource.canonical.replace("{", "").replace("}", "")
        for method in ["GET", "POST", "PUT", "DELETE"] if route.method == "*" else [route.method]:
            found.append((method, path))
    return sorted(set(found))


def _attempts(engine: IsolatedEngine) -> dict[str, dict[str, str]]:
    """What is sent, by the name of what is wrong with it."""
    port, good = engine.record["port"], f"Bearer {engine.key}"
    return {
        "no bearer": {},
        "empty bearer": {"Authorization": "Bearer "},
        "wrong bearer": {"Authorization": "Bearer " + "0" * len(engine.key)},
        "cut bearer": {"Authorization": good[:-1]},
        "other scheme": {"Authorization": f"Basic {engine.key}"},
        "foreign host": {"Authorization": good, "Host": f"evil.com:{port}"},
        "rebound host": {"Authorization": good, "Host": f"127.evil.com:{port}"},
        "host with our name in it": {"Authorization": good, "Host": f"127.0.0.1.evil.com:{port}"},
        "user part in host": {"Authorization": good, "Host": f"127.0.0.1:{port}@evil.com"},
        "other port in host": {"Authorization": good, "Host": "127.0.0.1:1"},
        "no port in host": {"Authorization": good, "Host": "127.0.0.1"},
        "foreign origin": {"Authorization": good, "Origin": "http://evil.com"},
        "rebound origin": {"Authorization": good, "Origin": f"http://127.evil.com:{port}"},
        "null origin": {"Authorization": good, "Origin": "null"},
        "other loopback origin": {"Authorization": good, "Origin": "http://127.0.0.1:8888"},
        "https origin": {"Authorization": good, "Origin": f"https://127.0.0.1:{port}"},
    }


async def test_every_route_refuses_strangers(engine: IsolatedEngine, tmp_path: Path) -> None:
    routes = await _routes(tmp_path)
    assert len(routes) > 35
    routes += [("GET", "/"), ("GET", "/nothing/here"), ("OPTIONS", "/api/sandbox"), ("PATCH", "/api/health")]
    refused = 0
    # A connection of strangers is cut off after some seconds, whatever goes on there.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        for method, path in routes:
            for what, headers in _attempts(engine).items():
                foreign = "host" in what or "origin" in what
                if path == SOCKETIO_PATH and not foreign:
                    continue
                for upgrade in ({}, UPGRADE):
                    answer = await http.request(method, engine.url + path, headers={**headers, **upgrade})
                    async with answer:
                        body = await answer.json() if method != "HEAD" else {}
                        status = 403 if foreign else 401
                        assert answer.status == status, f"{method} {path} with {what}: {answer.status}"
                        if method != "HEAD":
                            assert (body["statusCode"], body["path"], body["method"]) == (
                                status,
                                path,
                                method,
                            )
                            assert body["source"] in ("DAYTONA_API", "DAYTONA_PROXY")
                            assert engine.key not in json.dumps(body)
                        refused += 1
    assert refused > 1000


async def test_the_same_requests_are_let_in_with_the_key(engine: IsolatedEngine, tmp_path: Path) -> None:
    """Positive control: with the key and our own names no route answers 401 or 403."""
    port, good = engine.record["port"], {"Authorization": f"Bearer {engine.key}"}
    async with aiohttp.ClientSession() as http:
        for method, path in await _routes(tmp_path):
            if path == "/api/engine/stop" or method == "HEAD":
                continue
            for more in ({}, {"Host": f"LOCALHOST:{port}", "Origin": f"http://localhost:{port}"}):
                async with http.request(method, engine.url + path, headers={**good, **more}) as answer:
                    assert answer.status not in (401, 403, 500), f"{method} {path}: {answer.status}"
                    assert answer.headers["X-Request-Id"]
                    if answer.status >= 400:
                        body = await answer.json()
                        assert {
                            "statusCode",
                            "message",
                            "code",
                            "source",
                            "timestamp",
                            "path",
                            "method",
                        } <= set(body)


async def _statuses(
    engine: IsolatedEngine, method: str, target: str, *headers: str, body: bytes = b""
) -> list[str]:
    """The status of every answer to one request; ``body`` is sent after the first line of the answer."""
    port = engine.record["port"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {target} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    first = await asyncio.wait_for(reader.readline(), 10)
    writer.write(body)
    answer = first + await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return [line.split()[1] for line in answer.decode().splitlines() if line.startswith("HTTP/1.1 ")]


@pytest.mark.parametrize("expected", ["100-continue", "nonsense"])
async def test_an_expectation_of_a_stranger_is_not_answered(
    engine: IsolatedEngine, tmp_path: Path, expected: str
) -> None:
    port = engine.record["port"]
    routes = [*await _routes(tmp_path), ("OPTIONS", "*"), ("GET", "http://evil.com/"), ("GET", "//")]
    routes += [("GET", "/nothing"), ("PATCH", "/api/health")]
    for method, target in routes:
        foreign = await _statuses(engine, method, target, "Host: evil.com", f"Expect: {expected}")
        assert foreign == ["403"], f"{method} {target}"
        if target != SOCKETIO_PATH:
            own = (f"Host: 127.0.0.1:{port}", f"Expect: {expected}")
            assert await _statuses(engine, method, target, *own) == ["401"], f"{method} {target}"
    # A target without a path is not routed at all: refused, too, but aiohttp itself has the first word.
    proxied = await _statuses(engine, "CONNECT", "evil.com:80", "Host: evil.com", f"Expect: {expected}")
    assert proxied[-1] in ("403", "417")


async def test_an_expectation_with_the_key_is_answered(engine: IsolatedEngine, sandbox: Any) -> None:
    own = (f"Host: 127.0.0.1:{engine.record['port']}", f"Authorization: Bearer {engine.key}")
    body = json.dumps({"command": "echo it came"}).encode()
    target = f"/toolbox/{sandbox.id}/process/execute"
    go_on = (*own, "Expect: 100-continue")
    assert await _statuses(engine, "POST", target, *go_on, body=body) == ["100", "200"]
    assert await _statuses(engine, "POST", target, *own, "Expect: nonsense") == ["417"]
    assert await _statuses(engine, "GET", "/nothing", *go_on) == ["100", "404"]
    assert await _statuses(engine, "OPTIONS", "*", *own) == ["404"]


async def test_request_ids_are_echoed_and_logged(engine: IsolatedEngine) -> None:
    headers = {"Authorization": f"Bearer {engine.key}", "X-Request-Id": "mine-123"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(f"{engine.url}/api/sandbox/none?api_key={engine.key}") as answer:
            assert answer.headers["X-Request-Id"] == "mine-123"
    log = (engine.state / "engine.log").read_text()
    assert any(json.loads(line).get("request") == "mine-123" for line in log.splitlines())
    assert engine.key not in log


async def test_only_loopback_is_listened_on(engine: IsolatedEngine) -> None:
    port = engine.record["port"]
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, hexport = fields[1].partition(":")
            if fields[3] == "0A" and int(hexport, 16) == port:
                listening.add(address)
    assert listening == {"0100007F"}


# -- Socket.IO


def _url(engine: IsolatedEngine) -> str:
    return f"{engine.url.replace('http', 'ws')}{SOCKETIO_PATH}?EIO=4&transport=websocket"


@pytest.mark.parametrize("auth", [None, {}, {"token": ""}, {"token": "your-api-key"}, {"token": None}, ["x"]])
async def test_socketio_refuses_a_wrong_token(engine: IsolatedEngine, auth: Any) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(_url(engine)) as ws:
            assert (await ws.receive_str())[0] == "0"
            await ws.send_str("40" + ("" if auth is None else json.dumps(auth)))
            # "44" is CONNECT_ERROR.
            assert (await ws.receive_str())[:2] == "44"
            begun = time.monotonic()
            while not ws.closed:
                await asyncio.wait_for(ws.receive(), 6)
            assert time.monotonic() - begun < 5


async def test_socketio_cuts_off_who_says_nothing(engine: IsolatedEngine) -> None:
    async with aiohttp.ClientSession() as http:
        begun = time.monotonic()
        async with http.ws_connect(_url(engine)) as ws:
            while not ws.closed:
                await asyncio.wait_for(ws.receive(), 7)
        assert time.monotonic() - begun < 6


async def test_socketio_bounds_the_strangers(engine: IsolatedEngine) -> None:
    opened, refused = [], 0
    async with aiohttp.ClientSession() as http:
        for _ in range(24):
            try:
                opened.append(await http.ws_connect(_url(engine)))
            except aiohttp.WSServerHandshakeError as error:
                assert error.status == 503
                refused += 1
        assert (len(opened), refused) == (16, 8)
        for ws in opened:
            await ws.close()
        # They are forgotten when they leave: a client with the key is let in again.
        client = socketio.AsyncClient(reconnection=False)
        await _connect(client, engine)
        await client.disconnect()


async def test_socketio_is_websocket_only(engine: IsolatedEngine) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{engine.url}{SOCKETIO_PATH}?EIO=4&transport=polling") as answer:
            assert answer.status == 400


async def _connect(client: Any, engine: IsolatedEngine) -> None:
    auth, transports = {"token": engine.key}, ["websocket"]
    await client.connect(engine.url, socketio_path=SOCKETIO_PATH, auth=auth, transports=transports)


async def test_socketio_tells_state_changes(engine: IsolatedEngine, async_daytona: Any) -> None:
    client = socketio.AsyncClient(reconnection=False)
    events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    for name in ("sandbox.created", "sandbox.state.updated"):
        client.on(name, lambda data, name=name: events.put_nowait((name, data)))
    await _connect(client, engine)
    sandbox = await async_daytona.create()
    await sandbox.stop()
    await sandbox.start()
    await sandbox.delete()
    seen = []
    while not seen or seen[-1] != ("destroying", "destroyed"):
        name, data = await asyncio.wait_for(events.get(), 5)
        if name == "sandbox.created":
            assert data["id"] == sandbox.id
            seen.append(("created", data["state"]))
        else:
            assert data["sandbox"]["id"] == sandbox.id
            assert data["sandbox"]["state"] == data["newState"]
            seen.append((data["oldState"], data["newState"]))
    await client.disconnect()
    assert seen == [
        ("created", "creating"),
        ("creating", "started"),
        ("started", "stopping"),
        ("stopping", "stopped"),
        ("stopped", "starting"),
        ("starting", "started"),
        ("started", "destroying"),
        ("destroying", "destroyed"),
    ]


async def test_the_sdk_hears_of_a_stop_by_somebody_else(engine: IsolatedEngine, async_daytona: Any) -> None:
    from daytona import AsyncDaytona

    sandbox = await async_daytona.create()
    async with AsyncDaytona(engine.config()) as other:
        watcher = await other.get(sandbox.id)
        heard = asyncio.Event()
        for _ in range(1000):
            if other._event_dispatcher.is_connected:
                break
            await asyncio.sleep(0.01)
        watcher._state_waiters.append(lambda state: heard.set())
        await sandbox.stop()
        await asyncio.wait_for(heard.wait(), 10)
        assert watcher.state == "stopped"
    await sandbox.delete()


def test_the_guard_alone() -> None:
    guard = Guard("secret", 4711)
    for good in ("127.0.0.1:4711", "localhost:4711", "LocalHost:4711"):
        assert guard.is_own_host(good)
    bad_names = "127.0.0.1|127.0.0.2:4711|localhost.:4711|[::1]:4711|127.0.0.1:4711 | localhost:4711|evil.com"
    worse = "localhost:4711.evil.com|127.0.0.1:4711/|127.evil.com:4711|127.0.0.1:\u0664\u0667\u0661\u0661|"
    for bad in f"{bad_names}|{worse}".split("|"):
        assert not guard.is_own_host(bad), bad
    assert guard.is_key("secret")
    for wrong in ("Secret", "secret ", "", None, 1, ["secret"], "sécret"):
        assert not guard.is_key(wrong)
