"""The database: opened by one engine, changed durably, migrated forward only.

SQLite calls run on one thread of their own, so that an fsync never stalls the event loop; every method
returns when the change is on disk. ``user_version`` is the schema version. Opening an older database first
copies it beside itself (``state.db.v1``) and then migrates in one transaction; a newer one is refused.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from daytona_magics.engine.store.records import BOOL_COLUMNS, JSON_COLUMNS, SandboxRecord
from daytona_magics.engine.store.room import take_room

T = TypeVar("T")


def _add_signing_key(db: sqlite3.Connection) -> None:
    """The first databases of version 1 had no keys for signed file URLs."""
    if not any(column[1] == "signing_key" for column in db.execute("PRAGMA table_info(sandbox)")):
        db.execute("ALTER TABLE sandbox ADD COLUMN signing_key TEXT")


Step = str | Callable[[sqlite3.Connection], None]

MIGRATIONS: tuple[tuple[Step, ...], ...] = (
    (
        """
        CREATE TABLE sandbox (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, home TEXT NOT NULL UNIQUE,
            uid INTEGER UNIQUE, desired_state TEXT NOT NULL, error_reason TEXT, snapshot TEXT, user TEXT NOT
            NULL, public INTEGER NOT NULL, target TEXT NOT NULL, cpu INTEGER NOT NULL, memory INTEGER NOT
            NULL, disk INTEGER NOT NULL, env TEXT NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL,
            auto_stop_interval INTEGER NOT NULL, auto_archive_interval INTEGER NOT NULL, auto_delete_interval
            INTEGER NOT NULL, destroy_at REAL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
            last_activity_at REAL NOT NULL, stopped_at REAL, signing_key TEXT
        ) STRICT
        """,
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
    (
        _add_signing_key,
        "ALTER TABLE sandbox ADD COLUMN auto_pause_interval INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE sandbox ADD COLUMN recoverable INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE sandbox ADD COLUMN parent_id TEXT",
    ),
)
"""One tuple of steps per schema version, first to last."""

SCHEMA_VERSION = len(MIGRATIONS)

_COLUMNS = tuple(f.name for f in fields(SandboxRecord))


class StoreError(Exception):
    """The database cannot be used; the message is one sentence for the user."""


class Database:
    """The engine's database in ``folder``.

    Args:
        folder: the state folder.
        network: whether it lies on a network file system, where WAL is not safe.
    """

    def __init__(self, folder: Path, *, network: bool = False) -> None:
        self.path = folder / "state.db"
        self._network = network
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open, check and migrate.

        Raises:
            StoreError: another process has it, it is newer than this package, or it is damaged.
        """
        try:
            await self._run(self._open)
        except sqlite3.Error as error:
            busy = "locked" in str(error)
            raise StoreError(
                f"the database {self.path} is in use by another process"
                if busy
                else f"the database {self.path} cannot be opened: {error}"
            ) from error

    async def close(self) -> None:
        """Close the database; pending changes are written first."""
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown()

    async def sandboxes(self) -> list[SandboxRecord]:
        """All rows, oldest first."""
        return await self._run(self._sandboxes)

    async def insert(self, record: SandboxRecord) -> None:
        """Add a row; ``sqlite3.IntegrityError`` when its id, name, home or uid is taken."""
        marks = ", ".join("?" * len(_COLUMNS))
        await self._write(f"INSERT INTO sandbox ({', '.join(_COLUMNS)}) VALUES ({marks})", _row(record))

    async def update(self, record: SandboxRecord) -> None:
        """Write every field of a row that exists."""
        names = ", ".join(f"{name} = ?" for name in _COLUMNS)
        await self._write(f"UPDATE sandbox SET {names} WHERE id = ?", (*_row(record), record.id))

    async def remove(self, sandbox_id: str) -> None:
        """Delete a row; nothing happens when it is gone already."""
        await self._write("DELETE FROM sandbox WHERE id = ?", (sandbox_id,))

    async def get_meta(self, key: str) -> Any:
        """A remembered JSON value, None when there is none."""

        def read() -> Any:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None

        return await self._run(read)

    async def set_meta(self, key: str, value: Any) -> None:
        """Remember a JSON value."""
        await self._write(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(value)),
        )

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError("the database is closed")
        return self._connection

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        # Shielded: a cancelled request must not leave memory and disk of different opinions.
        await asyncio.shield(self._run(lambda: self._db.execute(statement, values) and None))

    def _open(self) -> None:
        # The umask of the engine is 077, so the files are private from the first moment.
        db = sqlite3.connect(self.path, isolation_level=None, timeout=2.0, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute(f"PRAGMA journal_mode = {'DELETE' if self._network else 'WAL'}")
            db.execute("PRAGMA synchronous = FULL")
            # In exclusive mode the lock is taken by the first write and kept.
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"the database {self.path} was written by a newer version of daytona-magics "
                    f"(schema {version}, this version knows {SCHEMA_VERSION}); upgrade the package"
                )
            if version < SCHEMA_VERSION:
                self._migrate(db, version)
            if not self._network:
                take_room(db)
        except BaseException:
            db.close()
            raise
        self._connection = db

    def _migrate(self, db: sqlite3.Connection, version: int) -> None:
        if version:
            backup = self.path.with_name(f"{self.path.name}.v{version}")
            with closing(sqlite3.connect(backup)) as copy:
                db.backup(copy)
        db.execute("BEGIN")
        try:
            for step in (step for steps in MIGRATIONS[version:] for step in steps):
                if callable(step):
                    step(db)
                else:
                    db.execute(step)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sandboxes(self) -> list[SandboxRecord]:
        rows = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM sandbox ORDER BY created_at, id")
        return [_record(row) for row in rows]


def _row(record: SandboxRecord) -> tuple[Any, ...]:
    values = asdict(record)
    for name in JSON_COLUMNS:
        values[name] = json.dumps(values[name])
    for name in BOOL_COLUMNS:
        values[name] = int(values[name])
    return tuple(values[name] for name in _COLUMNS)


def _record(row: tuple[Any, ...]) -> SandboxRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in JSON_COLUMNS:
        values[name] = json.loads(values[name])
    for name in BOOL_COLUMNS:
        values[name] = bool(values[name])
    return SandboxRecord(**values)
