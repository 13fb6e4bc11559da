"""Attacks over HTTP: packed and huge bodies, huge heads, slow senders, crowds, forged lines, broken JSON.

Each is made on an engine with its guards and, as the control, on one whose guards were taken off.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.api.guard import SOCKETIO_PATH
from tests.engine.attacked import OPEN, PATIENCE, QUICK, Raw, engine_with
from tests.engine_process import IsolatedEngine

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def guarded() -> Iterator[IsolatedEngine]:
    with engine_with(QUICK) as engine:
        yield engine


@pytest.fixture(scope="module")
def unguarded() -> Iterator[IsolatedEngine]:
    with engine_with(OPEN) as engine:
        yield engine


def ask(
    engine: IsolatedEngine, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", engine.record["port"], timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {engine.key}", **named})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def boxes(guarded: IsolatedEngine, unguarded: IsolatedEngine) -> dict[IsolatedEngine, str]:
    """A sandbox in each engine."""
    return {
        engine: json.loads(ask(engine, "POST", "/api/sandbox")[1])["id"] for engine in (guarded, unguarded)
    }


def memory(engine: IsolatedEngine) -> int:
    """MiB of the engine in memory."""
    pages = int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


# -- bodies


def test_a_packed_body_is_not_unpacked(
    guarded: IsolatedEngine, unguarded: IsolatedEngine, boxes: dict[IsolatedEngine, str]
) -> None:
    bomb = gzip.compress(bytes(30_000_000))
    assert len(bomb) < 40_000

    def written(engine: IsolatedEngine) -> tuple[int, int]:
        files = f"/toolbox/{boxes[engine]}/files"
        status, _ = ask(engine, "POST", f"{files}/upload-v2?path=bomb", bomb, Content_Encoding="gzip")
        found = json.loads(ask(engine, "GET", f"{files}/info?path=bomb")[1])
        return status, found.get("size", 0)

    assert written(guarded) == (415, 0)
    assert written(unguarded) == (200, 30_000_000)
    for name in ("br", "zstd", "deflate", "gzip, gzip", "x"):
        status, said = ask(guarded, "POST", "/api/sandbox", b"{}", Content_Encoding=name)
        assert status == 415 and json.loads(said)["code"] == "UNSUPPORTED_MEDIA_TYPE", name


def test_a_huge_body_costs_no_memory(guarded: IsolatedEngine, boxes: dict[IsolatedEngine, str]) -> None:
    target = f"/toolbox/{boxes[guarded]}/process/execute"
    before = memory(guarded)
    for key, expected in ((True, 413), (False, 401)):
        with Raw(guarded) as raw:
            raw.send(raw.head("POST", target, f"Content-Length: {300 << 20}", key=key))
            for _ in range(300):
                raw.send(b" " * (1 << 20))
            assert raw.read_head()[0] in (expected, 0)
        assert memory(guarded) - before < 100, key
    # The same with a length that fits is read.
    body = json.dumps({"command": "echo fits", "x": "y" * (8 << 20)}).encode()
    status, said = ask(guarded, "POST", target, body)
    assert (status, json.loads(said)["result"]) == (200, "fits\n")


DEEP = 200_000
MALFORMED = {
    "nested too deep": b"[" * DEEP,
    "objects nested too deep": b'{"command":' * DEEP,
    "a huge number": b'{"command": "true", "timeout": ' + b"9" * 10_000 + b"}",
    "a number out of range": b'{"command": "true", "timeout": 1e999}',
    "NaN": b'{"command": "true", "timeout": NaN}',
    "Infinity": b'{"command": "true", "timeout": -Infinity}',
    "half a surrogate pair": b'{"command": "echo \\ud800"}',
    "not UTF-8": b'{"command": "echo \xff"}',
    "cut off": b'{"command": "true"',
    "two values": b'{"command": "true"} {}',
    "a comment": b'{"command": "true" /* x */}',
    "no object": b'"true"',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_json(guarded: IsolatedEngine, boxes: dict[IsolatedEngine, str], what: str) -> None:
    target = f"/toolbox/{boxes[guarded]}/process/execute"
    status, said = ask(guarded, "POST", target, MALFORMED[what], Content_Type="application/json")
    answer = json.loads(said)
    assert (status, answer["statusCode"], answer["source"]) == (400, 400, "DAYTONA_DAEMON"), answer


def test_malformed_json_is_what_its_name_says(
    guarded: IsolatedEngine, boxes: dict[IsolatedEngine, str]
) -> None:
    """Positive control: what Python's parser makes of it unasked, and the same body unspoilt."""
    with pytest.raises(RecursionError):
        json.loads(MALFORMED["nested too deep"])
    assert json.loads(MALFORMED["NaN"])["timeout"] != json.loads(MALFORMED["NaN"])["timeout"]
    target = f"/toolbox/{boxes[guarded]}/process/execute"
    # Of two keys the last one counts, for us as for the platform: nothing decides by the first one.
    status, said = ask(guarded, "POST", target, b'{"command": "echo one", "command": "echo two"}')
    assert (status, json.loads(said)["result"]) == (200, "two\n")


