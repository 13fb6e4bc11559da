"""A toolbox that lies about sessions, interpreters, searches, ports, git and charts, without end or order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest

from daytona_magics.engine.api import charts, ports
from daytona_magics.engine.toolbox import (
    client,
    git_client,
    interpreter_client,
    operation,
    searching_client,
    session_client,
    wire,
)
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError
from daytona_magics.engine.toolbox.spool import ERR, OUT

pytestmark = pytest.mark.timeout(60)


def frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">Ic", len(payload), kind) + payload


def message(value: Any) -> bytes:
    return frame(b"J", json.dumps(value).encode())


@contextlib.asynccontextmanager
async def liar(answer: Iterable[bytes], forever: bytes = b"") -> AsyncIterator[Toolbox]:
    """A toolbox that answers everything with `answer` and then with `forever` until it is hung up on."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    loop = asyncio.get_running_loop()

    async def say(stream: socket.socket) -> None:
        stream.setblocking(False)
        with contextlib.suppress(OSError):
            for part in answer:
                await loop.sock_sendall(stream, part)
            while forever:
                await loop.sock_sendall(stream, forever)
            await asyncio.sleep(3600)

    async def serve() -> None:
        streams: list[tuple[socket.socket, asyncio.Task[None]]] = []
        try:
            while (packet := await wire.recv_packet(far)) is not None:
                stream = socket.socket(fileno=packet[1][0])
                streams.append((stream, asyncio.ensure_future(say(stream))))
        finally:
            for stream, task in streams:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                stream.close()

    task = asyncio.ensure_future(serve())
    try:
        yield Toolbox(near)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        near.close()
        far.close()


async def everything(log: Any) -> list[tuple[int, bytes]]:
    return [piece async for piece in log]


async def run_code(toolbox: Toolbox) -> Any:
    run = await interpreter_client.execute(toolbox, "1", context="default", envs={}, timeout=None)
    await everything(run)
    return run


async def read_log(toolbox: Toolbox) -> Any:
    return await everything(await session_client.log(toolbox, "s", "c", follow=False))


async def run_command(toolbox: Toolbox) -> Any:
    return await session_client.execute(toolbox, "s", "true", wait=True, echo=False)


Use = Callable[[Toolbox], Awaitable[Any]]
FAMILIES: dict[str, Use] = {
    "sessions": session_client.listing,
    "session's command": run_command,
    "session's log": read_log,
    "contexts": interpreter_client.listing,
    "new context": lambda toolbox: interpreter_client.create(toolbox, None),
    "code": run_code,
    "ports": ports.listening,
    "find": lambda toolbox: searching_client.find(toolbox, ".", "x"),
    "search": lambda toolbox: searching_client.search(toolbox, ".", "x"),
    "replace": lambda toolbox: searching_client.replace(toolbox, ["x"], "x", "y"),
    "git status": lambda toolbox: git_client.git(toolbox, "status", path="x"),
    "git history": lambda toolbox: git_client.git(toolbox, "history", path="x"),
    "git add": lambda toolbox: git_client.git(toolbox, "add", path="x", files=["a"]),
}

