"""What a person is told when a limit was reached, and how it gets to them.

A notice is kept in the engine with the pids it is about: the process that was ended and those it descends
from, as they are known inside. An `execute` that ended meanwhile gets the sentence appended to its output
when it is about its own process. The same notices are put into the sandbox (`FILE`) for the guest, which
looks there when a worker was killed. They are written by the sandbox's own toolbox, with the sandbox's
rights, so whatever a link there points to, nothing outside is reached.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from daytona_magics.engine.log import log
from daytona_magics.engine.toolbox.client import Toolbox, ToolboxError

#: Where the guest finds them, from the sandbox's home.
FILE = ".daytona-magics/limits.json"
_KEPT = 20
#: What happens again within so many seconds is one thing, told once.
_SAME_SECONDS, _SAME_PIDS = 30.0, 256
_DELIVERY_SECONDS = 2.0
_GIB = 1 << 30


@dataclass(frozen=True)
class Notice:
    """Something that happened to a sandbox.

    Attributes:
        kind: what it is about: memory, machine, disk, writer, processes.
        text: one sentence.
        count: how many processes were ended.
        pids: inside pids of the process it happened to and of those above it; empty when it is not known or
            happened to all of them.
        at: when, in ``time.monotonic`` seconds.
        wall: when, in seconds since 1970.
    """

    kind: str
    text: str
    count: int = 0
    pids: tuple[int, ...] = ()
    at: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)


class Notices:
    """The latest notices of one sandbox."""

    def __init__(self) -> None:
        self._kept: deque[Notice] = deque(maxlen=_KEPT)

    def add(self, kind: str, text: Callable[[int], str], count: int = 0, pids: Iterable[int] = ()) -> None:
        """Keep a notice; one of the same kind a moment ago becomes part of it.

        Args:
            text: makes the sentence from the number of processes that were ended.
            count, pids: see `Notice`.
        """
        touched = dict.fromkeys(pids)
        last = next((notice for notice in self._kept if notice.kind == kind), None)
        if last is not None and time.monotonic() - last.at < _SAME_SECONDS:
            self._kept.remove(last)
            count += last.count
            touched.update(dict.fromkeys(last.pids[:_SAME_PIDS]))
        self._kept.append(Notice(kind, text(count), count, tuple(touched)))

    def about(self, since: float, pid: int, failed: bool) -> list[Notice]:
        """What a command that began at ``since`` should be told.

        Args:
            pid: its process, as known inside; 0 when unknown.
            failed: whether it ended with anything but 0; then also what cannot be attributed is told.
        """
        return [
            notice
            for notice in self._kept
            if notice.at >= since and (pid in notice.pids or (failed and not (notice.pids and pid)))
        ]

    async def deliver(self, toolbox: Toolbox, full: str, seconds: float = _DELIVERY_SECONDS) -> None:
        """Put them into the sandbox; a sandbox that does not take them has only the engine's word.

        Args:
            full: what to say of its disk for as long as that is full; empty when it is not.
            seconds: how long it may take.
        """
        shown: list[dict[str, object]] = [
            {"kind": n.kind, "time": n.wall, "text": n.text, "pids": n.pids}
            for n in self._kept
            if n.kind != "disk"
        ]
        if full:
            shown.append({"kind": "disk", "time": time.time(), "text": full, "pids": ()})

        async def chunks() -> AsyncIterator[bytes]:
            yield json.dumps(shown).encode()

        try:
            await asyncio.wait_for(toolbox.upload(FILE, chunks()), seconds)
        except (ToolboxError, asyncio.TimeoutError, OSError) as error:
            log.info("a notice about limits could not be put into a sandbox: %s", error)


def size(count: int) -> str:
    """Bytes as a person writes them.

    Example:
        >>> size(1 << 30), size(1 << 29)
        ('1 GiB', '512 MiB')
    """
    if count >= _GIB:
        return f"{count / _GIB:.3g} GiB"
    return f"{count >> 20} MiB"


_MORE = "; ask for more with `%sandbox create --{}`"


def memory(limit: int, victim: str, count: int) -> str:
    """A process, or several, were ended because the sandbox's memory was used up."""
    who = f" ({victim})" if victim else ""
    ended = f"its largest process{who} was ended"
    if count > 1:
        ended = f"{count} of its largest processes{who} were ended"
    return f"the sandbox used more than its {size(limit)} of memory; {ended}" + _MORE.format("memory")


def machine(left: int, victim: str) -> str:
    """A process was ended because the machine's memory was used up."""
    return (
        f"only {size(left)} of this machine's memory were left; the largest process of its sandboxes "
        f"({victim}) was ended"
    )


def disk(limit: int, used: int) -> str:
    """The sandbox's disk is full."""
    return (
        f"the sandbox uses {size(used)} of its {size(limit)} of disk; delete files, or"
        + _MORE.format("disk")[1:]
    )


def no_space() -> str:
    """The machine's disk is full."""
    return "this machine's disk is almost full; sandboxes cannot write files until there is space again"


def writer(victim: str, count: int) -> str:
    """Processes wrote on; `disk` says the rest."""
    who = f"a process that went on writing ({victim}) was"
    if count > 1:
        who = f"{count} processes that went on writing ({victim} and others) were"
    return f"{who} ended"


def processes(limit: int, ended: bool) -> str:
    """The sandbox has as many processes as it may."""
    what = "had more than its" if ended else "has reached its limit of"
    then = "they were ended" if ended else "no more can start until some end; `%sandbox restart` ends them"
    return f"the sandbox {what} {limit} processes and threads; {then}"
