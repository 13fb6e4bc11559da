"""Terminals that go to a program which runs in the sandbox, instead of a shell."""

from __future__ import annotations

import base64
import json
from typing import Any

import aiohttp
import pytest

from tests.engine.test_pty import EXIT_CONTROL, _socket
from tests.engine_process import IsolatedEngine

OFFER = "X-Daytona-Magics-Hand-Over~"

#: Takes one terminal, says so on it, answers what is typed, and lets go; "keep" keeps it until it is ended.
TAKER = """
import array, os, socket, sys
taker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
taker.bind(sys.argv[1])
print("listening", flush=True)
_, extra, _, _ = taker.recvmsg(1, socket.CMSG_SPACE(8))
terminal, end = array.array("i", extra[0][2])
os.write(terminal, b"taken %d\\n" % os.isatty(terminal))
if sys.argv[2] == "keep":
    print("let go by the other side:", os.read(end, 1), flush=True)
else:
    os.write(terminal, os.read(terminal, 100)[::-1])
"""


def offer(path: str, patience: float = 0) -> str:
    coded = json.dumps({"socket": path, "patience": patience}).encode()
    return OFFER + base64.urlsafe_b64encode(coded).rstrip(b"=").decode()


def path_of(box: Any, session: str) -> str:
    return f"/toolbox/{box.id}/process/pty/create-connect?id={session}&cols=80&rows=24"


async def take(box: Any, name: str, how: str, before: str = "") -> Any:
    """Start a program that takes terminals at ``~/NAME``; returns when it does, or at once."""
    await box.fs.upload_file(TAKER.encode(), "taker.py")
    wait = "" if before else f"; until [ -S ~/{name} ]; do sleep 0.02; done"
    await box.process.exec(f"({before} exec python3 taker.py ~/{name} {how}) > {name}.out 2>&1 & {wait}")


async def shown(ws: aiohttp.ClientWebSocketResponse, until: bytes) -> bytes:
    data = b""
    while until not in data:
        message = await ws.receive(15)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), (data, message)
        data += message.data if message.type is aiohttp.WSMsgType.BINARY else b""
    return data


@pytest.mark.parametrize(("patience", "before"), [(0, ""), (10, "sleep 0.3;")])
async def test_a_program_gets_the_terminal_raw_and_its_end_is_the_session_s(
    engine: IsolatedEngine, box: Any, patience: float, before: str
) -> None:
    await take(box, "taker", "answer", before)
    offered = offer("~/taker", patience)
    async with _socket(engine, path_of(box, "x"), offered, EXIT_CONTROL) as ws:
        assert ws.protocol == offered
        # A terminal that is not raw would end lines with \r\n, and echo what is typed.
        assert await shown(ws, b"\n") == b"taken 1\n"
        await ws.send_bytes(b"\x03ab")
        assert await shown(ws, b"\x03") == b"ba\x03"
        message = await ws.receive(15)
        assert json.loads(message.data) == {"type": "control", "status": "exited", "exitCode": 0}
    assert (await box.process.list_pty_sessions()) == []


async def test_the_session_s_end_is_told_to_the_program(engine: IsolatedEngine, box: Any) -> None:
    await take(box, "taker", "keep")
    async with _socket(engine, path_of(box, "x"), offer("~/taker"), EXIT_CONTROL) as ws:
        await shown(ws, b"taken 1\n")
        await box.process.kill_pty_session("x")
    said = await box.process.exec("until grep let taker.out; do sleep 0.02; done", timeout=10)
    assert said.result == "let go by the other side: b''\n"


async def test_nobody_there_is_a_shell_and_nobody_in_time_is_the_end(
    engine: IsolatedEngine, box: Any
) -> None:
    async with _socket(engine, path_of(box, "x"), offer("~/nobody"), EXIT_CONTROL) as ws:
        assert ws.protocol == EXIT_CONTROL
        await ws.send_bytes(b"echo a-$((1))-shell\n")
        await shown(ws, b"a-1-shell")
    patient = offer("~/nobody", 0.1)
    async with _socket(engine, path_of(box, "y"), patient, EXIT_CONTROL) as ws:
        assert ws.protocol == patient
        texts = [json.loads(m.data) async for m in ws if m.type is aiohttp.WSMsgType.TEXT]
    assert texts[-1] == {"type": "control", "status": "exited", "exitCode": 1}


@pytest.mark.parametrize(
    "offered",
    [OFFER, OFFER + "!", OFFER + "bnVsbA", offer("~/x", -1), offer("~/x", 11), offer("~/x", float("nan"))],
)
async def test_offers_that_make_no_sense_are_refused(engine: IsolatedEngine, box: Any, offered: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with _socket(engine, path_of(box, "x"), offered):
            pass
    assert error.value.status == 400
