"""One engine per user: starting, finding, replacing, ending; crashes; other users; proxies."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona
from daytona.common.errors import DaytonaError, DaytonaServiceUnavailableError

from daytona_magics.engine import address, loopback, places
from tests.engine_process import ROOT, IsolatedEngine, is_alive, isolated_engine, wait_until

ENSURE = """
from daytona_magics.engine import address
engine = address.ensure()
print(engine.pid, engine.api_url, engine.api_key)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


def test_twenty_starters_get_one_engine(fresh_engine: IsolatedEngine) -> None:
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", ENSURE], env=fresh_engine.environ, stdout=subprocess.PIPE, text=True
        )
        for _ in range(20)
    ]
    answers = {starter.communicate(timeout=60)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 20
    assert len(answers) == 1
    assert answers.pop().split()[0] == str(fresh_engine.pid)


def test_serve_twice_is_no_second_engine(engine: IsolatedEngine) -> None:
    before = engine.record
    done = engine.command("serve", "--detach")
    assert done.returncode == 0, done.stderr
    assert engine.record == before


def test_a_kernel_with_another_runtime_folder_finds_the_same_engine(engine: IsolatedEngine) -> None:
    """A service often lacks the XDG_RUNTIME_DIR that the user's terminal has."""
    elsewhere = engine.base / "run2"
    elsewhere.mkdir(mode=0o700)
    for words in (("env",), ("serve", "--detach")):
        done = engine.command(*words, XDG_RUNTIME_DIR=str(elsewhere))
        assert done.returncode == 0, done.stderr
    assert engine.key in engine.command("env", XDG_RUNTIME_DIR=str(elsewhere)).stdout
    records = [*engine.base.glob("run*/daytona-magics/*/engine.json")]
    assert len(records) == 1


def test_files_are_private(engine: IsolatedEngine) -> None:
    runtime = engine.runtime / "daytona-magics"
    for folder in (runtime, *runtime.iterdir()):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert engine.state.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    for name in ("engine.json", "endpoint.json", "engine.log", "state.db", "engine.lock"):
        assert (engine.state / name).stat().st_mode & 0o777 == 0o600, name


def test_crash_and_restart(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.forks = False
    first = fresh_engine.client_env()
    daytona = Daytona(fresh_engine.config())
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(name="survivor", env_vars={"A": "1"}))
    stopped = daytona.create(CreateSandboxFromSnapshotParams(name="stopped"))
    stopped.stop()
    sandbox.fs.upload_file(b"precious", "dir/file")
    sandbox.process.exec("exec -a crash-marker sleep 1000 &")
    inside = [p for p in Path("/proc").glob("[0-9]*") if _command(p).startswith(b"crash-marker")]
    assert len(inside) == 1

    fresh_engine.kill()
    wait_until(lambda: not inside[0].exists() or not _command(inside[0]), "nothing of the sandbox is left", 2)
    with pytest.raises(DaytonaError, match="refused"):
        daytona.get("survivor")

    # The same port and key: whoever evaluated `env` before the crash goes on.
    assert fresh_engine.client_env() == first
    again = daytona.get("survivor")
    assert (again.state, daytona.get("stopped").state) == ("stopped", "stopped")
    again.start()
    assert again.fs.download_file("dir/file") == b"precious"
    assert again.process.exec("echo $A").result == "1\n"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_stop_keeps_files_and_leaves_nothing_running(fresh_engine: IsolatedEngine) -> None:
    daytona = Daytona(fresh_engine.config())
    sandbox = daytona.create()
    sandbox.fs.upload_file(b"x", "file")
    pid = fresh_engine.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children
    assert fresh_engine.command("stop").returncode == 0
    assert not is_alive(pid)
    wait_until(lambda: not any(is_alive(int(child)) for child in children), "the zygote is gone", 2)
    assert fresh_engine.command("status").returncode == 3
    assert not (fresh_engine.state / "engine.json").exists()
    again = Daytona(fresh_engine.config()).get(sandbox.id)
    again.start()
    assert again.fs.download_file("file") == b"x"


def test_sigterm_ends_it_cleanly(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.client_env()
    pid = fresh_engine.pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "the engine has ended")
    assert not (fresh_engine.state / "engine.json").exists()


def test_idle_engine_ends_and_a_started_sandbox_keeps_it() -> None:
    with isolated_engine(DAYTONA_MAGICS_IDLE_SECONDS="0.6") as engine:
        daytona = Daytona(engine.config())
        sandbox = daytona.create()
        daytona._event_dispatcher.disconnect()
        pid = engine.pid
        with pytest.raises(AssertionError):
            wait_until(lambda: not is_alive(pid), "never", 2)
        sandbox.stop()
        daytona._event_dispatcher.disconnect()
        wait_until(lambda: not is_alive(pid), "the idle engine has ended", 5)


def test_missed_deadlines_are_made_up_for(fresh_engine: IsolatedEngine) -> None:
    daytona = Daytona(fresh_engine.config())
    late, kept, lived = (
        daytona.create(CreateSandboxFromSnapshotParams(name=n)) for n in ("late", "kept", "lived")
    )
    late.set_auto_delete_interval(5)
    kept.set_auto_delete_interval(600)
    lived.set_ttl(1)
    assert fresh_engine.command("stop").returncode == 0
    # The engine was away for ten minutes.
    db = sqlite3.connect(fresh_engine.state / "state.db")
    with db:
        db.execute("UPDATE sandbox SET stopped_at = stopped_at - 600, destroy_at = destroy_at - 600")
    db.close()
    fresh_engine.client_env()
    wait_until(lambda: sorted(s.name for s in daytona.list()) == ["kept"], "only one is left", 5)


def test_taken_port_means_a_new_port_and_a_new_key(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.client_env()
    port, key = fresh_engine.record["port"], fresh_engine.key
    assert fresh_engine.command("stop").returncode == 0
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        fresh_engine.client_env()
    assert fresh_engine.record["port"] != port
    assert fresh_engine.key != key


def test_stale_records_are_not_believed(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.client_env()
    record = fresh_engine.record
    fresh_engine.kill()
    # The pid lives, but it is another process; the key must not be shown to whoever listens on that port now.
    runtime = next((fresh_engine.runtime / "daytona-magics").glob("home-*"))
    with _listener() as (port, seen):
        for folder in (runtime, fresh_engine.state):
            places.write_record(folder, {**record, "pid": os.getpid(), "port": port})
        assert (
            fresh_engine.program("from daytona_magics.engine import address; print(address.find())").stdout
            == "None\n"
        )
        assert seen == []
    fresh_engine.client_env()
    assert fresh_engine.pid not in (os.getpid(), record["pid"])


@pytest.mark.parametrize("trick", ["symlink", "open to all", "file"])
def test_a_prepared_runtime_folder_is_refused(fresh_engine: IsolatedEngine, trick: str) -> None:
    runtime = fresh_engine.runtime / "daytona-magics"
    if trick == "symlink":
        (fresh_engine.base / "elsewhere").mkdir()
        runtime.symlink_to(fresh_engine.base / "elsewhere")
    elif trick == "file":
        runtime.write_text("")
    else:
        runtime.mkdir()
        runtime.chmod(0o777)
    done = fresh_engine.command("env")
    assert (done.returncode, done.stdout) == (1, "")
    assert str(runtime) in done.stderr
    assert "Traceback" not in done.stderr
    if runtime.is_dir() and not runtime.is_symlink():
        runtime.rmdir()
    else:
        runtime.unlink()


@needs_root
def test_a_runtime_folder_of_another_user_is_refused(fresh_engine: IsolatedEngine) -> None:
    runtime = fresh_engine.runtime / "daytona-magics"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, 12345, 12345)
    done = fresh_engine.command("env")
    assert done.returncode == 1
    assert "belongs to uid 12345" in done.stderr
    os.chown(runtime, 0, 0)


@needs_root
def test_two_users_cannot_reach_each_other(engine: IsolatedEngine) -> None:
    other = _another_user()
    attempt = """
import os, sys, pathlib, http.client, encodings.idna
from daytona_magics.engine import address
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
state, runtime, port = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4])
for path in [state / "engine.json", state / "endpoint.json", state / "state.db", state / "engine.log",
             runtime / "daytona-magics", *(state / "sandboxes" / name / "home" for name in sys.argv[5:])]:
    try:
        print("OPENED", path, os.listdir(path) if path.is_dir() else path.read_bytes())
    except PermissionError:
        pass
try:
    print("LISTED", os.listdir(state / "sandboxes"))
except PermissionError:
    pass
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.request("GET", "/api/sandbox")
print(connection.getresponse().status)
print(address.find())
"""
    daytona = Daytona(engine.config())
    sandbox = daytona.create()
    arguments = [str(other), str(engine.state), str(engine.runtime), str(engine.record["port"]), sandbox.id]
    home = tempfile.mkdtemp(prefix="dm-")
    os.chown(home, other, other)
    done = subprocess.run(
        [sys.executable, "-c", attempt, *arguments],
        env={"HOME": home, "XDG_RUNTIME_DIR": home, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(home)
    daytona.delete(sandbox)
    assert done.stdout == "401\nNone\n", done.stdout + done.stderr


def _another_user() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(61500, 61900) if uid not in taken)


def test_newer_database_is_refused_in_one_sentence(fresh_engine: IsolatedEngine) -> None:
    fresh_engine.client_env()
    assert fresh_engine.command("stop").returncode == 0
    db = sqlite3.connect(fresh_engine.state / "state.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    done = fresh_engine.command("env")
    assert done.returncode == 1
    assert "newer version" in done.stderr
    assert "schema 99" in done.stderr
    assert "Traceback" not in done.stderr


def test_homes_with_spaces_and_quotes() -> None:
    with isolated_engine(state="my 'state' \"folder\"") as engine:
        daytona = Daytona(engine.config())
        sandbox = daytona.create()
        sandbox.fs.upload_file(b"1", 'it\'s a "file"')
        assert sandbox.process.exec("cat it*").result == "1"
        assert sandbox.process.code_run("print(6*7)").result == "42\n"
        assert [f.name for f in engine.state.glob("sandboxes/*/home/it's*")] == ['it\'s a "file"']
        daytona.delete(sandbox)


@needs_root
def test_a_state_folder_below_a_private_one(fresh_engine: IsolatedEngine) -> None:
    """Root's own folders are closed to the uids of sandboxes; their homes work all the same."""
    closed = fresh_engine.base / "closed"
    closed.mkdir(mode=0o700)
    fresh_engine.environ["DAYTONA_MAGICS_HOME"] = str(closed / "state")
    fresh_engine.state = closed / "state"
    sandbox = Daytona(fresh_engine.config()).create()
    sandbox.fs.upload_file(b"1", "file")
    assert sandbox.process.exec("cat file; pwd; touch new").result == "1/home/daytona\n"
    sandbox.delete()


@needs_root
@pytest.mark.parametrize("options", ["size=1m", "ro", "noexec,size=200m"])
def test_a_state_folder_that_cannot_be_used(options: str) -> None:
    """A full disk, a read-only home, a noexec mount: the fallback is used and the reason is told."""
    with isolated_engine(state="mount/state") as engine:
        mount = engine.state.parent
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)], check=True)
        fallback = Path(f"/var/tmp/daytona-magics-{os.geteuid()}")
        existed = fallback.exists()
        try:
            done = engine.command("doctor", "--json")
            report = json.loads(done.stdout)
            assert report["state_folder"] == str(fallback), done.stderr
            assert str(engine.state) in report["state_folder_message"]
            look = "from daytona_magics.engine import address; print(address.find().pid)"
            with isolated_engine() as other:
                # It sees the same fallback folder, and must not take that engine for its own.
                other.client_env()
                pids = [one.program(look).stdout.strip() for one in (engine, other)]
                assert pids[0] and pids[1] and pids[0] != pids[1]
            assert engine.command("stop").returncode == 0
        finally:
            subprocess.run(["umount", str(mount)], check=True)
            if not existed:
                shutil.rmtree(fallback)


# -- proxies


@contextmanager
def _listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server that notes the first bytes of every connection."""
    seen: list[bytes] = []

    class Note(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.request.recv(4096))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Note) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], seen
        server.shutdown()


BOTH_CLIENTS = """
import asyncio
from daytona import AsyncDaytona, Daytona
sandbox = Daytona().create()
sandbox.fs.upload_file(b"x", "f")
assert sandbox.fs.download_file("f") == b"x"
async def main():
    async with AsyncDaytona() as daytona:
        same = await daytona.get(sandbox.id)
        assert await same.fs.download_file("f") == b"x"
        assert (await same.process.exec("echo hi")).result == "hi\\n"
        pty = await same.process.create_pty_session("p", on_data=lambda data: None)
        await pty.send_input("exit 0\\n")
        print((await pty.wait()).exit_code)
        await same.delete()
asyncio.run(main())
"""


def test_nothing_goes_through_a_proxy(fresh_engine: IsolatedEngine) -> None:
    with _listener() as (port, seen):
        proxy = {
            name: f"http://127.0.0.1:{port}"
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        }
        fresh_engine.environ.update(proxy)
        done = fresh_engine.program(BOTH_CLIENTS, **fresh_engine.client_env())
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
        assert seen == []
        # Positive control: without the exemption the asynchronous client sends the key to the proxy.
        bare = {**fresh_engine.client_env(), "NO_PROXY": "", "no_proxy": ""}
        fresh_engine.program(BOTH_CLIENTS, **bare)
        assert any(fresh_engine.key.encode() in data for data in seen)


def test_no_proxy_keeps_what_was_there() -> None:
    env = {"no_proxy": "corp.example, 10.0.0.1"}
    loopback.add_no_proxy(env)
    loopback.add_no_proxy(env)
    wanted = "corp.example,10.0.0.1,127.0.0.1,localhost,.localhost,::1"
    assert env == {"NO_PROXY": wanted, "no_proxy": wanted}
    star = {"NO_PROXY": "*"}
    loopback.add_no_proxy(star)
    assert star["NO_PROXY"] == "*"


def test_no_proxy_takes_the_callers_own_loopback_host(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = (
        "http://127.0.0.9:3",
        "http://[::ffff:127.0.0.1]:3",
        "http://localhost.:3",
        "http://A.localhost:3",
    )
    hosts = [urllib.parse.urlsplit(url).hostname for url in (*urls, "https://app.daytona.io")]
    env = {"no_proxy": "corp.example,*"}
    assert not any(
        urllib.request.proxy_bypass_environment(str(host), {"no": env["no_proxy"]}) for host in hosts
    )
    loopback.add_no_proxy(env, *hosts, None)
    told = [bool(urllib.request.proxy_bypass_environment(str(h), {"no": env["no_proxy"]})) for h in hosts]
    assert told == [True, True, True, True, False]
    assert env["NO_PROXY"] == env["no_proxy"]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.255.3.4", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("a.b.localhost", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("notlocalhost", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
        (None, False),
    ],
)
def test_which_hosts_are_this_machine(host: str | None, local: bool) -> None:
    assert loopback.is_loopback(host) is local


def test_which_urls_are_the_engines(engine: IsolatedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.client_env()
    for name in ("HOME", "XDG_RUNTIME_DIR", "DAYTONA_MAGICS_HOME"):
        monkeypatch.setenv(name, engine.environ[name])
    port = engine.record["port"]
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "a.localhost", "[::1]"):
        assert address.is_engine_url(f"http://{host}:{port}/api"), host
        assert not address.is_engine_url(f"https://{host}:{port}/api"), host
        assert not address.is_engine_url(f"http://{host}:{port + 1}/api"), host
    for url in (f"http://example.com:{port}/api", f"http://localhost.example.com:{port}", "http://[::1", ""):
        assert not address.is_engine_url(url), url


# -- the command line


def test_env_prints_what_a_shell_can_evaluate(engine: IsolatedEngine) -> None:
    env = engine.client_env()
    assert env["DAYTONA_API_URL"] == f"{engine.url}/api"
    assert env["DAYTONA_API_KEY"] == engine.key
    assert "127.0.0.1" in env["NO_PROXY"].split(",")


def test_status_and_doctor(engine: IsolatedEngine) -> None:
    sandbox = Daytona(engine.config()).create(CreateSandboxFromSnapshotParams(name="seen"))
    text = engine.command("status").stdout
    assert "isolation L3" in text
    assert "started    seen" in text
    status = json.loads(engine.command("status", "--json").stdout)
    assert status["running"] is True
    assert [s["name"] for s in status["sandboxes"]] == ["seen"]
    report = json.loads(engine.command("doctor", "--json").stdout)
    assert (report["ok"], report["isolation"], report["port"]) == (True, "L3", engine.record["port"])
    assert report["state_folder"] == str(engine.state)
    plain = engine.command("doctor")
    assert plain.returncode == 0
    for word in ("isolation", "why not higher", "kernel", "state folder", "shell", "port"):
        assert word in plain.stdout
    for said in (text, plain.stdout, json.dumps(report), json.dumps(status)):
        assert engine.key not in said
    sandbox.delete()


def test_level_zero_only_by_name_and_shown() -> None:
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L0") as engine:
        report = json.loads(engine.command("doctor", "--json").stdout)
        assert report["isolation"] == "L0"
        assert "by name" in report["why_not_higher"]
        sandbox = Daytona(engine.config()).create()
        assert sandbox.labels["daytona-magics/isolation"] == "L0"
        assert sandbox.process.exec("pwd").result.strip() == str(
            engine.state / "sandboxes" / sandbox.id / "home"
        )


def test_unknown_level_fails_closed() -> None:
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="none-please") as engine:
        with pytest.raises(DaytonaServiceUnavailableError, match="none-please"):
            Daytona(engine.config()).create()
        done = engine.command("doctor")
        assert done.returncode == 1
        assert "none-please" in done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_help() -> None:
    done = _run("-m", "daytona_magics.engine", "--help")
    for word in ("serve", "env", "status", "stop", "doctor", "DAYTONA_MAGICS_HOME", "eval"):
        assert word in done.stdout


def test_address_is_cheap_to_import() -> None:
    loaded = _run("-c", "import sys, daytona_magics.engine.address; print(*sorted(sys.modules))").stdout
    assert not {"aiohttp", "socketio", "asyncio", "daytona", "IPython"} & set(loaded.split())


def test_repr_hides_the_key() -> None:
    shown: Any = address.EngineAddress("http://127.0.0.1:1/api", "topsecret", 1, "0.1.0", "L3", Path("/x"))
    assert "topsecret" not in repr(shown)
