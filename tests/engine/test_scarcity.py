"""Full disks, no descriptors left, clients that do not read, a kill at any moment, and an engine at rest."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import random
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daytona import Daytona, SessionExecuteRequest
from daytona.common.errors import DaytonaError, DaytonaNotFoundError

from tests.engine.attacked import Raw
from tests.engine_process import IsolatedEngine, isolated_engine, wait_until

pytestmark = pytest.mark.timeout(90)


def ask(engine: IsolatedEngine, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", engine.record["port"], timeout=60)
    headers = {"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if data else None


# -- disk


@pytest.fixture
def small_disk() -> Iterator[IsolatedEngine]:
    """An engine whose state lies on a disk of 80 MB."""
    with isolated_engine(state="mount/state") as engine:
        mount = engine.state.parent
        mount.mkdir(mode=0o711)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m,mode=0711", "tmpfs", str(mount)], check=True)
        try:
            yield engine
            assert engine.command("stop").returncode == 0
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(path: Path) -> None:
    """Write until the disk has not one byte left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_on_a_full_disk_sandboxes_can_be_stopped_and_deleted(small_disk: IsolatedEngine) -> None:
    daytona = Daytona(small_disk.config())
    boxes = [daytona.create() for _ in range(4)]
    boxes[0].process.exec("head -c 10000000 /dev/zero > big")
    filler = small_disk.state.parent / "filler"
    fill(filler)
    assert boxes[1].process.exec("echo works").result == "works\n"
    with pytest.raises(DaytonaError) as refused:
        daytona.create()
    assert refused.value.status_code in (503, 507) and "space" in str(refused.value)
    with pytest.raises(DaytonaError):
        boxes[1].fs.upload_file(bytes(100_000), "file")
    # Every change is still written down before it is acknowledged, more of them than the room is for at once.
    for n in range(100):
        boxes[1].set_labels({"n": str(n)})
    boxes[1].stop()
    boxes[2].delete()
    small_disk.kill()
    # An engine that cannot hold its state here says so, and does not begin another one elsewhere.
    fill(filler.with_name("more"))
    failed = small_disk.command("env")
    assert failed.returncode == 1 and "holds your sandboxes, and its disk is full" in failed.stderr
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - (8 << 20))
    again = Daytona(small_disk.config())
    assert again.get(boxes[1].id).labels["n"] == "99"
    assert again.get(boxes[1].id).state == "stopped"
    with pytest.raises(DaytonaNotFoundError):
        again.get(boxes[2].id)
    again.get(boxes[0].id).delete()
    filler.unlink()
    made = again.create()
    assert made.process.exec("echo room").result == "room\n"


# -- descriptors


def limit_with_room_for(pid: int, count: int) -> int:
    """The limit below which a process has so many free descriptors; there may be gaps between used ones."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in itertools.count() if number not in used)
    return next(itertools.islice(free, count, None))


def test_without_descriptors_requests_fail_clearly_and_the_engine_goes_on() -> None:
    with isolated_engine() as engine:
        engine.client_env()
        _, made = ask(engine, "POST", "/api/sandbox", {})
        pid = engine.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        seen: list[int] = []

        def is_quiet() -> bool:
            seen.append(limit_with_room_for(pid, 1))
            time.sleep(0.05)
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        wait_until(is_quiet, "no connection is left")
        # One for a connection; nothing is left for the socket pair that a command needs.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (seen[-1], hard))
        for method, path, body in (
            ("POST", f"/toolbox/{made['id']}/process/execute", {"command": "true"}),
            ("POST", "/api/sandbox", {}),
            ("GET", f"/toolbox/{made['id']}/files?path=.", None),
        ):
            status, answer = ask(engine, method, path, body)
            assert status == 503 and "open" in answer["message"], answer
        assert ask(engine, "GET", "/api/health")[0] == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        command = {"command": "echo back"}
        assert ask(engine, "POST", f"/toolbox/{made['id']}/process/execute", command)[1]["result"] == "back\n"
        # Connections that nobody can accept wait, and are accepted when that is possible again.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit_with_room_for(pid, 0), hard))
        with Raw(engine) as raw:
            raw.send(raw.head("GET", "/api/health"))
            time.sleep(0.3)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert raw.read_head()[0] == 200
        assert engine.pid == pid


# -- clients that do not read


def memory(engine: IsolatedEngine) -> int:
    """MiB of the engine in memory."""
    pages = int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _upgrade(raw: Raw, path: str) -> None:
    keys = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    raw.send(raw.head("GET", path, *keys, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
    assert raw.read_head()[0] == 101


def _frame(text: str) -> bytes:
    """A masked text message of at most 125 bytes (the mask is zero)."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


