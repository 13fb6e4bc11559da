"""Creating, finding, stopping and deleting sandboxes with the unmodified SDK."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from daytona import (
    AsyncDaytona,
    CreateSandboxBaseParams,
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaConfig,
    Image,
    ListSandboxesQuery,
    Resources,
    SandboxState,
    VolumeMount,
)
from daytona.common.errors import (
    DaytonaAuthenticationError,
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaNotFoundError,
)

from tests.engine_process import IsolatedEngine, wait_until


def _names(client: Any, **query: Any) -> list[str]:
    return sorted(s.name for s in client.list(ListSandboxesQuery(**query)))


def test_life_of_a_sandbox(daytona: Any) -> None:
    sandbox = daytona.create(
        CreateSandboxFromSnapshotParams(name="life", env_vars={"A": "b c"}, labels={"x": "y"})
    )
    assert sandbox.state == SandboxState.STARTED
    assert sandbox.labels == {"x": "y", "code-toolbox-language": "python", "daytona-magics/isolation": "L3"}
    assert sandbox.process.exec("echo $A").result == "b c\n"
    sandbox.process.exec("echo kept > file; sleep 1000 &")

    sandbox.stop()
    assert sandbox.state == SandboxState.STOPPED
    with pytest.raises(DaytonaBadRequestError, match="not started"):
        sandbox.process.exec("true")
    # Stopping twice is no error, and neither is starting twice.
    sandbox.stop()
    sandbox.start()
    sandbox.start()
    assert daytona.get("life").id == sandbox.id == daytona.get(sandbox.id).id
    assert sandbox.process.exec("cat file; pgrep -c sleep").result == "kept\n0\n"

    daytona.delete(sandbox, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get("life")
    # The name is free again.
    daytona.delete(daytona.create(CreateSandboxFromSnapshotParams(name="life")))


async def test_life_of_a_sandbox_async(async_daytona: AsyncDaytona) -> None:
    sandbox = await async_daytona.create()
    assert sandbox.name == sandbox.id
    await sandbox.stop()
    assert sandbox.state == SandboxState.STOPPED
    await sandbox.start()
    assert (await sandbox.process.code_run("print(6 * 7)")).result == "42\n"
    await sandbox.delete(wait=True)
    assert sandbox.state == SandboxState.DESTROYED


def test_names_are_unique(daytona: Any, sandbox: Any) -> None:
    for taken in (sandbox.name, sandbox.id):
        with pytest.raises(DaytonaConflictError, match="already exists"):
            daytona.create(CreateSandboxFromSnapshotParams(name=taken))


def test_settings_are_kept(daytona: Any, sandbox: Any) -> None:
    assert (sandbox.auto_stop_interval, sandbox.auto_archive_interval, sandbox.auto_delete_interval) == (
        15,
        10080,
        -1,
    )
    sandbox.set_autostop_interval(0)
    sandbox.set_auto_archive_interval(0)
    sandbox.set_auto_delete_interval(60)
    sandbox.set_ttl(5)
    before = sandbox.last_activity_at
    sandbox.refresh_activity()
    again = daytona.get(sandbox.id)
    # For archiving 0 means the longest interval there is.
    assert (again.auto_stop_interval, again.auto_archive_interval, again.auto_delete_interval) == (
        0,
        43200,
        60,
    )
    assert again.last_activity_at > before
    assert again.auto_destroy_at is not None
    sandbox.set_ttl(0)
    assert daytona.get(sandbox.id).auto_destroy_at is None


def test_labels_are_replaced(daytona: Any, sandbox: Any) -> None:
    assert sandbox.set_labels({"only": "this"}) == {"only": "this", "daytona-magics/isolation": "L3"}
    assert daytona.get(sandbox.id).labels == {"only": "this", "daytona-magics/isolation": "L3"}


def test_every_parameter_is_accepted_and_remembered(daytona: Any) -> None:
    sandbox = daytona.create(
        CreateSandboxFromSnapshotParams(
            name="Everything, with 'quotes'",
            snapshot="daytona-medium",
            language="javascript",
            os_user="daytona",
            public=True,
            target="local",
            auto_stop_interval=7,
            auto_archive_interval=99999,
            auto_delete_interval=0,
            ttl_minutes=30,
            network_block_all=True,
            network_allow_list="10.0.0.0/8",
            domain_allow_list="example.org",
        )
    )
    again = daytona.get("Everything, with 'quotes'")
    assert (again.snapshot, again.cpu, again.memory, again.disk) == ("daytona-medium", 2, 4, 8)
    assert (again.public, again.network_block_all, again.network_allow_list) == (True, True, "10.0.0.0/8")
    assert (again.domain_allow_list, again.auto_stop_interval, again.auto_archive_interval) == (
        "example.org",
        7,
        43200,
    )
    # Guides pass the class that the SDK's own two are made of.
    plain = daytona.create(CreateSandboxBaseParams(auto_stop_interval=9))
    assert plain.auto_stop_interval == 9 and plain.process.code_run("print(1 + 1)").result == "2\n"
    plain.delete()
    # Auto-delete 0: deleted as soon as it stops.
    sandbox.stop()
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(sandbox.id)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        (CreateSandboxFromSnapshotParams(snapshot="mine"), "snapshot 'mine'"),
        (CreateSandboxFromImageParams(image="debian:12"), "images"),
        (CreateSandboxFromImageParams(image=Image.debian_slim("3.12"), resources=Resources(gpu=1)), "images"),
        (CreateSandboxFromSnapshotParams(volumes=[VolumeMount(volume_id="v", mount_path="/v")]), "volumes"),
        (CreateSandboxFromSnapshotParams(secrets={"KEY": "name"}), "secrets"),
        (CreateSandboxFromSnapshotParams(os_user="root"), "'root'"),
        (CreateSandboxFromSnapshotParams(env_vars={"1BAD": "x"}), "1BAD"),
        (CreateSandboxFromSnapshotParams(name="a/b"), "name"),
    ],
)
def test_what_one_machine_cannot_do_is_refused(daytona: Any, params: Any, word: str) -> None:
    before = _names(daytona)
    with pytest.raises(DaytonaBadRequestError, match=word) as caught:
        daytona.create(params)
    assert (caught.value.source, caught.value.code) == ("DAYTONA_API", "BAD_REQUEST")
    assert _names(daytona) == before


def test_listing(daytona: Any) -> None:
    made = [
        daytona.create(CreateSandboxFromSnapshotParams(name=f"List-{n}", labels={"n": str(n), "list": "yes"}))
        for n in range(5)
    ]
    try:
        made[0].stop()
        mine = {"labels": {"list": "yes"}}
        everything = [f"List-{n}" for n in range(5)]
        assert _names(daytona, **mine) == everything
        # Pages of two give the same as one page, each exactly once.
        for order in ("asc", "desc"):
            for sort in ("name", "createdAt", "cpu", "lastActivityAt"):
                assert _names(daytona, **mine, limit=2, sort=_sort(sort), order=_order(order)) == everything
        assert _names(daytona, labels={"list": "yes", "n": "3"}) == ["List-3"]
        assert _names(daytona, **mine, states=[SandboxState.STOPPED]) == ["List-0"]
        assert _names(daytona, **mine, states=[SandboxState.STOPPED, SandboxState.STARTED]) == everything
        assert _names(daytona, name="lIST-") == everything
        assert _names(daytona, id=made[2].id[:12].upper()) == ["List-2"]
        assert _names(daytona, **mine, min_cpu=100_000) == []
        assert _names(daytona, **mine, snapshots=["daytona-small"]) == everything
        assert _names(daytona, **mine, is_public=True) == []
        assert [
            s.name for s in daytona.list(ListSandboxesQuery(**mine, sort=_sort("name"), order=_order("desc")))
        ] == [*reversed(everything)]
        now, hour = datetime.now(timezone.utc), timedelta(hours=1)
        assert _names(daytona, **mine, created_at_before=now, created_at_after=now - hour) == everything
        assert _names(daytona, **mine, last_activity_after=now + hour) == []
        # An item of the list is as good as the result of get.
        item = next(iter(daytona.list(ListSandboxesQuery(name="List-4"))))
        assert item.process.exec("echo usable").result == "usable\n"
    finally:
        for sandbox in made:
            daytona.delete(sandbox)


def _sort(name: str) -> Any:
    from daytona_api_client import SandboxListSortField

    return SandboxListSortField(name)


def _order(name: str) -> Any:
    from daytona_api_client import SandboxListSortDirection

    return SandboxListSortDirection(name)


def test_placeholder_key_is_an_authentication_error(engine: IsolatedEngine) -> None:
    config = DaytonaConfig(api_key="your-api-key", api_url=f"{engine.url}/api", target="local")
    with pytest.raises(DaytonaAuthenticationError) as caught:
        Daytona(config).create()
    assert (caught.value.status_code, caught.value.source) == (401, "DAYTONA_API")


def test_getting_started_program_of_the_docs(engine: IsolatedEngine) -> None:
    program = """
