"""Room for the database's own writes, taken while there is some, so that a full disk stops none of them.

When a disk is full, stopping and deleting are what make room again, and both are written down first. SQLite
writes over what its files have already: pages that are free in the database, and a write-ahead log that was
checkpointed. So at opening a megabyte is written and deleted once, and the log is checkpointed before it
would grow beyond that.
"""

from __future__ import annotations

import sqlite3

from daytona_magics.engine.log import log

#: Bytes taken in each of the two files; one change of a sandbox needs about 12 KiB of the log.
ROOM = 1 << 20
#: Pages in the log (of 4 KiB) after which they are copied into the database and the log begins anew.
CHECKPOINT = ROOM // 4096 - 56


def take_room(db: sqlite3.Connection) -> None:
    """Have ``ROOM`` bytes in the database and in its write-ahead log, once they are free again.

    Without that much on the disk there is none: that is logged, and no error.
    """
    try:
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
        db.execute("DROP TABLE IF EXISTS room")
        db.execute("BEGIN")
        db.execute("CREATE TABLE room (x BLOB) STRICT")
        db.execute("INSERT INTO room VALUES (zeroblob(?))", (ROOM,))
        db.execute("COMMIT")
        db.execute("DROP TABLE room")
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    except sqlite3.Error as error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        log.warning("there is no room to take for the database: %s", error)
