"""The terminals (PTY sessions) of a sandbox: listing, resizing and ending them, and leaving none behind.

A terminal that these magics open for a person has a name that says which kernel it belongs to and which life
of it. It ends with its widget, and with the kernel; a kernel that was killed cannot do that, so its next life
ends the terminals of the earlier one when it first opens one of its own.
"""

from __future__ import annotations

import atexit
import os
import secrets
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from daytona_magics.runtime.transport import PtyAddress
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import glances, last_requests

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.glances import TerminalInfo

#: Names of the terminals of people begin so.
PREFIX = "terminal-"
#: Seconds a request about a terminal may take, and ending all of them when the kernel ends.
WITHIN, FAREWELL_WITHIN = 10.0, 1.0

_life = secrets.token_hex(4)
_open: dict[str, PtyAddress] = {}
_watched = False


def new_name(binding: Binding) -> str:
    """A name for a terminal that this kernel opens."""
    return f"{_of_kernel(binding)}{_life}-{secrets.token_hex(4)}"


def _of_kernel(binding: Binding) -> str:
    return f"{PREFIX}{binding.who().kernel[:12]}-"


def ours(name: str, binding: Binding) -> bool:
    """Whether this kernel opened the terminal, in this life."""
    return name.startswith(f"{_of_kernel(binding)}{_life}-")


async def listed(sandbox: AsyncSandbox) -> list[TerminalInfo]:
    """The terminals of people in a sandbox; the ones that cells run through are left out."""
    return [one for one in await glances.terminals(sandbox) if not one.of_cells]


async def resize(sandbox: AsyncSandbox, name: str, cols: int, rows: int) -> None:
    """Change a terminal's size; one that has ended is left alone."""
    from daytona.common.pty import PtySize

    with suppress(sdk.error_class()):
        size = PtySize(cols=cols, rows=rows)
        await sandbox.process.resize_pty_session(name, size, request_timeout=WITHIN)


async def end(sandbox: AsyncSandbox, name: str) -> None:
    """End a terminal and the programs in it. One that is gone already is no error."""
    try:
        await sandbox.process.kill_pty_session(name, request_timeout=WITHIN)
    except sdk.error_class() as error:
        if not sdk.not_found(error):
            raise sdk.translate(error, "ending a terminal") from None
    finally:
        _open.pop(name, None)


async def sweep(sandbox: AsyncSandbox, binding: Binding) -> int:
    """End what an earlier life of this kernel left; returns how many terminals that were."""
    mine, left = _of_kernel(binding), 0
    with suppress(Exception):
        for one in await listed(sandbox):
            if one.name.startswith(mine) and not ours(one.name, binding):
                await end(sandbox, one.name)
                left += 1
    return left


def opened(name: str, address: PtyAddress) -> None:
    """Remember that a terminal has to end with this kernel."""
    global _watched
    _open[name] = address
    if not _watched:
        _watched = True
        owner = os.getpid()
        atexit.register(lambda: _farewell() if os.getpid() == owner else None)


def ended(name: str) -> None:
    """A terminal has ended by itself."""
    _open.pop(name, None)


def _farewell() -> None:
    """End all that are left, by plain HTTP: at the interpreter's exit there is no loop any more."""
    until = time.monotonic() + FAREWELL_WITHIN
    for name, address in list(_open.items()):
        left = until - time.monotonic()
        if left <= 0:
            return
        url = f"{address.base}/process/pty/{quote(name, safe='')}"
        request = urllib.request.Request(url, method="DELETE", headers=dict(address.headers))
        with suppress(urllib.error.URLError, OSError):
            last_requests.send(request, left).close()
