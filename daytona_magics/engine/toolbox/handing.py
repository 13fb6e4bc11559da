"""Handing a new terminal to a program that runs already: part of the toolbox program.

The program takes terminals on a unix socket: a message of one byte, and with it the terminal's slave and one
end of a pair of sockets, on which nothing is said. Whichever side closes its end has let go of the terminal.
No process stands between, and none has to be started.
"""

import array
import asyncio
import fcntl
import os
import socket
import struct
import termios
import time
import tty
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .terminals import new_terminal
from .wire import Wire, close_fds, ready

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Seconds a program may be waited for, at most; seconds between two looks.
_MOST_PATIENCE, _LOOK = 10.0, 0.002


async def _hand_over(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op hand_over: {socket, patience, cols, rows} → {pid} with the master, then {exit_code, reason}.

    ``socket`` is a path; ``~/`` is the home of the sandbox's programs. ``patience``: seconds it may take
    until somebody takes terminals there; with 0 it is refused when nobody does.
    """
    from .agent import Refused

    path = str(request["socket"])
    if path.startswith("~/"):
        path = os.path.join(inside.env["HOME"], path[2:])
    patience = min(float(request["patience"]), _MOST_PATIENCE)
    with ExitStack() as ends:
        try:
            # Refused here where there are no unix sockets, before anything is made.
            taker = ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            taker.setblocking(False)
            ours, theirs = map(ends.enter_context, socket.socketpair())
            masters, slave = await new_terminal(connection)
            ends.callback(close_fds, masters)
            own = ends.enter_context(os.fdopen(slave, "rb", buffering=0))
            fcntl.ioctl(
                slave, termios.TIOCSWINSZ, struct.pack("HHHH", request["rows"], request["cols"], 0, 0)
            )
            tty.setraw(slave, termios.TCSANOW)
            if not patience:
                _give(taker, path, slave, theirs)
            await connection.send_json({"pid": os.getpid()}, masters)
        except OSError as error:
            message = f"nobody takes terminals at {path}: {error.strerror}"
            raise Refused(404, "FILE_NOT_FOUND", message) from error
        # An order to end it, or the engine's hanging up.
        orders: asyncio.Future[Any] = asyncio.ensure_future(connection.receive_json())
        try:
            given = not patience or await _given(taker, path, slave, theirs, patience, orders)
            own.close()
            theirs.close()
            if given:
                await _let_go(ours, orders)
        finally:
            orders.cancel()
            await asyncio.gather(orders, return_exceptions=True)
    await connection.send_json({"exit_code": 0 if given else 1, "reason": ""})


def _give(taker: socket.socket, path: str, slave: int, theirs: socket.socket) -> None:
    """Hand the terminal over. Raises OSError when nobody takes it now."""
    taker.connect(path)
    rights = array.array("i", [slave, theirs.fileno()])
    taker.sendmsg([b"t"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


async def _given(
    taker: socket.socket,
    path: str,
    slave: int,
    theirs: socket.socket,
    patience: float,
    orders: "asyncio.Future[Any]",
) -> bool:
    """Hand it over as soon as somebody takes it; False when nobody does, or nobody wants it any more."""
    deadline = time.monotonic() + patience
    while not orders.done() and time.monotonic() < deadline:
        try:
            _give(taker, path, slave, theirs)
            return True
        except OSError:
            await asyncio.sleep(_LOOK)
    return False


async def _let_go(ours: socket.socket, orders: "asyncio.Future[Any]") -> None:
    """Return when the other side has let go of the terminal, or this one is ordered to."""
    gone: asyncio.Future[Any] = asyncio.ensure_future(ready(ours.fileno()))
    try:
        await asyncio.wait({gone, orders}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # The loop must forget the number before it is closed.
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


HANDLERS: "dict[str, Handler]" = {"hand_over": _hand_over}
