"""A login in ~/.netrc goes to nobody, and is in nobody's way; the environment's proxy is used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import test_utils, web
from daytona import AsyncDaytona, DaytonaConfig, DaytonaError

from daytona_magics.git.forge_kinds import forge_of
from daytona_magics.git.logins import Login, Server
from daytona_magics.git.projects import Project
from daytona_magics.runtime import transport
from daytona_magics.runtime.proxies import through
from daytona_magics.runtime.transport import PtyAddress, PtyError, PtySocket
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import previewing
from daytona_magics.sandboxes.endpoint import Endpoint

PAGE = "<title>Hello</title><link href=a.css><p>Some text.</p>"


class House:
    """A server on this machine that keeps what it was told of logins."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self.server = test_utils.TestServer(app)

    async def _answer(self, request: web.Request) -> web.Response:
        # The SDK's events have a greeting of their own.
        if "socket.io" not in request.path:
            self.heard.append(request.headers.get("Authorization"))
        if request.path == "/page":
            return web.Response(text=PAGE, content_type="text/html")
        return web.json_response({"default_branch": "main"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """With a login for it in ~/.netrc; no address counts as this machine's own."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ada password of-this-machine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transport, "is_loopback", lambda url: False)
    monkeypatch.setattr(previewing, "is_loopback", lambda host: False)
    made = House()
    await made.server.start_server()
    async with aiohttp.ClientSession(trust_env=True) as session:
        await session.get(made.url)
        # What aiohttp does when it is left to itself.
        assert made.heard.pop() is not None
        with pytest.raises(ValueError, match="Cannot combine"):
            await session.get(made.url, headers={"Authorization": "Bearer x"})
    yield made
    await made.server.close()


async def test_a_forge_hears_the_login_that_is_meant(house: House) -> None:
    server = Server("http", f"127.0.0.1:{house.server.port}")
    project = Project("github", server, "ada/engine")
    assert await forge_of(project, Login("x", "meant", "the test", server)).default_branch() == "main"
    assert await forge_of(project, None).default_branch() == "main"
    assert house.heard == ["Bearer meant", None]


async def test_a_terminal_is_asked_for_with_its_key(house: House) -> None:
    sandbox = SimpleNamespace(id="sb-1", toolbox_proxy_url=f"{house.url}/toolbox")
    with pytest.raises(PtyError):  # it speaks no web socket
        await PtySocket.open(PtyAddress.of(cast(Any, sandbox), "meant"), "one", existing=True)
    assert house.heard == ["Bearer meant"]


async def test_a_server_in_a_sandbox_hears_none(house: House) -> None:
    class Box:
        async def get_preview_link(self, port: int) -> Any:
            return SimpleNamespace(url=house.url, token="of the sandbox")

    eye = previewing.Eye(cast(Any, Box()), 3000, marked=False)
    seen = await eye.look("/page", files=True)
    await eye.close()
    assert seen.title == "Hello" and house.heard == [None, None]


async def test_the_sdk_sends_its_key(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("cloud", f"{house.url}/api", "the test", "meant")
    client = sdk.open_client(endpoint)
    for call in (client.get("box"), client.volume.list()):
        with suppress(Exception):  # what comes back is no sandbox
            await call
    await client.close()
    assert house.heard == ["Bearer meant"] * 2
    # Also through a proxy, which is asked for an address that is nowhere.
    monkeypatch.setenv("http_proxy", house.url)
    client = sdk.open_client(Endpoint("cloud", "http://daytona.example/api", "the test", "meant"))
    with suppress(Exception):
        await client.get("box")
    await client.close()
    assert house.heard == ["Bearer meant"] * 3
    # The control: left to itself it sends nothing at all.
    plain = AsyncDaytona(DaytonaConfig(api_key="meant", api_url=f"{house.url}/api"))
    with pytest.raises(DaytonaError, match="Cannot combine"):
        await plain.get("box")
    await plain.close()
    assert len(house.heard) == 3


async def test_the_proxy_of_the_environment_is_used(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await through("https://example.org/x") == {}
    monkeypatch.setenv("http_proxy", house.url)
    monkeypatch.setenv("no_proxy", "inside.example.org")
    project = Project("github", Server("http", "git.example.org"), "ada/engine")
    assert await forge_of(project, None).default_branch() == "main"
    assert house.heard == [None]
    assert await through("http://inside.example.org/") == {}
