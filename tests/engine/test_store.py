"""The database, the state folder, uids, intervals and pages, without an engine around them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daytona.common.file_transfer import parse_content_disposition
from multidict import MultiDict

from daytona_magics.engine import log as engine_log
from daytona_magics.engine.api.listing import page
from daytona_magics.engine.api.models import parse_create
from daytona_magics.engine.api.multipart import content_disposition
from daytona_magics.engine.api.pty_session import exit_reason
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.janitor import due
from daytona_magics.engine.store import database as database_module
from daytona_magics.engine.store import folder as folder_module
from daytona_magics.engine.store.database import Database, StoreError
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.store.uids import BLOCK, UidBlock, find_block
from daytona_magics.engine.toolbox.client import PtyExit


def _record(name: str, **more: Any) -> SandboxRecord:
    return SandboxRecord(id=f"id-{name}", name=name, state="started", home=f"/homes/{name}", **more)


async def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    wanted = _record(
        "a", uid=5, env={"K": "v'\"\n"}, labels={"ä": "🎉"}, options={"n": [1]}, public=True, destroy_at=1.5
    )
    database = Database(tmp_path)
    await database.open()
    await database.insert(wanted)
    await database.set_meta("k", [1, "two"])
    await database.close()
    database = Database(tmp_path)
    await database.open()
    assert await database.sandboxes() == [wanted]
    assert await database.get_meta("k") == [1, "two"]
    wanted.labels = {"changed": "yes"}
    await database.update(wanted)
    assert await database.sandboxes() == [wanted]
    for clash in (_record("a"), _record("b", uid=5)):
        with pytest.raises(sqlite3.IntegrityError):
            await database.insert(clash)
    await database.remove(wanted.id)
    assert await database.sandboxes() == []
    await database.close()


async def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    first, second = Database(tmp_path), Database(tmp_path)
    await first.open()
    with pytest.raises(StoreError, match="in use"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


@pytest.mark.parametrize(("network", "journal"), [(False, "wal"), (True, "delete")])
async def test_settings_of_the_connection(tmp_path: Path, network: bool, journal: str) -> None:
    database = Database(tmp_path, network=network)
    await database.open()
    assert database._db.execute("PRAGMA journal_mode").fetchone() == (journal,)
    assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database._db.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
    await database.close()


async def test_an_older_database_is_copied_and_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path)
    await database.open()
    await database.insert(_record("old"))
    await database.close()

    more = (*database_module.MIGRATIONS, ("CREATE TABLE extra (x INTEGER) STRICT",))
    monkeypatch.setattr(database_module, "MIGRATIONS", more)
    monkeypatch.setattr(database_module, "SCHEMA_VERSION", len(more))
    database = Database(tmp_path)
    await database.open()
    assert [r.name for r in await database.sandboxes()] == ["old"]
    assert database._db.execute("SELECT count(*) FROM extra").fetchone() == (0,)
    await database.close()
    backup = sqlite3.connect(tmp_path / f"state.db.v{len(more) - 1}")
    assert backup.execute("PRAGMA user_version").fetchone() == (len(more) - 1,)
    assert backup.execute("SELECT name FROM sandbox").fetchall() == [("old",)]
    backup.close()


# The statements with which earlier versions made their databases, and a row as they wrote it.
_FIRST = """
    CREATE TABLE sandbox (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, home TEXT NOT NULL UNIQUE,
        uid INTEGER UNIQUE, desired_state TEXT NOT NULL, error_reason TEXT, snapshot TEXT, user TEXT NOT
        NULL, public INTEGER NOT NULL, target TEXT NOT NULL, cpu INTEGER NOT NULL, memory INTEGER NOT
        NULL, disk INTEGER NOT NULL, env TEXT NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL,
        auto_stop_interval INTEGER NOT NULL, auto_archive_interval INTEGER NOT NULL, auto_delete_interval
        INTEGER NOT NULL, destroy_at REAL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
        last_activity_at REAL NOT NULL, stopped_at REAL{}
    ) STRICT
