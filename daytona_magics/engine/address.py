"""Where the embedded engine of this user is, and how to get one.

One engine serves all kernels of a user.  It leaves a record ``engine.json`` (0600) in the user's runtime
folder, and a copy in its state folder, because a kernel started by a service may not see the
``XDG_RUNTIME_DIR`` that a terminal sees.  A record is believed only after three checks, in this order:

1. it was written on this boot and in these namespaces, and the process it names is alive with the same
   start time (so a recycled pid, or a folder shared between machines, is not mistaken for an engine);
2. the port is answered by that engine: an authenticated ``GET /api/health`` names the same pid;
3. its version is one this package can talk to.

Starters queue on the flock ``start.lock``; whoever gets it looks again, and starts
``python -m daytona_magics.engine serve --detach`` if there is still nothing.  The engine itself holds
``engine.lock`` for as long as it lives.

Standard library only and cheap to import: the notebook side imports this and nothing else of the engine.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import re
import stat
import subprocess
import sys
import time
import urllib.parse
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daytona_magics import __version__

API_VERSION = 1
"""Version of the protocol between this package and its engine; raised when an older side cannot go on."""

NO_PROXY_HOSTS = ("127.0.0.1", "localhost", ".localhost", "::1")

_RECORD = "engine.json"
_KEEP_ENV = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV")
# Proxies, package indexes and certificates of the host: read once for its sandboxes, then forgotten.
_KEEP_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_KEEP_TRUST = ("NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
_KEEP_ENV_PREFIX = (
    *("LC_", "XDG_", "DAYTONA_MAGICS_", "PYTHON", "CONDA_", "LD_LIBRARY_PATH", "COVERAGE_"),
    *("PIP_", "NPM_CONFIG_", "npm_config_"),
)


class EngineStartError(Exception):
    """The embedded engine could not be found or started; the message says why and where its log is."""


def obstacle() -> str | None:
    """Why no embedded engine can run on this kind of machine, in one sentence; None where it can."""
    if sys.platform.startswith("linux"):
        return None
    name = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
    other = "WSL or Docker" if name == "Windows" else "a Linux container (Docker)"
    return (
        f"the embedded engine isolates sandboxes with the Linux kernel, and this is {name}:"
        f" run the notebook in {other}, or set DAYTONA_API_KEY to use the Daytona cloud"
    )


@dataclass(frozen=True)
class EngineAddress:
    """A running engine, verified.  ``repr`` does not show the key.

    Attributes:
        api_url: base of the REST API, ``http://127.0.0.1:PORT/api``.
        api_key: bearer token; a secret.
        pid: process id of the engine.
        version: version of the package the engine was started from.
        isolation: isolation level of new sandboxes (``"L3"``), or ``"none"`` when none can be created.
        state_dir: folder with the database and the sandboxes' files.
    """

    api_url: str
    api_key: str
    pid: int
    version: str
    isolation: str
    state_dir: Path

    def __repr__(self) -> str:
        return (
            f"EngineAddress(api_url={self.api_url!r}, pid={self.pid}, version={self.version!r}, "
            f"isolation={self.isolation!r})"
        )


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


def _record_folders() -> Iterator[Path]:
    with suppress(EngineStartError):
        yield runtime_dir()
    yield state_dir()
    yield fallback_state_dir()


def live_record() -> dict[str, Any] | None:
    """The record of an engine that is alive on this boot and in these namespaces; None without one."""
    here, home = place(), str(state_dir())
    for folder in _record_folders():
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


def _look() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(record, health) of the engine that is running now."""
    record = live_record()
    health = call(record, "GET", "/api/health") if record else None
    if record is None or health is None or health.get("pid") != record["pid"]:
        return None
    return record, health


def _address(record: dict[str, Any], health: dict[str, Any]) -> EngineAddress:
    return EngineAddress(
        api_url=f"http://127.0.0.1:{record['port']}/api",
        api_key=record["api_key"],
        pid=record["pid"],
        version=str(health.get("version", "0")),
        isolation=str(health.get("isolation", "none")),
        state_dir=Path(record["state_dir"]),
    )


def find() -> EngineAddress | None:
    """The running engine of this user, verified by an authenticated request; None when there is none.

    Example:
        >>> find() is None or find().api_url.startswith("http://127.0.0.1:")
        True
    """
    seen = _look()
    return _address(*seen) if seen else None


def ensure(timeout: float = 20.0) -> EngineAddress:
    """Find the engine of this user, or start one and wait until it answers.

    Any number of processes may call this at once; they all get the same engine.  One of an older version
    is replaced when it is idle; a newer one is used as it is.

    Args:
        timeout: seconds to wait in all.

    Raises:
        EngineStartError: none could be started in time; the message ends with the last lines of its log.
    """
    if (problem := obstacle()) is not None:
        raise EngineStartError(problem)
    deadline = time.monotonic() + timeout
    seen = _look()
    if seen and not _should_replace(*seen):
        return _address(*seen)
    with _start_lock(deadline):
        seen = _look()
        if seen and _should_replace(*seen):
            _replace(*seen, deadline=deadline)
            seen = _look()
        if not seen:
            _start(deadline)
            seen = _look()
    if not seen:
        raise EngineStartError("the embedded engine started but does not answer" + _log_tail())
    return _address(*seen)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _should_replace(record: dict[str, Any], health: dict[str, Any]) -> bool:
    if _release(str(health.get("version", "0"))) >= _release(__version__) and record["api"] >= API_VERSION:
        return False
    if health.get("idle") is True:
        return True
    if record["api"] < API_VERSION:
        warnings.warn(
            f"the running embedded engine is older ({health.get('version')}) and busy; "
            "it is kept until its sandboxes are stopped",
            stacklevel=3,
        )
    return False


