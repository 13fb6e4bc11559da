"""Attacks by WebSocket frames, on every WebSocket of the engine: each ends its own connection only."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.api.guard import SOCKETIO_PATH
from tests.engine.attacked import Raw
from tests.engine_process import IsolatedEngine

pytestmark = pytest.mark.timeout(60)

TEXT, BINARY, CLOSE, PING = 0x1, 0x2, 0x8, 0x9


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, bits: int = 0, length: int = -1
) -> bytes:
    """One frame; `length` is what it claims to have, `bits` are the reserved ones (0 to 7)."""
    size = len(payload) if length < 0 else length
    first = (0x80 if fin else 0) | bits << 4 | opcode
    flag = 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", first, flag | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, flag | 126, size)
    else:
        head = struct.pack(">BBQ", first, flag | 127, size)
    if not mask:
        return head + payload
    key = b"\x01\x02\x03\x04"
    return head + key + bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


ATTACKS = {
    "reserved bits": frame(TEXT, b"x", bits=4) + frame(TEXT, b"y", bits=3),
    "an unknown opcode": frame(0x3, b"x"),
    "an unknown control opcode": frame(0xB, b"x"),
    "an oversized control frame": frame(PING, b"x" * 126),
    "a control frame of 64 KiB": frame(PING, b"x" * 65536),
    "a fragmented control frame": frame(PING, b"x", fin=False),
    "4 GiB announced": frame(BINARY, b"x", length=1 << 32),
    "8 EiB announced": frame(BINARY, b"x", length=(1 << 63) - 1),
    "a length with the highest bit": frame(BINARY, b"x", length=(1 << 64) - 1),
    "text that is not UTF-8": frame(TEXT, b"\xff\xfe"),
    "a continuation of nothing": frame(0x0, b"x"),
    "a message within a message": frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
    "a close code that is none": frame(CLOSE, b"\x00\x01"),
    "half a close code": frame(CLOSE, b"\x03"),
    "a close reason that is not UTF-8": frame(CLOSE, b"\x03\xe8\xff"),
    "endless fragments": frame(BINARY, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False) * 400,
}

KINDS = ("terminal", "interpreter", "log", "events")


@pytest.fixture(scope="module")
def log_of_a_command(shared: Any) -> str:
    """Path of a log that can be followed, of a command that goes on."""
    from daytona import SessionExecuteRequest

    shared.process.create_session("frames")
    asked = SessionExecuteRequest(command="sleep 300", run_async=True)
    command = shared.process.execute_session_command("frames", asked).cmd_id
    return f"/toolbox/{shared.id}/process/session/frames/command/{command}/logs?follow=true"


def opened(engine: IsolatedEngine, kind: str, sandbox: str, log: str) -> Raw:
    """A WebSocket whose opening handshake is over, with the key."""
    path = {
        "terminal": f"/toolbox/{sandbox}/process/pty/create-connect?id={os.urandom(6).hex()}",
        "interpreter": f"/toolbox/{sandbox}/process/interpreter/execute",
        "log": log,
        "events": f"{SOCKETIO_PATH}?EIO=4&transport=websocket",
    }[kind]
    raw = Raw(engine)
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    raw.send(raw.head("GET", path, *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
    assert raw.read_head()[0] == 101
    return raw


def memory(engine: IsolatedEngine) -> int:
    """MiB of the engine in memory."""
    pages = int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_break_the_protocol(
    engine: IsolatedEngine, shared: Any, log_of_a_command: str, kind: str
) -> None:
    before = memory(engine)
    for what, frames in ATTACKS.items():
        with opened(engine, kind, shared.id, log_of_a_command) as raw:
            raw.send(frames)
            assert raw.is_closed_within(20), f"{what}: the connection goes on"
    assert memory(engine) - before < 80
    assert shared.process.exec("echo alive").result == "alive\n"
    for line in (engine.state / "engine.log").read_text().splitlines():
        entry = json.loads(line)
        assert entry["level"] not in ("error", "critical"), entry


def test_frames_that_keep_it_are_taken(engine: IsolatedEngine, shared: Any) -> None:
    """Positive control: the same frames without the fault pass, so it is the fault that ends a connection."""
    with opened(engine, "interpreter", shared.id, "") as raw:
        request = json.dumps({"code": "print('taken')"}).encode()
        raw.send(frame(PING, b"x" * 125) + frame(TEXT, request[:5], fin=False) + frame(0, request[5:]))
        said = b""
        while b"taken" not in said:
            data = raw.sock.recv(65536)
            assert data, said
            said += data
        assert b"x" * 125 in said, "the answer to the ping"


def test_a_handshake_that_is_none(engine: IsolatedEngine, shared: Any) -> None:
    path = f"/toolbox/{shared.id}/process/interpreter/execute"
    good = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    good["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    for name, value in (
        ("Sec-WebSocket-Key", "short"),
        ("Sec-WebSocket-Key", "!" * 24),
        ("Sec-WebSocket-Version", "99"),
        ("Sec-WebSocket-Version", ""),
        ("Upgrade", "h2c"),
        ("Connection", "close"),
    ):
        with Raw(engine) as raw:
            raw.send(raw.head("GET", path, *[f"{n}: {v}" for n, v in {**good, name: value}.items()]))
            status, said = raw.read_head()
            assert status in (400, 426), (name, value, said)


def test_frames_without_a_mask_gain_nothing(engine: IsolatedEngine, shared: Any) -> None:
    """The mask keeps browsers from writing what proxies take for HTTP; aiohttp reads frames without it.

    Here they come from somebody who has the key, and mean what they would mean with a mask: that is all.
    """
    request = json.dumps({"code": "print('plain')"}).encode()
    with opened(engine, "interpreter", shared.id, "") as raw:
        raw.send(frame(TEXT, request, mask=False))
        said = b""
        while b"plain" not in said:
            data = raw.sock.recv(65536)
            assert data, said
            said += data
    with Raw(engine) as raw:
        path = f"/toolbox/{shared.id}/process/interpreter/execute"
        raw.send(raw.head("GET", path, "Upgrade: websocket", key=False) + frame(TEXT, request, mask=False))
        assert raw.read_head()[0] in (400, 401)
