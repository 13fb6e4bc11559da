"""Several files and folders on their way, one after the other: each is tried, and a table says of each how it
went. The cell fails at the end when one did not arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from daytona_magics.errors import EndpointError, IsolationUnavailable, SandboxError, SandboxGone
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.results import show

HEAD = ("file", "size", "state", "where, or why not")
#: After these no other file has a chance.
_HOPELESS = (EndpointError, IsolationUnavailable, SandboxGone)
#: Names of files that did not arrive in the error's sentence.
_NAMED = 5


class Arrived(NamedTuple):
    """A file or folder that is there.

    Attributes:
        size: for people.
        where: its new path, and what did not come along.
    """

    size: str
    where: str


class Step(NamedTuple):
    """One file or folder.

    Attributes:
        name: as the person wrote it.
        carry: copies it; raises SandboxError or OSError.
    """

    name: str
    carry: Callable[[], Arrived]


def carry_each(steps: Sequence[Step], done: str) -> None:
    """Carry them all, whatever becomes of one, and show a table of them; also when somebody interrupts.

    Args:
        done: what is done to them, like "uploaded".

    Raises:
        SandboxError: some have not arrived.
    """
    rows: list[tuple[str, str, str, str]] = []
    failed: list[str] = []
    try:
        for step in steps:
            try:
                arrived = step.carry()
            except _HOPELESS:
                raise
            except (SandboxError, OSError) as error:
                rows.append((step.name, "", "failed", _reason(error)))
                failed.append(step.name)
            else:
                rows.append((step.name, arrived.size, "ok", arrived.where))
    finally:
        rows += [(step.name, "", "not done", "") for step in steps[len(rows) :]]
        show(Table(HEAD, rows, rows))
    if failed:
        names = ", ".join(failed[:_NAMED]) + (", …" if len(failed) > _NAMED else "")
        raise SandboxError(f"{len(failed)} of {len(steps)} were not {done}: {names}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
