"""Who this kernel is: the facts a sandbox's labels tell about its owner.

A sandbox is re-attached automatically only for *the same kernel*. A kernel is known by its connection file,
which stays the same across restarts, together with the key inside it, which differs between two kernels
that happen to use one path (a fixed file in a container image, say). Plain IPython is one kernel per process.
The notebook's path is only a hint: every student of a class has an ``Untitled.ipynb`` at the same path.

A living kernel holds a POSIX record lock in the user's runtime folder. Such locks are not inherited by
forked children, and end with the process however it ends, so "is that kernel alive" never needs a guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from daytona_magics.engine import places

_held: dict[str, int] = {}


@dataclass(frozen=True)
class Identity:
    """Who we are, as hashes that may be shown to an endpoint.

    Attributes:
        kernel: 16 hex digits, the same across restarts of this kernel and of no other kernel.
        notebook: 16 hex digits of the notebook's path, "" when unknown.
        host: 12 hex digits of machine, host name and user.
        place: 12 hex digits of the folder with the locks of living kernels, "" when it has none.
        title: the notebook's file name without suffix, for naming sandboxes; "sandbox" when unknown.
        batch: nobody sits at the notebook (nbclient, papermill, jupyter execute).
    """

    kernel: str
    notebook: str
    host: str
    title: str
    batch: bool
    place: str = ""

    @property
    def context(self) -> str:
        """Name of this kernel's own context in a sandbox."""
        return f"kernel-{self.kernel[:8]}"


def _digest(*parts: str | bytes, size: int = 16) -> str:
    joined = b"\0".join(
        part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape") for part in parts
    )
    return hashlib.sha256(b"daytona-magics\0" + joined).hexdigest()[:size]


def host_id() -> str:
    """Hash of what tells this machine and user from others; the same until the machine is renamed."""
    machine = b""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            machine = Path(path).read_bytes().strip()
            break
    return _digest(machine, socket.gethostname(), str(os.getuid()), size=12)


def _connection_file() -> Path | None:
    connect = sys.modules.get("ipykernel.connect")
    if connect is None:
        return None
    try:
        return Path(connect.get_connection_file())
    except RuntimeError:
        return None  # IPython without a kernel: no application has a connection file


def _birth(path: Path) -> str:
    """What a kernel manager made for this kernel and keeps across restarts."""
    try:
        key = json.loads(path.read_text(encoding="utf-8")).get("key")
        if key:
            return str(key)
        info = path.stat()
        return f"{info.st_ino}-{info.st_mtime_ns}"
    except (OSError, ValueError, AttributeError):
        return str(os.getpid())


def notebook_path(shell: Any) -> str:
    """Path of the notebook as its front end tells it, "" when none does (nbclient, consoles)."""
    told = os.environ.get("JPY_SESSION_NAME", "")
    namespace = getattr(shell, "user_ns", {}) or {}
    for name in ("__vsc_ipynb_file__", "__session__"):
        value = namespace.get(name)
        if not told and isinstance(value, str):
            told = value
    return told


def identify(shell: Any) -> Identity:
    """Work out who this kernel is; cheap enough to call for every cell.

    Args:
        shell: the InteractiveShell, or None in a plain program.
    """
    host = host_id()
    path = _connection_file()
    birth = (str(path), _birth(path)) if path else ("process", f"{os.getpid()}-{_start_time()}")
    notebook = notebook_path(shell)
    kernel = getattr(shell, "kernel", None)
    asks = bool(getattr(kernel, "_allow_stdin", True))
    return Identity(
        kernel=_digest(host, *birth),
        notebook=_digest(host, str(Path(notebook).absolute())) if notebook else "",
        host=host,
        title=Path(notebook).stem if notebook.endswith(".ipynb") else "sandbox",
        batch=kernel is not None and not asks and not notebook,
        place=place(),
    )


def _start_time() -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    return "0"


@cache
def _place(folder: Path) -> str:
    path = folder / "place"
    made = folder / f".place-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        made.write_text(secrets.token_hex(6))
        # Of several kernels that start at once, one's word is the word of all.
        with suppress(FileExistsError):
            path.hardlink_to(made)
        return path.read_text()[:12]
    except OSError:
        return ""
    finally:
        made.unlink(missing_ok=True)


def place() -> str:
    """Which locks this process sees: a random word kept beside them.

    Two containers may have one host id, and neither sees the other's living kernels; a kernel whose sandboxes
    carry another word is never called dead.
    """
    try:
        return _place(_lock_folder())
    except OSError:
        return ""


def _lock_folder() -> Path:
    folder = places.runtime_dir() / "kernels"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _lock_path(kernel: str) -> Path:
    if not kernel.isalnum():
        raise ValueError(f"not a kernel hash: {kernel!r}")
    return _lock_folder() / f"{kernel}.lock"


def hold(kernel: str) -> None:
    """Say "this kernel is alive" for as long as this process lives. Idempotent."""
    if kernel in _held:
        return
    descriptor = os.open(_lock_path(kernel), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # The earlier process of a restarted kernel is still ending (or somebody is just looking). It is the
        # same kernel, and alive; once it has ended, the lock has to be ours.
        threading.Thread(
            target=_hold_later, args=(kernel, descriptor), name="daytona-magics-lock", daemon=True
        ).start()
        _held[kernel] = descriptor
        return
    _held[kernel] = descriptor


def _hold_later(kernel: str, descriptor: int) -> None:
    with suppress(OSError):  # released meanwhile, with its descriptor
        fcntl.lockf(descriptor, fcntl.LOCK_EX)


def release(kernel: str) -> None:
    """Undo :func:`hold`; used by tests and when the extension is unloaded."""
    descriptor = _held.pop(kernel, None)
    if descriptor is not None:
        with suppress(OSError):
            _lock_path(kernel).unlink()
        os.close(descriptor)


def alive(kernel: str) -> bool:
    """Whether a process of *this machine* holds the lock of that kernel."""
    if kernel in _held:
        return True
    try:
        descriptor = os.open(_lock_path(kernel), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return False
    try:
        # A shared lock: of two who look at the same time none takes the other for the kernel.
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
