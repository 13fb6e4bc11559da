"""Versions side by side, a dead zygote, clients that vanish."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig
from daytona.common.errors import DaytonaError, DaytonaFileNotFoundError

import daytona_magics
from tests.engine_process import IsolatedEngine, is_alive, isolated_engine, wait_until

AS_VERSION = """
import sys, daytona_magics
daytona_magics.__version__ = sys.argv[1]
from daytona_magics.engine.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_an_older_idle_engine_is_replaced(fresh_engine: IsolatedEngine) -> None:
    assert fresh_engine.python(AS_VERSION, "0.0.1", "serve", "--detach").returncode == 0
    old = fresh_engine.record
    assert old["version"] == "0.0.1"
    env = fresh_engine.client_env()
    new = fresh_engine.record
    assert (new["version"], new["pid"] != old["pid"]) == (daytona_magics.__version__, True)
    assert not is_alive(old["pid"])
    # The same port and key: other kernels do not notice.
    assert (new["port"], new["api_key"]) == (old["port"], env["DAYTONA_API_KEY"])


def test_an_older_busy_engine_is_kept(fresh_engine: IsolatedEngine) -> None:
    assert fresh_engine.python(AS_VERSION, "0.0.1", "serve", "--detach").returncode == 0
    pid = fresh_engine.pid
    config = DaytonaConfig(api_key=fresh_engine.key, api_url=f"{fresh_engine.url}/api", target="local")
    sandbox = Daytona(config).create()
    assert fresh_engine.command("env").returncode == 0
    assert fresh_engine.pid == pid
    assert sandbox.process.exec("echo alive").result == "alive\n"


def test_a_newer_engine_is_never_replaced(fresh_engine: IsolatedEngine) -> None:
    assert fresh_engine.python(AS_VERSION, "99.0.0", "serve", "--detach").returncode == 0
    pid = fresh_engine.pid
    fresh_engine.client_env()
    assert fresh_engine.pid == pid


def test_a_dead_zygote_is_replaced(fresh_engine: IsolatedEngine) -> None:
    daytona = Daytona(fresh_engine.config())
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(name="box"))
    sandbox.fs.upload_file(b"kept", "file")
    pid = fresh_engine.pid
    zygote = _zygote(pid)
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: daytona.get("box").state == "stopped", "the sandbox is seen to have ended", 5)

    def works() -> bool:
        try:
            sandbox.start()
        except Exception as error:
            assert "503" in str(getattr(error, "status_code", "503"))
            return False
        return True

    wait_until(works, "sandboxes can be started again", 10)
    assert sandbox.fs.download_file("file") == b"kept"
    assert fresh_engine.pid == pid


BROKEN_END = """
import sys
from daytona_magics.engine.api.events import Events
from daytona_magics.engine.life.lifecycle import Sandboxes
async def broken(self):
    raise RuntimeError("broken on purpose")
Sandboxes.stop_all = Events.close = broken
from daytona_magics.engine.cli import main
sys.exit(main(["serve", "--detach"]))
"""


def test_an_end_that_fails_halfway_still_ends_the_rest(fresh_engine: IsolatedEngine) -> None:
    assert fresh_engine.python(BROKEN_END).returncode == 0
    sandbox = Daytona(fresh_engine.config()).create()
    pid = fresh_engine.pid
    zygote = _zygote(pid)
    assert fresh_engine.command("stop").returncode == 0
    wait_until(lambda: not is_alive(zygote), "the zygote has ended", 5)
    log = (fresh_engine.state / "engine.log").read_text()
    for what in ("stopping the sandboxes failed", "closing event connections failed", "broken on purpose"):
        assert what in log
    # A database that was closed in order has no journal left.
    assert not (fresh_engine.state / "state.db-wal").exists()
    assert not (fresh_engine.state / "engine.json").exists()
    again = Daytona(fresh_engine.config()).get(sandbox.id)
    assert again.state == "stopped"


