"""The engine's side of a connection to a port in a sandbox, which the sandbox's toolbox makes from inside.

So it reaches that sandbox and nothing else, whatever network it has; `connections` is the toolbox's side.
"""

from __future__ import annotations

import socket

from daytona_magics.engine.toolbox.answers import protocol_errors
from daytona_magics.engine.toolbox.client import Toolbox
from daytona_magics.engine.toolbox.operation import Operation


async def connect(toolbox: Toolbox, port: int) -> tuple[socket.socket, Operation]:
    """A connection to `port` in a sandbox: our end, and the operation that ends when it is closed.

    Raises ToolboxError 502 when nothing listens there.
    """
    operation = await toolbox.begin("connect", port=port)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with far, protocol_errors():
            await operation.answer()
            await operation.wire.send_json({}, [far.fileno()])
        with protocol_errors():
            await operation.answer()
        near.setblocking(False)
        return near, operation
    except BaseException:
        near.close()
        operation.wire.close()
        raise
