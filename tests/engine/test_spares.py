"""A sandbox kept ready: given once, to who names its key, with what is asked for; else nobody sees it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sqlite3
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona

from daytona_magics.engine.life import spares
from tests.engine_process import IsolatedEngine, isolated_engine

HEADER = "X-Daytona-Magics-Spare"
RECIPE = {
    "key": "mine",
    "path": "prepared/by",
    "data": base64.b64encode(b"its client").decode(),
    "command": "cp prepared/by seen; (sleep 1000 & echo $! > pid)",
}


NONSENSE: tuple[Any, ...] = (
    {},
    {"key": 1},
    {"key": "x" * 201},
    {**RECIPE, "data": "?"},
    {**RECIPE, "data": 1},
    {**RECIPE, "command": ""},
    {**RECIPE, "path": "a\0b"},
    [],
)


@pytest.fixture
def engine() -> Iterator[IsolatedEngine]:
    with isolated_engine(DAYTONA_MAGICS_SPARE="1") as own:
        own.client_env()
        yield own


@pytest.fixture
def daytona(engine: IsolatedEngine) -> Daytona:
    return asking(engine, "mine")


def asking(engine: IsolatedEngine, key: str) -> Daytona:
    """The unmodified client; what it sends names a key."""
    client = Daytona(engine.config())
    client._sandbox_api.api_client.default_headers[HEADER] = key
    return client


def ask(engine: IsolatedEngine, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{engine.url}/api/engine/spare",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def prepared(engine: IsolatedEngine, body: dict[str, str] = RECIPE) -> str:
    """The id of the spare sandbox, once it is ready."""
    before = set(folders(engine))
    status, answer = ask(engine, body)
    assert (status, answer["known"]) == (200, True)
    return ready(engine, body["key"], before)


def ready(engine: IsolatedEngine, key: str, before: set[str]) -> str:
    """Its id, when there were the sandboxes ``before``."""
    deadline = time.monotonic() + 20
    while not ask(engine, {"key": key})[1]["ready"]:
        assert time.monotonic() < deadline, "no spare sandbox was made"
        time.sleep(0.02)
    (spare,) = set(folders(engine)) - before
    return spare


def shown(engine: IsolatedEngine) -> Any:
    return json.loads(engine.command("status", "--json").stdout)


def folders(engine: IsolatedEngine) -> list[str]:
    return sorted(path.name for path in (engine.state / "sandboxes").iterdir())


def until_gone(engine: IsolatedEngine, id: str) -> None:
    deadline = time.monotonic() + 20
    while id in folders(engine) or id in rows(engine):
        assert time.monotonic() < deadline, "it was not removed"
        time.sleep(0.02)


def rows(engine: IsolatedEngine) -> dict[str, str]:
    """States by id, as an engine started now would read them."""
    copy = engine.base / "rows"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in engine.state.glob("state.db*"):
        (copy / part.name).write_bytes(part.read_bytes())
    with sqlite3.connect(copy / "state.db") as database:
        return dict(database.execute("SELECT id, state FROM sandbox"))


def test_it_becomes_the_sandbox_that_is_asked_for(engine: IsolatedEngine, daytona: Daytona) -> None:
    assert [ask(engine, body)[0] for body in NONSENSE] == [400] * len(NONSENSE)
    assert ask(engine, {"key": "mine"}) == (200, {"known": False, "ready": False})
    spare = prepared(engine)
    assert list(daytona.list()) == []
    assert shown(engine)["sandboxes"] == []
    params = CreateSandboxFromSnapshotParams(
        name="wanted", labels={"a": "b"}, auto_stop_interval=7, network_block_all=True
    )
    box = daytona.create(params)
    assert (box.id, box.name, box.state, box.auto_stop_interval) == (spare, "wanted", "started", 7)
    assert box.labels["a"] == "b" and box.labels["daytona-magics/isolation"] == shown(engine)["isolation"]
    seen = box.process.exec("cat seen; kill -0 $(cat pid) && echo; echo $DAYTONA_SANDBOX_ID")
    assert seen.result == f"its client\n{spare}\n"
    # What it may reach is what was asked for when it was given away.
    refused = box.process.exec("python3 -c 'import urllib.request as u; u.urlopen(\"http://example.com\")'")
    assert refused.exit_code and "403" in refused.result
    # Given once; made again when it is asked for again, and known by its key.
    other = daytona.create()
    assert other.id != spare and other.process.exec("ls -A seen").exit_code
    second = prepared(engine, {"key": "mine"})
    assert daytona.create().id == second


def test_who_asks_for_something_else_gets_another(engine: IsolatedEngine, daytona: Daytona) -> None:
    daytona.create(CreateSandboxFromSnapshotParams(name="first"))
    spare = prepared(engine)
    others = [
        asking(engine, "another").create(),
        Daytona(engine.config()).create(),
        daytona.create(CreateSandboxFromSnapshotParams(env_vars={"A": "1"})),
    ]
    with pytest.raises(Exception, match="already exists"):
        daytona.create(CreateSandboxFromSnapshotParams(name="first"))
    assert spare not in {box.id for box in others}
    assert daytona.create().id == spare


def test_another_recipe_takes_its_place(engine: IsolatedEngine) -> None:
    spare = prepared(engine)
    assert ask(engine, {**RECIPE, "key": "other"}) == (200, {"known": True, "ready": False})
    until_gone(engine, spare)
    second = ready(engine, "other", set())
    assert asking(engine, "mine").create().id != second == asking(engine, "other").create().id


def test_a_command_that_fails_leaves_nothing(engine: IsolatedEngine, daytona: Daytona) -> None:
    assert ask(engine, {**RECIPE, "command": "cp prepared/by seen; exit 3"})[0] == 200
    deadline = time.monotonic() + 20
    while not (made := list(engine.state.glob("sandboxes/*/home/seen"))):
        assert time.monotonic() < deadline, "no spare sandbox was made"
        time.sleep(0.005)
    until_gone(engine, made[0].parents[1].name)
    assert folders(engine) == [] and daytona.create().process.exec("ls -A seen").exit_code


def test_one_that_ends_by_itself_is_removed(engine: IsolatedEngine, daytona: Daytona) -> None:
    spare = prepared(engine)
    keepers = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if b"zygote.py" in _read(path)
    ]
    children = [pid for pid in keepers if _parent(pid) in keepers and _parent(_parent(pid)) == engine.pid]
    assert children
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    until_gone(engine, spare)
    assert daytona.create().id != spare


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_ends_with_the_engine(engine: IsolatedEngine, how: str) -> None:
    spare = prepared(engine)
    assert rows(engine) == {spare: "creating"}
    if how == "kill":
        os.kill(engine.pid, signal.SIGKILL)
        engine.client_env()
        assert shown(engine)["sandboxes"] == []
        until_gone(engine, spare)
    else:
        assert engine.command("stop").returncode == 0
        assert (folders(engine), rows(engine)) == ([], {})


def test_without_it_nothing_is_kept() -> None:
    with isolated_engine(DAYTONA_MAGICS_SPARE="0") as engine:
        engine.client_env()
        assert ask(engine, RECIPE) == (200, {"known": True, "ready": False})
        box = asking(engine, "mine").create()
        time.sleep(1)
        assert folders(engine) == [box.id]


def test_a_name_that_is_taken_costs_no_spare(engine: IsolatedEngine, daytona: Daytona) -> None:
    daytona.create(CreateSandboxFromSnapshotParams(name="taken"))
    spare = prepared(engine)
    for _ in range(2):
        with pytest.raises(Exception, match="already exists"):
            daytona.create(CreateSandboxFromSnapshotParams(name="taken"))
    assert daytona.create().id == spare


class Box:
    """Stands for a sandbox's process."""

    alive = True

    def __init__(self) -> None:
        self.toolbox, self.ended = self, False

    async def upload(self, path: str, data: Any) -> None:
        """Nothing is kept."""

    async def execute(self, command: str, timeout: float) -> Any:
        return types.SimpleNamespace(exit_code=0)

    def add_exit_callback(self, callback: Any) -> None:
        """It ends when it is told to."""

    async def kill(self) -> None:
        self.ended = True