def test_a_stopping_engine_takes_no_new_connections(fresh_engine: IsolatedEngine) -> None:
    """Sandboxes end while clients with open connections are refused new ones and others do not get in."""
    Daytona(fresh_engine.config()).create()
    pid, port = fresh_engine.pid, fresh_engine.record["port"]
    headers = {"Authorization": f"Bearer {fresh_engine.key}"}
    opened = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    opened.request("GET", "/api/health", headers=headers)
    opened.getresponse().read()
    # The sandbox does not end, so neither does the engine.
    keeper = _keeper(pid)
    os.kill(keeper, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _listens(port), "the listener is closed", 5)
        opened.request("POST", "/api/sandbox", headers=headers)
        answer = opened.getresponse()
        assert (answer.status, "is ending" in json.loads(answer.read())["message"]) == (503, True)
        assert is_alive(pid)
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid), "the engine has ended", 10)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zygote(pid: int) -> int:
    """The engine may also be making a layer; the zygote is the child that has been told its socket."""
    (found,) = (
        child for child in _children(pid) if b"zygote.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return found


def _keeper(pid: int) -> int:
    """The process that holds the one sandbox; the trial of a layer is soon over."""
    zygote = _zygote(pid)
    wait_until(lambda: len(_children(zygote)) == 1, "only one sandbox is left")
    return _children(zygote)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_is_survived() -> None:
    with isolated_engine(state="mount/state") as engine:
        mount = engine.state.parent
        mount.mkdir(mode=0o711)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m,mode=0711", "tmpfs", str(mount)], check=True)
        try:
            daytona = Daytona(engine.config())
            sandbox = daytona.create()
            pid = engine.pid
            full = sandbox.process.exec("head -c 200000000 /dev/zero > big; echo $?; echo x > more; echo $?")
            assert full.result.split()[-1] == "1"
            with pytest.raises(DaytonaError):
                sandbox.fs.upload_file(b"x" * 5_000_000, "upload")
            failures = 0
            for _ in range(30):
                try:
                    daytona.create()
                except DaytonaError as error:
                    assert error.status_code in (500, 503), error
                    failures += 1
            assert failures
            # The sandbox and the engine go on as soon as there is room.
            assert sandbox.process.exec("rm -f big; echo alive").result == "alive\n"
            sandbox.fs.upload_file(b"y", "upload")
            sandbox.set_labels({"after": "all"})
            assert engine.pid == pid
            daytona.delete(daytona.create())
            assert engine.command("stop").returncode == 0
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


async def test_an_upload_that_breaks_off_leaves_no_file(engine: IsolatedEngine) -> None:
    daytona = Daytona(engine.config())
    sandbox = daytona.create()
    port = engine.record["port"]
    body = b'--B\r\nContent-Disposition: form-data; name="files[0].path"\r\n\r\nhalf\r\n--B\r\n'
    body += b'Content-Disposition: form-data; name="files[0].file"; filename="half"\r\n\r\n' + b"x" * 100_000
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /toolbox/{sandbox.id}/files/bulk-upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {engine.key}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        f"Content-Length: {len(body) + 1000}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    try:
        sandbox.fs.download_file("half")
        raise AssertionError("half a file was left")
    except DaytonaFileNotFoundError:
        pass
    assert "half" not in sandbox.process.exec("ls -A").result
    assert "unexpected error" not in (engine.state / "engine.log").read_text()
    sandbox.delete()


def test_garbage_is_answered_not_stumbled_over(engine: IsolatedEngine) -> None:
    """Nonsense in every JSON body and parameter is a 4xx, never a failure of the engine."""
    sandbox = Daytona(engine.config()).create()
    connection = http.client.HTTPConnection("127.0.0.1", engine.record["port"])
    headers = {"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"}
    for route in ROUTES.split("\n"):
        method, path = route.replace("ID", sandbox.id).split()
        for body in GARBAGE.split("\n"):
            connection.request(method, path, body=body.encode(), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 500, f"{method} {path} {body}: {text!r}"
            if answer.status >= 400:
                assert json.loads(text)["message"]
    assert "unexpected error" not in (engine.state / "engine.log").read_text()
    for made in Daytona(engine.config()).list():
        made.delete()


ROUTES = """\
POST /api/sandbox
PUT /api/sandbox/ID/labels
POST /api/sandbox/ID/autostop/-5
POST /api/sandbox/ID/ttl/x
GET /api/sandbox?limit=-1
POST /toolbox/ID/process/execute
POST /toolbox/ID/process/code-run
POST /toolbox/ID/process/pty
GET /toolbox/ID/process/pty/create-connect
GET /toolbox/ID/process/pty/create-connect?id=x
POST /toolbox/ID/files/bulk-download
POST /toolbox/ID/files/bulk-upload
POST /toolbox/ID/files/upload-v2?path=
POST /toolbox/ID/files/folder?path=x&mode=9z
GET /toolbox/ID/files?path=.&depth=x"""

GARBAGE = """
{
[]
"x"
1
null
{"labels": 1}
{"labels": {"a": null}}
{"command": 5, "envs": []}
{"command": "true", "timeout": "soon"}
{"command": "true\\u0000"}
{"command": "true", "cwd": "/nowhere"}
{"command": "\\ud800"}
{"code": "1", "argv": 3}
{"code": "1", "argv": ["\\u0000"]}
{"code": "\\ud800"}
{"code": "1", "language": "cobol"}
{"paths": [1]}
{"paths": []}
{"paths": ["a\\u0000b", "\\ud800"]}
{"id": []}
{"id": "x", "envs": {"1": "2"}}
{"id": "x", "cwd": 7}
{"cols": "x"}
{"cols": -1}
{"cols": 1e99}
{"name": 7}
{"name": "\\ud800"}
{"env": {"A": 1}}
{"env": {"A": "\\ud800"}}
{"autoStopInterval": -3}
{"autoStopInterval": 1e300}
{"autoDeleteInterval": true}
{"snapshot": []}
{"snapshot": {"a": 1}}
{"cpu": 1.5}
{"memory": 99999999999999999999}
{"target": 9}
{"user": {}}
{"ttlMinutes": 999999999}
{"networkAllowList": 5}"""
