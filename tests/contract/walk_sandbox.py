"""Scenarios of a sandbox's settings, addresses and figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams, ListSandboxesQuery, Resources

from tests.contract.walk import Walk, walks
from tests.contract.walk_files import served


async def made(w: Walk, **params: Any) -> Any:
    """A sandbox of a scenario's own."""
    return await w(w.client.create, CreateSandboxFromSnapshotParams(**params))


async def again(w: Walk, box: Any = None) -> Any:
    """The shared sandbox, or another, as the engine tells of it now."""
    return await w(w.client.get, (box or w.box).id)


async def reaches(w: Walk, box: Any, state: str) -> Any:
    """Wait until this object and one that is asked for now tell this state; returns the latter.

    The SDK's objects hear of changes by events as well, also of the last change but one, and late.
    """

    async def told() -> Any:
        found = await again(w, box)
        return found if box.state == found.state == state else None

    return await w.until(told, f"it is {state}")


@walks("Daytona.create", "Daytona.get", "Daytona.list", "Daytona.delete")
async def creating(w: Walk) -> None:
    """a program inside sees its environment; it is found by name, id and label, and gone once deleted"""
    name = f"walk-{w.flavour}"
    box = await made(w, name=name, env_vars={"WALK": "ed"}, labels={"walk": w.flavour}, auto_stop_interval=7)
    assert await w.sh("echo $WALK", box) == "ed"
    found = await reaches(w, box, "started")
    assert (found.name, found.auto_stop_interval) == (box.name, box.auto_stop_interval) == (name, 7)
    assert (await w(w.client.get, name)).id == (await w(w.client.get, box.id)).id == box.id
    wanted = ListSandboxesQuery(labels={"walk": w.flavour}, limit=1)
    assert [one.id for one in await w.all(w.client.list, wanted)] == [box.id]
    assert {box.id, w.box.id} <= {one.id for one in await w.all(w.client.list, ListSandboxesQuery(limit=1))}
    await w(w.client.delete, box, wait=True)
    await w.fails("DaytonaNotFoundError", w.client.get, box.id)
    assert await w.all(w.client.list, wanted) == []


@walks("Daytona.close")
async def closing(w: Walk) -> None:
    """the connections it had are closed"""
    other = AsyncDaytona(w.engine.config())
    await w(other.get, w.box.id)
    session = other._api_client.rest_client.pool_manager
    assert not session.closed
    await w(other.close)
    assert session.closed


@walks(
    "Sandbox.fs",
    "Sandbox.git",
    "Sandbox.process",
    "Sandbox.code_interpreter",
    "Sandbox.computer_use",
    "Sandbox.refresh_data",
    "Sandbox.set_labels",
)
async def services(w: Walk) -> None:
    """each service speaks to this sandbox, and another client's new labels are seen after a refresh"""
    box = await again(w)
    await w(w.see(box, "fs").upload_file, b"print('here')", "service.py")
    assert (await w(w.see(box, "process").exec, "python3 service.py")).result == "here\n"
    await w(w.see(box, "git").init, "service")
    listed = await w(w.see(box, "code_interpreter").run_code, "import os; print(os.listdir())")
    assert "'service.py'" in listed.stdout and "'service'" in listed.stdout
    await w.fails("no desktop", w.see(box, "computer_use").get_status)
    labels = await w(w.box.set_labels, {"set": w.flavour})
    assert labels["set"] == w.flavour and "set" not in box.labels
    await w(box.refresh_data)
    assert box.labels == labels
    found = await w.all(w.client.list, ListSandboxesQuery(labels={"set": w.flavour}))
    assert [one.id for one in found] == [box.id]


@walks("Sandbox.get_user_home_dir", "Sandbox.get_user_root_dir", "Sandbox.get_work_dir")
async def places(w: Walk) -> None:
    """the folders are those that a shell inside calls ~ and starts in"""
    assert await w(w.box.get_user_home_dir) == await w.sh("echo ~")
    assert await w(w.box.get_user_root_dir) == await w.sh("echo ~")
    assert await w(w.box.get_work_dir) == await w.sh("pwd")


@walks("Sandbox.update_env")
async def environment(w: Walk) -> None:
    """programs started afterwards see the set and the unset variables"""
    await w(w.box.update_env, {"WALK_A": "1", "WALK_B": "two words"})
    assert await w.sh('echo "$WALK_A,$WALK_B"') == "1,two words"
    await w(w.box.update_env, {"WALK_C": "3"}, unset=["WALK_A"])
    assert await w.sh('echo "${WALK_A-none},$WALK_B,$WALK_C"') == "none,two words,3"
    await w(w.box.update_env, {}, unset=["WALK_B", "WALK_C"])