@pytest.mark.parametrize("charset", ["nonsense", "utf-16", "idna", "punycode", "\udcff"])
def test_a_charset_nobody_knows(guarded: IsolatedEngine, charset: str) -> None:
    with Raw(guarded) as raw:
        kind = f"Content-Type: application/json; charset={charset}"
        raw.send(raw.head("POST", "/api/sandbox", kind, "Content-Length: 13") + b'{"name": "x"\xff')
        assert raw.read_head()[0] == 400


# -- heads


def test_huge_heads(guarded: IsolatedEngine, unguarded: IsolatedEngine) -> None:
    def status(engine: IsolatedEngine, *headers: str, target: str = "/api/health") -> int:
        with Raw(engine) as raw:
            raw.send(raw.head("GET", target, *headers))
            return raw.read_head()[0]

    large = f"X-Large: {'x' * (60 << 10)}"
    assert status(guarded, large) == 200, "the environment of a terminal travels in a header"
    huge = f"X-Large: {'x' * (1 << 20)}"
    assert status(guarded, huge) in (400, 431)
    assert status(unguarded, huge) == 200
    assert status(guarded, *[f"X-{n}: x" for n in range(100_000)]) in (400, 431, 0)
    assert status(guarded, target="/api/health?" + "x" * (1 << 20)) in (400, 414, 431)
    assert ask(guarded, "GET", "/api/health")[0] == 200


def test_a_name_with_line_breaks_forges_nothing(
    guarded: IsolatedEngine, unguarded: IsolatedEngine, boxes: dict[IsolatedEngine, str]
) -> None:
    name = 'a"\r\nX-Forged: yes\r\n\r\nbody'

    def answers(engine: IsolatedEngine) -> bytes:
        body = json.dumps({"paths": [name]}).encode()
        return ask(engine, "POST", f"/toolbox/{boxes[engine]}/files/bulk-download", body)[1]

    assert b"\r\nX-Forged: yes" in answers(unguarded)
    assert b"\r\nX-Forged: yes" not in answers(guarded)
    forged = "%0d%0aX-Forged:%20yes"
    for target in (
        f"/api/sandbox/x{forged}",
        f"/{forged}",
        f"/toolbox/x{forged}/files/download?path=a{forged}",
    ):
        with Raw(guarded) as raw:
            raw.send(raw.head("GET", target, f"X-Request-Id: a{forged}", "Connection: close"))
            head = raw.read_head()[1].partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 404") and b"\r\nX-Forged" not in head, target


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: -1",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
        ("X-A: b\0c",),
        (" folded: x",),
        ("Authorization: Bearer x",),
        ("Host: 127.0.0.1:1",),
    ],
)
def test_heads_that_can_be_read_in_two_ways(guarded: IsolatedEngine, lines: tuple[str, ...]) -> None:
    with Raw(guarded) as raw:
        raw.send(
            raw.head("POST", "/api/sandbox", *lines)
            + b"5\r\nhello\r\n0\r\n\r\nGET /api/health HTTP/1.1\r\n\r\n"
        )
        status, said = raw.read_head()
    assert status in (400, 401, 403), said
    assert b"200 OK" not in said


