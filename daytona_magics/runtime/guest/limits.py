"""Why the embedded engine, or the kernel for it, ended a process: the notices it leaves in the sandbox.

The file is written soon after the process was killed, so there is a short wait for it. On other endpoints
nobody writes it.
"""

from __future__ import annotations

import json
import os
import resource
import time

from . import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: From the home; the engine's ``limits/notices.py`` names the same place.
FILE = os.path.join(".daytona-magics", "limits.json")
#: Seconds to wait for a notice, and how old one may be.
_WAIT, _FRESH = 0.8, 10.0
_MAX = 1 << 20
#: Limits of processes up to this are the sandbox's own.
_OWN = 4096


def reason(pid: int) -> str:
    """The sentence about the end of ``pid``, which was killed a moment ago; empty when there is none."""
    if "DAYTONA_SANDBOX_ID" not in os.environ:
        return ""
    deadline = time.monotonic() + _WAIT
    while True:
        for notice in reversed(_notices()):
            if _is_about(notice, pid):
                full = disk() if notice["kind"] == "writer" else ""
                return "; ".join(filter(None, (full, notice["text"])))
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.05)


def disk() -> str:
    """Why nothing can be written at the moment; empty when it can."""
    if "DAYTONA_SANDBOX_ID" not in os.environ:
        return ""
    return next((notice["text"] for notice in _notices() if notice["kind"] == "disk"), "")


def no_process() -> str:
    """What to say when no process can be started."""
    if "DAYTONA_SANDBOX_ID" not in os.environ:
        return "no process can be started any more; `%sandbox restart` ends those that run"
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    # A larger one is the user's own, who runs other things, too.
    count = "%d " % most if 0 < most <= _OWN else ""
    return "the sandbox's %sprocesses are used up; `%%sandbox restart` ends them" % count


def _is_about(notice: dict[str, Any], pid: int) -> bool:
    fresh = time.time() - notice["time"] < _FRESH
    return fresh and notice["kind"] != "disk" and (not notice["pids"] or pid in notice["pids"])


def _notices() -> list[dict[str, Any]]:
    try:
        with open(os.path.join(paths.home(), FILE), encoding="utf-8") as file:
            return [
                {
                    "kind": str(notice["kind"]),
                    "time": float(notice["time"]),
                    "text": str(notice["text"]),
                    "pids": [int(pid) for pid in notice["pids"]],
                }
                for notice in json.loads(file.read(_MAX))
            ]
    except (OSError, ValueError, TypeError, KeyError):
        return []  # None yet, or the sandbox's own idea of such a file.
