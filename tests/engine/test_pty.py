"""Terminals: the SDK's handle, both ways of connecting, several clients, slow clients, limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from daytona.common.errors import DaytonaConflictError, DaytonaNotFoundError
from daytona.common.pty import PtySize

from tests.engine_process import IsolatedEngine

EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"

PROGRAM = """
import asyncio
from daytona import AsyncDaytona
from daytona.common.pty import PtySize

async def main():
    async with AsyncDaytona() as daytona:
        sandbox, size = await daytona.create(), PtySize(rows=24, cols=80)
        seen, ready = bytearray(), asyncio.Event()
        def on_data(data):
            seen.extend(data)
            if b"typed-ok" in seen:
                ready.set()
        pty = await sandbox.process.create_pty_session("mine", on_data=on_data, pty_size=size)
        await pty.send_input("echo typed-$((1))ok; echo typed-'ok'\\n")
        await asyncio.wait_for(ready.wait(), 10)
        await pty.resize(PtySize(rows=33, cols=111))
        await pty.send_input("stty size; exit 7\\n")
        result = await pty.wait()
        print(result.exit_code, b"33 111" in seen)
        await sandbox.delete()

asyncio.run(main())
"""


def test_a_short_program_types_resizes_and_reads_the_exit_code(engine: IsolatedEngine) -> None:
    done = engine.program(PROGRAM, **engine.client_env())
    assert (done.returncode, done.stdout) == (0, "7 True\n"), done.stderr


class Screen:
    """Collects what a terminal shows."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._more = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.data += data
        self._more.set()

    async def shows(self, text: bytes) -> None:
        """Wait until ``text`` was printed; what was there before counts."""
        await asyncio.wait_for(self._shows(text), 15)

    async def _shows(self, text: bytes) -> None:
        start = 0
        while self.data.find(text, start) < 0:
            start = max(0, len(self.data) - len(text))
            self._more.clear()
            await self._more.wait()


