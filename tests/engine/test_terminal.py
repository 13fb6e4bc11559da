"""The web terminal: a real browser at port 22222, and who else would like to be there."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.browser import chromium
from tests.engine.preview_house import by_path, visitor
from tests.engine_process import IsolatedEngine, wait_until

pytestmark = pytest.mark.timeout(180)
PORT = 22222


@pytest.fixture(scope="module")
def signed(shared: Any) -> Any:
    """A signed address of the terminal."""
    return shared.create_signed_preview_url(PORT, expires_in_seconds=3600)


async def _until(ws: aiohttp.ClientWebSocketResponse, wanted: bytes) -> bytes:
    """What the terminal prints up to `wanted`; what was shown is reported, as the page does."""
    got, seen = bytearray(), 0
    while wanted not in got[seen:]:
        seen = max(len(got) - len(wanted), 0)
        message = await asyncio.wait_for(ws.receive(), 30)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), (message, got[-300:])
        if message.type == aiohttp.WSMsgType.BINARY:
            got += message.data
            with suppress(ConnectionResetError):  # The shell may have ended meanwhile.
                await ws.send_str(json.dumps({"type": "shown", "bytes": len(message.data)}))
    return bytes(got)


def _wait_for_size(screen: Any, least: int, most: int) -> None:
    """Until the last size that the shell printed has a number of columns in between."""

    def fits() -> bool:
        found = re.findall(r"[0-9]+ ([0-9]+)", screen.inner_text().replace("\xa0", " "))
        return bool(found) and least <= int(found[-1]) <= most

    wait_until(fits, f"the shell knows of {least} to {most} columns")


def test_a_person_types_in_a_browser(shared: Any, signed: Any) -> None:
    with chromium() as browser:
        for url in (signed.url, signed.additional_properties["pathUrl"]):
            page = browser.new_page()
            problems: list[str] = []
            asked: list[str] = []
            page.on("pageerror", lambda error, found=problems: found.append(str(error)))  # type: ignore[misc]
            page.on("request", lambda request, found=asked: found.append(request.url))  # type: ignore[misc]
            page.goto(url)
            page.wait_for_selector("#terminal[data-state=connected]")
            screen = page.locator(".xterm-rows")
            page.keyboard.type("echo $((6*7))-$TERM; seq 100000; stty size\n")
            screen.filter(has_text="42-xterm-256color").or_(screen.filter(has_text="100000")).wait_for()
            page.keyboard.type("clear; while sleep 0.1; do stty size; done\n")
            _wait_for_size(screen, 100, 1000)
            page.set_viewport_size({"width": 500, "height": 400})
            _wait_for_size(screen, 10, 80)
            page.keyboard.press("Control+c")
            page.keyboard.type("exit 3\n")
            page.wait_for_selector("#terminal[data-state=ended]")
            assert "ended with exit code 3" in screen.inner_text().replace("\xa0", " ")
            page.keyboard.press("Enter")
            page.wait_for_selector("#terminal[data-state=connected]")
            # Nothing but the page and its socket was asked for; an icon is the browser's own idea.
            assert {request for request in asked if not request.endswith("favicon.ico")} == {url}
            assert problems == []
            page.close()
    wait_until(lambda: shared.process.list_pty_sessions() == [], "the shells have ended with their pages")


async def test_a_program_that_prints_without_end_waits_for_the_page(
    signed: Any, engine: IsolatedEngine
) -> None:
    def memory() -> int:
        return int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1]) * 4096

    async with visitor() as anybody:
        async with anybody.ws_connect(signed.url + "ws", max_msg_size=0) as ws:
            await _until(ws, b"$")
            before = memory()
            await ws.send_bytes(b"seq 3000000; echo E''ND\n")
            await asyncio.sleep(
                2
            )  # Nothing is reported as shown, so the engine sends little and reads little.
            assert memory() - before < 12 << 20
            text = (await _until(ws, b"END\r\n")).replace(b"\r\n", b"\n")
            numbers = b"\n".join(b"%d" % n for n in range(1, 3_000_001))
            assert numbers in text, "every line arrived, in order"


async def test_odd_messages_do_no_harm(signed: Any) -> None:
    async with visitor() as anybody:
        async with anybody.ws_connect(signed.url + "ws?cols=-1&rows=9999999999") as ws:
            for text in (
                "",
                "x",
                "[]",
                "{}",
                '{"type": "resize"}',
                '{"type": "shown", "bytes": -5}',
                "[" * 9999,
            ):
                await ws.send_str(text)
            await ws.send_str('{"type": "resize", "cols": 1e999, "rows": 2}')
            await ws.send_str('{"type": "resize", "cols": 77, "rows": 33}')
            await ws.send_bytes(b"stty size; exit 5\n")
            await _until(ws, b"33 77")
            while (message := await asyncio.wait_for(ws.receive(), 30)).type != aiohttp.WSMsgType.CLOSE:
                pass
            assert json.loads(message.extra)["exitCode"] == 5


async def test_even_a_public_sandbox_keeps_its_terminal(async_daytona: Any) -> None:
    box = await async_daytona.create()
    await box.set_public(True)
    link = await box.get_preview_link(PORT)
    listener = urlsplit(link.url).port
    host = f"http://{PORT}-{box.id}.localhost:{listener}/"
    other = await box.create_signed_preview_url(3000, expires_in_seconds=60)
    async with visitor() as anybody:
        for url in (host, by_path(link.url, box.id, PORT), host.replace(box.id, other.token)):
            async with anybody.get(url) as answer:
                assert answer.status == 401
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await anybody.ws_connect(url + "ws")
            assert refused.value.status == 401
        # The control: with the sandbox's token both come.
        proof = {"X-Daytona-Preview-Token": link.token}
        async with anybody.get(host, headers=proof) as answer:
            assert answer.status == 200 and "<main id=terminal" in await answer.text()
        async with anybody.ws_connect(host + "ws", headers=proof) as ws:
            assert await ws.receive_json() == {"type": "control", "status": "connected"}
            # A page of another origin is refused, even with proof; the own page is not.
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await anybody.ws_connect(host + "ws", headers={**proof, "Origin": "http://evil.example"})
            assert refused.value.status == 403
            async with anybody.ws_connect(host + "ws", headers={**proof, "Origin": host.rstrip("/")}):
                pass
            await box.stop()
            while (message := await asyncio.wait_for(ws.receive(), 30)).type != aiohttp.WSMsgType.CLOSE:
                pass
            assert json.loads(message.extra)["exitCode"] != 0
        async with anybody.get(host, headers=proof) as answer:
            assert answer.status == 401
    await box.delete()


async def test_an_open_terminal_does_not_keep_a_sandbox_awake_but_typing_does(async_daytona: Any) -> None:
    box = await async_daytona.create()
    signed = await box.create_signed_preview_url(PORT, expires_in_seconds=600)

    async def last() -> str:
        await box.refresh_data()
        return str(box.last_activity_at)

    async with visitor() as anybody:
        async with anybody.ws_connect(signed.url + "ws") as ws:
            await _until(ws, b"$")
            before = await last()
            await ws.send_str('{"type": "resize", "cols": 80, "rows": 25}')
            assert await last() == before
            await ws.send_bytes(b"echo o''k\n")
            await _until(ws, b"ok\r\n")
            assert await last() > before
    await box.delete()


@pytest.fixture
def without_bundle(engine: IsolatedEngine, tmp_path: Path) -> Iterator[Path]:
    """A copy of the package in which nothing was built."""
    import daytona_magics

    copy = tmp_path / "daytona_magics"
    shutil.copytree(Path(daytona_magics.__file__).parent, copy, ignore=shutil.ignore_patterns("static"))
    yield copy


def test_a_package_without_the_page_says_so(without_bundle: Path) -> None:
    import subprocess
    import sys

    program = (
        "from daytona_magics.engine.preview import terminal\n"
        "try: terminal._script()\n"
        "except Exception as error: print(error.status, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=without_bundle.parent,
        env={"PYTHONPATH": str(without_bundle.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("503 the web terminal's page was not built"), done.stderr
