"""The link network: linked sandboxes reach each other by name and by id, over HTTP and CONNECT.

A group is a sandbox and those that were created with its id as ``linkedSandbox``. To a member, the names
and ids of its group (its own among them) are hosts: ``curl http://NAME:3000/``. They exist only in the proxy
that is its way out, and only in its own group; for everybody else they are names that nobody has. The
connection is made by the toolbox of the member that is asked, from inside, as previews are, so a program
there sees a client on its own loopback, and may listen on that. At isolation level L0 there is no such proxy,
and there are no names.

Hosts know no upper case: names that differ in nothing else mean the oldest sandbox. An id wins over a name.
A sandbox whose name cannot be a host (it has blanks, is an address, …) is reached by its id.

``network_block_all`` and the allow lists are about the internet; they neither open nor close the link
network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.proxy.dialing import Refused
from daytona_magics.engine.proxy.peers import Peer
from daytona_magics.engine.proxy.targets import BadTarget, Target, parse_host
from daytona_magics.engine.store.records import SandboxRecord
from daytona_magics.engine.toolbox.client import ToolboxError
from daytona_magics.engine.toolbox.connection_client import connect

#: Most names of deleted members that a group remembers.
MAX_GONE = 500
_MAX_REASON = 300


def host_of(name: str) -> str:
    """A sandbox's name as a host; empty when it cannot be one.

    In:  host_of("Web")
    Out: 'web'
    """
    try:
        host, address = parse_host(name)
    except BadTarget:
        return ""
    return "" if address is not None else host


class Links:
    """All groups of linked sandboxes.

    Args:
        sandboxes: all there are, oldest first.
    """

    def __init__(self, sandboxes: Iterable[Sandbox]) -> None:
        self._sandboxes = sandboxes
        # By the group's first: the hosts of deleted members.
        self._gone: dict[str, dict[str, str]] = {}

    def group(self, id: str) -> list[Sandbox]:
        """The group of a sandbox, itself included; empty when it is linked with nobody."""
        first = next((_first(s.record) for s in self._sandboxes if s.record.id == id), None)
        found = [s for s in self._sandboxes if _first(s.record) == first]
        return found if len(found) > 1 or first in self._gone else []

    def remember(self, record: SandboxRecord) -> None:
        """A sandbox has been deleted: its group is told so when it asks for it."""
        first = _first(record)
        if first == record.id:
            self._gone.pop(record.id, None)
            return
        if not any(other.record.id == first for other in self._sandboxes):
            # It goes with the one it was linked to.
            return
        gone = self._gone.setdefault(first, {})
        for host in filter(None, (record.id, host_of(record.name))):
            gone.pop(host, None)
            gone[host] = record.name
        while len(gone) > MAX_GONE:
            gone.pop(next(iter(gone)))

    async def reach(self, id: str, target: Target) -> Peer | None:
        """A connection for sandbox ``id`` to a member of its group; None when ``target`` names none.

        Raises:
            Refused: 502 when the member is not running, was deleted, or nothing listens on the port there.
        """
        if target.address is not None:
            return None
        group = self.group(id)
        found = _named(group, target.host)
        if found is None:
            name = self._gone.get(_first(group[0].record), {}).get(target.host) if group else None
            if name is None:
                return None
            raise Refused(502, f"linked sandbox {name} cannot be reached: it has been deleted")
        who = f"linked sandbox {found.record.name} cannot be reached"
        try:
            toolbox = found.toolbox
        except ApiError:
            raise Refused(502, f"{who}: it is not running (state: {found.record.state})") from None
        # While somebody is connected, it is in use.
        with contextlib.ExitStack() as used:
            used.enter_context(found.used())
            try:
                sock, operation = await connect(toolbox, target.port)
            except ToolboxError as error:
                raise Refused(502, f"{who}: {str(error)[:_MAX_REASON]}") from None
            used.callback(operation.wire.close)
            return Peer(sock, used.pop_all().close)


def _first(record: SandboxRecord) -> str:
    """The id of the sandbox that a group begins with."""
    return str(record.options.get("linkedSandbox") or record.id)


def _named(group: list[Sandbox], host: str) -> Sandbox | None:
    by_id = next((s for s in group if s.record.id == host), None)
    return by_id or next((s for s in group if host_of(s.record.name) == host), None)