@asynccontextmanager
async def _socket(
    engine: IsolatedEngine, path: str, *protocols: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {engine.key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.ws_connect(engine.url.replace("http", "ws") + path, protocols=protocols) as ws:
            yield ws


async def test_two_step_form_with_two_clients(box: Any) -> None:
    one, two = Screen(), Screen()
    envs = {"GREETING": "hé llo"}
    first = await box.process.create_pty_session("shared", on_data=one, cwd="/tmp", envs=envs)
    second = await box.process.connect_pty_session("shared", on_data=two)
    await second.send_input('echo "<$GREETING>" $PWD\n')
    for screen in (one, two):
        await screen.shows("<hé llo> /tmp".encode())
    info = await box.process.get_pty_session_info("shared")
    assert (info.active, info.cwd, info.envs) == (True, "/tmp", envs)
    assert [s.id for s in await box.process.list_pty_sessions()] == ["shared"]
    # A client that leaves takes nothing with it.
    await second.disconnect()
    await first.send_input("echo still $((40 + 2))\n")
    await one.shows(b"still 42")
    await first.kill()
    assert (await first.wait()).exit_code == 137
    assert await box.process.list_pty_sessions() == []
    with pytest.raises(DaytonaNotFoundError):
        await box.process.get_pty_session_info("shared")


def test_the_synchronous_form_is_iterated_waited_for_and_ended(shared: Any) -> None:
    process = shared.process
    short = process.create_pty_session("short")
    short.wait_for_connection()
    short.send_input("printf 'h\\303\\251 %s' llo; exit 5\n")
    assert "hé llo" in b"".join(short).decode(errors="replace") and short.exit_code == 5
    long, seen, ready = process.create_pty_session("long"), bytearray(), threading.Event()

    def heard(data: bytes) -> None:
        seen.extend(data)
        if b"ready" in seen:
            ready.set()

    long.send_input("echo rea''dy; sleep 600\n")
    waiting = threading.Thread(target=long.wait, args=(heard, 60))
    waiting.start()
    assert ready.wait(30), seen
    long.kill()
    waiting.join(30)
    assert not waiting.is_alive() and long.exit_code == 137
    assert process.list_pty_sessions() == []


async def test_an_id_in_use_is_refused_before_the_upgrade(box: Any) -> None:
    first = await box.process.create_pty_session("taken", on_data=Screen())
    with pytest.raises(DaytonaConflictError):
        await box.process.create_pty_session("taken", on_data=Screen())
    await first.kill()
    again = await box.process.create_pty_session("taken", on_data=Screen())
    await again.kill()


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
async def test_exit_codes_without_the_control_subprotocol(
    engine: IsolatedEngine, box: Any, command: str, code: int
) -> None:
    path = f"/toolbox/{box.id}/process/pty/create-connect?id=x&cols=80&rows=24"
    async with _socket(engine, path) as ws:
        assert ws.protocol is None
        assert json.loads((await ws.receive()).data) == {"type": "control", "status": "connected"}
        await ws.send_str(f"{command}\n")
        while (message := await ws.receive()).type == aiohttp.WSMsgType.BINARY:
            assert len(message.data) <= 32768
        assert message.type == aiohttp.WSMsgType.CLOSE
        assert message.data == (1000 if code == 0 else 1011)
        assert json.loads(message.extra)["exitCode"] == code
        assert len(message.extra.encode()) <= 123


async def test_exit_control_message(engine: IsolatedEngine, box: Any) -> None:
    path = f"/toolbox/{box.id}/process/pty/create-connect?id=x"
    async with _socket(engine, path, EXIT_CONTROL, "X-Daytona-Pty-Envs~eyJBIjogIjEifQ") as ws:
        assert ws.protocol == EXIT_CONTROL
        await ws.send_bytes(b"exit $((A + 4))\n")
        texts = [json.loads(m.data) async for m in ws if m.type == aiohttp.WSMsgType.TEXT]
    assert texts == [
        {"type": "control", "status": "connected"},
        {"type": "control", "status": "exited", "exitCode": 5},
    ]


async def test_large_environments_fit(engine: IsolatedEngine, box: Any) -> None:
    screen = Screen()
    pty = await box.process.create_pty_session("env", on_data=screen, envs={"BIG": "x" * 20_000})
    await pty.send_input("echo ${#BIG}\n")
    await screen.shows(b"20000")
    await pty.kill()


async def test_client_frames_over_64_kib_are_refused(engine: IsolatedEngine, box: Any) -> None:
    async with _socket(engine, f"/toolbox/{box.id}/process/pty/create-connect?id=x") as ws:
        await ws.receive()
        await ws.send_bytes(b"x" * 70_000)
        while (message := await ws.receive()).type == aiohttp.WSMsgType.BINARY:
            pass
        assert message.data == 1009


async def test_everything_printed_arrives_in_order(box: Any) -> None:
    """A program that prints fast, and the last words of one that exits at once."""
    screen = Screen()
    pty = await box.process.create_pty_session("fast", on_data=screen)
    await pty.send_input("stty -onlcr; exec seq 1 200000\n")
    assert (await asyncio.wait_for(pty.wait(), 30)).exit_code == 0
    text = bytes(screen.data).decode()
    expected = "".join(f"{n}\n" for n in range(1, 200001))
    assert text.endswith(expected)


async def test_large_input_arrives_whole(box: Any) -> None:
    screen = Screen()
    pty = await box.process.create_pty_session("in", on_data=screen)
    await pty.send_input("stty raw -echo; echo go; head -c 3000000 | sha256sum; exit\n")
    await screen.shows(b"\ngo")
    block = bytes(range(256)) * 128
    body = (block * 92)[:3_000_000]
    for start in range(0, len(body), 32768):
        await pty.send_input(body[start : start + 32768])
    await asyncio.wait_for(pty.wait(), 30)
    assert hashlib.sha256(body).hexdigest().encode() in screen.data


async def test_a_slow_client_is_closed_and_the_program_lives(engine: IsolatedEngine, box: Any) -> None:
    screen = Screen()
    host, port = "127.0.0.1", engine.record["port"]
    pty = await box.process.create_pty_session("slow", on_data=screen)
    # A bare WebSocket client with a small buffer that reads nothing after the upgrade.
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw.connect((host, port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
    writer.write(
        f"GET /toolbox/{box.id}/process/pty/slow/connect HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {engine.key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    await pty.send_input(
        "stty -echo; head -c 12000000 /dev/zero | tr '\\0' x; echo; echo all-$((4 * 10)); cat\n"
    )
    await screen.shows(b"all-40")
    # The quick client has it all; the slow one is told to go away and the program still answers.
    log = (engine.state / "engine.log").read_text()
    assert "reads behind" in log
    data = bytearray()
    while b"slow consumer" not in data[-4096:]:
        chunk = await asyncio.wait_for(reader.read(1 << 16), 15)
        assert chunk, "the connection was cut without a word"
        data += chunk
    assert len(data) < 12_000_000
    writer.close()
    await pty.send_input("answer\n")
    await screen.shows(b"answer")
    await pty.kill()


async def test_stopping_the_sandbox_ends_its_terminals(box: Any) -> None:
    pty = await box.process.create_pty_session("x", on_data=Screen())
    await box.stop()
    result = await asyncio.wait_for(pty.wait(), 10)
    assert (result.exit_code, result.error) == (137, "the sandbox was stopped")


async def test_lazy_start(engine: IsolatedEngine, box: Any) -> None:
    base = f"{engine.url}/toolbox/{box.id}/process/pty"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as http:
        async with http.post(base, json={"id": "lazy", "lazyStart": True, "cols": 90, "rows": 30}) as answer:
            assert (answer.status, await answer.json()) == (201, {"sessionId": "lazy"})
    info = await box.process.get_pty_session_info("lazy")
    assert (info.active, info.lazy_start) == (False, True)
    await box.process.resize_pty_session("lazy", PtySize(rows=31, cols=91))
    screen = Screen()
    pty = await box.process.connect_pty_session("lazy", on_data=screen)
    await pty.send_input("stty size\n")
    await screen.shows(b"31 91")
    await pty.kill()