from daytona import Daytona
daytona = Daytona()
sandbox = daytona.create()
response = sandbox.process.code_run('print("Hello World")')
if response.exit_code != 0:
    print(f"Error: {response.exit_code} {response.result}")
else:
    print(response.result)
sandbox.delete()
"""
    done = engine.python(program, **engine.client_env())
    assert (done.returncode, done.stdout) == (0, "Hello World\n\n"), done.stderr


def test_many_at_once(daytona: Any, engine: IsolatedEngine) -> None:
    program = """
import asyncio, sys
from daytona import AsyncDaytona
async def one(client, n):
    sandbox = await client.create()
    assert (await sandbox.process.exec(f"echo {n}")).result == f"{n}\\n"
    await sandbox.delete()
async def main():
    async with AsyncDaytona() as client:
        await asyncio.gather(*(one(client, n) for n in range(20)))
asyncio.run(main())
"""
    before = _names(daytona)
    done = engine.program(program, **engine.client_env())
    assert done.returncode == 0, done.stderr
    assert _names(daytona) == before


def test_files_of_deleted_sandboxes_go(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create()
    home = engine.state / "sandboxes" / sandbox.id
    sandbox.process.exec("mkdir -p a/b; chmod 000 a/b; chmod 500 a; ln -s /etc x")
    assert home.exists()
    daytona.delete(sandbox)
    assert not home.exists()
    wait_until(lambda: not (engine.state / "trash" / sandbox.id).exists(), "the trash is empty")
    wait_until(lambda: not (engine.state / "stderr" / f"{sandbox.id}.err").exists(), "its log is gone")


def test_a_sandbox_that_ends_by_itself_is_stopped(daytona: Any, engine: IsolatedEngine, sandbox: Any) -> None:
    sandbox.fs.upload_file(b"still here", "file")
    sandbox.process.exec("exec -a marker-of-this-test sleep 1000 &")
    found: list[Path] = []

    def runs() -> bool:
        found[:] = [p for p in Path("/proc").glob("[0-9]*") if _command(p).startswith(b"marker-of-this-test")]
        return bool(found)

    wait_until(runs, "the program inside has its name")
    inside = found[0]
    # Somebody kills pid 1 of the sandbox, as the kernel does when memory runs out.
    os.kill(_first_of_namespace(inside), signal.SIGKILL)
    wait_until(lambda: daytona.get(sandbox.id).state == SandboxState.STOPPED, "the sandbox is stopped")
    sandbox.start()
    assert sandbox.fs.download_file("file") == b"still here"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _first_of_namespace(process: Path) -> int:
    """The host's pid of pid 1 of the pid namespace of a process."""
    namespace = os.readlink(process / "ns/pid")
    for other in Path("/proc").glob("[0-9]*"):
        try:
            status = (other / "status").read_text()
            inner = status.partition("\nNSpid:")[2].partition("\n")[0].split()
            if os.readlink(other / "ns/pid") == namespace and inner[-1:] == ["1"]:
                return int(other.name)
        except OSError:
            continue
    raise AssertionError("no pid 1 found")
