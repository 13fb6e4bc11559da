"""The file API, used well and attacked: nothing gets out, nothing hangs, nothing is half-written."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import test_utils, web

from daytona_magics.engine.api.files import LISTING_PART, file_json, send_listing
from daytona_magics.engine.launch.launcher import SandboxProcess
from daytona_magics.engine.toolbox.client import FileInfo, Toolbox, ToolboxError

pytestmark = pytest.mark.timeout(60)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def put(toolbox: Toolbox, path: str, data: bytes) -> int:
    return await toolbox.upload(path, pieces(data))


async def get(toolbox: Toolbox, path: str) -> bytes:
    async with await toolbox.download(path) as file:
        data = b"".join([chunk async for chunk in file])
        assert len(data) == file.size
        return data


async def refused(operation: Any) -> ToolboxError:
    with pytest.raises(ToolboxError) as caught:
        await asyncio.wait_for(operation, 20)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 5_000_000])
async def test_there_and_back(box: SandboxProcess, size: int) -> None:
    data = os.urandom(size)
    assert await put(box.toolbox, "deep/er/file.bin", data) == size
    assert await get(box.toolbox, "/home/daytona/deep/er/file.bin") == data
    info = await box.toolbox.file_info("deep/er/file.bin")
    assert (info.name, info.size, info.is_dir) == ("file.bin", size, False)
    assert (info.mode, info.permissions, info.owner, info.group) == (
        "-rw-r--r--",
        "0644",
        "daytona",
        "daytona",
    )
    assert info.mod_time.endswith("Z") and info.mod_time[10] == "T"


async def test_replacing_keeps_the_mode(box: SandboxProcess) -> None:
    await put(box.toolbox, "script", b"#!/bin/sh\necho one\n")
    await box.toolbox.execute("chmod 755 script")
    await put(box.toolbox, "script", b"#!/bin/sh\necho two\n")
    assert (await box.toolbox.execute("./script; ls -A")).output == b"two\n.zshrc\nscript\n"


async def test_listing(box: SandboxProcess) -> None:
    await box.toolbox.execute("mkdir -p a/b/c; touch a/x a/b/y; ln -s /nowhere broken")
    found = {info.name: info for info in await box.toolbox.list_files(".")}
    assert sorted(found) == [".zshrc", "a", "broken"]
    assert found["a"].is_dir and found["a"].path == "/home/daytona/a"
    assert found["broken"].mode.startswith("l")
    deep = [info.path for info in await box.toolbox.list_files("/home/daytona/a", depth=3)]
    assert deep == [f"/home/daytona/a/{name}" for name in ("b", "x", "b/c", "b/y")]
    assert (await refused(box.toolbox.list_files("nowhere"))).code == "FILE_NOT_FOUND"
    assert (await refused(box.toolbox.list_files("a/x"))).code == "INVALID_FILE_PATH"


async def test_folders_and_deleting(box: SandboxProcess) -> None:
    await box.toolbox.create_folder("one/two", "750")
    assert (await box.toolbox.file_info("one/two")).permissions == "0750"
    await box.toolbox.create_folder("one/two", "750")
    await put(box.toolbox, "one/file", b"x")
    assert (await refused(box.toolbox.create_folder("one/file/three"))).status == 400
    assert (await refused(box.toolbox.create_folder("x", "rwx"))).status == 400
    assert (await refused(box.toolbox.delete_file("one"))).status == 400
    await box.toolbox.execute("chmod 000 one/two")
    await box.toolbox.delete_file("one", recursive=True)
    assert (await refused(box.toolbox.delete_file("one"))).code == "FILE_NOT_FOUND"
    assert (await refused(box.toolbox.delete_file("/home/daytona", recursive=True))).status in (403, 400)
    assert (await refused(box.toolbox.delete_file("/usr", recursive=True))).status == 403


async def test_many_files_in_one_folder(box: SandboxProcess) -> None:
    await box.toolbox.execute("mkdir /tmp/many; cd /tmp/many; seq 10000 | xargs touch")
    assert len(await box.toolbox.list_files("/tmp/many")) == 10_000


#: Files whose paths are as long as they can be and take six bytes per character in a message.
LONG_PATHS = """
import os, sys
for _ in range(15):
    os.mkdir("é" * 125)
    os.chdir("é" * 125)
