"""The engine's own surfaces, attacked from a sandbox that shares its machine's network and process numbers.

At L1 nothing but Landlock, the filter and the engine's own checks stand between a sandbox and the engine's
port, key, process and database. The same attacks at L0 get as far as the engine's checks.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daytona import Daytona

from tests.engine_process import IsolatedEngine, is_alive, isolated_engine
from tests.isolation import as_user

pytestmark = [pytest.mark.isolation, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]

#: Tries everything; prints what each try came to: a text, or the name of the error.
ATTACK = r"""
import glob, json, os, signal, socket, sys
from urllib.parse import urlsplit
facts = json.loads(sys.argv[1])
proxy = urlsplit(os.environ.get("HTTP_PROXY", "http://127.0.0.1:9"))

def ask(address, text):
    with socket.create_connection(address, 5) as sock:
        sock.sendall(text.encode())
        return sock.recv(1000).decode().split("\r\n")[0]

def engine(*headers):
    lines = ["GET /health HTTP/1.1", "Host: 127.0.0.1:%d" % facts["port"], "Connection: close", *headers]
    return ask(("127.0.0.1", facts["port"]), "\r\n".join(lines) + "\r\n\r\n")

def through_proxy(*headers):
    lines = ["CONNECT 127.0.0.1:%d HTTP/1.1" % facts["port"], "Host: x", *headers]
    return ask((proxy.hostname, proxy.port), "\r\n".join(lines) + "\r\n\r\n")

def own_token():
    import base64
    word = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    return through_proxy("Proxy-Authorization: Basic " + word)

def key():
    return "key" if json.load(open(facts["record"]))["api_key"] else ""

tries = {
    "the port": lambda: engine(),
    "the port with a key": lambda: engine("Authorization: Bearer guessed"),
    "the proxy's way to the port": lambda: through_proxy(),
    "the proxy's way to the port with the own token": own_token,
    "the key": key,
    "the database": lambda: open(glob.glob(facts["state"] + "/*.db")[0], "rb").read(6).decode(),
    "the log": lambda: str(os.listdir(facts["state"])),
    "the environment": lambda: open("/proc/%d/environ" % facts["pid"], "rb").read(1).decode(),
    "the memory": lambda: str(open("/proc/%d/mem" % facts["pid"], "rb")),
    "a signal": lambda: str(os.kill(facts["pid"], 0)),
    "its limits": lambda: str(__import__("resource").prlimit(facts["pid"], 7)),
}
found = {}
for name, attempt in tries.items():
    try:
        found[name] = attempt()
    except Exception as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@contextmanager
def attacked(**settings: str) -> Iterator[tuple[IsolatedEngine, dict[str, str]]]:
    """An engine with these settings, and what each try from a sandbox of it came to."""
    with isolated_engine(**settings) as engine:
        daytona = Daytona(engine.config())
        box = daytona.create()
        facts: dict[str, Any] = {
            "port": engine.record["port"],
            "pid": engine.pid,
            "record": str(engine.state / "engine.json"),
            "state": str(engine.state),
        }
        box.fs.upload_file(ATTACK.encode(), "attack.py")
        done = box.process.exec(f"python3 attack.py '{json.dumps(facts)}'", timeout=60)
        assert done.exit_code == 0, done.result
        yield engine, json.loads(done.result)
        assert is_alive(engine.pid)
        daytona.delete(box)


FILES = ("the key", "the database", "the log", "the environment", "the memory", "its limits")


def assert_closed(found: dict[str, str], names: tuple[str, ...]) -> None:
    refusals = {"PermissionError", "FileNotFoundError", "IndexError"}  # IndexError: no file matched.
    assert {name: found[name] for name in names if found[name] not in refusals} == {}


def test_at_l1() -> None:
    with attacked(DAYTONA_MAGICS_ISOLATION="L1") as (_, found):
        assert_closed(found, (*FILES, "a signal", "the port", "the port with a key"))
        assert found["the proxy's way to the port"].startswith("HTTP/1.1 407"), found
        assert found["the proxy's way to the port with the own token"].startswith("HTTP/1.1 403"), found


def test_at_l1_where_ports_cannot_be_limited() -> None:
    """Before Landlock ABI 4 the sandbox gets no network sockets at all, not even to the proxy."""
    level = "L1" if os.geteuid() == 0 else "L0.5"
    with attacked(DAYTONA_MAGICS_ISOLATION=level, DAYTONA_MAGICS_LANDLOCK_ABI="2") as (_, found):
        assert_closed(found, FILES)
        assert found["a signal"] == ("PermissionError" if level == "L1" else "None")
        for name in ("the port", "the port with a key", "the proxy's way to the port"):
            assert found[name] == "OSError", found  # Address family not supported.


def test_at_l2() -> None:
    with attacked(DAYTONA_MAGICS_ISOLATION="L2") as (_, found):
        assert_closed(found, tuple(name for name in FILES if name != "its limits"))
        # Another process of that number, or none: numbers are its own.
        assert found["a signal"] == found["its limits"] == "ProcessLookupError", found
        assert found["the port"] == found["the port with a key"] == "ConnectionRefusedError", found
        assert found["the proxy's way to the port"].startswith("HTTP/1.1 403"), found


def test_control_at_l0() -> None:
    """Without isolation all of it works, but for what the engine itself refuses."""
    with attacked(DAYTONA_MAGICS_ISOLATION="L0") as (_, found):
        assert {name for name in FILES if found[name] in ("PermissionError", "FileNotFoundError")} == set()
        assert found["the key"] == "key" and found["a signal"] == "None", found
        assert found["the port"].startswith("HTTP/1.1 401"), found
        assert found["the port with a key"].startswith("HTTP/1.1 401"), found


@pytest.mark.shard_group("the engine's surface as an ordinary user")
@pytest.mark.skipif(os.geteuid() != 0, reason="this process already is an ordinary user")
def test_the_same_as_an_ordinary_user() -> None:
    assert "4 passed" in as_user.run_tests(__file__)
