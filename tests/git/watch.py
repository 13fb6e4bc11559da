"""Looks for a secret in every process and file it can see, until it is told to stop; standard library only.

    python3 watch.py OUTCOME STOP FOLDER[,FOLDER...] [LEFT_OUT...]

The texts to look for come on standard input, a line each, so that they are in no command line of its own.
It looks at command lines and environments all the time, and at files below FOLDER, on its file system, when
they have changed. After each look what was found so far is in OUTCOME, a line each: ``where`` and never the
secret; then OUTCOME.looks says how many looks there were. It ends when there is a file STOP. LEFT_OUT are
files and folders that may hold the secrets.
"""

import os
import sys
import time

SECRETS = [line.strip().encode() for line in sys.stdin if line.strip()]
OUTCOME, STOP, FOLDERS, LEFT_OUT = sys.argv[1], sys.argv[2], sys.argv[3].split(","), set(sys.argv[4:])
MOST = 16 << 20
found: set[str] = set()
seen: dict[str, tuple[int, int]] = {}
looks = 0


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST)
    except OSError:
        return b""


def processes() -> None:
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            for kind in ("cmdline", "environ"):
                data = read(f"/proc/{pid}/{kind}")
                if any(secret in data for secret in SECRETS):
                    found.add(f"{kind} of {read(f'/proc/{pid}/comm').decode().strip()}")


def is_looked_into(folder: str, device: int) -> bool:
    """Not left out, and no other file system: programs of this machine, which nobody here can write to."""
    try:
        return folder not in LEFT_OUT and os.lstat(folder).st_dev == device
    except OSError:
        return False


def files() -> None:
    for top in FOLDERS:
        device = os.stat(top).st_dev
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if is_looked_into(os.path.join(folder, name), device)]
            for name in names:
                path = os.path.join(folder, name)
                try:
                    info = os.lstat(path)
                except OSError:
                    continue
                state = (info.st_mtime_ns, info.st_size)
                if path in LEFT_OUT or seen.get(path) == state or not os.path.isfile(path):
                    continue
                seen[path] = state
                data = read(path)
                if any(secret in data for secret in SECRETS):
                    found.add(f"file {path}")


def write(path: str, text: str) -> None:
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


while not os.path.exists(STOP):
    processes()
    files()
    looks += 1
    write(OUTCOME, "\n".join(sorted(found)))
    write(OUTCOME + ".looks", str(looks))
    time.sleep(0.02)