for number in range(int(sys.argv[1])):
    open(str(number), "w").close()
"""


async def test_long_paths_and_too_many_of_them(box: SandboxProcess) -> None:
    assert (await box.toolbox.run_program(["python3", "-c", LONG_PATHS, "300"])).output == b""
    found = await box.toolbox.list_files(".", depth=16)
    assert len([info for info in found if info.size == 0 and len(info.path) > 1890]) == 300
    more = LONG_PATHS.replace('os.mkdir("é" * 125)', "pass")
    assert (await box.toolbox.run_program(["python3", "-c", more, "3200"])).output == b""
    error = await refused(box.toolbox.list_files(".", depth=16))
    assert (error.status, error.code) == (413, "PAYLOAD_TOO_LARGE") and "32 MiB" in error.message
    assert len(await box.toolbox.list_files(".")) == 2


async def test_a_long_listing_is_written_in_parts() -> None:
    many = [
        FileInfo(f"é{n}", f"/é{n}", False, n, "-rw-r--r--", "0644", "2026-01-01T00:00:00Z", "a", "a")
        for n in range(2 * LISTING_PART + 1)
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        return await send_listing(request, many[: int(request.query["n"])])

    app = web.Application()
    app.router.add_get("/", answer)
    async with test_utils.TestClient(test_utils.TestServer(app)) as client:
        for count in (0, 1, LISTING_PART, LISTING_PART + 1, len(many)):
            response = await client.get(f"/?n={count}")
            assert response.content_type == "application/json"
            assert await response.json() == [file_json(info) for info in many[:count]]


# -- attacks


@pytest.mark.parametrize(
    "path", ["../../../../etc/shadow", "/etc/shadow", "/root/.bashrc", "link/etc/shadow"]
)
async def test_the_host_is_not_behind_any_path(box: SandboxProcess, path: str) -> None:
    await box.toolbox.execute("ln -s / link")
    assert (await refused(box.toolbox.download(path))).code == "FILE_NOT_FOUND"


async def test_passwd_is_the_sandbox_s_own(box: SandboxProcess) -> None:
    await box.toolbox.execute("ln -s /etc/passwd innocent")
    for path in ("innocent", "/etc/passwd", "../../etc/passwd"):
        assert (await get(box.toolbox, path)).startswith(b"daytona:x:1000:1000:")
        assert (await refused(put(box.toolbox, path, b"root::0:0::/:/bin/sh\n"))).code == "FILE_ACCESS_DENIED"
    await box.toolbox.delete_file("innocent")
    assert (await get(box.toolbox, "/etc/passwd")).startswith(b"daytona:")
    # The link itself may be deleted, never what it points to.
    assert (await refused(box.toolbox.delete_file("/etc/passwd"))).code == "FILE_ACCESS_DENIED"


@pytest.mark.parametrize(
    "use", [Toolbox.list_files, Toolbox.file_info, Toolbox.delete_file, Toolbox.download]
)
async def test_nul_and_empty_paths(box: SandboxProcess, use: Callable[..., Any]) -> None:
    for path in ("a\0b", ""):
        error = await refused(use(box.toolbox, path))
        assert (error.status, error.code) == (400, "INVALID_FILE_PATH")
    assert (await refused(box.toolbox.upload("a\0b", pieces(b"")))).code == "INVALID_FILE_PATH"


async def test_only_regular_files_are_read_and_written(box: SandboxProcess) -> None:
    await box.toolbox.execute("mkfifo fifo; ln -s /dev/zero zero; ln -s /proc/1/mem mem; mkdir folder")
    for path in ("fifo", "zero", "/dev/zero", "/dev/tty", "folder"):
        assert (await refused(box.toolbox.download(path))).code == "INVALID_FILE_PATH", path
        assert (await refused(put(box.toolbox, path, b"x"))).code == "INVALID_FILE_PATH", path
    # Files of /proc are bounded, whatever they are.
    for path in ("mem", "/proc/kcore", "/proc/self/mem", "/proc/kmsg", "/proc/self/pagemap"):
        error = await refused(get(box.toolbox, path))
        assert error.status in (403, 404, 413, 500, 503), path
    assert b"MemTotal" in await get(box.toolbox, "/proc/meminfo")
    assert (await box.toolbox.execute("echo alive")).output == b"alive\n"


PIPE = """
import os, sys
os.mkfifo("pipe")
if os.fork():
    sys.exit()
