"""The rows of the database as plain data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SandboxRecord:
    """One sandbox as it is remembered.

    Times are wall-clock seconds since 1970; intervals are minutes, with the platform's meaning of 0 and of
    negative values.  ``parent_id`` is the sandbox it was forked from, ``recoverable`` whether an error may go
    away when it is tried again.  ``options`` holds every other parameter the creator sent.
    """

    id: str
    name: str
    state: str
    home: str
    uid: int | None = None
    desired_state: str = "started"
    error_reason: str | None = None
    recoverable: bool = False
    parent_id: str | None = None
    snapshot: str | None = None
    user: str = "daytona"
    public: bool = False
    target: str = "local"
    cpu: int = 1
    memory: int = 1
    disk: int = 3
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    auto_stop_interval: int = 15
    auto_pause_interval: int = 0
    auto_archive_interval: int = 10080
    auto_delete_interval: int = -1
    destroy_at: float | None = None
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    last_activity_at: float = field(default_factory=time.time)
    stopped_at: float | None = None
    signing_key: str | None = field(default=None, repr=False)


JSON_COLUMNS = ("env", "labels", "options")
BOOL_COLUMNS = ("public", "recoverable")
