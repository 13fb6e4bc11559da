"""A toolbox that lies: the engine ends with a clear error, never hangs, takes nothing it did not ask for."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from daytona_magics.engine.toolbox import client, operation, wire
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError, ToolboxGone

pytestmark = pytest.mark.timeout(30)

HELLO = {"ready": True, "v": 1, "version": "x", "home": "/h", "work_dir": "/h", "shell": "/bin/sh"}


def frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">Ic", len(payload), kind) + payload


def message(value: Any) -> bytes:
    return frame(b"J", json.dumps(value).encode())


class Liar:
    """The far end of a control socket: answers every operation with the same bytes and descriptors."""

    def __init__(self, answer: bytes, make_fds: Callable[[], list[int]] = list) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        self.far.setblocking(False)
        self.toolbox = Toolbox(near)
        self._answer = answer
        self._make_fds = make_fds
        self._near = near

    async def __aenter__(self) -> Toolbox:
        await wire.send_packet(self.far, HELLO)
        await self.toolbox.handshake(5)
        self._task = asyncio.ensure_future(self._serve())
        return self.toolbox

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.far.close()
        self._near.close()

    async def _serve(self) -> None:
        with contextlib.ExitStack() as streams:
            while (packet := await wire.recv_packet(self.far)) is not None:
                stream = streams.enter_context(socket.socket(fileno=packet[1][0]))
                fds = self._make_fds()
                wire.send_fds(stream, self._answer, fds)
                wire.close_fds(fds)


async def outcome(answer: bytes, use: Callable[[Toolbox], Awaitable[Any]], fds: Any = list) -> ToolboxError:
    before = len(os.listdir("/proc/self/fd"))
    async with Liar(answer, fds) as toolbox:
        with pytest.raises(ToolboxError) as caught:
            await asyncio.wait_for(use(toolbox), 10)
    assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor was kept"
    return caught.value


NONSENSE = {
    "huge frame": struct.pack(">Ic", 0xFFFFFFFF, b"J"),
    "unknown type": frame(b"X", b""),
    "not JSON": frame(b"J", b"{"),
    "not UTF-8": frame(b"J", b'{"a": "\xff"}'),
    "no object": message([1]),
    "nested too deep": frame(b"J", b"[" * 100_000),
    "data instead of an answer": frame(b"D", b"x"),
    "error without a text": message({"error": "x"}),
    "error with a forged status": message({"error": {"status": 200, "code": "OK", "message": "fine"}}),
    "error with a forged code": message({"error": {"status": 400, "code": "a\r\nb", "message": "x"}}),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense(answer: bytes) -> None:
    error = await outcome(answer, lambda toolbox: toolbox.file_info("x"))
    assert (error.status, error.code) == (502, "INTERNAL_SERVER_ERROR")
    assert "makes no sense" in error.message


GOOD = {
    **{"name": "x", "path": "/x", "is_dir": False, "size": 1, "mode": "-rw-r--r--", "permissions": "0644"},
    **{"mod_time": "2026-01-01T00:00:00Z", "owner": "a", "group": "a"},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 1),
        ("name", "x" * 100_000),
        ("size", "1"),
        ("size", -1),
        ("size", True),
        ("is_dir", "no"),
        ("path", None),
    ],
)
async def test_wrong_types(key: str, value: Any) -> None:
    error = await outcome(message({"file": {**GOOD, key: value}}), lambda toolbox: toolbox.file_info("x"))
    assert error.status == 502


async def test_lone_surrogates_become_printable() -> None:
    async with Liar(message({"file": {**GOOD, "name": "a\udcff"}})) as toolbox:
        assert (await toolbox.file_info("x")).name == "a\\xff"
    error = await outcome(
        message({"file": {**GOOD, "name": "\ud800"}}), lambda toolbox: toolbox.file_info("x")
    )
    assert error.status == 502


@pytest.mark.parametrize(("key", "length"), [("name", 1 << 10), ("path", 16 << 10)])
async def test_long_names(key: str, length: int) -> None:
    async with Liar(message({"file": {**GOOD, key: "x" * length}})) as toolbox:
        assert len(getattr(await toolbox.file_info("x"), key)) == length
    answer = message({"file": {**GOOD, key: "x" * (length + 1)}})
    assert (await outcome(answer, lambda toolbox: toolbox.file_info("x"))).status == 502


async def test_a_listing_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [message({"files": [{**GOOD, "path": "x" * 1000}] * 20}) for _ in range(5)]
    monkeypatch.setattr(client, "MAX_LISTING", 4 * len(parts[0]))
    error = await outcome(b"".join(parts), lambda toolbox: toolbox.list_files("x"))
    assert (error.status, error.code) == (413, "PAYLOAD_TOO_LARGE") and "MiB" in error.message
    monkeypatch.undo()
    monkeypatch.setattr(client, "MAX_ENTRIES", 99)
    error = await outcome(b"".join(parts), lambda toolbox: toolbox.list_files("x"))
    assert (error.status, error.code) == (413, "PAYLOAD_TOO_LARGE") and "99 entries" in error.message


async def test_a_listing_of_nothing_again_and_again() -> None:
    error = await outcome(message({"files": []}) * 3, lambda toolbox: toolbox.list_files("x"))
    assert error.status == 502


async def test_a_listing_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LISTING_TIMEOUT", 0.3)
    error = await outcome(message({"files": [GOOD]}), lambda toolbox: toolbox.list_files("x"))
    assert (error.status, error.code) == (504, "REQUEST_TIMEOUT")


@pytest.mark.parametrize("payload", [b"{", b"[]", b'{"error": 1}'])
async def test_a_descriptor_with_a_message_that_is_none(payload: bytes) -> None:
    near, far = socket.socketpair()

    async def broken_off() -> ToolboxError:
        return ToolboxGone()

    before = len(os.listdir("/proc/self/fd"))
    with far, operation.Operation(wire.Wire(near), broken_off) as running:
        for _ in range(20):
            with open("/dev/null", "rb") as file:
                wire.send_fds(far, frame(b"J", payload), [file.fileno()])
            with pytest.raises(wire.WireError):
                await running.frame()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_flood_of_tiny_frames_lets_others_work() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    try:
        error = await outcome(
            frame(b"D", b"x") * 2000 + frame(b"D", b""), lambda toolbox: toolbox.execute("yes")
        )
    finally:
        task.cancel()
    assert error.status == 502 and "empty" in error.message
    assert turns > 20


@pytest.mark.parametrize("answer", [message({"exit_code": "0"}), message({"exit_code": 10**9}), message({})])
async def test_forged_exit_codes(answer: bytes) -> None:
    assert (await outcome(answer, lambda toolbox: toolbox.execute("true"))).status == 502


async def test_more_bytes_than_the_file_has() -> None:
    async def use(toolbox: Toolbox) -> None:
        async with await toolbox.download("x") as file:
            assert b"".join([chunk async for chunk in file])

    for rest in (frame(b"D", b"too long"), frame(b"E", b""), frame(b"D", b"")):
        assert (await outcome(message({"size": 3}) + rest, use)).status == 502


def _file() -> list[int]:
    return [os.open("/dev/null", os.O_RDWR)]


def _slave() -> list[int]:
    master, slave = os.openpty()
    os.close(master)
    return [slave]


def _masters() -> list[int]:
    pairs = [os.openpty() for _ in range(2)]
    for _, slave in pairs:
        os.close(slave)
    return [master for master, _ in pairs]


@pytest.mark.parametrize("fds", [list, _file, _slave, _masters], ids=["none", "a file", "a slave", "two"])
async def test_only_one_terminal_is_taken(fds: Callable[[], list[int]]) -> None:
    assert (await outcome(message({"pid": 5}), lambda toolbox: toolbox.open_pty(), fds)).status == 502


WANTED = message({"terminal": "wanted"})


@pytest.mark.parametrize(
    ("rest", "fds"),
    [
        (WANTED + WANTED, list),
        (WANTED + message({"pid": -1}), list),
        (WANTED + frame(b"D", b"x"), list),
        (WANTED + message({"error": {"status": 400, "code": "BAD", "message": "no"}}), list),
        # With the first of the messages: a terminal and a wish for one.
        (WANTED + message({"pid": 5}), _file),
        (WANTED, _masters),
    ],
    ids=["twice", "no pid", "data", "an error", "a file with it", "terminals with it"],
)
async def test_a_terminal_that_is_asked_for(rest: bytes, fds: Callable[[], list[int]]) -> None:
    error = await outcome(rest, lambda toolbox: toolbox.open_pty(), fds)
    assert error.status == (400 if b"error" in rest else 502)


async def test_only_the_inner_side_of_a_terminal_is_given() -> None:
    async with Liar(WANTED + message({"pid": 5})) as toolbox:
        streams: list[socket.socket] = []
        served = wire.send_fds

        def keep(sock: socket.socket, data: bytes, fds: Any = ()) -> int:
            if data == WANTED + message({"pid": 5}):
                streams.append(sock.dup())
            return served(sock, data, fds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "send_fds", keep)
            pty = await toolbox.open_pty()
        (stream,) = streams
        stream.settimeout(5)
        given: list[int] = []
        received = b""
        while b"{}" not in received:
            data, fds = wire.recv_fds(stream, 65536)
            received += data
            given += fds
        (slave,) = given
        assert os.isatty(slave) and not operation.is_pty_master(slave) and operation.is_pty_master(pty.master)
        # Its flags are its own: the engine's side stays as it was.
        os.set_blocking(slave, True)
        with pytest.raises(BlockingIOError):
            pty.read(10)
        stream.close()
        os.close(slave)
        pty.close()


async def test_descriptors_nobody_asked_for() -> None:
    assert (
        await outcome(message({"file": GOOD}), lambda toolbox: toolbox.file_info("x"), _file)
    ).status == 502


async def test_too_many_descriptors() -> None:
    def many() -> list[int]:
        return [os.open("/dev/null", os.O_RDONLY) for _ in range(wire.MAX_FDS + 20)]

    assert (
        await outcome(message({"file": GOOD}), lambda toolbox: toolbox.file_info("x"), many)
    ).status == 502


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation.Operation.frame, "__defaults__", (0.2,))
    monkeypatch.setattr(operation.Operation.answer, "__defaults__", (0.2,))
    assert (await outcome(b"", lambda toolbox: toolbox.file_info("x"))).status == 504


@pytest.mark.parametrize(
    "hello", [{"ready": 1}, {**HELLO, "v": 99}, {**HELLO, "home": 1}, {**HELLO, "v": "1"}]
)
async def test_a_greeting_that_is_none(hello: dict[str, Any]) -> None:
    liar = Liar(b"")
    await wire.send_packet(liar.far, hello)
    with pytest.raises(ToolboxError):
        await liar.toolbox.handshake(5)
    liar.far.close()
    liar._near.close()


async def test_hanging_up_instead_of_a_greeting() -> None:
    liar = Liar(b"")
    liar.far.close()
    with pytest.raises(ToolboxGone):
        await liar.toolbox.handshake(5)
    liar._near.close()
