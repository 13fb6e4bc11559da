"""Looks at the file system in a short child process: a file system that hangs holds up nobody but it."""

from __future__ import annotations

import json
import os
import signal

from . import processes, workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop

#: Seconds one look may take.
WITHIN = 5.0


def aside(
    loop: Loop, path: str, look: Callable[[], dict[str, Any]], answer: Callable[[dict[str, Any]], Any]
) -> None:
    """Call ``look`` in a child process, then ``answer`` with its result, or ``{"error", "message"}``."""
    read, write = workers.make_pipe()

    def child() -> None:
        loop.close_in_child()
        processes.die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            body = look()
        except OSError as error:
            code = "not-found" if isinstance(error, (FileNotFoundError, NotADirectoryError)) else "unreadable"
            body = {"error": code, "message": "%s: %s" % (path, error.strerror or error)}
        view = memoryview(json.dumps(body).encode("ascii"))
        while view:
            view = view[os.write(write, view) :]

    pid = workers.fork(child)
    os.close(write)
    pieces: list[bytes] = []
    late = {"error": "too-slow", "message": "%s did not answer within %d s" % (path, WITHIN)}

    def close() -> None:
        timer.cancel()
        loop.remove(read)
        os.close(read)

    def give_up() -> None:
        # One that hangs in the kernel does not even end: nobody waits for that.
        processes.send_child(pid, signal.SIGKILL)
        close()
        answer(late)

    timer = loop.later(WITHIN, give_up)

    def readable(events: int) -> None:
        try:
            data = os.read(read, 1 << 18)
        except BlockingIOError:
            return
        if data:
            pieces.append(data)
            return
        close()
        try:
            body = json.loads(b"".join(pieces))
        except ValueError:
            body = {"error": "unreadable", "message": "%s: the look at it was ended" % path}
        answer(body)

    loop.add(read, readable)
