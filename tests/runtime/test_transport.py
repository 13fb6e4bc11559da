"""The PTY is reached exactly as the SDK reaches it, and the key goes nowhere else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from daytona import AsyncDaytona, DaytonaConfig
from daytona._async.process import AsyncProcess
from daytona.common.pty import PtySize
from daytona.internal.toolbox_api_client_proxy import ToolboxApiClientProxy
from daytona_toolbox_api_client_async import ProcessApi

from daytona_magics.runtime import transport
from daytona_magics.runtime.transport import PtyAddress, PtyError, PtySocket, is_loopback, subprotocols

from .local_toolbox import KEY, LocalSandbox, LocalToolbox

ENVS = {"ZDOTDIR": "/empty", "ENV": "ünï"}


class Recorder:
    """Stands in for the SDK's WebSocket: keeps what it would be opened with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], list[str]]] = []

    async def open_ws(self, url: str, headers: dict[str, str], offered: list[str] | None = None) -> Any:
        self.calls.append((url, dict(headers), list(offered or [])))
        raise ConnectionError("recorded")


@pytest.fixture
async def sdk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[AsyncProcess, Recorder]]:
    daytona = AsyncDaytona(DaytonaConfig(api_key=KEY, api_url="https://api.example.com/api", target="us"))
    client = ToolboxApiClientProxy(
        cast(Any, daytona)._toolbox_api_client, "sb-1", "https://proxy.example.com/toolbox"
    )
    process = AsyncProcess("python", ProcessApi(cast(Any, client)))
    recorder = Recorder()
    monkeypatch.setattr(process, "_open_ws", recorder.open_ws)
    yield process, recorder
    await daytona.close()


def ours() -> PtyAddress:
    sandbox = SimpleNamespace(id="sb-1", toolbox_proxy_url="https://proxy.example.com/toolbox")
    return PtyAddress.of(cast(Any, sandbox), KEY)


def parts(url: str) -> tuple[str, str, str, list[tuple[str, str]]]:
    split = urlsplit(url)
    return split.scheme, split.netloc, split.path, parse_qsl(split.query)


async def test_create_connect_is_the_sdks_call(sdk: tuple[AsyncProcess, Recorder]) -> None:
    process, recorder = sdk
    size = PtySize(rows=transport.ROWS, cols=transport.COLS)
    with pytest.raises(Exception, match="recorded"):
        await process.create_pty_session("s 1", print, envs=ENVS, pty_size=size)
    url, headers, offered = recorder.calls[0]
    assert parts(ours().create_connect("s 1")) == parts(url)
    assert dict(ours().headers) == headers
    assert subprotocols(ENVS) == offered


async def test_connect_is_the_sdks_call(sdk: tuple[AsyncProcess, Recorder]) -> None:
    process, recorder = sdk
    with pytest.raises(Exception, match="recorded"):
        await process.connect_pty_session("s 1", print)
    url, headers, offered = recorder.calls[0]
    assert parts(ours().connect("s 1")) == parts(url)
    assert dict(ours().headers) == headers
    assert subprotocols(None) == offered


async def test_creating_in_two_steps_is_the_sdks_call(sdk: tuple[AsyncProcess, Recorder]) -> None:
    process, _ = sdk
    made = cast(Any, process)._api_client._create_pty_session_serialize(None, None, None, None, None)
    assert (made[0], made[1]) == ("POST", ours().create)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:80/x", True),
        ("http://127.8.9.1", True),
        ("http://localhost:3", True),
        ("https://a.localhost", True),
        ("http://[::1]:3", True),
        ("https://proxy.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback(url: str, local: bool) -> None:
    assert is_loopback(url) is local


async def test_no_proxy_sees_the_key_of_a_loopback_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(str(request.headers))
        return web.Response(status=502)

    runner = web.ServerRunner(web.Server(proxy))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    trap = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ws_proxy"):
        monkeypatch.setenv(name, trap)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with LocalToolbox(tmp_path) as toolbox:
        address = PtyAddress.of(cast(Any, LocalSandbox(toolbox)), KEY)
        socket = await PtySocket.open(address, "one")
        await socket.close()
    await runner.cleanup()
    assert toolbox.opened == ["one"]
    assert seen == []


async def test_the_key_is_in_the_header_and_in_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with LocalToolbox(tmp_path) as toolbox:
        address = PtyAddress.of(cast(Any, LocalSandbox(toolbox)), KEY)
        toolbox.refuse_with = 503
        with pytest.raises(PtyError) as caught:
            await PtySocket.open(address, "one")
        assert toolbox.headers[0]["Authorization"] == f"Bearer {KEY}"
    refused = caught.value
    assert refused.status == 503
    with pytest.raises(PtyError) as caught:
        await PtySocket.open(address, "two")
    assert caught.value.refused_here
    for error in (refused, caught.value):
        assert error.__context__ is None and error.__cause__ is None
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert KEY not in repr(error)
        assert KEY not in shown.replace(f"KEY = '{KEY}'", "")
    assert KEY not in repr(address)
    assert KEY not in caplog.text


async def test_an_old_platform_is_reached_in_two_steps(tmp_path: Path) -> None:
    async with LocalToolbox(tmp_path) as toolbox:
        toolbox.two_step_only = True
        socket = await PtySocket.open(
            PtyAddress.of(cast(Any, LocalSandbox(toolbox)), KEY), "one", envs={"WORD": "marked"}
        )
        socket.send(b'echo "=$WORD="\n')
        seen = b""
        while b"=marked=" not in seen:
            seen += await socket.receive()
        socket.send(b"exit\n")
        with pytest.raises(PtyError):
            while True:
                await socket.receive()
        assert socket.ended
        await socket.close()


async def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    import asyncio

    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = PtyAddress(f"http://127.0.0.1:{port}/toolbox/x", {"Authorization": f"Bearer {KEY}"})
    with pytest.raises(PtyError, match=r"within 0\.2 s"):
        await PtySocket.open(address, "one", timeout=0.2)
    for writer in held:
        writer.transport.abort()
    server.close()
