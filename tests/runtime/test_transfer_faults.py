"""Transfers on a line that is slow, breaks, or spoils what it carries: exact, or one clear sentence.

And nothing else: nothing half-written under the final name on either side, nothing left beside it, and the
same transfer tried again is exact.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from daytona import AsyncDaytona, AsyncSandbox

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.runtime import straight
from daytona_magics.runtime.events import Variables
from daytona_magics.runtime.variables import pack
from daytona_magics.sandboxes import files, transfers, variables
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.meter import Meter
from daytona_magics.sandboxes.report import Silent
from tests.engine_process import IsolatedEngine, isolated_engine
from tests.fault_proxy import FaultProxy

TELL = SimpleNamespace(progress=lambda text: None, note=lambda text: None)
#: No two pieces of it are alike.
DATA = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(200_000))
BEGUN = 1 << 20


class Way:
    """The transfers of one sandbox, as the magics make them."""

    def __init__(self, sandbox: AsyncSandbox, folder: Path, data: bytes = DATA) -> None:
        async def usable(tell: Any) -> AsyncSandbox:
            return sandbox

        self.sandbox, self.folder, self.data = sandbox, folder, data
        bound = SimpleNamespace(usable=usable, bound=lambda: sandbox)
        self.binding = cast(Binding, bound)
        (folder / "source").write_bytes(data)

    async def upload(self) -> bool:
        await files.put_file(self.sandbox, TELL, self.folder / "source", "there")
        return await self._same("there")

    async def download(self) -> bool:
        await files.download(self.binding, TELL, "origin", self.folder / "here")
        return (self.folder / "here").read_bytes() == self.data

    async def push(self) -> bool:
        """What stays in the sandbox until a cell takes it."""
        package = pack({"x": self.data})
        found = await variables.send(self.binding, TELL, package)
        digest = hashlib.sha256(package.bytes()).hexdigest()
        done = await self.sandbox.process.exec(f"sha256sum < {found['path']} && rm {found['path']}")
        return bool(done.result.split()[0] == digest)

    async def pull(self) -> bool:
        # The notebook removes what it has fetched.
        await self._execute("cp packed packed-copy")
        event = Variables(path="packed-copy", data=b"")
        return bool((await variables.fetch(self.binding, TELL, event, ["x"]))["x"] == self.data)

    async def pipe(self) -> bool:
        """The same while something in the sandbox still writes it."""
        size = pack({"x": self.data}).size
        await self._execute("rm -f tap; mkfifo tap; (cat packed > tap) > /dev/null 2>&1 &")
        event = Variables(path="tap", piped=size)
        return bool((await variables.fetch(self.binding, TELL, event, ["x"]))["x"] == self.data)

    async def prepare(self) -> None:
        await self.sandbox.fs.upload_file(self.data, "origin")
        await self.sandbox.fs.upload_file(pack({"x": self.data}).bytes(), "packed")

    async def left(self) -> list[str]:
        """Whatever is not where it belongs, on both sides."""
        there = await self._execute(
            "find ~ -name '.daytona-magics-upload-*'; find ~/.daytona-magics/run/variables -type f"
        )
        ours = [path.name for path in self.folder.iterdir() if path.name not in ("source", "here")]
        return [*there.split(), *ours]

    async def absent(self) -> bool:
        """Nothing is under a final name."""
        there = await self._execute("ls there packed-copy tap 2>/dev/null; true")
        return not (self.folder / "here").exists() and "there" not in there.split()

    async def forget(self) -> None:
        (self.folder / "here").unlink(missing_ok=True)
        await self._execute("rm -f there")

    async def _same(self, path: str) -> bool:
        return hashlib.sha256(self.data).hexdigest() in await self._execute(f"sha256sum {path}")

    async def _execute(self, command: str) -> str:
        return str((await self.sandbox.process.exec(f"cd; {command} 2>/dev/null")).result or "")


@pytest.fixture
async def way(sandbox: AsyncSandbox, proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[Way]:
    """A sandbox whose transfers go through the breakable line, and everything else past it."""
    made = Way(sandbox, tmp_path)
    await made.prepare()
    yield made


async def meets(way: Way, work: Callable[[], Awaitable[bool]], fault: Callable[[], Any]) -> str:
    """Run a transfer that meets a fault: "" when it was exact, else its one sentence."""
    await way.forget()
    running = asyncio.ensure_future(work())
    try:
        await fault()
        assert await asyncio.wait_for(running, 60)
        return ""
    except SandboxError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return str(error)
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait([running])


async def clean(way: Way) -> None:
    """Nothing is left; the engine may need a moment to learn of it."""
    deadline = asyncio.get_running_loop().time() + 30
    while await way.left():
        assert asyncio.get_running_loop().time() < deadline, await way.left()
        await asyncio.sleep(0.1)


WAYS = ("upload", "download", "push", "pull", "pipe")


@pytest.mark.parametrize("kind", ["rst", "fin", "hole"])
async def test_a_line_that_breaks(
    way: Way, proxy: FaultProxy, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straight, "STALL", 2.0)

    async def fault() -> None:
        goal = proxy.passed + BEGUN
        while proxy.passed < goal:
            await asyncio.sleep(0.001)
        proxy.cut(kind)

    proxy.both_ways = True
    for name in WAYS:
        proxy.slow(rate=20e6)
        said = await meets(way, getattr(way, name), fault)
        assert "to its end" in said, (name, said)
        assert await way.absent(), name
        proxy.slow()
        proxy.cut("rst")  # a black hole lets nobody know that it has swallowed somebody
        assert await meets(way, getattr(way, name), lambda: asyncio.sleep(0)) == "", name
    await clean(way)


@pytest.mark.parametrize("how", ["duplicate", "reorder"])
async def test_a_line_that_spoils_what_it_carries(way: Way, proxy: FaultProxy, how: Any) -> None:
    proxy.both_ways = True
    for name in WAYS:

        async def fault() -> None:
            proxy.garble(how, 1, after=BEGUN)

        said = await meets(way, getattr(way, name), fault)
        assert said, f"{name} through a spoiled line was believed"
        assert await way.absent(), name
        proxy.to_garble = 0
        assert await meets(way, getattr(way, name), lambda: asyncio.sleep(0)) == "", name
    await clean(way)


async def test_without_the_checksum_a_spoiled_line_is_believed(
    way: Way, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a client that takes the relay for the engine gets other bytes, and does not know it."""
    monkeypatch.setattr(straight, "FROM", "X-Nobody-Asks")

    async def fault() -> None:
        proxy.garble("reorder", 1, after=BEGUN)

    await way.forget()
    running = asyncio.ensure_future(way.download())
    await fault()
    assert await asyncio.wait_for(running, 60) is False


