# ruff: noqa: E501, UP031  (cells are written as they are typed)
"""Nothing lost, nothing twice: cuts, windows, hostile clients, long outputs; over sockets and over pipes."""

from __future__ import annotations

import json
import os
import random
import select
import time
import uuid
from collections.abc import Iterator

import pytest

from daytona_magics.runtime.guest import frames

from . import no_unix_sockets
from .harness import Client, Guest, Run, alive


@pytest.fixture(scope="module", params=[False, True], ids=["socket", "pipes"])
def pipes(request: pytest.FixtureRequest) -> bool:
    """Every test here runs over both kinds of line."""
    if request.param and not no_unix_sockets.supported():
        pytest.skip("the system call numbers of this machine are not known to the test")
    return bool(request.param)


@pytest.fixture(scope="module")
def guest(pipes: bool) -> Iterator[Guest]:
    one = Guest(pipes)
    yield one
    one.close()


@pytest.fixture
def small_spool(pipes: bool) -> Iterator[Guest]:
    guest = Guest(pipes, DAYTONA_MAGICS_SPOOL_HEAD=str(2 << 20), DAYTONA_MAGICS_SPOOL_TAIL=str(4 << 20))
    yield guest
    guest.close()


def test_daemon_is_started_once(guest: Guest) -> None:
    again = guest.daemon()
    assert (
        again["started"] is False
        and again["boot"] == guest.hello["boot"]
        and again["pid"] == guest.hello["pid"]
    )
    assert guest.hello["started"] is True and guest.hello["protocol"] == frames.PROTOCOL


def test_a_long_home_path_does_not_matter(pipes: bool) -> None:
    guest = Guest(pipes)
    guest.close()
    deep = os.path.join(guest.home, *["d" * 60] * 3)
    os.makedirs(deep)
    guest.home, guest.run, guest.env["HOME"] = deep, os.path.join(deep, ".daytona-magics", "run"), deep
    guest.hello = guest.daemon()
    assert guest.hello["ok"], guest.hello
    assert guest.client().run("1").result == "1"
    guest.close()


@pytest.mark.parametrize("seed", range(6))
def test_cut_anywhere_and_resume(guest: Guest, seed: int) -> None:
    """The connection is cut after a random number of bytes, again and again; every byte arrives once."""
    rng = random.Random(seed)
    client = guest.client()
    code = (
        "import sys, random, time\nrng = random.Random(%d)\n"
        "for i in range(3000):\n"
        "    print(i, 'x' * rng.randrange(200))\n"
        "    if i %% 500 == 0: display({'text/plain': 'd' * rng.randrange(20000)}, raw=True)\n"
        "    if i %% 300 == 0: time.sleep(0.002)\n" % seed
    )
    run = client.start(code, context="cut%d" % seed)
    cuts = 0
    while run.done is None:
        limit = rng.randrange(1, 60000)
        while client.decoder and run.done is None and client.received + client.decoder.dropped < limit:
            if not client.read(0.05):
                client.ack()
        if run.done is not None:
            break
        client.close()
        cuts += 1
        client = guest.client()
        # A frame cut in two is not counted: resume after the last whole one. A half message is kept.
        client.runs[run.stream] = run
        reply = client.request("subscribe", id=run.id, after=run.sequence)
        assert reply["ok"] and reply["stream"] == run.stream
    expected = random.Random(seed)
    lines = []
    for i in range(3000):
        lines.append("%d %s\n" % (i, "x" * expected.randrange(200)))
        if i % 500 == 0:
            expected.randrange(20000)
    assert run.text == "".join(lines) and len(run.of("display")) == 6 and cuts > 3
    client.close()


def test_an_id_never_runs_twice(client: Client, guest: Guest) -> None:
    exec_id = uuid.uuid4().hex
    code = "open('counter', 'a').write('x'); print('ran')"
    first = client.run(code, id=exec_id)
    assert first.text == "ran\n"
    for language in ("python", "bash"):
        reply = client.request("execute", id=exec_id, context="main", language=language, code=code)
        assert (reply["known"], reply["state"], reply["stream"]) == (True, "done", first.stream)
    assert client.request("forget", id=exec_id)["ok"]
    reply = client.request("execute", id=exec_id, context="main", language="python", code=code)
    assert reply["known"] is True
    with open(os.path.join(guest.home, "counter")) as file:
        assert file.read() == "x"
    assert exec_id not in [e["id"] for e in client.request("status")["executions"]]


