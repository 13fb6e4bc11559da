"""Jupyter kernels that are forked: what a kernel imports until its first cell has run takes it two seconds.

    Forking, a KernelManager's provisioner -- command, environment, folder --> a server of tests.forks
                                           <-- pid --------------------------

The server is forked itself, and has imported what kernels need besides. The kernel is a real one, with a
session, a connection file, sockets and signals of its own, and nothing has run in it before.

Jupyter's own programs have their kernels forked when they get the `variables` of this process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from tests import forks

#: What a kernel has imported when its first cells have run.
IMPORTS = (
    "IPython.core.completer",
    "ipykernel.debugger",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
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


#: Tells a program that tests start where kernels are forked, and of which early variables, as JSON.
VARIABLE = "DAYTONA_MAGICS_TEST_KERNELS"


def variables() -> dict[str, str]:
    """What Jupyter's programs need to have their kernels forked; ``found_first`` must be in PYTHONPATH."""
    where = {"address": str(forks.server("tests.forked_kernels").address), "early": forks.USUAL}
    return {"JUPYTER_DEFAULT_PROVISIONER_NAME": "forked", VARIABLE: json.dumps(where)}


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


class Forking(LocalProvisioner):  # type: ignore[misc]
    """Provides kernels of this interpreter."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        env = kwargs["env"]
        where = json.loads(os.environ.get(VARIABLE, "null")) or {"early": forks.USUAL}
        if cmd[1:3] != ["-m", "ipykernel_launcher"] or forks.early(env) != where["early"]:
            return await super().launch_kernel(cmd, **kwargs)
        address = where.get("address") or forks.server("tests.forked_kernels").address
        with open(os.devnull) as nothing:
            folder = kwargs.get("cwd") or os.getcwd()
            program = forks.order(address, cmd[1:], env, folder, (nothing, 2, 2), session=True)
        made = Forked(program.forget().pid)
        self.process, self.pid, self.pgid = made, made.pid, made.pid
        return self.connection_info


if __name__ == "__main__":
    # The folder this was started in is none of a kernel's.
    sys.path.pop(0)
    for module in IMPORTS:
        importlib.import_module(module)
    forks.serve(sys.argv[1])
