"""The engine's side of how a terminal begins: its master is the engine's, whoever has made it.

A terminal that the sandbox makes comes as a descriptor, which must be what it claims to be. Where a sandbox
has no terminals of its own, the engine makes one of the host, and only the slave goes in.
"""

import os

from . import wire
from .answers import ToolboxError, integer
from .operation import Operation, is_pty_master
from .wire import JSON, Frame, WireError


async def give_terminal(operation: Operation) -> int:
    """Make a terminal of the host, send its slave in, and return its master, which never leaves the engine.

    Raises ToolboxError 503 when this machine has no more of them.
    """
    try:
        master, slave = os.openpty()
    except OSError as error:
        message = f"this machine has no terminal to give: {error.strerror}"
        raise ToolboxError(503, "INTERNAL_SERVER_ERROR", message) from error
    try:
        await operation.wire.send_json({}, [slave])
    except BaseException as error:
        os.close(master)
        if isinstance(error, OSError):
            raise WireError("the terminal was not taken") from error
        raise
    finally:
        os.close(slave)
    return master


def started(frame: Frame, master: int) -> int:
    """The pid inside of a terminal's program. Raises WireError unless `master` is one and came alone."""
    if frame.type != JSON or not set(frame.fds) <= {master} or master < 0 or not is_pty_master(master):
        wire.close_fds([fd for fd in frame.fds if fd != master])
        raise WireError("a terminal was expected and something else came")
    return integer(wire.parse_json(frame.payload), "pid", 1, 1 << 31)
