"""Import what the first cell needs, in the background and after ``%load_ext`` has returned.

A thread of the lowest sensible priority waits a moment, then imports the SDK (about a second of work).
Importing this module costs nothing; nothing is contacted and nothing is started.
"""

from __future__ import annotations

import threading

#: Seconds between loading and warming; the cell that loads us is answered first.
DELAY = 0.15

_started = False


def start() -> None:
    """Warm once per process."""
    global _started
    if _started:
        return
    _started = True
    timer = threading.Timer(DELAY, _warm)
    timer.daemon = True
    timer.name = "daytona-magics-warm"
    timer.start()


def _warm() -> None:
    from daytona_magics.sandboxes import client

    client.warm()