def test_replay_for_another_client(client: Client, guest: Guest) -> None:
    run = client.run("print('one')\nimport sys; print('two', file=sys.stderr)\n3")
    other = guest.client()
    reply = other.request("subscribe", id=run.id, after=0)
    other.until(lambda: reply["stream"] in other.runs and other.runs[reply["stream"]].done)
    replay = other.runs[reply["stream"]]
    assert (replay.out, replay.err, replay.messages) == (run.out, run.err, run.messages)
    reply = other.request("subscribe", id="nope", after=0)
    assert (reply["ok"], reply["error"]) == (False, "unknown-execution")


def test_window_is_respected_and_replies_pass(guest: Guest) -> None:
    client = guest.client(acks=False)
    run = client.start("import sys\nfor i in range(5000): sys.stdout.write('z' * 1000)", context="window")
    quiet = 0
    while quiet < 10:
        quiet = 0 if client.read(0.02) else quiet + 1
    assert 64_000 < client.received <= 128 * 1024 + 4000 and run.done is None
    assert client.request("ping")["ok"]
    client.acks = True
    client.ack()
    client.wait(run)
    assert len(run.out) == 5_000_000
    client.close()


def test_window_counts_small_writes(guest: Guest) -> None:
    client = guest.client(acks=False)
    code = "import time\nfor i in range(200):\n    print(i); time.sleep(0.006)"
    run = client.start(code, context="small")
    deadline = time.monotonic() + 1.6
    while time.monotonic() < deadline:
        client.read(0.02)
    assert run.done is None and len(client.reads) <= 70
    client.acks = True
    client.ack()
    client.wait(run)
    assert run.text == "".join("%d\n" % i for i in range(200))
    client.close()


