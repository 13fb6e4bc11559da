"""The embedded engine of this user: finding the one that runs, or starting it.

One engine serves all kernels of a user. A record of one (`places`) is believed only after three checks:

1. it is of this boot, these namespaces and a process that is alive;
2. the port is answered by that engine: an authenticated ``GET /api/health`` names the same pid;
3. its version is one this package can talk to.

Starters queue on the flock ``start.lock``; whoever gets it looks again, and starts
``python -m daytona_magics.engine serve --detach`` if there is still nothing.  The engine itself holds
``engine.lock`` for as long as it lives.

Standard library only and cheap to import: beside `loopback` and `doctor` it is all that the notebook side
imports of the engine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daytona_magics import __version__
from daytona_magics.engine.loopback import is_loopback
from daytona_magics.engine.places import (
    EngineStartError,
    call,
    fallback_state_dir,
    live_record,
    process_start_time,
    read_record,
    record_folders,
    runtime_dir,
    state_dir,
)

__all__ = ["API_VERSION", "EngineAddress", "EngineStartError", "ensure", "find", "is_engine_url", "obstacle"]

API_VERSION = 1
"""Version of the protocol between this package and its engine; raised when an older side cannot go on."""


_KEEP_ENV = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV")
# Proxies, package indexes and certificates of the host: read once for its sandboxes, then forgotten.
_KEEP_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_KEEP_TRUST = ("NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
_KEEP_ENV_PREFIX = (
    *("LC_", "XDG_", "DAYTONA_MAGICS_", "PYTHON", "CONDA_", "LD_LIBRARY_PATH", "COVERAGE_"),
    *("PIP_", "NPM_CONFIG_", "npm_config_"),
)


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
    records = (read_record(folder) for folder in record_folders())
    return any(record is not None and record["port"] == port for record in records)
