"""The states of a sandbox, in the platform's words, and what may be done in them.

    creating -> started <-> pausing, paused, resuming
    started -> forking -> started          started -> stopping -> stopped -> starting -> started
    stopped -> archiving -> archived -> restoring -> stopped        restoring, stopped -> error -> stopped
    any -> destroying -> destroyed

While a change goes on that takes as long as the files are large, others are refused with the platform's
"state change in progress"; what takes some milliseconds is waited for.
"""

from __future__ import annotations

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

RESTING = frozenset({"stopped", "archived", "error", "destroyed"})
"""Nothing runs in a sandbox, and nothing is about to."""

LONG = frozenset({"archiving", "restoring", "forking"})
"""Its files are being copied."""

USABLE = frozenset({"started", "forking"})
"""Its toolbox can be asked; a fork makes it wait."""


def check_settled(record: SandboxRecord) -> None:
    """Is no long change going on?

    Raises:
        ApiError: 409.
    """
    if record.state in LONG:
        raise ApiError(409, f"Sandbox state change in progress (state: {record.state})")


def check_state(record: SandboxRecord, wanted: str, what: str) -> None:
    """Is a sandbox in the one state in which ``what`` (a verb) is possible?

    Raises:
        ApiError: 409 while it changes, else 400.
    """
    check_settled(record)
    if record.state != wanted:
        raise ApiError(
            400, f"Sandbox is not {wanted} (state: {record.state}); a sandbox must be {wanted} to {what} it"
        )