@pytest.mark.parametrize("kind", ["download", "bulk download", "terminal", "interpreter", "log"])
def test_clients_that_never_read_cost_little_memory(engine: IsolatedEngine, shared: Any, kind: str) -> None:
    shared.process.exec("[ -e large ] || head -c 300M /dev/zero > large")
    base = f"/toolbox/{shared.id}"
    before = memory(engine)
    with contextlib.ExitStack() as open_:
        for n in range(4):
            raw = open_.enter_context(Raw(engine))
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            if kind == "download":
                raw.send(raw.head("GET", f"{base}/files/download?path=large"))
            elif kind == "bulk download":
                body = json.dumps({"paths": ["large"] * 3}).encode()
                raw.send(raw.head("POST", f"{base}/files/bulk-download", f"Content-Length: {len(body)}"))
                raw.send(body)
            elif kind == "terminal":
                _upgrade(raw, f"{base}/process/pty/create-connect?id=never-{n}-{os.getpid()}")
                raw.send(_frame("head -c 300M /dev/zero | tr '\\0' x; exit\n"))
            elif kind == "interpreter":
                _upgrade(raw, f"{base}/process/interpreter/execute")
                raw.send(_frame('{"code": "for _ in range(300): print(\'x\' * 1000000)", "timeout": 60}'))
            else:
                session = f"never-{n}"
                shared.process.create_session(session)
                run = SessionExecuteRequest(command="head -c 60M /dev/zero; sleep 60", run_async=True)
                command = shared.process.execute_session_command(session, run).cmd_id
                _upgrade(raw, f"{base}/process/session/{session}/command/{command}/logs?follow=true")
        peak = 0
        for _ in range(20):
            peak = max(peak, memory(engine) - before)
            assert shared.process.exec("echo alive").result == "alive\n"
            time.sleep(0.1)
    assert peak < 100, f"{peak} MiB"
    for session in shared.process.list_sessions():
        shared.process.delete_session(session.session_id)


# -- killed at any moment


def test_what_was_acknowledged_survives_a_kill_at_any_moment(fresh_engine: IsolatedEngine) -> None:
    engine = fresh_engine
    kept: dict[str, str] = {}
    gone: set[str] = set()
    dice = random.Random(4711)
    for round_ in range(3):
        engine.client_env()

        def work(number: int, round_: int = round_) -> None:
            """Create, label and delete until the engine is gone; remember only what was acknowledged."""
            with contextlib.suppress(OSError, http.client.HTTPException):
                for n in range(1000):
                    status, made = ask(engine, "POST", "/api/sandbox", {"labels": {"n": "-"}})
                    assert status == 200, made
                    kept[made["id"]] = "-"
                    label = f"{round_}-{number}-{n}"
                    # What was asked for and not answered may be either.
                    before, kept[made["id"]] = kept[made["id"]], "?"
                    assert before == "-"
                    status, _ = ask(
                        engine, "PUT", f"/api/sandbox/{made['id']}/labels", {"labels": {"n": label}}
                    )
                    assert status == 200
                    kept[made["id"]] = label
                    if n % 3 != 2:
                        del kept[made["id"]]
                        status, _ = ask(engine, "DELETE", f"/api/sandbox/{made['id']}")
                        assert status in (200, 204)
                        gone.add(made["id"])

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            workers = [pool.submit(work, number) for number in range(3)]
            done = len(gone)
            wait_until(lambda done=done: len(gone) > done + 1, "some work is done", 60)
            time.sleep(dice.random())
            engine.kill()
        for worker in workers:
            worker.result()
        engine.client_env()
        found = {}
        for one in ask(engine, "GET", "/api/sandbox?limit=100")[1]["items"]:
            found[one["id"]] = one
        assert not gone & set(found)
        for sandbox, label in kept.items():
            assert found[sandbox]["state"] == "stopped"
            assert label in ("?", found[sandbox]["labels"]["n"])
        for sandbox in [*kept, *(set(found) - set(kept))]:
            ask(engine, "DELETE", f"/api/sandbox/{sandbox}")
        kept.clear()


# -- at rest


def _cpu(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{each}/task/{each}/children").read_text().split()
            found += [int(child) for child in children]
    return found


def test_an_engine_with_twenty_idle_sandboxes_uses_no_processor(fresh_engine: IsolatedEngine) -> None:
    engine = fresh_engine
    engine.client_env()
    for _ in range(20):
        assert ask(engine, "POST", "/api/sandbox", {"autoStopInterval": 30})[0] == 200
    pids: list[int] = []

    def settled() -> bool:
        """What a start leaves to be done is done: nobody comes or goes, and next to nothing is computed."""
        pids[:] = _family(engine.pid)
        before = _cpu(pids)
        time.sleep(1)
        return pids == _family(engine.pid) and _cpu(pids) - before < 0.1

    wait_until(settled, "the engine has come to rest", 60)
    before, begun = _cpu(pids), time.monotonic()
    time.sleep(5)
    used = (_cpu(pids) - before) / (time.monotonic() - begun)
    print(f"{used:.2%} of a processor, {len(pids)} processes")
    assert used < 0.05