async def test_a_slow_line_is_only_slow(way: Way, proxy: FaultProxy) -> None:
    proxy.both_ways = True
    proxy.slow(delay=0.002, rate=30e6)
    for name in WAYS:
        assert await meets(way, getattr(way, name), lambda: asyncio.sleep(0)) == "", name
    await clean(way)


async def test_a_transfer_that_is_cancelled_leaves_nothing(way: Way, proxy: FaultProxy) -> None:
    proxy.both_ways = True
    proxy.slow(rate=20e6)
    for name in WAYS:
        await way.forget()
        goal = proxy.passed + BEGUN
        running = asyncio.ensure_future(getattr(way, name)())
        while proxy.passed < goal:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 30)
        proxy.cut("rst")  # with what it holds: it may be all that was missing
        assert await way.absent(), name
    await clean(way)


async def test_the_sdks_own_way_through_a_black_hole_is_given_up(
    way: Way, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straight, "STALL", 2.0)
    # This hole takes what is sent, and says nothing.
    monkeypatch.setattr(transfers, "ANSWER", 2.0)
    proxy.both_ways = True
    direct, through = way.sandbox._toolbox_api._toolbox_base_url, way.sandbox.toolbox_proxy_url

    async def pieces() -> AsyncIterator[bytes]:
        yield way.data

    async def up() -> None:
        await transfers.put_stream(way.sandbox, pieces(), "there")

    async def down() -> None:
        async for _ in transfers.content(way.sandbox, "origin", "origin"):
            pass

    for carry in (up, down):
        proxy.slow(rate=20e6)
        goal = proxy.passed + BEGUN
        way.sandbox._toolbox_api._toolbox_base_url = through
        running = asyncio.ensure_future(carry())
        while proxy.passed < goal:
            await asyncio.sleep(0.001)
        proxy.cut("hole")
        with pytest.raises(SandboxUnreachable, match=r"to its end \(nothing moved for 2 s\)"):
            await asyncio.wait_for(running, 60)
        proxy.slow()
        proxy.cut("rst")
        way.sandbox._toolbox_api._toolbox_base_url = direct
    assert await way.absent()
    await clean(way)


