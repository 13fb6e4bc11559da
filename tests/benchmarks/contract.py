"""The engine's contract through the unmodified SDK, each figure beside the same without any engine.

    what                     ours                                   plain, alternating in the same run
    create                   AsyncDaytona.create                    starting a Python
    exec                     process.exec("true")                   sh -c true
    upload, download         fs, one file                           aiohttp client and server, one file
    download, SDK            the same download                      the SDK's client, from an aiohttp server
    preview                  a server in the sandbox, through the   the same server, asked directly
                             engine's preview address
    session log              a session command that is followed     a pipe from the same command

What plain does is the least that any answer needs, so the ratio is the price of isolation, of the engine and
of the SDK together; with "download, SDK" it is without that of the SDK, whose client reads the parts of the
answer in Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from daytona import AsyncDaytona, AsyncSandbox, SessionExecuteRequest

from tests.engine_process import isolated_engine

#: Answers, takes files and gives them: in the sandbox for previews, beside it as the plain server.
SERVER = """
import sys
from aiohttp import web

async def take(request):
    size = 0
    with open("taken", "wb") as file:
        async for chunk in (await (await request.multipart()).next()):
            size += file.write(chunk)
    return web.json_response(size)

async def give(request):
    return web.FileResponse("taken")

async def parts(request):
    kind = "multipart/form-data; boundary=part"
    answer = web.StreamResponse(headers={"Content-Type": kind})
    await answer.prepare(request)
    name = (await request.json())["paths"][0]
    lines = ["--part", f'Content-Disposition: form-data; name="file"; filename="{name}"', "", ""]
    await answer.write("\\r\\n".join(lines).encode())
    with open("taken", "rb") as file:
        while data := file.read(1 << 18):
            await answer.write(data)
    await answer.write(b"\\r\\n--part--\\r\\n")
    return answer

async def hello(request):
    return web.Response(text="hello")

app = web.Application(client_max_size=1 << 30)
app.add_routes([web.get("/", hello), web.post("/take", take), web.get("/give", give)])
app.router.add_post("/{path:.+}", parts)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=lambda *_: print("up", flush=True))
"""
PORT = 8055
FILE_MB, LOG_MB = 64, 16
LOG = f"yes 'one line of a log as programs write it' | head -c {LOG_MB * 1_000_000}"
CONNECTIONS = 8

Ask = Callable[[], Awaitable[float]]


@dataclass
class Pair:
    """Samples of one thing, ours and plain, in ``unit``: of ms less is better, of the others more."""

    what: str
    unit: str
    plain_name: str
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median of ours divided by that of plain."""
        return statistics.median(self.ours) / statistics.median(self.plain)

    def figures(self) -> dict[str, Any]:
        """All of it as numbers."""
        return {
            "unit": self.unit,
            "ours_p50": statistics.median(self.ours),
            "ours_p95": percentile(self.ours, 95),
            "plain_p50": statistics.median(self.plain),
            "plain_p95": percentile(self.plain, 95),
            "ratio": self.ratio,
            "samples": len(self.ours),
        }


def percentile(values: list[float], percent: int) -> float:
    """The value that so many per cent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]


async def timed(work: Awaitable[Any]) -> float:
    """Milliseconds that it takes."""
    begin = time.perf_counter()
    await work
    return (time.perf_counter() - begin) * 1000


async def alternate(pair: Pair, runs: int, ours: Ask, plain: Ask) -> Pair:
    """Take ``runs`` samples of both in turns, after one of each that is not counted."""
    await ours(), await plain()
    for _ in range(runs):
        pair.ours.append(await ours())
        pair.plain.append(await plain())
    return pair


async def finished(*argv: str) -> None:
    """Run a plain process to its end."""
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == 0


@contextlib.asynccontextmanager
async def plain_server(folder: Path) -> AsyncIterator[str]:
    """The server as an ordinary process; its URL."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(PORT + 1), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None and await server.stdout.readline() == b"up\n"
    try:
        yield f"http://127.0.0.1:{PORT + 1}"
    finally:
        server.kill()
        await server.wait()


async def creating(daytona: AsyncDaytona, runs: int) -> Pair:
    async def ours() -> float:
        begin = time.perf_counter()
        sandbox = await daytona.create()
        took = (time.perf_counter() - begin) * 1000
        await sandbox.delete()
        return took

    pair = Pair("create a sandbox", "ms", "start a Python")
    return await alternate(pair, runs, ours, lambda: timed(finished(sys.executable, "-I", "-c", "pass")))


async def executing(sandbox: AsyncSandbox, runs: int) -> Pair:
    pair = Pair("process.exec", "ms", "subprocess")
    return await alternate(
        pair, runs, lambda: timed(sandbox.process.exec("true")), lambda: timed(finished("sh", "-c", "true"))
    )


