"""What a sandbox is to the engine: its specification and, once started, its process."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..toolbox import wire
from ..toolbox.client import Toolbox, ToolboxError
from ..toolbox.wire import WireError

#: Seconds a sandbox may take to become ready; far above the usual 10 ms, for an overloaded machine.
READY_TIMEOUT = 30.0
#: Seconds a killed sandbox may take to be gone; usually some ms, unless a process hangs in the kernel.
KILL_TIMEOUT = 10.0


class LaunchError(Exception):
    """A sandbox cannot be started or ended; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use at most. Sizes in bytes; None: no limit.

    ``processes`` and threads together, ``open_files`` per process, ``file_size`` of one file, ``tmp_size`` of
    /tmp, /var/tmp, /run and /dev/shm together (they live in memory), ``data`` private memory of one process,
    ``nice`` how far it stands back from others that want the CPU (0 to 19).
    """

    processes: int = 512
    open_files: int = 4096
    file_size: int | None = None
    tmp_size: int = 256 << 20
    data: int | None = None
    nice: int = 0


@dataclass(frozen=True)
class SandboxSpec:
    """What to start.

    ``home`` is a host folder made by `Launcher.prepare_home`; ``uid`` the host uid and gid to run as, needed
    when the engine is root and None otherwise; ``env`` is set for everything in the sandbox.
    ``system`` is a host folder for what the sandbox writes into /usr, /etc and /var, made by
    ``folders.make_system``, and ``layers`` what it writes over, made by `system` (None: they are read-only).
    Only L3 has a use for them. ``proxy_port`` is the port of the engine's shared egress proxy on 127.0.0.1,
    for the levels at which a sandbox has no network of its own.
    """

    id: str
    home: Path
    uid: int | None
    hostname: str
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    system: Path | None = None
    layers: Path | None = None
    proxy_port: int | None = None


class SandboxProcess:
    """A running sandbox: ``id``, ``pid`` (host pid of its pid 1), ``toolbox``, ``alive``.

    ``proxy`` is the listening socket on 127.0.0.1:3128 of the sandbox's own network, to be served by the
    engine's egress proxy; None where it has no network of its own. ``ports`` are the first port and how many
    it may listen on where it shares the machine's ports, else None.
    """

    def __init__(self, id: str, status: socket.socket, control: socket.socket) -> None:
        self.id = id
        self.pid = 0
        self.toolbox = Toolbox(control)
        self.proxy: socket.socket | None = None
        self.ports: tuple[int, int] | None = None
        self._status = status
        self._ended = asyncio.Event()
        self._callbacks: list[Callable[[SandboxProcess], None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._failure = ""
        self._hanging = ""

    @property
    def watched(self) -> bool:
        """True once its keeper has reported, so that its end will be noticed."""
        return self._watcher is not None

    @property
    def alive(self) -> bool:
        """True until every process of the sandbox is gone."""
        return not self._ended.is_set()

    def add_exit_callback(self, cb: "Callable[[SandboxProcess], None]") -> None:
        """Call `cb(self)` on the loop when the sandbox has ended, by itself or by `kill`."""
        if self.alive:
            self._callbacks.append(cb)
        else:
            asyncio.get_running_loop().call_soon(cb, self)

    async def kill(self) -> None:
        """SIGKILL everything in the sandbox; returns when all of it is gone. Idempotent.

        Raises LaunchError when something is still there after 10 s, saying what it is where the sandbox has
        no process namespace; its end is still noticed and told to the callbacks.
        """
        if not self.alive:
            return
        with contextlib.suppress(OSError):
            self._status.shutdown(socket.SHUT_WR)
        try:
            await asyncio.wait_for(self._ended.wait(), KILL_TIMEOUT)
        except asyncio.TimeoutError:
            raise LaunchError(
                f"sandbox {self.id} (pid {self.pid}) has not ended {KILL_TIMEOUT:g} s after it was killed"
                + (f": {self._hanging} waits in the kernel, where nothing ends it" if self._hanging else "")
            ) from None

    async def begin(
        self, *, own_network: bool, on_process: "Callable[[SandboxProcess], None] | None" = None
    ) -> None:
        """Wait for the keeper's report and the toolbox's greeting, then watch for the end.

        `own_network`: the egress proxy's listener comes from inside, too. `on_process`: see `Launcher.spawn`.

        Raises LaunchError with the keeper's reason.
        """
        try:
            while not self.pid or (own_network and self.proxy is None):
                self._take(await asyncio.wait_for(wire.recv_packet(self._status), READY_TIMEOUT))
                if self.pid and on_process is not None:
                    on_process(self)
                    on_process = None
            self._watcher = asyncio.ensure_future(self._watch())
            await self.toolbox.handshake(READY_TIMEOUT)
        except (asyncio.TimeoutError, WireError, ToolboxError, ValueError) as error:
            reason = await self._last_words()
            silent = "" if str(error) else f"no answer in {READY_TIMEOUT:g} s"
            raise LaunchError(reason or f"the sandbox did not start: {str(error) or silent}") from error

    def _take(self, packet: tuple[dict[str, Any], list[int]] | None) -> None:
        """Take in one report of the start. Raises LaunchError if it is of a failure, or none comes."""
        if packet is None:
            raise LaunchError("the sandbox ended before it was ready; the log of the zygote may say why")
        report, fds = packet
        if report.get("proxy") and len(fds) == 1 and self.proxy is None:
            self.proxy = socket.socket(fileno=fds[0])
            self.proxy.setblocking(False)
            return
        if report.get("started") and len(fds) == 1:
            self.pid = _number_of(fds[0])
        wire.close_fds(fds)
        if "error" in report:
            raise LaunchError(str(report["error"])[:2000])

    async def _last_words(self) -> str:
        """What the keeper or pid 1 reported while failing, if anything; the sandbox has been killed."""
        if self._watcher is None:
            return ""
        try:
            await self.kill()
        except LaunchError as error:
            return "; ".join(filter(None, (self._failure, str(error))))
        return self._failure

    async def _watch(self) -> None:
        """Read the keeper's reports until it is gone, which is the end of the sandbox."""
        while True:
            try:
                packet = await wire.recv_packet(self._status)
            except WireError:
                continue
            if packet is None:
                break
            report, fds = packet
            wire.close_fds(fds)
            if "error" in report:
                self._failure = str(report["error"])[:2000]
            self._hanging = str(report.get("hanging", self._hanging))[:500]
        self.end()

    def end(self) -> None:
        """Let go of the sockets and tell everybody; the processes are gone or about to be."""
        if self.alive:
            self._ended.set()
            self.toolbox.mark_gone()
            self._status.close()
            loop = asyncio.get_running_loop()
            for callback in self._callbacks:
                loop.call_soon(callback, self)
            if self.proxy is not None:
                # After the callbacks: whoever serves it lets go of it there.
                loop.call_soon(self.proxy.close)


def _number_of(pidfd: int) -> int:
    """The number, as this process sees it, of the one that `pidfd` stands for; 0 when it has ended.

    The keeper may have another view of process numbers than the engine.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid" and int(value) > 0:
                return int(value)
    return 0