"""
_ROW = (
    "id",
    "name",
    "started",
    "/homes/x",
    7,
    "started",
    None,
    "daytona-small",
    "daytona",
    1,
    "local",
    1,
    2,
    3,
)
_REST = ('{"K": "v"}', '{"l": "w"}', '{"networkBlockAll": true}', 15, 10080, -1, None, 1.5, 2.5, 3.5, 4.5)


@pytest.mark.parametrize("more", [(), ("a key",)], ids=["1 without keys", "1"])
async def test_databases_of_earlier_versions(tmp_path: Path, more: tuple[str, ...]) -> None:
    old = sqlite3.connect(tmp_path / "state.db")
    old.execute(_FIRST.format(", signing_key TEXT" if more else ""))
    old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    values = (*_ROW, *_REST, *more)
    old.execute(f"INSERT INTO sandbox VALUES ({', '.join('?' * len(values))})", values)
    old.execute("INSERT INTO meta VALUES ('uid_block', '[300000, 1024]')")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    database = Database(tmp_path)
    await database.open()
    (record,) = await database.sandboxes()
    assert (record.id, record.uid, record.public, record.env, record.stopped_at) == (
        "id",
        7,
        True,
        {"K": "v"},
        4.5,
    )
    assert (record.auto_pause_interval, record.recoverable, record.parent_id) == (0, False, None)
    assert record.signing_key == (more[0] if more else None)
    assert await database.get_meta("uid_block") == [300000, 1024]
    record.parent_id, record.signing_key = "other", "new"
    await database.update(record)
    assert await database.sandboxes() == [record]
    await database.close()
    assert (tmp_path / "state.db.v1").exists()


async def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path)
    await database.open()
    await database.close()
    broken = (*database_module.MIGRATIONS, ("CREATE TABLE half (x INTEGER) STRICT", "THIS IS NOT SQL"))
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", broken)
        patch.setattr(database_module, "SCHEMA_VERSION", len(broken))
        with pytest.raises(StoreError):
            await Database(tmp_path).open()
    database = Database(tmp_path)
    await database.open()
    tables = [name for (name,) in database._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert "half" not in tables
    await database.close()


async def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("this is no database at all " * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        await Database(tmp_path).open()


def test_state_folder_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module.places, "fallback_state_dir", lambda: tmp_path / "fallback")
    good = folder_module.prepare(tmp_path / "good")
    assert (good.path, good.message) == (tmp_path / "good", "")
    assert not [p for p in good.path.iterdir()]
    (tmp_path / "link").symlink_to(tmp_path / "good")
    moved = folder_module.prepare(tmp_path / "link")
    assert moved.path == tmp_path / "fallback"
    assert "symbolic link" in moved.message
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert "written to by others" in folder_module.prepare(tmp_path / "shared").message
    monkeypatch.setattr(folder_module, "MIN_FREE", 1 << 60)
    with pytest.raises(folder_module.address.EngineStartError, match="neither can"):
        folder_module.prepare(tmp_path / "good")


def test_uids() -> None:
    block = UidBlock(70000, 3)
    assert block.pick([]) == 70000
    assert block.pick([70000, None, 70002]) == 70001
    assert block.pick([70000, 70001, 70002]) is None
    found = find_block()
    if os.geteuid() != 0:
        assert found is None
    else:
        assert found is not None
        # Two engines that do not know of each other must not have the same.
        assert len({block.start for block in (find_block() for _ in range(20)) if block}) > 5
        for name in ("/etc/subuid", "/etc/subgid"):
            for line in Path(name).read_text().splitlines() if Path(name).exists() else []:
                _, start, count = line.split(":")
                assert int(start) + int(count) <= found.start or int(start) >= found.start + BLOCK


def test_what_is_due() -> None:
    def look(idle: float = 0, stopped: float = 0, in_use: int = 0, **fields: Any) -> str:
        record = _record("x", **fields)
        record.stopped_at = 1000.0 if record.state == "stopped" else None
        box: Any = SimpleNamespace(record=record, active_at=50.0, in_use=in_use)
        return due(box, 50.0 + idle, 1000.0 + stopped)

    assert look(idle=899) == ""
    assert look(idle=900) == "stop"
    assert look(idle=900, in_use=1) == ""
    assert look(idle=1e9, auto_stop_interval=0) == ""

    assert look(idle=1e9, auto_stop_interval=0, auto_pause_interval=2) == "pause"
    assert look(idle=119, auto_stop_interval=0, auto_pause_interval=2) == ""

    def rested(seconds: float, state: str = "stopped", **fields: Any) -> str:
        record = _record("x", **fields)
        record.state, record.stopped_at = state, 1000.0
        box: Any = SimpleNamespace(record=record, active_at=0.0, in_use=0)
        return due(box, 1e9, 1000.0 + seconds)

    assert rested(1e9, auto_delete_interval=-1, auto_archive_interval=0) == ""
    assert rested(0, auto_delete_interval=0) == "delete"
    assert rested(599, auto_delete_interval=10) == ""
    assert rested(600, auto_delete_interval=10) == "delete"
    assert rested(600, "archived", auto_delete_interval=10) == "delete"
    assert rested(599, auto_archive_interval=10) == ""
    assert rested(600, auto_archive_interval=10) == "archive"
    assert rested(600, "archived", auto_archive_interval=10) == ""
    assert rested(600, "paused", auto_archive_interval=10, auto_delete_interval=10) == ""
    # What is to be deleted is not archived first.
    assert rested(600, auto_archive_interval=10, auto_delete_interval=10) == "delete"
    assert look(stopped=5, destroy_at=1006.0) == ""
    assert look(stopped=6, destroy_at=1006.0) == "delete"


def test_pages_neither_repeat_nor_hide() -> None:
    records = [_record(f"n{n:02}", created_at=float(n // 3)) for n in range(10)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = MultiDict(
            {"limit": "3", "sort": "createdAt", "order": "asc", **({"cursor": cursor} if cursor else {})}
        )
        found, cursor = page(records, query)
        seen += [r.name for r in found]
        # One that was shown is deleted, and one is made, between two pages.
        records = [r for r in records if r.name != "n00"]
    assert seen == [f"n{n:02}" for n in range(10)]


ZERO = "1970-01-01T02:00:00+02:00|1970-01-01T02:00:00 0200|1969-12-31T23:30:00.000-0030|1970-01-01T00:00:00Z"
ZERO += "|1970-01-01T00:00:00|1970-01-01T00:00:00.000000+0000"


@pytest.mark.parametrize("text", ZERO.split("|"))
def test_times_of_all_clients_are_understood(text: str) -> None:
    early, late = _record("early", created_at=-1.0), _record("late", created_at=1.0)
    assert page([early, late], MultiDict({"createdAtAfter": text}))[0] == [late]
    assert page([early, late], MultiDict({"createdAtBefore": text}))[0] == [early]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "x"},
        {"sort": "shoes"},
        {"order": "up"},
        {"cursor": "!!"},
        {"cursor": "WzEsMl0="},
        {"labels": "{"},
        {"labels": "[]"},
        {"createdAtAfter": "yesterday"},
        {"createdAtAfter": "2026-02-30T00:00:00Z"},
        {"minCpu": "many"},
    ],
)
def test_bad_queries_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        page([_record("a")], MultiDict(query))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"gpu": 1}, "GPU"),
        ({"gpuType": ["H100"]}, "GPU"),
        ({"kvm": True}, "kvm"),
        ({"buildInfo": {"dockerfileContent": "FROM x"}}, "images"),
        ({"snapshot": "windows"}, "windows"),
        ({"cpu": -1}, "cpu"),
        ({"autoStopInterval": -1}, "autoStopInterval"),
    ],
)
def test_impossible_creations_are_refused_in_one_sentence(body: dict[str, Any], word: str) -> None:
    with pytest.raises(ApiError, match=word) as caught:
        parse_create(body)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message


def test_exit_reasons_fit_into_a_close_frame() -> None:
    assert exit_reason(PtyExit(0, "")) == b'{"exitCode": 0}'
    for reason in ("short", "x" * 500, "ä" * 200, '"' * 200, "🎉" * 100):
        assert len(exit_reason(PtyExit(137, reason))) <= 123
    assert b'"exitReason": "short"' in exit_reason(PtyExit(1, "short"))


def test_dispositions_echo_the_path() -> None:
    for path in (
        "plain",
        "a b",
        'q"uote',
        "back\\slash\\",
        "ä/日本",
        "new\nline",
        "semi;colon",
        "%41",
        "a'b",
    ):
        assert parse_content_disposition(content_disposition("file", path)) == ("file", path)
        assert "\n" not in content_disposition("file", path)


def test_secrets_are_masked(tmp_path: Path) -> None:
    engine_log.hide("s3cr3t-value")
    text = engine_log.masked('x s3cr3t-value Bearer abc.def token="t1" api_key=k2&x=1 {"password": "p3"}')
    for secret in ("s3cr3t-value", "abc.def", "t1", "k2", "p3"):
        assert secret not in text
    assert "x=1" in text


async def test_the_loop_is_not_blocked_by_the_disk(tmp_path: Path) -> None:
    database = Database(tmp_path)
    await database.open()
    longest, stop = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not stop:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(database.insert(_record(str(n))) for n in range(50)))
    stop = True
    await watcher
    assert len(await database.sandboxes()) == 50
    await database.close()
