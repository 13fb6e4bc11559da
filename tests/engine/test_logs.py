"""The log and the support bundle: what is in them, how they are read, and that no secret gets into them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from daytona_magics.engine import log as engine_log
from daytona_magics.engine import logs
from tests.engine_process import IsolatedEngine, wait_until

pytestmark = pytest.mark.timeout(90)

PROXY = "http://carrier:proxy-pass-word-1@127.0.0.1:9/"
GIT_PASSWORD = "git-pass-word-2"


def _entries(engine: IsolatedEngine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (engine.state / "engine.log").read_text().splitlines()]


async def test_every_answer_names_its_request(engine: IsolatedEngine, shared: Any) -> None:
    headers = {"Authorization": f"Bearer {engine.key}", "X-Request-Id": "mine.1"}
    shared.fs.upload_file(b"x", "file")
    async with aiohttp.ClientSession(headers=headers) as http:
        for path in ("/api/health", "/nothing", f"/toolbox/{shared.id}/files/download?path=file"):
            async with http.get(engine.url + path) as answer:
                assert answer.headers["X-Request-Id"] == "mine.1", path
                await answer.read()
        # A name of its own, for the test may be run again.
        url = f"{engine.url}/toolbox/{shared.id}/process/pty/create-connect?id=log-{uuid.uuid4().hex}"
        async with http.ws_connect(url) as ws:
            assert ws._response.headers["X-Request-Id"] == "mine.1"
        # One that could forge lines, or break a header, is replaced.
        async with http.get(f"{engine.url}/api/health", headers={"X-Request-Id": "a b"}) as answer:
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-Id"])
    downloads: list[str] = []

    def told() -> bool:
        mine = [entry for entry in _entries(engine) if entry.get("request") == "mine.1"]
        downloads[:] = [entry["sandbox"] for entry in mine if "/files/download" in entry["message"]]
        return bool(downloads) and {"/api/health", "/nothing"} <= {
            entry["message"].split()[1] for entry in mine
        }

    # A line is written when its answer is on the way.
    await asyncio.to_thread(wait_until, told, "the log names the requests", 10)
    assert set(downloads) == {shared.id}


def test_the_command_shows_what_is_asked_for(engine: IsolatedEngine, daytona: Any, shared: Any) -> None:
    other = daytona.create()
    other.process.exec("true")
    shared.process.exec("true")
    daytona.delete(other)
    everything = engine.command("logs", "-n", "0").stdout
    assert f"sandbox {shared.id}: creating -> started" in everything and other.id in everything
    by_name = engine.command("logs", "--sandbox", shared.name, "--json")
    found = [json.loads(line) for line in by_name.stdout.splitlines()]
    assert len(found) >= 2 and other.id not in by_name.stdout
    assert all(shared.id in json.dumps(entry) for entry in found)
    assert len(engine.command("logs", "-n", "1").stdout.splitlines()) == 1
    assert "info" not in engine.command("logs", "--level", "error", "-n", "0").stdout
    assert "MB" in engine.command("logs", "--help").stdout


def test_what_a_toolbox_said_is_kept_within_bounds_and_shown(engine: IsolatedEngine, shared: Any) -> None:
    path = engine.state / "stderr" / f"{shared.id}.err"
    with path.open("ab") as file:
        file.write(b"x" * (logs.MAX_STDERR + 1) + b"\nTraceback: \x1b[2J the end\n")
        file.flush()
        shown = engine.command("logs", "--sandbox", shared.id).stdout
        assert "said by its toolbox" in shown and "Traceback: \\x1b[2J the end" in shown
        wait_until(lambda: path.stat().st_size <= logs.KEPT_STDERR, "the engine has shortened it", 30)
        # Who has it open goes on behind what was kept.
        file.write(b"and on\n")
    assert path.read_bytes().endswith(b"the end\nand on\n")


def test_following_goes_on_over_rotation(tmp_path: Path) -> None:
    """Every line once and in order, however the log is rotated meanwhile."""
    writer = f"""
