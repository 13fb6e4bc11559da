"""Terminals inside a sandbox: part of the toolbox program.

Where the sandbox has a devpts of its own (L3) the terminal is made inside and its master side handed to the
engine, which reads and writes it directly: so it has a name (``tty``, tmux and gpg need one), and the host's
terminals are none of it. Where nothing can be opened in /dev (below L3) the engine is asked for a terminal:
it makes the pair and sends the slave side, which becomes the program's controlling terminal; ``/dev/tty``
then opens. Which of the two it is, is found by trying. This program only starts the shell, waits for its
end, and kills it on request or when the engine hangs up.
"""

import asyncio
import errno
import fcntl
import os
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any

from . import wire
from .processes import Child, environment, exit_code, work_dir
from .wire import Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside


async def _pty(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op pty: {argv?, cwd, env, cols, rows} → {pid} with the master, then {exit_code, reason}.

    Without terminals of its own: → {terminal: "wanted"}; {} with a slave → {pid}, then the same.
    """
    from .agent import Refused

    masters, slave = await new_terminal(connection)
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", request["rows"], request["cols"], 0, 0))
        child = await inside.children.start(
            [str(word) for word in request.get("argv") or [inside.shell]],
            env={"TERM": "xterm-256color", **environment(inside, request)},
            cwd=work_dir(inside, request),
            stdio=(slave, slave, slave),
            terminal=True,
        )
        try:
            await connection.send_json({"pid": child.pid}, masters)
        except OSError:
            child.kill()
            raise
    except OSError as error:
        message = f"the terminal's program cannot start: {error.filename or ''} {error.strerror}"
        raise Refused(400, "BAD_REQUEST", message) from error
    finally:
        wire.close_fds((*masters, slave))
    orders = asyncio.ensure_future(_obey(connection, child))
    try:
        status = await asyncio.shield(child.exited)
    finally:
        orders.cancel()
        await asyncio.gather(orders, return_exceptions=True)
        child.kill()
    reason = f"ended by {signal.Signals(-status).name}" if status < 0 else ""
    await connection.send_json({"exit_code": exit_code(status), "reason": reason})


async def new_terminal(connection: Wire) -> tuple[list[int], int]:
    """A new terminal: its master, if it was made here, and its slave. Raises OSError."""
    try:
        master, slave = os.openpty()
        return [master], slave
    except OSError:
        # Whatever the reason, the engine may still have one; if not, it says why.
        await connection.send_json({"terminal": "wanted"})
    frame = await connection.receive()
    fds = () if frame is None else frame.fds
    if len(fds) == 1 and os.isatty(fds[0]):
        return [], fds[0]
    wire.close_fds(fds)
    raise OSError(errno.ECONNABORTED, "no terminal was handed in")


async def _obey(connection: Wire, child: Child) -> None:
    """Kill the program when told to, or when the engine hangs up."""
    while (message := await connection.receive_json()) is not None:
        if message.get("kill"):
            child.kill()
    child.kill()


HANDLERS: "dict[str, Handler]" = {"pty": _pty}
