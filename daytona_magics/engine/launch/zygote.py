"""The zygote: a warm Python from which sandboxes are forked.

Started by the launcher as a file, with ``-I -S`` and an empty environment, so that neither a site package nor
a variable of the host is in its memory. It imports everything once, then waits on its control socket, and
for every request forks a *keeper* (`keeper`), which makes the sandbox and waits for its end. It has one
thread, holds no secret, and ends when the engine hangs up.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
import types
from typing import Any, NoReturn

if __name__ == "__main__":
    # Without site there are no installed packages: stand in for the package, without running its __init__.
    _package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for _name, _path in (("daytona_magics", ""), ("daytona_magics.engine", "engine")):
        _module = types.ModuleType(_name)
        _module.__path__ = [os.path.join(_package, _path)]
        sys.modules[_name] = _module
    from daytona_magics.engine.launch import zygote

    zygote.main(int(sys.argv[1]))

from ..toolbox import agent, wire
from . import bwrap, calls, keeper, seccomp
from .levels import isolated, with_shared_network

#: A request brings the far ends of the toolbox's and the status socket, and a file for error output.
_REQUEST_FDS = 3


def main(control_fd: int) -> NoReturn:
    """Serve the engine on the socket `control_fd` until it hangs up, then exit."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    try:
        config = wire.parse_json(wire.recv_fds(control, wire.MAX_PACKET)[0])
        if config.get("v") != wire.VERSION:
            raise RuntimeError("the zygote and the engine are of different versions")
        agent.warm()
        zygote = _Zygote(control, config)
    except Exception as error:  # noqa: BLE001 - whatever it is, the engine must hear of it
        wire.send_fds(control, wire.pack_json({"error": f"the zygote cannot start: {error}"}))
        os._exit(1)
    gc.collect()
    gc.freeze()
    wire.send_fds(control, wire.pack_json({"ready": True}))
    zygote.serve()


class _Zygote:
    """Forks keepers, and ends what a killed keeper leaves behind."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control = control
        self._config = config
        self._code = bwrap.pack_code() if config["launcher"] == "bwrap" else b""
        self._programs: dict[tuple[str, int], bytes] = {}
        #: By process number of the keeper, the sandbox's own uid if all of that uid is to be ended with it.
        self._keepers: dict[int, int | None] = {}
        # Processes of a sandbox whose keeper is gone become children of this process.
        calls.become_subreaper()
        self._deaths, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> NoReturn:
        """Serve requests until the engine hangs up."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._deaths, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._deaths in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._deaths, 4096)
                self._bury()
            if self._control.fileno() in ready:
                self._receive()

    def _receive(self) -> None:
        try:
            data, fds = wire.recv_fds(self._control, wire.MAX_PACKET)
        except OSError:
            data, fds = b"", []
        if not data:
            os._exit(0)
        if len(fds) == _REQUEST_FDS:
            self._start(wire.parse_json(data), fds)
        wire.close_fds(fds)

    def _start(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a keeper for one request."""
        zygote = os.getpid()
        try:
            program = self._program(request["level"], request["landlock_abi"])
            pid = os.fork()
        except OSError as error:
            text = f"no process can be started: {error.strerror}"
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fds[1])) as status:
                wire.send_fds(status, wire.pack_json({"error": text}))
            return
        if pid:
            alone = with_shared_network(request["level"])
            self._keepers[pid] = request["uid"] if alone else None
            return
        toolbox_fd, status_fd, errors_fd = fds
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.detach()
            os.dup2(errors_fd, 2)
            calls.close_all_but(toolbox_fd, status_fd)
            status = socket.socket(fileno=status_fd)
            ways = keeper.Ways(self._config, program, self._code)
            keeper.keep(request, ways, zygote, toolbox_fd, status)
        except BaseException:  # noqa: BLE001 - a fork must never return into the zygote's loop
            traceback.print_exc()
        finally:
            os._exit(1)

    def _program(self, level: str, landlock_abi: int) -> bytes:
        """The system call filter for a level, written once."""
        if not isolated(level):
            return b""
        key = (level, landlock_abi)
        if key not in self._programs:
            self._programs[key] = seccomp.program(level, landlock_abi)
        return self._programs[key]

    def _bury(self) -> None:
        """Reap keepers that have ended, and end whatever a killed one has left behind."""
        uids = set()
        for pid in list(self._keepers):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    uids.add(self._keepers.pop(pid))
        own = [uid for uid in uids if uid is not None and uid not in self._keepers.values()]
        if left := keeper.end_all(own, spared=frozenset(self._keepers)):
            print(f"what a killed keeper has left hangs in the kernel: {left}", file=sys.stderr, flush=True)
