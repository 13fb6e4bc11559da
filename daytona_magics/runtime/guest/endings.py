"""Words for how workers and cells end."""

from __future__ import annotations

import errno
import signal

from . import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .processes import Process


def why(error: OSError) -> str:
    """Why a worker could not be started."""
    if error.errno == errno.EAGAIN:
        return limits.no_process()
    full = limits.disk() if error.errno in (errno.EFBIG, errno.ENOSPC) else ""
    return full or str(error)


def waits(name: str, state: str) -> str:
    """What a cell says that waits behind the cell ``name``."""
    if state == "queued":
        return "waiting behind %s, which waits itself: `%%sandbox jobs` lists what runs" % name
    return "waiting behind %s, which is still running: `%%sandbox logs --follow` shows it" % name


def did(text: str, worker: str, count: int) -> dict[str, Any]:
    """The reply to an interrupt."""
    return {"did": text, "worker": worker, "processes": count}


def fate(language: str) -> str:
    """What becomes of a worker that is killed."""
    return "killed" if language == "python" else "kept"


def count(found: list[Process]) -> str:
    """How many processes, in words."""
    return "1 process" if len(found) == 1 else "%d processes" % len(found)


def death(code: int | None, number: int | None, told: str = "") -> str:
    """How a worker ended, by itself or by a signal; ``told`` is a better explanation."""
    if told:
        return told
    if number is None:
        return "the worker process exited with code %s; its variables are lost, files are kept" % code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "signal %d" % number
    hint = " (perhaps out of memory)" if number == signal.SIGKILL else ""
    return "the worker process was ended by %s%s; its variables are lost, files are kept" % (name, hint)