@walks(
    "Sandbox.set_autostop_interval",
    "Sandbox.set_auto_pause_interval",
    "Sandbox.set_auto_archive_interval",
    "Sandbox.set_auto_delete_interval",
    "Sandbox.set_ttl",
    "Sandbox.refresh_activity",
)
async def intervals(w: Walk) -> None:
    """another client sees the new intervals, the time of destruction, and the time of the activity"""
    box = await made(w)
    await w(box.set_auto_archive_interval, 61)
    await w(box.set_auto_delete_interval, 62)
    await w(box.set_ttl, 63)
    await w(box.set_autostop_interval, 0)
    await w(box.set_auto_pause_interval, 33)
    seen = await again(w, box)
    assert (seen.auto_archive_interval, seen.auto_delete_interval) == (61, 62)
    assert (seen.auto_stop_interval, seen.auto_pause_interval) == (0, 33)
    ends = datetime.fromisoformat(seen.auto_destroy_at.replace("Z", "+00:00")).timestamp()
    assert 0 < ends - time.time() <= 63 * 60
    await w(box.set_auto_pause_interval, 0)
    await w(box.set_autostop_interval, 44)
    before = await again(w, box)
    assert (before.auto_stop_interval, before.auto_pause_interval) == (44, 0)
    await w(box.refresh_activity)
    assert (await again(w, box)).last_activity_at > before.last_activity_at
    await w(w.client.delete, box)


async def _get(url: str, **headers: str) -> tuple[int, str]:
    """Status and text of a preview; its host is this machine whatever it is called, as browsers have it."""
    parts = urlsplit(url)
    asked = {"X-Daytona-Skip-Preview-Warning": "true", "Host": parts.netloc, **headers}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as anybody:
        async with anybody.get(f"http://127.0.0.1:{parts.port}{parts.path}", headers=asked) as answer:
            return answer.status, await answer.text()


@walks(
    "Sandbox.get_preview_link",
    "Sandbox.set_public",
    "Sandbox.create_signed_preview_url",
    "Sandbox.expire_signed_preview_url",
)
async def previews(w: Walk) -> None:
    """a server inside is seen with the token and without one when public; a signed URL until it is taken
    back"""
    # At L1 these are its own; the first are the git server's.
    port = int(await w.sh("echo $((${PORT:-8120} + 3))"))
    await served(w, w.box, "web", port)
    link = await w(w.box.get_preview_link, port)
    page = link.url.rstrip("/") + "/page"
    token = {"X-Daytona-Preview-Token": link.token}
    assert (await _get(page))[0] == 401
    assert await _get(page, **token) == (200, "seen\n")
    await w(w.box.set_public, True)
    assert await _get(page) == (200, "seen\n")
    await w(w.box.set_public, False)
    assert (await _get(page))[0] == 401
    signed = await w(w.box.create_signed_preview_url, port, 600)
    url = signed.url.rstrip("/") + "/page"
    assert await _get(url) == (200, "seen\n")
    await w(w.box.expire_signed_preview_url, port, signed.token)
    assert (await _get(url))[0] in (401, 404)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def _host_server(folder: str) -> Iterator[str]:
    """A web server of the host, as programs inside can name it: 127.0.0.1 is the sandbox itself to them."""
    server = ThreadingHTTPServer(("127.0.0.2", 0), partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.2:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@walks("Sandbox.update_network_settings")
async def network(w: Walk) -> None:
    """a program inside reaches a host's server once its address is listed, and not when all is blocked"""
    (w.folder / "hello").write_text("hello from the host")
    with _host_server(str(w.folder)) as url:
        fetch = (
            "import urllib.request as u, urllib.error as e\n"
            f"try: print(u.urlopen('{url}/hello', timeout=20).read().decode())\n"
            "except (OSError, e.URLError): print('refused')"
        )

        async def reached() -> str:
            return str((await w(w.box.process.code_run, fetch)).result).strip()

        assert await reached() == "refused"
        await w(w.box.update_network_settings, network_allow_list="127.0.0.2/32")
        assert await reached() == "hello from the host"
        await w(w.box.update_network_settings, network_block_all=True)
        assert await reached() == "refused"
        await w(w.box.update_network_settings, network_block_all=False)
        assert (await again(w)).network_block_all is False


@walks("Sandbox.resize", "Sandbox.wait_for_resize_complete")
async def sizes(w: Walk) -> None:
    """another client sees the new size of a stopped sandbox; a running one is not made smaller"""
    box = await made(w, snapshot="daytona-small")
    await w.fails("DaytonaBadRequestError", box.resize, Resources(disk=box.disk + 1))
    await w(box.stop)
    await w(box.resize, Resources(cpu=1, memory=1, disk=box.disk + 1))
    await w(box.wait_for_resize_complete)
    seen = await again(w, box)
    assert (seen.cpu, seen.memory, seen.disk, seen.state) == (1, 1, box.disk, "stopped")
    await w(w.client.delete, box)


@walks("Sandbox.get_metrics_latest", "Sandbox.get_metrics")
async def figures(w: Walk) -> None:
    """memory that a program inside takes shows in the figures, and the history is in order and has them"""
    first = await w(w.box.get_metrics_latest)
    assert first.cpu_count > 0 and 0 < first.mem_used < first.mem_total
    assert 0 < first.disk_used < first.disk_total
    program = "x = b'x' * 90_000_000; import time; time.sleep(1000)"
    await w.sh(f'python3 -c "{program}" > /dev/null & echo $! > big')

    async def grown() -> bool:
        now = await w(w.box.get_metrics_latest)
        return bool(now.mem_used > first.mem_used + 60_000_000)

    await w.until(grown, "the memory is seen")
    history = await w(w.box.get_metrics)
    assert [one.timestamp for one in history] == sorted(one.timestamp for one in history)
    assert history and history[-1].mem_total == first.mem_total
    await w.sh("kill $(cat big)")
