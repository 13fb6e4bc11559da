"""Signed file URLs: made by the unmodified SDK, used by a client that has nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import pytest
from daytona import AsyncDaytona, AsyncSandbox

from tests.engine_process import IsolatedEngine


@pytest.fixture
async def anybody() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without the bearer."""
    async with aiohttp.ClientSession() as session:
        yield session


def changed(url: str, **values: str) -> str:
    parts = urlsplit(url)
    return parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **values})).geturl()


async def test_a_file_goes_both_ways_without_the_bearer(
    box: AsyncSandbox, anybody: aiohttp.ClientSession
) -> None:
    name = "dir/é &+%.txt"
    upload = await box.upload_url(name)
    async with anybody.post(upload, data=b"raw \x00 body") as answer:
        assert answer.status == 200
        assert (await answer.json())["path"] == name
    download = await box.download_url(name)
    async with anybody.get(download) as answer:
        assert (answer.status, await answer.read()) == (200, b"raw \x00 body")
    form = aiohttp.FormData()
    form.add_field("file", b"from a form", filename="x")
    async with anybody.post(upload, data=form) as answer:
        assert answer.status == 200
    assert await box.fs.download_file(name) == b"from a form"
    forever = await box.download_url(name, ttl_seconds=0)
    async with anybody.get(forever) as answer:
        assert answer.status == 200


async def test_nothing_else_can_be_had_with_it(
    box: AsyncSandbox, async_daytona: AsyncDaytona, anybody: aiohttp.ClientSession, engine: IsolatedEngine
) -> None:
    await box.fs.upload_file(b"1", "a")
    await box.fs.upload_file(b"2", "b")
    other = await async_daytona.create()
    await other.fs.upload_file(b"3", "a")
    await other.download_url("a")  # It has a key of its own.
    url = await box.download_url("a")
    expired = await box.download_url("a", ttl_seconds=1)
    attacks = {
        "another file": changed(url, path="b"),
        "later": changed(url, expires=str(int(time.time()) + 10_000)),
        "for ever": changed(url, expires="0"),
        "no expiry": changed(url, expires=""),
        "another number": changed(url, expires="٣"),
        "another signature": changed(url, signature="v1_" + "A" * 43),
        "no signature": changed(url, signature=""),
        "two paths": url + "&path=b",
        "another sandbox": url.replace(box.id, other.id),
        "no sandbox": url.replace(box.id, "nothing"),
        "an upload": url.replace("files/download", "files/upload-v2"),
        "a listing": url.replace("files/download", "files"),
        "a command": url.replace("files/download", "process/execute"),
        "a longer path": url.replace("files/download", "files/download/"),
        "the control plane": f"{engine.url}/api/sandbox?{urlsplit(url).query}",
    }
    for what, attack in attacks.items():
        async with anybody.get(attack) as answer:
            assert answer.status == 401, what
        async with anybody.post(attack, data=b"x") as answer:
            assert answer.status == 401, what
    async with anybody.get(url, headers={"Origin": "http://evil.example"}) as answer:
        assert answer.status == 403
    async with anybody.get(url, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403
    async with anybody.get(url, headers={"Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 401
    async with anybody.get(url) as answer:  # The control: as it was made it works.
        assert (answer.status, await answer.read()) == (200, b"1")
    while time.time() < int(dict(parse_qsl(urlsplit(expired).query))["expires"]):
        time.sleep(0.05)
    async with anybody.get(expired) as answer:
        assert answer.status == 401
    await other.delete()


async def test_a_rotated_key_takes_all_urls_back(box: AsyncSandbox, anybody: aiohttp.ClientSession) -> None:
    await box.fs.upload_file(b"1", "a")
    url = await box.download_url("a", ttl_seconds=0)
    await box.stop()
    await box.start()
    async with anybody.get(url) as answer:
        assert answer.status == 200
    await box.rotate_signing_key()
    async with anybody.get(url) as answer:
        assert answer.status == 401
    async with anybody.get(await box.download_url("a")) as answer:
        assert answer.status == 200


async def test_the_key_is_in_no_description(box: AsyncSandbox, engine: IsolatedEngine) -> None:
    await box.download_url("a")
    headers = {"Authorization": f"Bearer {engine.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{engine.url}/api/sandbox/{box.id}/signing-key") as answer:
            key = await answer.json()
        assert isinstance(key, str) and len(key) == 64
        for path in (f"sandbox/{box.id}", "sandbox", "engine/status"):
            async with session.get(f"{engine.url}/api/{path}") as answer:
                assert key not in await answer.text()
    assert key not in (engine.state / "engine.log").read_text()