NONSENSE = {
    "a huge frame": struct.pack(">Ic", 0xFFFFFFFF, b"J"),
    "an unknown frame": frame(b"X", b"x"),
    "no JSON": frame(b"J", b"{"),
    "a list": message([1]),
    "nested": frame(b"J", b"[" * 100_000),
    "empty data": frame(b"D", b""),
    "data of no stream": frame(b"D", b"\x07hello"),
    "a forged error": message({"error": {"status": 200, "code": "OK", "message": "fine"}}),
    "an error with line breaks": message({"error": {"status": 400, "code": "a\r\nb", "message": "x"}}),
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_nonsense_is_an_error_and_not_an_answer(family: str) -> None:
    for what, answer in NONSENSE.items():
        async with liar([answer]) as toolbox:
            with pytest.raises(ToolboxError) as caught:
                await asyncio.wait_for(FAMILIES[family](toolbox), 20)
        assert caught.value.status == 502, (what, caught.value)
        assert "makes no sense" in caught.value.message


FORGED: list[tuple[str, Any]] = [
    ("sessions", {"command": {"id": "x", "command": "y"}}),  # of no session
    ("sessions", {"session": 5}),
    ("session's command", {"id": 7}),
    ("session's command", {"id": "x" * 1000}),
    ("contexts", {"contexts": {"a": 1}}),
    ("contexts", {"contexts": [{"id": "a", "cwd": "/", "created": "now", "active": True}]}),
    ("contexts", {"contexts": [{"id": "a", "cwd": "/", "created": float("inf"), "active": True}]}),
    ("new context", {"context": {"id": "a", "cwd": "/", "created": 1.0, "active": "yes"}}),
    ("code", {"outcome": "perfect"}),
    ("code", {"outcome": "error", "name": 1, "value": "", "traceback": ""}),
    ("code", {"outcome": "ended", "message": "m" * 2000}),
    ("session's log", {"dropped": -1, "lost": 0}),
    ("ports", {"ports": [0]}),
    ("ports", {"ports": [80, "443"]}),
    ("ports", {"ports": [True]}),
    ("ports", {"ports": 80}),
    ("find", {"results": [["f", "1", "text"]]}),
    ("find", {"results": [["f", 1]]}),
    ("find", {"results": []}),
    ("search", {"results": [{"path": "x"}]}),
    ("search", {"results": "x"}),
    ("replace", {"results": [["f"]]}),
    ("git status", {"entries": [{"name": "n"}]}),
    ("git status", {"entries": [1]}),
    ("git history", {"entries": [{"hash": "no"}]}),
    ("git add", {"entries": [{"name": "n"}]}),  # not a list's operation
]


@pytest.mark.parametrize(("family", "answer"), FORGED)
async def test_forged_answers(family: str, answer: Any) -> None:
    async with liar([message(answer)]) as toolbox:
        with pytest.raises(ToolboxError) as caught:
            await asyncio.wait_for(FAMILIES[family](toolbox), 20)
    assert caught.value.status == 502


#: Parts of long answers that are fine each, and made to cost much more memory than bytes.
_BALLAST = {"ballast": [[] for _ in range(5_000)]}
_FILE = {"name": "n", "extra": "", "staging": "Added", "worktree": "Modified"}
ENDLESS = {
    "sessions": message({"session": "s", **_BALLAST}),
    "find": message({"results": [["f", 1, "x"]] * 100, **_BALLAST}),
    "search": message({"results": ["f"] * 100, **_BALLAST}),
    "replace": message({"results": [["f", ""]] * 100, **_BALLAST}),
    "git status": message({"entries": [{**_FILE, **_BALLAST}]}),
}


@pytest.mark.parametrize("family", ENDLESS)
async def test_an_endless_answer_takes_little_memory_and_ends(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client, session_client, git_client):
        monkeypatch.setattr(module, "MAX_LISTING", 512 << 10)
    monkeypatch.setattr(searching_client, "MAX_BYTES", 64 << 10)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    tracemalloc.start()
    try:
        async with liar([], ENDLESS[family]) as toolbox:
            with pytest.raises(ToolboxError) as caught:
                await asyncio.wait_for(FAMILIES[family](toolbox), 40)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        beside.cancel()
    assert caught.value.status in (413, 502)
    # Of the megabyte of such parts that is read, 20 MiB of lists would be kept if they were.
    assert peak < 10 << 20, f"{peak >> 20} MiB"
    assert turns > 20


async def test_keeping_what_was_not_asked_for_would_cost_that_memory() -> None:
    """Positive control: a megabyte of such parts takes twenty when they are kept as they are read."""
    tracemalloc.start()
    kept = [json.loads(ENDLESS["git status"][5:]) for _ in range(66)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == 66 and peak > 15 << 20


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("code", "session's command")])
async def test_silence_ends(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts as long as the user wants is left out: a command, and code."""
    monkeypatch.setattr(operation.Operation.frame, "__defaults__", (0.2,))
    monkeypatch.setattr(operation.Operation.answer, "__defaults__", (0.2,))
    monkeypatch.setattr(session_client, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(searching_client, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(git_client, "LOCAL_LIMIT", 0.2)
    async with liar([]) as toolbox:
        with pytest.raises(ToolboxError) as caught:
            await asyncio.wait_for(FAMILIES[family](toolbox), 20)
    assert caught.value.status == 504


async def test_results_that_trickle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching_client, "TOTAL_SECONDS", 0.3)

    async with liar([message({"results": ["f"]})]) as toolbox:
        with pytest.raises(ToolboxError) as caught:
            await asyncio.wait_for(searching_client.search(toolbox, ".", "x"), 20)
    assert caught.value.status == 504


async def test_out_of_order() -> None:
    """Output after the end is never read; an end of data is no end of an answer."""
    end = message({"outcome": "ok"})
    async with liar([frame(b"D", bytes([OUT]) + b"a"), end, frame(b"D", bytes([ERR]) + b"late")]) as toolbox:
        run = await interpreter_client.execute(toolbox, "1", context="default", envs={}, timeout=1)
        assert await everything(run) == [(OUT, b"a")] and run.outcome == "ok"
    async with liar([frame(b"E", b""), message({"ports": [1]})]) as toolbox:
        with pytest.raises(ToolboxError):
            await ports.listening(toolbox)
    async with liar([message({"id": "1"}), message({"id": "2"})]) as toolbox:
        with pytest.raises(ToolboxError):
            await run_command(toolbox)


def test_charts_made_to_fill_the_memory() -> None:
    points = "[" + ",".join(["[1.5,2.5]"] * 190_000) + "]"
    line = f'm:{{"type": "chart", "value": {{"elements": [{{"points": {points}}}]}}}}\n'.encode()
    tracemalloc.start()
    rest, found = charts.split(b"before\n" + line * 5 + b"after\n", "m:")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert rest == b"before\nafter\n"
    assert 1 <= len(found) < 4, "as many as a million values are"
    assert kept < 150 << 20