class House:
    """Stands for what starts sandboxes; the layers and the sizes they get can be changed."""

    def __init__(self) -> None:
        self.newest, self.size, self.boxes = Path("first"), 1, list[Box]()
        self.system = self.limiter = self
        self.launcher = types.SimpleNamespace(level="L3")
        self.made_whole = asyncio.Event()

    def give(self, record: Any, named: None) -> None:
        record.cpu = self.size

    async def current(self) -> Path:
        return self.newest

    async def whole(self) -> None:
        await self.made_whole.wait()

    async def set_aside(self, record: Any) -> Any:
        return record

    def forget_aside(self, record: Any) -> None:
        """It has no files."""

    def prepare_home(self, record: Any) -> None:
        """It needs none."""

    def ended(self, id: str) -> None:
        """Nothing is left."""

    async def spawn(self, record: Any) -> Box:
        self.boxes.append(Box())
        return self.boxes[-1]


async def test_one_that_nobody_would_get_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's layers are made whole behind the first sandboxes; room on the disk decides about sizes."""
    monkeypatch.setattr(spares, "AFTER", 0.0)
    monkeypatch.delenv("DAYTONA_MAGICS_SPARE", raising=False)
    house: Any = House()
    kept = spares.Spares(house, house)

    async def one_more(count: int) -> None:
        while len(house.boxes) < count or not kept.ready("key"):
            await asyncio.sleep(0.001)
        assert [box.ended for box in house.boxes] == [True] * (count - 1) + [False]

    assert kept.want("key", spares.Recipe("key", "file", b"", "true"))
    await one_more(1)
    house.newest = Path("whole")
    assert not kept.ready("key")
    house.made_whole.set()
    await one_more(2)
    house.size = 2
    assert not kept.ready("key") and kept.want("key")
    await one_more(3)
    assert await kept.let_go() and house.boxes[-1].ended and not await kept.let_go()
    await kept.close()