import logging, time, sys
from pathlib import Path
from daytona_magics.engine import log
log.MAX_BYTES = 2000
log.open_log(Path({str(tmp_path)!r}))
log.log.info("first")
sys.stdin.readline()
for n in range(200):
    log.log.info("line %d", n)
    time.sleep(0.002)
"""
    process = subprocess.Popen([sys.executable, "-c", writer], stdin=subprocess.PIPE)
    assert process.stdin is not None
    wait_until(lambda: (tmp_path / "engine.log").exists() and (tmp_path / "engine.log").stat().st_size, "it")
    seen: list[str] = []
    with logs.Tail(tmp_path) as tail:
        assert json.loads(tail.read()[0])["message"] == "first"
        process.stdin.write(b"\n")
        process.stdin.flush()

        def all_read() -> bool:
            seen.extend(json.loads(line)["message"] for line in tail.read())
            return len(seen) >= 200

        wait_until(all_read, "every line is read")
    assert seen == [f"line {n}" for n in range(200)]
    assert process.wait() == 0
    assert len(list(tmp_path.glob("engine.log*"))) == engine_log.OLDER + 1


def test_the_command_follows_until_it_is_interrupted(engine: IsolatedEngine, shared: Any) -> None:
    words = [sys.executable, "-m", "daytona_magics.engine", "logs", "-f", "-n", "1", "--sandbox", shared.id]
    process = subprocess.Popen(words, env=engine.environ, cwd=engine.base, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert shared.id in first
    deadline = time.monotonic() + 30
    shared.fs.create_folder("followed", "755")
    while "/files/folder" not in process.stdout.readline():
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_the_log_stays_within_five_files_of_two_megabytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from daytona_magics.engine import log\n"
        "log.open_log(Path(sys.argv[1]))\nfor n in range(12): log.log.info(' ' * 990_000)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 5 and max(sizes) <= 2_001_000


SECRETS = {
    "bearer": ("Authorization: Bearer abc.DEF-ghi", "abc.DEF-ghi"),
    "basic": ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    "preview token in a path": ("GET /p/abcdefghij0123456789abcdef/3000/x", "abcdefghij0123456789abcdef"),
    "preview token in a host": (
        "http://3000-abcdefghij0123456789abcdef.localhost:1/",
        "abcdefghij0123456789",
    ),
    "preview key in a query": ("/x?DAYTONA_SANDBOX_AUTH_KEY=qwerty12345&y=1", "qwerty12345"),
    "signing key": ("key " + "0123456789abcdef" * 4, "0123456789abcdef"),
    "signature": ("v1_" + "A" * 43, "A" * 43),
    "signature in a query": ("/x?signature=v1_abc-_9&expires=0", "v1_abc-_9"),
    "git login in an address": ("clone https://me:hunter2@git.example/x.git", "hunter2"),
    "git password in JSON": ('{"username": "me", "password": "hunter2"}', "hunter2"),
    "git password in JSON in a text": ('"{\\"password\\": \\"hunter2\\"}"', "hunter2"),
    "proxy password": ("proxy http://carrier:hunter2@proxy:3128 failed", "hunter2"),
    "environment": ("SOME_TOKEN=hunter2 ls", "hunter2"),
}


@pytest.mark.parametrize("what", SECRETS)
def test_secrets_are_masked_by_their_type(what: str) -> None:
    line, secret = SECRETS[what]
    assert secret in line
    assert secret not in engine_log.masked(line), engine_log.masked(line)


def test_masking_takes_no_longer_for_what_is_made_to_be_slow() -> None:
    begun = time.thread_time()
    for text in ("a." * 20_000, "http://" * 9_000, "token " * 9_000, "token" + " " * 50_000, "1-" * 20_000):
        engine_log.masked(text)
    assert time.thread_time() - begun < 5


@pytest.fixture(scope="module")
def used() -> Iterator[tuple[IsolatedEngine, dict[str, str]]]:
    """An engine that has been given secrets of every type, and those secrets."""
    from daytona import CreateSandboxFromSnapshotParams, Daytona
    from daytona.common.errors import DaytonaError

    from tests.engine_process import isolated_engine

    with isolated_engine(HTTPS_PROXY=PROXY, https_proxy=PROXY) as engine:
        client = Daytona(engine.config())
        secret = "env-pass-word-3"
        box = client.create(CreateSandboxFromSnapshotParams(env_vars={"MY_PASSWORD": secret}))
        secrets = {"bearer": engine.key, "proxy": "proxy-pass-word-1", "git": GIT_PASSWORD, "env": secret}
        url = box.download_url("file")
        secrets["signature"] = url.partition("signature=")[2].partition("&")[0]
        with pytest.raises(DaytonaError):
            box.fs.download_file(f"/nowhere?signature={secrets['signature']}")
        with pytest.raises(DaytonaError):
            box.git.clone("http://127.0.0.1:9/x.git", "x", username="me", password=GIT_PASSWORD)
        with pytest.raises(DaytonaError):
            box.git.clone(f"http://me:{GIT_PASSWORD}@127.0.0.1:9/x.git", "y")
        secrets["preview"] = box.get_preview_link(3000).token
        signed = box.create_signed_preview_url(3000)
        secrets["signed preview"] = signed.token
        _get(signed.url.replace(signed.url.split("/")[2].split(":")[0], "127.0.0.1"))
        _get(f"{engine.url}/api/sandbox/{box.id}?api_key={engine.key}", Authorization=f"Bearer {engine.key}")
        _get(f"{engine.url}/api/{engine.key}/{secrets['preview']}", Authorization=f"Bearer {engine.key}")
        key = _get(
            f"{engine.url}/api/sandbox/{box.id}/signing-key", Authorization=f"Bearer {engine.key}"
        ).strip('"')
        secrets["signing key"] = key
        _get(f"{engine.url}/api/{key}", Authorization=f"Bearer {engine.key}")
        yield engine, secrets


def _get(url: str, **headers: str) -> str:
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


def test_no_secret_is_in_the_log(used: tuple[IsolatedEngine, dict[str, str]]) -> None:
    engine, secrets = used
    text = "".join(path.read_text() for path in logs.files(engine.state))
    text += "".join(path.read_text() for path in (engine.state / "stderr").iterdir())
    assert "/git/clone" in text and "/signing-key" in text
    for what, secret in secrets.items():
        assert len(secret) > 8 and secret not in text, what


def test_the_support_bundle_has_what_helps_and_no_secret(
    used: tuple[IsolatedEngine, dict[str, str]], tmp_path: Path
) -> None:
    engine, secrets = used
    # Positive control: the masking of the bundle itself, for what got into a file by another way.
    (engine.state / "stderr" / "zygote.err").write_text(
        f"{engine.key} http://me:{GIT_PASSWORD}@x/ {secrets['signing key']} {engine.home}/notes\n"
    )
    path = tmp_path / "bundle.tar.gz"
    done = engine.command("support-bundle", "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        files = {m.name.partition("/")[2]: archive.extractfile(m) for m in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    wanted = {"versions.json", "doctor.json", "doctor.txt", "status.json", "engine.log", "engine.crash"}
    assert wanted <= set(texts) and any(name.startswith("stderr/") for name in texts)
    assert json.loads(texts["doctor.json"])["isolation"]
    assert json.loads(texts["status.json"])["sandboxes"][0]["state"] == "started"
    assert texts["stderr/zygote.err"] == "*** http://***@x/ *** ~/notes\n"
    for name, text in texts.items():
        for what, secret in secrets.items():
            assert secret not in text, f"{what} in {name}"
        assert str(engine.home) not in text, name
    again = engine.command("support-bundle", "--output", str(path))
    assert again.returncode == 1 and "exists already" in again.stderr


def test_without_an_engine(fresh_engine: IsolatedEngine, tmp_path: Path) -> None:
    done = fresh_engine.command("logs")
    assert done.returncode == 1 and "no embedded engine has run here" in done.stderr
    done = fresh_engine.command("support-bundle", "--output", str(tmp_path / "b.tar.gz"))
    assert done.returncode == 0 and os.path.exists(tmp_path / "b.tar.gz")
