"""Why the embedded engine, or the kernel for it, ended a process: the notices it leaves in the sandbox.

The file is written soon after the process was killed, so there is a short wait for it. On other endpoints
nobody writes it.
"""

from __future__ import annotations

import json
import os
import time

from . import paths

#: From the home; the engine's ``limits/notices.py`` names the same place.
FILE = os.path.join(".daytona-magics", "limits.json")
#: Seconds to wait for a notice, and how old one may be.
_WAIT, _FRESH = 0.8, 10.0
_MAX = 1 << 20


def reason(pid: int) -> str:
    """The sentence about the end of ``pid``, which was killed a moment ago; empty when there is none."""
    if "DAYTONA_SANDBOX_ID" not in os.environ:
        return ""
    deadline = time.monotonic() + _WAIT
    while True:
        told = _told(pid)
        if told or time.monotonic() > deadline:
            return told
        time.sleep(0.05)


def _told(pid: int) -> str:
    try:
        with open(os.path.join(paths.home(), FILE), encoding="utf-8") as file:
            notices = json.loads(file.read(_MAX))
        for notice in reversed(notices):
            fresh = time.time() - float(notice["time"]) < _FRESH
            if fresh and (not notice["pids"] or pid in notice["pids"]):
                return str(notice["text"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""  # None yet, or the sandbox's own idea of such a file.
    return ""