def test_a_cell_never_waits_for_a_client(guest: Guest) -> None:
    client = guest.client()
    run = client.start(
        "import sys\nfor i in range(60): sys.stdout.write('q' * 1000000)\nopen('over', 'w')", context="alone"
    )
    client.close()
    deadline = time.monotonic() + 20
    while not os.path.exists(os.path.join(guest.home, "over")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client = guest.client()
    client.runs[run.stream] = run
    client.request("subscribe", id=run.id, after=run.sequence)
    client.wait(run)
    assert len(run.out) == 60_000_000 and not run.gaps
    client.close()


def test_gap_of_a_long_output_and_bounded_memory(small_spool: Guest) -> None:
    client = small_spool.client()
    run = client.start(
        "import sys\nfor i in range(100): sys.stdout.write('%06d ' % i * 142857)\nopen('over', 'w')"
    )
    client.close()
    deadline = time.monotonic() + 30
    while not os.path.exists(os.path.join(small_spool.home, "over")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with open("/proc/%d/status" % small_spool.hello["pid"]) as file:
        memory = int(file.read().split("VmRSS:")[1].split()[0])
    assert memory < 60_000
    client = small_spool.client()
    client.runs[run.stream] = run
    client.request("subscribe", id=run.id, after=run.sequence)
    client.wait(run)
    total = len(run.out) + sum(g["bytes"] for g in run.gaps)
    assert len(run.gaps) == 1 and total == 100 * 7 * 142857
    assert 1 << 20 < len(run.out) < 8 << 20 and run.out.endswith(b"000099 ")


def test_forged_frames_are_only_output(client: Client) -> None:
    code = (
        "import sys, json, struct, zlib\n"
        "def frame(kind, stream, seq, body):\n"
        "    head = struct.pack('>2sBBIII', b'\\xd7M', kind, 0, stream, seq, len(body))\n"
        "    return head + struct.pack('>I', zlib.crc32(body, zlib.crc32(head))) + body\n"
        "forged = frame(1, 0, 1, b'{}') + frame(32, %d, 2, json.dumps({'msg': 'done', 'status': 'ok'}).encode())\n"
        "sys.stdout.buffer.write(forged * 50); print(len(forged))"
    )
    run = client.run(code % 1)
    assert run.status == "ok" and run.out.count(b"\xd7M") == 100 and len(run.of("done")) == 1


def test_resync_after_noise_and_hostile_clients(guest: Guest, client: Client) -> None:
    client.send_raw(b"\r\nWelcome to the sandbox!\xd7M\xd7\r\n")
    assert client.request("ping")["ok"]
    for payload in (
        b"[1]",
        b"{",
        b"\xff\xfe",
        b'{"op": 5}',
        b'{"op": "execute"}',
        b'{"op":"ack","bytes":1e300}',
    ):
        client.sequence += 1
        client.send_raw(frames.encode(frames.CONTROL, 0, client.sequence, payload))
    bad = [
        {"id": "", "code": "1"},
        {"id": "../../x", "code": "1"},
        {"id": "a", "code": 1},
        {"id": "a", "language": "cobol"},
        {"id": "a", "language": "program"},
        {"id": "a", "language": "node", "interpreter": ["sh"]},
        {"id": "a", "argv": "words"},
        {"id": "a", "argv": ["a\0b"]},
        {"id": "a", "env": {"A=B": "x"}},
        {"id": "a", "timeout": -1},
        {"id": "a", "context": ""},
    ]
    for fields in bad:
        reply = client.request("execute", **fields)
        assert (reply["ok"], reply["error"]) == (False, "bad-request"), fields
    assert client.request("interrupt", id="a", level=1)["error"] == "unknown-execution"
    assert client.request("nonsense")["error"] == "unknown-op"
    rng = random.Random(1)
    hostile = guest.client()
    with pytest.raises((EOFError, OSError)):
        for _ in range(3000):
            while not select.select([hostile.fd], [hostile.fd], [], 5)[1]:
                hostile.read(0)
            hostile.send_raw(rng.randbytes(500))
            while select.select([hostile.fd], [], [], 0)[0]:
                hostile.read(0)
    hostile.close()
    assert client.run("1").result == "1"
    assert "Traceback" not in guest.errors()


def test_many_clients_see_the_same_execution(guest: Guest) -> None:
    clients = [guest.client() for _ in range(12)]
    run = clients[0].start("import time\nfor i in range(300): print(i); time.sleep(0.0005)", context="many")
    runs: list[Run] = [run]
    for client in clients[1:]:
        stream = client.request("subscribe", id=run.id, after=0)["stream"]
        runs.append(client.runs.setdefault(stream, Run(stream, run.id)))
    for client, one in zip(clients, runs, strict=True):
        client.wait(one)
    assert {one.text for one in runs} == {"".join("%d\n" % i for i in range(300))}
    for client in clients:
        client.close()


def test_a_large_request_is_split(client: Client) -> None:
    run = client.run("x = %r\nlen(x)" % ("é" * 500_000))
    assert run.result == "500000"


def test_first_output_comes_at_once_and_idle_costs_nothing(client: Client, guest: Guest) -> None:
    run = client.start("import time\nprint('now', end='')\ntime.sleep(0.5)", context="edge")
    client.until_out(run, b"now")
    assert run.done is None
    client.wait(run)
    pids = [
        guest.hello["pid"],
        *(c["worker_pid"] for c in client.request("status")["contexts"] if c["worker_pid"]),
    ]

    def switches() -> int:
        total = 0
        for pid in pids:
            with open("/proc/%d/status" % pid) as file:
                total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
        return total

    time.sleep(0.1)
    before = switches()
    time.sleep(0.5)
    assert switches() == before


def test_shutdown_ends_everything(pipes: bool) -> None:
    guest = Guest(pipes)
    client = guest.client()
    client.run("1")
    worker = client.request("status")["contexts"][0]["worker_pid"]
    client.request("shutdown")
    deadline = time.monotonic() + 5
    while alive(guest.hello["pid"]) or alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    again = guest.daemon()
    assert again["started"] and again["boot"] != guest.hello["boot"]
    guest.hello = again
    guest.close()
    assert json.dumps(again)
