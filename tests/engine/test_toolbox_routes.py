"""Files and commands through the unmodified SDK: every sender, odd names, every error class."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daytona import AsyncDaytona, CodeRunParams, CreateSandboxFromSnapshotParams, FileUpload
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaFileAccessDeniedError,
    DaytonaFileNotFoundError,
    DaytonaInvalidFilePathError,
    DaytonaProcessExecutionTimeoutError,
)
from daytona.common.filesystem import FileDownloadRequest
from daytona_toolbox_api_client.exceptions import ApiException

from tests.engine_process import IsolatedEngine

ODD_NAMES = [
    "plain.txt",
    "with space",
    'quote"in',
    "back\\slash",
    "'single'",
    "näme-日本-🎉",
    "new\nline",
    "tab\tand;semi=colon",
    "percent%41",
    "-dash",
    "~tilde",
    "{brace}$HOME`x`",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_survive_every_way(sandbox_for_files: Any, name: str, tmp_path: Path) -> None:
    fs = sandbox_for_files.fs
    body = name.encode() + bytes(range(256))
    fs.upload_file(body, name)
    assert fs.download_file(name) == body
    assert b"".join(fs.download_file_stream(name)) == body
    fs.download_file(name, str(tmp_path / "local"))
    assert (tmp_path / "local").read_bytes() == body
    assert fs.get_file_info(name).size == len(body)
    assert name in [entry.name for entry in fs.list_files(".")]
    fs.delete_file(name)
    assert name not in [entry.name for entry in fs.list_files(".")]


@pytest.fixture(scope="module")
def sandbox_for_files(daytona: Any) -> Any:
    made = daytona.create()
    yield made
    daytona.delete(made)


async def test_all_senders_and_receivers(async_daytona: AsyncDaytona, tmp_path: Path) -> None:
    sandbox = await async_daytona.create()
    fs = sandbox.fs
    body = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(body)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_001):
            yield body[start : start + 100_001]

    seen: list[int] = []
    await fs.upload_files([FileUpload(body, "one"), FileUpload(str(tmp_path / "up"), "deep/er/two")])
    with (tmp_path / "up").open("rb") as file:
        await fs.upload_file_stream(file, "three")
    await fs.upload_file_stream(pieces(), "four", on_progress=lambda p: seen.append(p.bytes_sent))
    for name in ("one", "deep/er/two", "three", "four"):
        assert await fs.download_file(name) == body
    assert seen[-1] == len(body)

    totals: list[int | None] = []
    stream = await fs.download_file_stream("one", on_progress=lambda p: totals.append(p.total_bytes))
    assert b"".join([chunk async for chunk in stream]) == body
    # The size is announced, so a progress bar knows its end.
    assert set(totals) == {len(body)}

    got = await fs.download_files(
        [
            FileDownloadRequest(source="one"),
            FileDownloadRequest(source="missing"),
            FileDownloadRequest(source="four", destination=str(tmp_path / "down")),
        ]
    )
    assert got[0].result == body
    assert got[1].result is None
    assert got[1].error_details is not None
    assert got[1].error_details.code == "FILE_NOT_FOUND"
    assert (tmp_path / "down").read_bytes() == body
    assert await fs.download_file((await fs.list_files("deep/er"))[0].path) == body
    await fs.upload_file(b"", "empty")
    assert await fs.download_file("empty") == b""
    await sandbox.delete()


def test_folders(sandbox: Any) -> None:
    sandbox.fs.create_folder("a/b/c", "700")
    info = sandbox.fs.get_file_info("a/b/c")
    assert (info.is_dir, info.permissions, info.owner, info.name) == (True, "0700", "daytona", "c")
    assert info.path == "/home/daytona/a/b/c"
    sandbox.fs.upload_file(b"1", "a/file")
    assert [e.name for e in sandbox.fs.list_files("a")] == ["b", "file"]
    deep = {e.path for e in sandbox.fs.list_files("a", depth=3)}
    assert "/home/daytona/a/b/c" in deep
    with pytest.raises(DaytonaError):
        sandbox.fs.delete_file("a")
    sandbox.fs.delete_file("a", recursive=True)
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.get_file_info("a")


def test_file_errors_have_their_classes(sandbox: Any) -> None:
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.download_file("missing")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.list_files("missing")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.delete_file("missing")
    with pytest.raises(DaytonaInvalidFilePathError):
        sandbox.fs.get_file_info("nul\0inside")
    sandbox.process.exec("mkfifo fifo; mkdir shut; touch shut/x; chmod 000 shut")
    with pytest.raises(DaytonaInvalidFilePathError):
        sandbox.fs.download_file("fifo")
    with pytest.raises(DaytonaFileAccessDeniedError):
        sandbox.fs.download_file("shut/x")
    # The other file of a failing upload is written; the error names the one that was not.
    with pytest.raises(DaytonaError, match="/proc/nope"):
        sandbox.fs.upload_files([FileUpload(b"bad", "/proc/nope"), FileUpload(b"good", "good")])
    assert sandbox.fs.download_file("good") == b"good"


def test_paths_cannot_leave_the_sandbox(sandbox: Any, engine: IsolatedEngine) -> None:
    for path in (
        "../../../../../../" + str(engine.state / "endpoint.json"),
        str(engine.state / "engine.json"),
    ):
        with pytest.raises(DaytonaFileNotFoundError):
            sandbox.fs.download_file(path)
    sandbox.process.exec("ln -s / root")
    assert "endpoint.json" not in str(sandbox.fs.list_files("root/tmp", depth=3))


async def test_single_file_routes(engine: IsolatedEngine, sandbox: Any) -> None:
    base = f"{engine.url}/toolbox/{sandbox.id}/files"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as http:
        async with http.post(f"{base}/upload-v2", params={"path": "d/raw"}, data=b"raw body") as answer:
            assert await answer.json() == {"name": "raw", "path": "d/raw", "type": "file"}
        form = aiohttp.FormData()
        form.add_field("file", b"from a form", filename="x")
        async with http.post(f"{base}/upload-v2", params={"path": "form"}, data=form) as answer:
            assert answer.status == 200
        async with http.get(f"{base}/download", params={"path": "d/raw"}) as answer:
            assert (await answer.read(), answer.content_length) == (b"raw body", 8)
        async with http.get(f"{base}/download", params={"path": "missing"}) as answer:
            body = await answer.json()
            assert (answer.status, body["code"], body["source"]) == (404, "FILE_NOT_FOUND", "DAYTONA_DAEMON")
    assert sandbox.fs.download_file("form") == b"from a form"


def test_execute(sandbox: Any) -> None:
    run = sandbox.process.exec
    assert run("echo out; echo err >&2; exit 4").exit_code == 4
    assert run("echo out; echo err >&2").result == "out\nerr\n"
    assert run("pwd", cwd="/tmp").result == "/tmp\n"
    assert run("echo $X", env={"X": "a 'b'"}).result == "a 'b'\n"
    assert run("printf '\\377'").result == "\ufffd"
    with pytest.raises(DaytonaProcessExecutionTimeoutError):
        run("sleep 30", timeout=1)
    with pytest.raises(DaytonaBadRequestError):
        run("  ")
    with pytest.raises(DaytonaBadRequestError):
        run("true", env={"1X": ""})


def test_code_run(daytona: Any, sandbox: Any) -> None:
    run = sandbox.process.code_run
    params = CodeRunParams(argv=["a b", "--flag"], env={"X": "1"})
    printed = run("import sys, os; print(sys.argv[1:], os.environ['X'])", params).result
    assert printed == "['a b', '--flag'] 1\n"
    failed = run("import sys; print('before'); sys.exit(7)")
    assert (failed.exit_code, failed.result) == (7, "before\n")
    assert "ZeroDivisionError" in run("1/0").result
    assert sandbox.process.code_run("print('ä' * 3)").result == "äää\n"
    # The SDK does not translate the errors of this one call into its own classes.
    with pytest.raises(ApiException) as caught:
        run("import time; time.sleep(30)", timeout=1)
    assert (caught.value.status, caught.value.data.code) == (408, "PROCESS_EXECUTION_TIMEOUT")


def test_javascript_runs_or_is_refused(daytona: Any) -> None:
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(language="javascript"))
    try:
        if shutil.which("node", path="/usr/local/bin:/usr/bin:/bin"):
            done = sandbox.process.code_run("console.log(6 * 7, process.argv[2])", CodeRunParams(argv=["x"]))
            assert (done.exit_code, done.result) == (0, "42 x\n")
        else:
            with pytest.raises(DaytonaBadRequestError, match=r"Node\.js"):
                sandbox.process.code_run("console.log(1)")
    finally:
        daytona.delete(sandbox)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("computeruse/status", "have no desktop"), ("never/heard/of", "does not offer GET")],
)
def test_what_is_not_offered_says_so(sandbox: Any, engine: IsolatedEngine, path: str, sentence: str) -> None:
    address = f"http://127.0.0.1:{engine.record['port']}/toolbox/{sandbox.id}/{path}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {engine.key}"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    body = json.load(caught.value)
    assert (caught.value.code, body["code"]) == (501, "NOT_IMPLEMENTED")
    assert sentence in body["message"]


def test_work_dir_home_and_version(sandbox: Any) -> None:
    assert sandbox.get_work_dir() == "/home/daytona"
    assert sandbox.get_user_home_dir() == "/home/daytona"
    assert sandbox._info_api.get_version()["version"]
