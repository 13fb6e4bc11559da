"""Where the guest keeps its files: ``~/.daytona-magics/run`` (0700)."""

from __future__ import annotations

import os

#: The daemon's door is one of the two; beside a socket terminals are handed in (see doors.py).
SOCKET, DOOR, TERMINALS = "guest.sock", "guest.door", "guest.terminals"
LOCK = "guest.lock"
ERRORS = "guest.err"


def home() -> str:
    """The user's home: $HOME if it is an existing folder, else the password database's, else ``/tmp``."""
    found = os.environ.get("HOME", "")
    if not os.path.isdir(found):
        import pwd

        try:
            found = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found = ""
    return found if os.path.isdir(found) else "/tmp"


def run_folder(create: bool = False) -> str:
    """The run folder; with ``create`` it and its sub-folders exist afterwards, readable by this user only."""
    folder = os.path.join(home(), ".daytona-magics", "run")
    if create:
        for name in ("", "executions", "contexts", "variables"):
            path = os.path.join(folder, name)
            os.makedirs(path, mode=0o700, exist_ok=True)
            if os.stat(path).st_uid == os.getuid():
                os.chmod(path, 0o700)
    return folder
