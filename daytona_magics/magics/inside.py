"""Whether a cursor is inside of a sandbox cell, and asking that sandbox about the place; never waits long."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, whole
from daytona_magics.magics.parser import HelpWanted, parse

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.sandboxes.binding import Binding

T = TypeVar("T")

#: Seconds a sandbox or an endpoint may be asked.
CAP = 0.3

_MAGIC = re.compile(r"\s*(?:#+\s*)?%%sandbox\b(?P<rest>.*)")


@dataclass(frozen=True)
class Place:
    """A place in a cell that runs in a sandbox.

    Attributes:
        code: the cell without its magic.
        cursor: the place in it.
        language: of the cell; "" when its magic cannot be parsed.
        sandbox: name of the sandbox it is for, "" for the notebook's.
        context: name of the context it is for, "" for the notebook's.
        cwd: the folder it was told to run in, "" for the context's own.
    """

    code: str
    cursor: int
    language: str
    sandbox: str = ""
    context: str = ""
    cwd: str = ""


def place_of(shell: Any, text: str, cursor: int, *, tagged: bool = False) -> Place | None:
    """The place of a cursor; None when it is not in code that runs in a sandbox.

    Args:
        text: the cell as it stands in the notebook.
        cursor: characters before the cursor.
        tagged: also in code that only runs in a sandbox if its cell has the tag, which is not told here.
    """
    first = 0
    for line in text.splitlines(keepends=True):
        found = _MAGIC.match(line)
        first += len(line)
        if found:
            return _place(found["rest"], text[first:], cursor - first) if cursor >= first else None
        if line.strip() and not line.lstrip().startswith("#"):
            break
    mode = whole.of(shell)
    return _place(mode.options, text, cursor) if mode.sends(text, tagged=tagged) else None


def _place(line: str, code: str, cursor: int) -> Place:
    try:
        options = parse(grammar.CELL, line)
    except (SandboxUsageError, HelpWanted):
        # Not to be run as it is, but surely not code of this machine.
        return Place(code, cursor, "")
    language = options.language or (
        "fresh" if options.fresh else "program" if options.interpreter else "python"
    )
    return Place(code, cursor, language, options.sandbox or "", options.context or "", options.cwd or "")


def opened(place: Place) -> tuple[Binding, Channel] | None:
    """What is bound to the sandbox of a place, and its open channel; None when there is none."""
    from daytona_magics import sandboxes

    tie = sandboxes.bound()
    if tie is not None and place.sandbox:
        from daytona_magics.sandboxes import several

        ties = several.open_now(tie, several.names(place.sandbox))
        tie = ties[0][0] if ties else None
    channel = None if tie is None or tie.gone else tie.channel
    return None if tie is None or channel is None or channel.closed else (tie, channel)


def asked(place: Place, ask: Callable[[Channel, str, str, int], Coroutine[Any, Any, T]]) -> T | None:
    """Ask the sandbox of a place; None when it cannot be had at once: nothing is started or opened for this.

    Args:
        ask: a function of :mod:`daytona_magics.runtime.looking`.
    """
    from daytona_magics.runtime.loop import loop_thread

    found = opened(place)
    if found is None:
        return None
    tie, channel = found
    coroutine = ask(channel, place.context or tie.context, place.code, place.cursor)
    future = loop_thread().submit(coroutine)
    try:
        return future.result(CAP)
    except FutureTimeout:
        future.cancel()
        return None
    except Exception:  # noqa: BLE001 - what cannot be had is not shown, whatever the cause
        return None
