"""Requests that the SDK's generated clients do not make, so that every served operation has been answered.

Uploads, downloads and WebSockets are opened by the SDK by hand; some operations it does not use at all.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.contract.record import Exchange, exchange
from tests.engine_process import IsolatedEngine


class Raw:
    """A client of one engine that remembers what it heard.

    Attributes:
        sandbox: id of a started sandbox.
        port: one on which programs in it can listen.
    """

    def __init__(self, engine: IsolatedEngine, session: aiohttp.ClientSession) -> None:
        self.engine, self.session = engine, session
        self.heard: list[Exchange] = []
        self.sandbox, self.port = "", 0

    async def ask(self, area: str, operation: str, body: Any = None, **more: Any) -> Exchange:
        """One request.

        Args:
            area: ``api`` or ``toolbox``.
            operation: ``METHOD /path`` below the area.
            body: a JSON value, or bytes; more: what aiohttp's ``request`` takes.
        """
        method, _, path = operation.partition(" ")
        base = f"{self.engine.url}/api" if area == "api" else f"{self.engine.url}/toolbox/{self.sandbox}"
        if body is not None:
            more["data" if isinstance(body, bytes) else "json"] = body
        async with self.session.request(method, base + path, **more) as answer:
            data = await answer.read()
            heard = exchange(method, base + path, answer.status, answer.content_type, data)
        self.heard.append(heard)
        return heard

    async def upgrade(self, path: str) -> None:
        """Open a WebSocket of the toolbox and close it."""
        url = f"{self.engine.url}/toolbox/{self.sandbox}{path}"
        async with self.session.ws_connect(url):
            self.heard.append(exchange("GET", url, 101, "", b""))


@asynccontextmanager
async def raw(engine: IsolatedEngine) -> AsyncIterator[Raw]:
    """A client with a sandbox of its own."""
    headers = {"Authorization": f"Bearer {engine.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        client = Raw(engine, session)
        made = await client.ask("api", "POST /sandbox", {"name": "raw"})
        client.sandbox = made.body["id"]
        said = await client.ask("toolbox", "POST /process/execute", {"command": "echo ${PORT:-8321}"})
        client.port = int(said.body["result"])
        yield client
        await client.ask("api", f"DELETE /sandbox/{client.sandbox}")


def _form(path: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("files[0].path", path)
    form.add_field("files[0].file", b"x", filename="x")
    return form


async def ask_the_rest(client: Raw) -> None:
    """Every served operation that no method of the SDK reaches by a generated client."""
    for path in ("/health", "/config", "/regions", "/shared-regions"):
        await client.ask("api", f"GET {path}")
    forked = await client.ask("api", f"POST /sandbox/{client.sandbox}/fork", {"name": "raw-fork"})
    for path in ("toolbox-proxy-url", "parent", "forks", "ancestors"):
        await client.ask("api", f"GET /sandbox/{forked.body['id']}/{path}")
    await client.ask("api", f"DELETE /sandbox/{forked.body['id']}")
    await client.ask("api", f"POST /sandbox/{client.sandbox}/backup")
    when = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    for kind in ("logs", "traces", "traces/none", "metrics"):
        await client.ask("api", f"GET /sandbox/{client.sandbox}/telemetry/{kind}", params=when)
    await client.ask("toolbox", "GET /version")
    await client.ask("toolbox", "POST /init", {"token": client.engine.key})
    await client.ask("toolbox", "POST /files/bulk-upload", data=_form("up"))
    await client.ask("toolbox", "POST /files/upload-v2?path=up", b"raw")
    await client.ask("toolbox", "POST /files/bulk-download", {"paths": ["up"]})
    await client.ask("toolbox", "GET /files/download?path=up")
    for command in (
        "git init -qb main repo && cd repo && "
        "git -c user.name=a -c user.email=a@b commit -qm one --allow-empty",
        f"python3 -m http.server {client.port} --bind 127.0.0.1 > /dev/null 2>&1 &",
    ):
        done = await client.ask("toolbox", "POST /process/execute", {"command": command})
        assert done.body["exitCode"] == 0, done
    await client.ask("toolbox", "GET /git/history?path=repo")
    await client.ask("toolbox", "GET /port")
    await client.ask("toolbox", f"GET /port/{client.port}/in-use")
    await client.ask("toolbox", "POST /process/pty", {"id": "raw"})
    await client.upgrade("/process/pty/raw/connect")
    await client.upgrade("/process/pty/create-connect?id=raw2&cols=80&rows=24")
    await client.upgrade("/process/interpreter/execute")


def filled(operation: str, sandbox: str) -> str:
    """An operation's template with values in it."""
    values = {
        "sandboxIdOrName": sandbox,
        "sandboxId": sandbox,
        "port": "8321",
        "interval": "10",
        "ttlMinutes": "10",
        "isPublic": "true",
    }
    parts = operation.split("/")
    return "/".join(values.get(p[1:-1], "none") if p.startswith("{") else p for p in parts)


def as_text(heard: Exchange) -> str:
    """An exchange in a failure's message."""
    return f"{heard.area} {heard.operation} -> {heard.status} {json.dumps(heard.body, default=str)[:300]}"
