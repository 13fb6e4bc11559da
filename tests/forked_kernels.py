"""Jupyter kernels that are forked: what a kernel imports until its first cell has run takes it two seconds.

For each process that runs tests there is one that has imported all that, and forks a kernel at every order:

    Forking, a KernelManager's provisioner -- command, environment, folder --> nursery -- fork --> kernel
                                           <-- pid --------------------------

The kernel is a real one, with a session, a connection file, sockets and signals of its own, and nothing has
run in it before. An order whose environment a running Python cannot take over is carried out by a start.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

ROOT = Path(__file__).resolve().parent.parent
#: Variables that begin so are read when Python or the C library starts, and never again.
EARLY = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "MALLOC")

#: What a kernel has imported when its first cells have run.
IMPORTS = (
    "daytona",
    "encodings.idna",
    "IPython.core.completer",
    "ipykernel.debugger",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "daytona_magics.engine.address",
    "daytona_magics.magics.cell",
    "daytona_magics.magics.completion",
    "daytona_magics.magics.line",
    "daytona_magics.magics.line_lifecycle",
    "daytona_magics.magics.line_login",
    "daytona_magics.magics.several",
    "daytona_magics.notebook.pump",
    "daytona_magics.notebook.terminal",
    "daytona_magics.runtime.channel",
    "daytona_magics.runtime.start",
    "daytona_magics.runtime.variables",
    "daytona_magics.sandboxes.leaving",
    "daytona_magics.sandboxes.reaping",
    "daytona_magics.sandboxes.several",
    "daytona_magics.sandboxes.transfers",
)
#: Kernels are started in threads, too.
_MAKING = threading.Lock()


class Forked:
    """A kernel's process, as far as a provisioner asks of a ``Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._handle)

    def _ended(self, milliseconds: int | None) -> bool:
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        return bool(poller.poll(milliseconds))

    def poll(self) -> int | None:
        """0 when it has ended, however that was."""
        return 0 if self._ended(0) else None

    def wait(self) -> int:
        self._ended(None)
        return 0

    def send_signal(self, number: int) -> None:
        """To one that has ended nothing is sent, as by a ``Popen``."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class KernelNursery:
    """The process that forks kernels."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked_kernels"],
            env={**os.environ, **usual()},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A key that interrupts the tests is not for it.
            start_new_session=True,
        )
        self._one = threading.Lock()
        atexit.register(self._process.kill)

    def fork(self, argv: list[str], env: dict[str, str], cwd: str) -> Forked:
        """A kernel that was told `argv`, ``-m ipykernel_launcher`` left out."""
        assert self._process.stdin and self._process.stdout
        with self._one:
            self._process.stdin.write(json.dumps({"argv": argv, "env": env, "cwd": cwd}) + "\n")
            self._process.stdin.flush()
            return Forked(int(self._process.stdout.readline()))


def early(env: dict[str, str]) -> dict[str, str]:
    """The part of an environment that a process which runs already cannot take over."""
    return {name: value for name, value in env.items() if name.startswith(EARLY)}


def usual() -> dict[str, str]:
    """That part as a kernel gets it that nobody gave more."""
    return early({**os.environ, "PYTHONPATH": search_path(os.environ)})


def search_path(env: Mapping[str, str]) -> str:
    """PYTHONPATH for a process that imports what is tested."""
    return os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))


@cache
def _nursery(pid: int) -> KernelNursery:
    return KernelNursery()


def nursery() -> KernelNursery:
    """That of this process."""
    with _MAKING:
        return _nursery(os.getpid())


class Forking(LocalProvisioner):  # type: ignore[misc]
    """Provides kernels of this interpreter."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        env = kwargs["env"]
        if cmd[1:3] != ["-m", "ipykernel_launcher"] or early(env) != usual():
            return await super().launch_kernel(cmd, **kwargs)
        made = nursery().fork(cmd[3:], env, kwargs["cwd"])
        self.process, self.pid, self.pgid = made, made.pid, made.pid
        return self.connection_info


def live(order: dict[str, Any]) -> None:
    """In a fork: become the kernel that was ordered."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    # A kernel ends when this is no longer its parent; of the environment that is read at the import only.
    sys.argv = ["ipykernel_launcher", *order["argv"], f"--IPKernelApp.parent_handle={os.getppid()}"]
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def serve() -> None:
    """Import what kernels need, then fork one for every line of stdin until there are no more."""
    # The folder this was started in is none of a kernel's.
    sys.path.pop(0)
    for module in IMPORTS:
        importlib.import_module(module)
    # The SDK imports these when they are asked for.
    for name in ("AsyncDaytona", "CreateSandboxFromSnapshotParams", "DaytonaError", "ListSandboxesQuery"):
        getattr(sys.modules["daytona"], name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return live(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
