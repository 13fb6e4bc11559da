"""A real engine with folders of its own, for any test that needs one.

The engine is started by the command that users give (``python -m daytona_magics.engine``), as a rule in a
fork of a Python that has imported it (``tests/forks.py``), in temporary ``HOME``, ``XDG_RUNTIME_DIR`` and
``DAYTONA_MAGICS_HOME``, and stopped at the end. The folders lie under ``/tmp``, short and open enough that
sandbox uids can pass through to their homes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daytona_magics import __version__
from daytona_magics.engine import places
from tests import forks, layers, scraps

ROOT = Path(__file__).resolve().parents[1]
#: On a disk: the usual temporary folder may be in memory, and what is written there counts as memory.
ON_DISK = "/var/tmp"
_CLEAN = ("DAYTONA_", "XDG_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class IsolatedEngine:
    """An engine's folders, its environment, and commands to it.

    Attributes:
        base: the temporary folder.
        home, runtime, state: the engine's folders.
        environ: environment for a process that shall see this engine and no other.
        forks: its commands, and so the engine, are forked; else they are started.
    """

    def __init__(self, base: Path, extra: Mapping[str, str] | None = None, state: str = "state") -> None:
        self.base, self.forks = base, True
        self.home, self.runtime, self.state = base / "home", base / "run", base / state
        for folder in (self.home, self.runtime):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.environ = {k: v for k, v in os.environ.items() if not k.upper().startswith(_CLEAN)}
        self.environ.update(
            HOME=str(self.home),
            XDG_RUNTIME_DIR=str(self.runtime),
            DAYTONA_MAGICS_HOME=str(self.state),
            PYTHONPATH=forks.search_path(os.environ),
            # Of use to nobody here but the tests of it.
            DAYTONA_MAGICS_SPARE="0",
        )
        self.environ.update(extra or {})
        layers.lend(self.state)

    def command(self, *words: str, timeout: float = 60, **extra_env: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m daytona_magics.engine WORDS`` and return what it said."""
        run = forks.run if self.forks else forks.start
        argv = ["-m", "daytona_magics.engine", *words]
        return run(argv, env={**self.environ, **extra_env}, cwd=self.base, timeout=timeout)

    def python(
        self, code: str, *argv: str, timeout: float = 90, **extra_env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program text in a process that sees this engine; it may change what it imports."""
        env = {**self.environ, **extra_env}
        return forks.start(["-c", code, *argv], env=env, cwd=self.base, timeout=timeout)

    def program(
        self, code: str, *argv: str, timeout: float = 90, **extra_env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program text in a process that sees this engine, and has imported the SDK already."""
        env = {**self.environ, **extra_env}
        return forks.run(["-c", code, *argv], env=env, cwd=self.base, timeout=timeout)

    def client_env(self) -> dict[str, str]:
        """The variables that ``env`` prints, starting the engine if needed."""
        done = self.command("env")
        assert done.returncode == 0, done.stderr
        printed = subprocess.run(
            ["bash", "-c", f"{done.stdout}\nenv -0"],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            check=True,
        ).stdout.decode()
        pairs = dict(item.split("=", 1) for item in printed.split("\0") if item)
        return {k: v for k, v in pairs.items() if k.startswith("DAYTONA_") or k.upper() == "NO_PROXY"}

    @property
    def record(self) -> dict[str, Any]:
        """The running engine's record; it contains the key."""
        found: dict[str, Any] = json.loads((self.state / "engine.json").read_text())
        return found

    @property
    def pid(self) -> int:
        """Process id of the running engine."""
        return int(self.record["pid"])

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``"""
        return f"http://127.0.0.1:{self.record['port']}"

    @property
    def key(self) -> str:
        """The bearer."""
        return str(self.record["api_key"])

    def config(self) -> Any:
        """A ``DaytonaConfig`` for this engine; starts the engine if needed."""
        from daytona import DaytonaConfig

        if not self._runs():
            self.client_env()
        return DaytonaConfig(api_key=self.key, api_url=f"{self.url}/api", target="local")

    def _runs(self) -> bool:
        """Whether an engine of this very version does, which then needs no command to be found."""
        found = running(self.state)
        return found is not None and found["version"] == __version__

    def kill(self) -> None:
        """SIGKILL the engine and wait until it is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the killed engine is gone")

    def close(self) -> None:
        """Stop the engine and remove the folders."""
        done = None if end(self.state) else self.command("stop")
        layers.take_back(self.state)
        scraps.remove(self.base)
        assert done is None or done.returncode == 0, done.stderr


def running(state: Path) -> dict[str, Any] | None:
    """The record of the engine that runs with this state folder."""
    with contextlib.suppress(OSError):
        found: dict[str, Any] = json.loads((state / "engine.json").read_text())
        if places.process_start_time(found["pid"]) == found["start_time"]:
            return found
    return None


def end(state: Path) -> bool:
    """Stop the engine with this state folder as its command does, but here; False if none answers."""
    found = running(state)
    if found is None or places.call(found, "POST", "/api/engine/stop") is None:
        return False
    wait_until(lambda: running(state) is None, "the engine has stopped", 40)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Any, what: str, timeout: float = 20.0) -> None:
    """Poll ``condition`` until it is true; what takes long to find out is asked less often.

    Raises:
        AssertionError: after ``timeout`` seconds, naming ``what`` was awaited.
    """
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        if condition():
            return
        answered = time.monotonic()
        assert answered < deadline, f"waited {timeout:.0f} s in vain until {what}"
        time.sleep(min(max(0.01, 2 * (answered - asked)), 0.25))


@contextmanager
def isolated_engine(
    state: str = "state", folder: str | None = None, **extra_env: str
) -> Iterator[IsolatedEngine]:
    """An engine of its own, not started yet; stopped and removed at the end.

    Args:
        state: name of the state folder below the temporary folder.
        folder: where the temporary folder is made; `ON_DISK` for tests of how much a disk takes.
        extra_env: more environment for it, e.g. ``DAYTONA_MAGICS_ISOLATION="L0"``.

    Example::

        with isolated_engine() as engine:
            daytona = Daytona(engine.config())
    """
    base = Path(tempfile.mkdtemp(prefix="dm-", dir=folder))
    base.chmod(0o711)
    engine = IsolatedEngine(base, extra_env, state)
    try:
        yield engine
    finally:
        engine.close()
