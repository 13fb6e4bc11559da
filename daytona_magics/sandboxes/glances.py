"""Looking at a sandbox without using it: such a question does not put off its auto-stop.

The platform counts every request to a sandbox as activity, except those that carry one header. The SDK's own
methods cannot send it, so the same generated clients are called one layer below. What a guest says of itself
comes over the channel, which does count; here is only what can be asked beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daytona_magics.sandboxes import client as sdk

if TYPE_CHECKING:
    from daytona import AsyncSandbox

QUIETLY = {"X-Daytona-Skip-Last-Activity-Update": "true"}
#: Entries of a list that are believed, and characters of a text.
MOST, LONGEST = 200, 400
#: Names of the terminals that cells run through begin so.
OF_CELLS = "daytona-magics-"
#: Seconds an answer may take.
WITHIN = 10.0


@dataclass(frozen=True)
class Usage:
    """What a sandbox uses: CPU in percent of its CPUs, else bytes; totals are 0 where there is no limit."""

    cpu: float
    memory: int
    memory_total: int
    disk: int
    disk_total: int


@dataclass(frozen=True)
class Session:
    """A session of the platform: its commands as (command line, exit code or None while it runs)."""

    id: str
    commands: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class TerminalInfo:
    """A terminal of a sandbox.

    Attributes:
        name: its id.
        size: columns and rows.
        folder: where it began.
        running: its program runs.
    """

    name: str
    size: tuple[int, int]
    folder: str
    running: bool

    @property
    def of_cells(self) -> bool:
        """It is a line between a notebook's kernel and its guest."""
        return self.name.startswith(OF_CELLS)


async def usage(box: AsyncSandbox) -> Usage:
    """What a started sandbox uses now."""
    api: Any = box._system_api
    found = await sdk.asked(
        api.get_system_metrics(_headers=QUIETLY, _request_timeout=WITHIN), "asking for the resources"
    )
    whole = [max(0, int(getattr(found, name) or 0)) for name in ("mem_used", "mem_total")]
    files = [max(0, int(getattr(found, name) or 0)) for name in ("disk_used", "disk_total")]
    cpu = min(100.0, max(0.0, float(found.cpu_used_pct or 0)))
    return Usage(cpu, *whole, *files)


async def sessions(box: AsyncSandbox) -> list[Session]:
    """The sessions of a started sandbox, each with its newest commands."""
    api: Any = box.process._api_client
    found = await sdk.asked(
        api.list_sessions(_headers=QUIETLY, _request_timeout=WITHIN), "asking for the sessions"
    )
    return [
        Session(
            str(one.session_id)[:LONGEST],
            tuple((str(c.command)[:LONGEST], c.exit_code) for c in list(one.commands or ())[-3:]),
        )
        for one in list(found or ())[:MOST]
    ]


async def terminals(box: AsyncSandbox) -> list[TerminalInfo]:
    """The terminals of a started sandbox, those that cells run through included."""
    api: Any = box.process._api_client
    found = await sdk.asked(
        api.list_pty_sessions(_headers=QUIETLY, _request_timeout=WITHIN), "asking for the terminals"
    )
    return [
        TerminalInfo(
            name=str(one.id)[:LONGEST],
            size=(int(one.cols or 0), int(one.rows or 0)),
            folder=str(one.cwd or "")[:LONGEST],
            running=bool(one.active),
        )
        for one in list(found.sessions or ())[:MOST]
    ]


async def ports(box: AsyncSandbox) -> list[int]:
    """The TCP ports that programs in a started sandbox listen on, in order."""
    from daytona_toolbox_api_client_async import PortApi

    api: Any = PortApi(box._toolbox_api)
    found = await sdk.asked(api.get_ports(_headers=QUIETLY, _request_timeout=WITHIN), "asking for the ports")
    known = {port for port in (found.ports or ()) if isinstance(port, int) and 0 < port < 65536}
    return sorted(known)[:MOST]


def moment(stamp: Any) -> float | None:
    """Seconds since 1970 of a time as the platform writes it; None for what is none.

    In:  moment("2026-11-21T19:10:50.123Z")
    Out: 1795288250.123
    """
    try:
        return datetime.fromisoformat(str(stamp).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