async def moving_files(sandbox: AsyncSandbox, url: str, folder: Path, runs: int) -> list[Pair]:
    source, target = folder / "source", folder / "target"
    source.write_bytes(bytes(range(256)) * (FILE_MB * 1_000_000 // 256))
    size = source.stat().st_size / 1e6

    async def put(session: aiohttp.ClientSession) -> None:
        with source.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("file", file, filename="source")
            async with session.post(f"{url}/take", data=form) as answer:
                assert await answer.json() == source.stat().st_size

    async def get(session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/give") as answer:
            with target.open("wb") as file:
                async for chunk in answer.content.iter_chunked(1 << 18):
                    file.write(chunk)

    def speed(work: Callable[[], Awaitable[Any]]) -> Ask:
        async def ask() -> float:
            return size / (await timed(work()) / 1000)

        return ask

    async with aiohttp.ClientSession() as session:
        up = await alternate(
            Pair(f"upload of {FILE_MB} MB", "MB/s", "aiohttp"),
            runs,
            speed(lambda: sandbox.fs.upload_file(str(source), "uploaded")),
            speed(lambda: put(session)),
        )
        down = await alternate(
            Pair(f"download of {FILE_MB} MB", "MB/s", "aiohttp"),
            runs,
            speed(lambda: sandbox.fs.download_file("uploaded", str(target))),
            speed(lambda: get(session)),
        )
        at = sandbox.fs._api_client.api_client.configuration
        ours = at.host

        async def from_plain() -> None:
            at.host = url
            try:
                await sandbox.fs.download_file("uploaded", str(target))
            finally:
                at.host = ours

        sdk = await alternate(
            Pair(f"download of {FILE_MB} MB, SDK", "MB/s", "the SDK, plain server"),
            runs,
            speed(lambda: sandbox.fs.download_file("uploaded", str(target))),
            speed(from_plain),
        )
    assert target.read_bytes() == source.read_bytes()
    return [up, down, sdk]


async def previewing(sandbox: AsyncSandbox, url: str, runs: int) -> list[Pair]:
    await sandbox.fs.upload_file(SERVER.encode(), "server.py")
    await sandbox.process.create_session("server")
    command = SessionExecuteRequest(command=f"python3 server.py {PORT}", run_async=True)
    await sandbox.process.execute_session_command("server", command)
    link = await sandbox.get_preview_link(PORT)
    async with aiohttp.ClientSession(headers={"x-daytona-preview-token": link.token}) as session:

        async def one(address: str) -> None:
            async with session.get(address) as answer:
                assert await answer.text() == "hello"

        async def many(address: str) -> float:
            async def some() -> None:
                for _ in range(50):
                    await one(address)

            took = await timed(asyncio.gather(*(some() for _ in range(CONNECTIONS))))
            return 50 * CONNECTIONS / (took / 1000)

        deadline = time.monotonic() + 30
        while True:
            async with session.get(link.url) as answer:
                if answer.status == 200:
                    break
            assert time.monotonic() < deadline, "the server in the sandbox does not answer"
            await asyncio.sleep(0.1)
        single = await alternate(
            Pair("preview, one request", "ms", "the server itself"),
            runs * 5,
            lambda: timed(one(link.url)),
            lambda: timed(one(url)),
        )
        crowd = await alternate(
            Pair(f"preview, {CONNECTIONS} connections", "requests/s", "the server itself"),
            max(3, runs // 3),
            lambda: many(link.url),
            lambda: many(url),
        )
    await sandbox.process.delete_session("server")
    return [single, crowd]


async def following(sandbox: AsyncSandbox, runs: int) -> Pair:
    process = sandbox.process
    await process.create_session("log")

    async def ours() -> float:
        begin, size = time.perf_counter(), 0
        request = SessionExecuteRequest(command=LOG, run_async=True)
        started = await process.execute_session_command("log", request)

        def count(text: str) -> None:
            nonlocal size
            size += len(text)

        assert started.cmd_id is not None
        await process.get_session_command_logs_async("log", started.cmd_id, count, count)
        assert size == LOG_MB * 1_000_000, size
        return LOG_MB / (time.perf_counter() - begin)

    async def plain() -> float:
        begin, size = time.perf_counter(), 0
        pipe = await asyncio.create_subprocess_exec("sh", "-c", LOG, stdout=asyncio.subprocess.PIPE)
        assert pipe.stdout is not None
        while data := await pipe.stdout.read(1 << 16):
            size += len(data.decode())
        await pipe.wait()
        assert size == LOG_MB * 1_000_000, size
        return LOG_MB / (time.perf_counter() - begin)

    return await alternate(Pair(f"session log of {LOG_MB} MB", "MB/s", "a pipe"), runs, ours, plain)


async def _measure(config: Any, folder: Path, runs: int) -> list[Pair]:
    async with AsyncDaytona(config) as daytona, plain_server(folder) as url:
        pairs = [await creating(daytona, runs)]
        sandbox = await daytona.create()
        pairs.append(await executing(sandbox, runs))
        pairs += await moving_files(sandbox, url, folder, max(3, runs // 3))
        pairs += await previewing(sandbox, url, runs)
        pairs.append(await following(sandbox, max(3, runs // 3)))
        await sandbox.delete()
    return pairs


def measure(runs: int) -> list[Pair]:
    """Measure all of it on an engine of its own."""
    with isolated_engine() as engine, tempfile.TemporaryDirectory(prefix="dm-") as folder:
        return asyncio.run(_measure(engine.config(), Path(folder), runs))
