"""Where an engine of this user leaves its traces: its folders, and the record that says how to reach it.

The engine leaves a record ``engine.json`` (0600) in the user's runtime folder, and a copy in its state
folder, because a kernel started by a service may not see the ``XDG_RUNTIME_DIR`` that a terminal sees. A
record is believed only if it was written on this boot and in these namespaces, and the process it names is
alive with the same start time: so a recycled pid, or a folder shared between machines, is not mistaken for an
engine.

Standard library only and cheap to import.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_RECORD = "engine.json"


class EngineStartError(Exception):
    """The embedded engine could not be found or started; the message says why and where its log is."""


def private_folder(path: Path, mode: int = 0o700) -> Path:
    """Make sure ``path`` is a real folder of ours that nobody else can write to, and return it.

    Raises:
        EngineStartError: it is a symlink, belongs to somebody else, or was writable by others.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise EngineStartError(f"{path} is not a folder") from error
    except OSError as error:
        raise EngineStartError(f"the folder {path} cannot be created: {error.strerror}") from error
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise EngineStartError(f"{path} is a symbolic link or not a folder; remove it")
    if info.st_uid != os.geteuid():
        raise EngineStartError(f"{path} belongs to uid {info.st_uid}, not to you (uid {os.geteuid()})")
    if info.st_mode & 0o022:
        raise EngineStartError(f"{path} can be written to by others (mode {stat.S_IMODE(info.st_mode):o})")
    if stat.S_IMODE(info.st_mode) != mode:
        path.chmod(mode)
    return path


def runtime_dir() -> Path:
    """The user's folder for locks and the engine's record (0700, created when missing).

    ``$XDG_RUNTIME_DIR/daytona-magics`` when that variable names a folder of this user, else
    ``/tmp/daytona-magics-UID``.

    Raises:
        EngineStartError: the folder belongs to somebody else or is a symlink.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_absolute():
        # After `su` the variable may still name the folder of the earlier user.
        with suppress(OSError):
            info = Path(base).lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and os.access(base, os.W_OK):
                return _for_home(private_folder(Path(base) / "daytona-magics"))
    return _for_home(private_folder(Path("/tmp") / f"daytona-magics-{os.geteuid()}"))


def _for_home(folder: Path) -> Path:
    """A state folder asked for by name has an engine, and so a runtime folder, of its own."""
    if not os.environ.get("DAYTONA_MAGICS_HOME"):
        return folder
    digest = hashlib.sha256(os.fsencode(state_dir())).hexdigest()[:12]
    return private_folder(folder / f"home-{digest}")


def fallback_state_dir() -> Path:
    """The state folder used when the preferred one cannot hold a database."""
    return Path("/var/tmp") / f"daytona-magics-{os.geteuid()}"


def state_dir() -> Path:
    """The preferred state folder (not created): ``$DAYTONA_MAGICS_HOME``, or the place usual on this system.

    As root ``/var/lib/daytona-magics``, else ``$XDG_DATA_HOME/daytona-magics`` (``~/.local/share``).
    A running engine may use another one when this cannot hold a database; ``EngineAddress.state_dir`` tells.
    """
    named = os.environ.get("DAYTONA_MAGICS_HOME")
    if named:
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/daytona-magics")
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data and Path(data).is_absolute() else Path("~/.local/share").expanduser()
    return base / "daytona-magics"


def process_start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def place() -> str:
    """Names this boot and the namespaces in which a pid and a loopback port mean anything."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    for name in ("pid", "net"):
        with suppress(OSError):
            parts.append(str(Path(f"/proc/self/ns/{name}").readlink()))
    return " ".join(parts)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The engine record in ``folder`` if it is well-formed, ours and private; else None."""
    try:
        handle = os.open(folder / _RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            return None
        try:
            record = json.loads(file.read(65536))
        except ValueError:
            return None
    wanted = {
        "pid": int,
        "start_time": int,
        "place": str,
        "port": int,
        "api_key": str,
        "state_dir": str,
        "asked_for": str,
        "api": int,
    }
    if not isinstance(record, dict) or any(type(record.get(k)) is not t for k, t in wanted.items()):
        return None
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Put ``record`` into ``folder`` as ``engine.json``, 0600, complete or not at all."""
    temporary = folder / f".{_RECORD}.{os.getpid()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(handle)
    temporary.replace(folder / _RECORD)


def remove_record(folder: Path, pid: int) -> None:
    """Delete the record in ``folder`` if it is the one of ``pid``."""
    record = read_record(folder)
    if record and record["pid"] == pid:
        (folder / _RECORD).unlink(missing_ok=True)


def record_folders() -> Iterator[Path]:
    with suppress(EngineStartError):
        yield runtime_dir()
    yield state_dir()
    yield fallback_state_dir()


def live_record() -> dict[str, Any] | None:
    """The record of an engine that is alive on this boot and in these namespaces; None without one."""
    here, home = place(), str(state_dir())
    for folder in record_folders():
        record = read_record(folder)
        # The fallback folder is seen by everybody whose own state folder could not be used.
        if record is None or record["asked_for"] != home or record["place"] != here:
            continue
        if record["start_time"] == process_start_time(record["pid"]):
            return record
    return None


def call(record: dict[str, Any], method: str, path: str, timeout: float = 5.0) -> dict[str, Any] | None:
    """One authenticated request to the engine of ``record`` over loopback, no proxy; None if it fails."""
    connection = http.client.HTTPConnection("127.0.0.1", record["port"], timeout=timeout)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {record['api_key']}"})
        response = connection.getresponse()
        body = response.read(1 << 20)
        answer = json.loads(body) if response.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None
