"""Takes away what sandboxes leave behind: folders that are closed to everybody, and nested without end.

An overlay keeps a folder without permissions, and a sandbox may make a tree deeper than Python can follow.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

#: Seconds for which what is just ending may still put something into it.
ENDING = 60.0


def remove(folder: str | Path) -> None:
    """Delete a folder with everything in it. Raises CalledProcessError if some of it stays."""
    if os.geteuid() != 0:
        # `chmod -R` opens a folder before it goes in, so this reaches the closed ones.
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False, stderr=subprocess.DEVNULL)
    until = time.monotonic() + ENDING
    while subprocess.run(["rm", "-rf", str(folder)], check=time.monotonic() > until).returncode:
        time.sleep(0.1)