# -- slow senders and crowds


def _slow(raw: Raw, what: str) -> None:
    """Begin something and do not go on."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    match what:
        case "nothing":
            return
        case "a head":
            raw.send(raw.head("GET", "/api/health")[:-20])
        case "a body":
            raw.send(raw.head("POST", "/api/sandbox", "Content-Length: 1000", key=False) + b"{")
        case "a WebSocket's handshake":
            head = raw.head("GET", "/toolbox/x/process/interpreter/execute", *upgrade, key=False)
            raw.send(head[:-2] + b"Sec-WebSocket-Key: AAAA")
        case "a Socket.IO connection":
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
            target = f"{SOCKETIO_PATH}?EIO=4&transport=websocket"
            raw.send(raw.head("GET", target, *upgrade, key, key=False))
            assert raw.read_head()[0] == 101


SLOW = ["nothing", "a head", "a body", "a WebSocket's handshake", "a Socket.IO connection"]


@pytest.mark.parametrize("what", SLOW)
def test_slow_senders_are_cut_off(guarded: IsolatedEngine, unguarded: IsolatedEngine, what: str) -> None:
    with Raw(guarded) as raw:
        _slow(raw, what)
        assert raw.is_closed_within(PATIENCE * 8)
    with Raw(unguarded) as raw:
        _slow(raw, what)
        assert not raw.is_closed_within(PATIENCE + 0.5)


def test_a_byte_now_and_then_does_not_help(guarded: IsolatedEngine) -> None:
    with Raw(guarded) as raw:
        head = raw.head("GET", "/api/health", "X-Slow: " + "x" * 500)
        for n in range(200):
            raw.send(head[n : n + 1])
            if raw.is_closed_within(0.1):
                return
        raise AssertionError("it can go on forever")


def test_a_crowd_of_strangers_keeps_nobody_out(guarded: IsolatedEngine, unguarded: IsolatedEngine) -> None:
    def asked(engine: IsolatedEngine) -> list[int]:
        crowd: list[Any] = []
        try:
            crowd += [Raw(engine) for _ in range(60)]
            return [ask(engine, "GET", "/api/health")[0] for _ in range(3)]
        finally:
            for raw in crowd:
                raw.sock.close()

    assert asked(guarded) == [200] * 3
    assert 503 in asked(unguarded)


def test_who_has_the_key_is_no_stranger(guarded: IsolatedEngine, boxes: dict[IsolatedEngine, str]) -> None:
    """A long request, and a connection that rests, outlast the patience with strangers."""
    connection = http.client.HTTPConnection("127.0.0.1", guarded.record["port"], timeout=60)
    headers = {"Authorization": f"Bearer {guarded.key}"}
    body = json.dumps({"command": f"sleep {PATIENCE * 2}; echo done"})
    for _ in range(2):
        connection.request("POST", f"/toolbox/{boxes[guarded]}/process/execute", body, headers)
        assert json.loads(connection.getresponse().read())["result"] == "done\n"
    connection.close()


def test_a_stranger_fills_no_log_with_tracebacks(guarded: IsolatedEngine) -> None:
    before = (guarded.state / "engine.log").stat().st_size
    for junk in (b"\x16\x03\x01\x02\0\x01\0", b"GET\r\n\r\n", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n"):
        with Raw(guarded) as raw:
            raw.send(junk)
            raw.is_closed_within(PATIENCE * 8)
    with (guarded.state / "engine.log").open() as file:
        file.seek(before)
        lines = [json.loads(line) for line in file]
    assert not [line for line in lines if "error" in line or line["level"] == "error"], lines