os.setsid()
data = open("data", "rb").read()
with open("pipe", "wb", 0) as pipe:
    try:
        sent = memoryview({sent})
        while sent:
            sent = sent[pipe.write(sent):]
        os.mkdir("written")
    except BrokenPipeError:
        os.mkdir("broken")
"""


async def piped(box: SandboxProcess, sent: str, asked: int) -> bytes:
    """What is read of a pipe that somebody in the sandbox writes to."""
    await box.toolbox.execute("rm -rf pipe written broken")
    run = await box.toolbox.run_program(["python3", "-c", PIPE.replace("{sent}", sent)])
    assert run.exit_code == 0, run.output
    data = bytearray()
    async with await box.toolbox.download("pipe", asked) as file:
        assert file.size == asked
        async for chunk in file:
            data += chunk
            assert len(data) <= asked
    return bytes(data)


async def appeared(box: SandboxProcess, name: str) -> None:
    while name not in [info.name for info in await box.toolbox.list_files(".")]:
        await asyncio.sleep(0.02)


async def test_a_pipe_gives_as_many_bytes_as_were_said(box: SandboxProcess) -> None:
    data = os.urandom(5_000_000)
    await put(box.toolbox, "data", data)
    assert await piped(box, "data", len(data)) == data
    await appeared(box, "written")
    # What its writer adds is nobody's; its writer learns of it.
    assert await piped(box, "data + data", len(data)) == data
    await appeared(box, "broken")
    for sent in ("data[:-1]", "b''"):
        error = await refused(piped(box, sent, len(data)))
        assert error.code == "FILE_READ_FAILED" and "before it had given all" in str(error)
    # A file in its place is a file, whatever was said; and without a word about one, a pipe is none.
    async with await box.toolbox.download("data", 7) as file:
        assert file.size == len(data)
    assert (await refused(box.toolbox.download("pipe"))).code == "INVALID_FILE_PATH"


async def test_a_pipe_whose_reader_leaves_breaks(box: SandboxProcess) -> None:
    await put(box.toolbox, "data", bytes(5_000_000))
    await box.toolbox.run_program(["python3", "-c", PIPE.replace("{sent}", "data")])
    async with await box.toolbox.download("pipe", 5_000_000) as file:
        await file.__aiter__().__anext__()
    await appeared(box, "broken")


async def test_strange_names(box: SandboxProcess) -> None:
    await box.toolbox.run_program(["python3", "-c", "open(b'bad-\\xff\\n-name', 'w'); open('é\"\\\\', 'w')"])
    names = [info.name for info in await box.toolbox.list_files(".")]
    assert names == [".zshrc", "bad-\\xff\n-name", 'é"\\']
    for name in names:
        name.encode("utf-8")  # Whatever lies there can be written into an answer.
    assert await put(box.toolbox, "new\nline", b"1") == 1
    long = "n" * 255
    assert await put(box.toolbox, long, b"12") == 2
    assert (await refused(put(box.toolbox, long + "n", b""))).code == "INVALID_FILE_PATH"


async def test_a_full_disk(box: SandboxProcess) -> None:
    # Not empty when this very checkout, whose Python the sandbox sees, lies below /tmp.
    before = await box.toolbox.list_files("/tmp")
    error = await refused(put(box.toolbox, "/tmp/big", bytes(20 << 20)))
    assert (error.status, error.code) == (507, "DISK_FULL")
    assert await box.toolbox.list_files("/tmp") == before
    assert await put(box.toolbox, "/tmp/small", bytes(1 << 20)) == 1 << 20


async def test_an_upload_that_breaks_off_leaves_nothing(box: SandboxProcess) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError):
        await box.toolbox.upload("half", broken())
    check = "while ls -A | grep -q upload; do sleep 0.02; done; ls -A"
    assert (await box.toolbox.execute(check, timeout=10)).output == b".zshrc\n"


async def test_links_in_circles(box: SandboxProcess) -> None:
    await box.toolbox.execute("ln -s b a; ln -s a b")
    assert (await refused(box.toolbox.download("a"))).code == "INVALID_FILE_PATH"
    assert len(await box.toolbox.list_files(".", depth=5)) == 3