def _replace(record: dict[str, Any], health: dict[str, Any], *, deadline: float) -> None:
    # The engine itself decides: it may have become busy since it was asked.
    if call(record, "POST", "/api/engine/stop?if=idle") is None:
        return
    while process_start_time(record["pid"]) == record["start_time"]:
        if time.monotonic() > deadline:
            raise EngineStartError(f"the older engine (pid {health.get('pid')}) does not stop")
        time.sleep(0.02)


@contextmanager
def _start_lock(deadline: float) -> Iterator[None]:
    import fcntl  # Not on Windows, where this module is imported too.

    handle = os.open(
        runtime_dir() / "start.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EngineStartError(
                        "another process has been starting the embedded engine for too long" + _log_tail()
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        # A process forked meanwhile by another thread holds the same lock: closing would not be enough.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _start(deadline: float) -> None:
    if not sys.platform.startswith("linux"):
        raise EngineStartError(
            "the embedded engine runs on Linux only; set DAYTONA_API_KEY to use the Daytona cloud"
        )
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in (*_KEEP_ENV, *_KEEP_TRUST)
        or name.upper() in _KEEP_NETWORK
        or name.startswith(_KEEP_ENV_PREFIX)
    }
    environ.pop("PYTHONSAFEPATH", None)
    try:
        # The package's own parent as working folder: `-m` finds the package also when it is not installed.
        done = subprocess.run(
            [sys.executable, "-m", "daytona_magics.engine", "serve", "--detach"],
            cwd=Path(__file__).resolve().parents[2],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=max(deadline - time.monotonic(), 1.0),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineStartError("the embedded engine did not start in time" + _log_tail()) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise EngineStartError(f"the embedded engine did not start: {said}" if said else _log_tail().strip())


def _log_tail(lines: int = 8) -> str:
    for folder in (state_dir(), fallback_state_dir()):
        with suppress(OSError):
            text = (folder / "engine.log").read_text(errors="replace")[-8192:]
            return f"; last lines of {folder / 'engine.log'}:\n" + "\n".join(text.splitlines()[-lines:])
    return ""


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` (of a URL, without the port) is this very machine, whatever a name server says.

    True for 127.0.0.0/8, ``::1``, ``localhost`` and every name below ``localhost``; nothing is looked up.

    Example:
        >>> [is_loopback(host) for host in ("127.8.0.1", "a.localhost", "localhost.example.com")]
        [True, True, False]
    """
    name = (host or "").lower().removeprefix("[").removesuffix("]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback


def is_engine_url(url: str) -> bool:
    """Whether ``url`` is the API of this user's embedded engine, running or not.

    Example:
        >>> is_engine_url("https://app.daytona.io/api")
        False
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme != "http" or not is_loopback(host):
        return False
    records = (read_record(folder) for folder in _record_folders())
    return any(record is not None and record["port"] == port for record in records)


def no_proxy_value(current: str, *hosts: str) -> str:
    """``current`` (a NO_PROXY value) with the loopback names and ``hosts`` added; ``"*"`` stays as it is."""
    names = [name.strip() for name in current.split(",") if name.strip()]
    # Next to other names a star means nothing to urllib.
    if names == ["*"]:
        return "*"
    return ",".join(dict.fromkeys([*names, *NO_PROXY_HOSTS, *hosts]))


def add_no_proxy(environ: MutableMapping[str, str], *hosts: str | None) -> None:
    """Add the loopback names to ``NO_PROXY`` and ``no_proxy`` of ``environ``.

    Without them a client that obeys ``HTTP_PROXY`` sends the engine's bearer to the proxy.

    Args:
        environ: the environment to change.
        hosts: hosts of the caller's own endpoints, as in their URLs.  Those that are loopback are added as
            well (few clients understand ``127.0.0.0/8``); the others are left to the proxy.

    Example:
        >>> env = {"NO_PROXY": "corp.example"}
        >>> add_no_proxy(env, "127.0.0.9", "app.daytona.io")
        >>> env["NO_PROXY"]
        'corp.example,127.0.0.1,localhost,.localhost,::1,127.0.0.9'
    """
    own = [host.lower().strip("[]") for host in hosts if host and is_loopback(host)]
    for name in ("NO_PROXY", "no_proxy"):
        other = environ.get("no_proxy" if name == "NO_PROXY" else "NO_PROXY", "")
        environ[name] = no_proxy_value(environ.get(name, other), *own)