async def test_a_disk_that_is_full_is_one_sentence(way: Way) -> None:
    way.sandbox.toolbox_proxy_url = way.sandbox._toolbox_api._toolbox_base_url  # where nothing relays
    meter = Meter(TELL, "downloading")
    for path in ("/dev/full", "/dev/null"):
        with open(path, "wb", buffering=0) as file:
            sink = files._File(file, "origin", len(DATA))
            receiving = transfers.receive(way.sandbox, "origin", "origin", sink, meter)
            if path == "/dev/full":
                with pytest.raises(SandboxError, match="cannot be written to this disk: No space left"):
                    await receiving
            else:
                assert await receiving == len(DATA)


async def test_an_upload_is_answered_when_its_sandbox_ends(sandbox: AsyncSandbox) -> None:
    """Though the client sends nothing just then, and so has no other way to learn of it."""
    address = straight.Address.of(sandbox)
    assert address is not None
    transfer, begun = straight.Transfer(address, "there"), threading.Event()
    heard: list[bool] = []

    def pieces() -> Iterator[bytes]:
        yield DATA[:BEGUN]
        begun.set()
        heard.append(bool(select.select([transfer._sock], [], [], 60)[0]))
        yield DATA[BEGUN:]

    running = asyncio.ensure_future(asyncio.to_thread(transfer.send, len(DATA), pieces))
    assert await asyncio.to_thread(begun.wait, 60)
    await sandbox.stop()
    with pytest.raises((straight.Refused, straight.Broken)):
        await asyncio.wait_for(running, 60)
    assert heard == [True]


async def killed_in(way: Way, name: str, proxy: FaultProxy, pid: int) -> None:
    goal = proxy.passed + BEGUN
    running = asyncio.ensure_future(getattr(way, name)())
    while proxy.passed < goal:
        assert not running.done(), running
        await asyncio.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((SandboxUnreachable, SandboxError)) as caught:
        # Well before the transfer would be given up because nothing moves.
        await asyncio.wait_for(running, 45)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("victim", ["sandbox", "engine"])
async def test_what_is_killed_in_the_middle(tmp_path: Path, victim: str) -> None:
    theirs = ".upload-0123456789abcdef"
    # At L2 no layer of a system is made, which on a slow disk takes longer than all of this.
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L2") as engine:
        async with AsyncDaytona(engine.config()) as daytona:
            sandbox = await daytona.create()
            direct = sandbox.toolbox_proxy_url
            for name in ("upload", "download"):
                # More than all that the ways between could hold.
                way = Way(sandbox, tmp_path, DATA * 6)
                await way.prepare()
                await sandbox.fs.upload_file(b"mine", theirs)
                split = urlsplit(direct)
                async with FaultProxy(split.hostname or "", split.port or 0) as proxy:
                    sandbox.toolbox_proxy_url = split._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
                    proxy.both_ways = True
                    proxy.slow(rate=5e6)
                    await killed_in(
                        way, name, proxy, first_process(engine) if victim == "sandbox" else engine.pid
                    )
                    assert not (tmp_path / "here").exists()
                sandbox.toolbox_proxy_url = direct
                sandbox = await started_again(engine, daytona, sandbox)
                direct = sandbox.toolbox_proxy_url
                way = Way(sandbox, tmp_path, DATA * 6)
                assert await way.absent()
                assert await getattr(way, name)()
                assert await way.left() == []
                # A file of the person's own, however it is called, is not swept away.
                assert await sandbox.fs.download_file(theirs) == b"mine"
                await way.forget()


def first_process(engine: IsolatedEngine) -> int:
    """The toolbox of the engine's one sandbox."""
    from tests.benchmarks.transfers import below

    found = below(engine.pid)
    inside = [pid for pid in found if _inside(pid)]
    assert inside, json.dumps([words for words, *_ in found.values()])
    return min(inside)


def _inside(pid: int) -> bool:
    """Whether a process is the first of a namespace of its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"


async def started_again(engine: IsolatedEngine, daytona: AsyncDaytona, sandbox: AsyncSandbox) -> AsyncSandbox:
    """The sandbox, and before that its engine, started once more."""
    engine.client_env()
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        try:
            found = await daytona.get(sandbox.id)
            if str(found.state.value) != "started":
                await found.start()
            await found.process.exec("true")
            return found
        except Exception:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.2)


async def test_a_file_of_this_machine_that_says_nothing_of_its_size_and_does_not_end(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = Path("/proc/self/status")
    assert await files.put_file(way.sandbox, Silent(), status, "status") > 500, "the control: one that ends"
    monkeypatch.setattr(files, "UNSAID", files.PIECE)
    with pytest.raises(SandboxError, match="says that it is empty, and has more than"):
        await files.put_file(way.sandbox, Silent(), Path("/dev/zero"), "zero")
