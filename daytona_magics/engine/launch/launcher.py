"""The engine's side of the launch: owns the zygote, asks it for sandboxes, notices every death.

The zygote is one warm, single-threaded Python with an empty environment. For each sandbox it forks a
*keeper*, which makes the namespaces and forks pid 1 inside them. The engine holds two sockets per sandbox:
the toolbox's control socket and the keeper's status socket. Hanging up the status socket makes the keeper
kill pid 1, and with it the kernel kills everything in the sandbox; the keeper answers only when all of it is
gone. If the engine dies, all sockets hang up; if the zygote dies, parent-death signals do the same.

    In : launcher = Launcher(stderr_dir=Path("/var/log/boxes")); await launcher.start(); launcher.level
    Out: 'L3'
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..toolbox import trees, wire
from ..toolbox.answers import ExecuteResult
from ..toolbox.client import ToolboxError
from ..toolbox.wire import WireError
from . import bwrap, choice, folders, landlock, levels, requests, visible
from .choice import Attempt, Candidate
from .ports import BLOCK, PortBlocks
from .sandbox import READY_TIMEOUT, LaunchError, Limits, SandboxProcess, SandboxSpec

__all__ = ["Attempt", "LaunchError", "Launcher", "Limits", "SandboxProcess", "SandboxSpec"]

_log = logging.getLogger(__name__)

#: The host uid of the sandbox in which a root engine tries whether isolation works (nobody).
PROBE_UID = 65534
#: Seconds between the tries to replace a zygote that has died.
RESTART_PAUSES = (0.2, 1.0, 3.0)


class Launcher:
    """Starts sandboxes at the best isolation level that really works here.

    Parameters: `isolation` is None (the best level that works) or a level's name (exactly this level; L0, no
    isolation at all, is had by name only). `launcher` forces one of the ways in `choice`. `landlock_abi` is
    the newest version of Landlock to use. `stderr_dir` takes ``zygote.err`` and one ``<id>.err`` per sandbox.
    `private` are further folders that no sandbox may see.

    Attributes, known after `start`: ``level``; ``launcher``; ``landlock_abi`` (0: not used); ``reason`` (one
    sentence why not higher); ``attempts`` (what did not work); ``open`` (a phrase for each thing that is open
    at this level); ``notes`` (what else to know of it). ``on_zygote_death`` is called on the loop when the
    zygote ends though nobody asked it to.
    """

    def __init__(
        self,
        *,
        isolation: str | None = None,
        launcher: str | None = None,
        landlock_abi: int | None = None,
        stderr_dir: Path,
        private: Sequence[Path] = (),
    ) -> None:
        self._wanted = isolation or None
        self._wanted_launcher = launcher or os.environ.get("DAYTONA_MAGICS_LAUNCHER") or None
        limit = os.environ.get("DAYTONA_MAGICS_LANDLOCK_ABI", "")
        self._abi_limit = (
            landlock_abi if landlock_abi is not None else int(limit) if limit.isdigit() else None
        )
        self._stderr_dir = Path(stderr_dir)
        self._private = (self._stderr_dir, *private)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._boxes: set[SandboxProcess] = set()
        self._send_lock = asyncio.Lock()
        self._stopping = False
        self._plan = visible.Plan()
        self._ports = PortBlocks()
        self._bwrap = shutil.which("bwrap") or ""
        self.level = ""
        self.launcher = ""
        self.landlock_abi = 0
        self.reason = ""
        self.attempts: list[Attempt] = []
        self.open: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._closed_python = ""
        #: Set while nothing is being tried: ``level`` is what sandboxes get, "" if none can be started.
        self.settled = asyncio.Event()
        #: Further files that every sandbox is shown, such as the host's own certificates.
        self.also_visible: tuple[str, ...] = ()
        self.on_zygote_death: Callable[[], None] | None = None

    # -- life of the zygote

    async def start(self) -> None:
        """Find the way to isolate that works, and start the zygote.

        Raises LaunchError when the wanted isolation cannot be had here; nothing is left running then.
        """
        self.settled.clear()
        try:
            await self._start()
        finally:
            self.settled.set()

    async def restart(self) -> None:
        """End what is left of a zygote that has died, and start another, in more than one try.

        A machine that could isolate before can again, once what was in the way (memory, other processes) is
        gone. Raises LaunchError with the reason of the last try.
        """
        self.settled.clear()
        try:
            await self.stop()
            for pause in RESTART_PAUSES:
                try:
                    return await self._start()
                except LaunchError as error:
                    _log.error("another try in %g s: %s", pause, error)
                    await asyncio.sleep(pause)
            await self._start()
        finally:
            self.settled.set()

    async def _start(self) -> None:
        try:
            found = choice.candidates(self._wanted, self._wanted_launcher)
        except ValueError as error:
            raise LaunchError(str(error)) from None
        self._stderr_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._plan = visible.plan().with_libraries(self.also_visible)
        self.attempts = []
        if self._wanted != "L0":
            self._check_private()
            if (obstacle := visible.obstacle()) is not None:
                raise LaunchError(obstacle)
        for candidate in found:
            self._take_candidate(candidate)
            try:
                await self._try(candidate)
            except LaunchError as error:
                await self.stop()
                self.attempts.append(choice.failed(candidate, str(error)))
                continue
            self._settle()
            return
        self.level = self.launcher = ""
        problem = choice.reason(self.attempts)
        wanted = f" (level {self._wanted})" if self._wanted else ""
        raise LaunchError(f"this machine cannot isolate sandboxes{wanted}: {problem}")

    def _take_candidate(self, candidate: Candidate) -> None:
        self.level, self.launcher = candidate.level, candidate.launcher
        self._closed_python = ""
        self.landlock_abi = 0 if candidate.level in ("L3", "L0") else landlock.abi(self._abi_limit)

    async def _try(self, candidate: Candidate) -> None:
        """Start a zygote for a candidate and a sandbox by it. Raises LaunchError when that does not work."""
        if (problem := self._impossible(candidate)) is not None:
            raise LaunchError(problem)
        await self._start_zygote()
        if candidate.level == "L0":
            return
        missing = await self._probe()
        if missing:
            self._plan = self._plan.with_libraries(missing)
            await self.stop()
            await self._start_zygote()
            await self._probe()

    def _impossible(self, candidate: Candidate) -> str | None:
        """Why a candidate needs no try, in one sentence; None when it does."""
        if candidate.launcher != "ctypes" and not self._bwrap:
            return "bubblewrap is not installed (package bubblewrap)"
        if candidate.level in ("L3", "L0"):
            return None
        if self.landlock_abi == 0:
            return "this kernel has no Landlock, or it is switched off (it needs Linux 5.13)"
        stops_signals = self.landlock_abi >= 6 or os.geteuid() == 0
        if candidate.level == "L1" and not stops_signals:
            return (
                "this kernel's Landlock cannot stop signals to processes of the same account"
                f" (version {self.landlock_abi}; it needs Linux 6.12)"
            )
        if candidate.level == "L0.5" and stops_signals:
            return "L0.5 is L1 where signals cannot be stopped; here they can"
        return None

    def _settle(self) -> None:
        own_uids = os.geteuid() == 0
        self.open = levels.opened(self.level, landlock_abi=self.landlock_abi, own_uids=own_uids)
        self.notes = levels.notes(self.level, BLOCK, self._closed_python)
        if self.level == "L0":
            self.reason = "asked for by name: nothing is isolated"
        else:
            self.reason = "it was asked for by name" if self._wanted else choice.reason(self.attempts)

    def _check_private(self) -> None:
        """Raise LaunchError if sandboxes would see the engine's key or each other's homes."""
        for folder in self._private:
            if (shown := self._plan.showing(str(folder))) is not None:
                raise LaunchError(
                    f"the engine's folder {folder} lies in {shown}, which every sandbox can read;"
                    " choose another with DAYTONA_MAGICS_HOME (or XDG_RUNTIME_DIR)"
                )

    async def _start_zygote(self) -> None:
        self._stopping = False
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        try:
            self._zygote = self._open_zygote(far)
        except OSError as error:
            near.close()
            raise LaunchError(f"the zygote cannot be started: {error}") from error
        finally:
            far.close()
        self._control = near
        config = {
            "v": wire.VERSION,
            "op": "configure",
            "launcher": self.launcher,
            "bwrap": self._bwrap,
            **self._plan.message(),
        }
        with contextlib.suppress(ConnectionError):  # Then it has ended already, which shows below.
            await wire.send_packet(near, config)
        try:
            packet = await asyncio.wait_for(wire.recv_packet(near), READY_TIMEOUT)
        except (asyncio.TimeoutError, WireError) as error:
            raise LaunchError("the zygote did not become ready") from error
        if packet is None:
            raise LaunchError(f"the zygote ended at once: {self._last_error()}")
        if "error" in packet[0]:
            raise LaunchError(str(packet[0]["error"]))
        self._watcher = asyncio.ensure_future(self._watch(self._zygote, near))

    def _last_error(self) -> str:
        """The last line that the zygote, or what was to start it, has written to its error output."""
        with contextlib.suppress(OSError, IndexError):
            text = (self._stderr_dir / "zygote.err").read_bytes()[-4096:].decode("utf-8", "replace")
            return text.strip().splitlines()[-1]
        return "it said nothing"

    def _open_zygote(self, far: socket.socket) -> "subprocess.Popen[bytes]":
        """Start the zygote's process with `far` as its control socket. Raises OSError."""
        program = Path(__file__).with_name("zygote.py")
        errors = os.open(self._stderr_dir / "zygote.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # -I -S and an empty environment: nothing of the host's configuration is read or inherited.
            outer = bwrap.outer_command(self._bwrap) if self.launcher == "outer-bwrap" else []
            return subprocess.Popen(
                [*outer, sys.executable, "-I", "-S", "-X", "utf8", str(program), str(far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={},
                cwd="/",
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        finally:
            os.close(errors)

    async def _watch(self, zygote: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        """Wait for the zygote's end; its sandboxes die with it by parent-death signals."""
        with contextlib.suppress(WireError):
            while await wire.recv_packet(control) is not None:
                _log.warning("the zygote sent a message nobody expected")
        await asyncio.get_running_loop().run_in_executor(None, _reap, zygote)
        if not self._stopping:
            _log.error("the zygote ended with status %s", zygote.returncode)
            if self.on_zygote_death is not None:
                self.on_zygote_death()

    async def stop(self) -> None:
        """Kill all sandboxes and the zygote. Idempotent."""
        self._stopping = True
        # What hangs here is killed once more, by the kernel, when the zygote is gone.
        for result in await asyncio.gather(*(b.kill() for b in list(self._boxes)), return_exceptions=True):
            if isinstance(result, BaseException):
                _log.error("%s", result)
        control, self._control = self._control, None
        watcher, self._watcher = self._watcher, None
        zygote, self._zygote = self._zygote, None
        if control is not None:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        if watcher is not None:
            await watcher
        elif zygote is not None:
            await asyncio.get_running_loop().run_in_executor(None, _reap, zygote)
        if control is not None:
            control.close()

    async def _probe(self) -> list[str]:
        """Start a sandbox and import modules with C libraries in it.

        Returns host paths of shared libraries that are missing inside. Raises LaunchError when it does not
        start.
        """
        with tempfile.TemporaryDirectory(prefix="dm-probe-") as folder:
            home = Path(folder) / "home"
            # Below L3 the sandbox's uid itself walks there.
            os.chmod(folder, 0o711)
            uid = PROBE_UID if os.geteuid() == 0 else None
            self.prepare_home(home, uid)
            box = await self.spawn(SandboxSpec("probe", home, uid, "probe"))
            try:
                result = await self._import_inside(box, sys.executable)
                if result.exit_code == -1 and self.level not in levels.OWN_TREE:
                    # Python may lie where only the engine's user can go, and then another has to do.
                    _log.warning("sandboxes cannot go to %s and use python3 of their PATH", sys.executable)
                    result = await self._import_inside(box, "python3")
                    self._closed_python = sys.executable
            except ToolboxError as error:
                raise LaunchError(f"the trial sandbox failed: {error.message}") from error
            finally:
                await box.kill()
        if result.exit_code == 0:
            return []
        missing = await asyncio.get_running_loop().run_in_executor(None, visible.host_libraries, self._plan)
        if not missing and result.exit_code != 1:
            output = result.output.decode("utf-8", "replace")[-500:]
            raise LaunchError(f"Python does not run inside a sandbox: {output}")
        return missing

    @staticmethod
    async def _import_inside(box: SandboxProcess, python: str) -> ExecuteResult:
        return await box.toolbox.run_program([python, *visible.IMPORT_PROBE], timeout=30)

    # -- homes

    def prepare_home(self, path: Path, uid: int | None) -> None:
        """Make `path` (mode 0700, owned by `uid`) to become a sandbox's home; its parent must exist.

        Raises LaunchError when it cannot be made or is not an ordinary folder.
        """
        try:
            folders.make_private(path, uid)
        except OSError as error:
            raise LaunchError(f"the sandbox's home cannot be made: {error}") from error

    def remove_home(self, path: Path) -> None:
        """Delete `path` and everything in it, whatever the sandbox left there. A missing one is fine.

        Symbolic links are never followed, modes and depth do not matter. Raises LaunchError.
        """
        try:
            trees.remove_tree(path)
        except OSError as error:
            raise LaunchError(f"the sandbox's home cannot be removed: {error}") from error

    # -- sandboxes

    async def spawn(
        self, spec: SandboxSpec, on_process: Callable[[SandboxProcess], None] | None = None
    ) -> SandboxProcess:
        """Start a sandbox; returns when its toolbox is ready, after about 10 ms. Raises LaunchError.

        `on_process` is called on the loop as soon as the sandbox has a first process: that still closes the
        sandbox around itself and runs nothing of the user, so what bounds it from outside can be done beside.
        """
        try:
            return await self._spawn(spec, on_process)
        except LaunchError as error:
            if not str(error).startswith(bwrap.FAILED):
                raise
            _log.warning("%s: once more: a file that was to be covered may have gone meanwhile", error)
            return await self._spawn(spec, on_process)

    async def _spawn(
        self, spec: SandboxSpec, on_process: Callable[[SandboxProcess], None] | None
    ) -> SandboxProcess:
        control = self._control
        if control is None:
            raise LaunchError("the embedded engine is not ready to start sandboxes")
        ports = self._ports.take() if levels.with_shared_network(self.level) else None
        try:
            request = requests.spawn(spec, requests.Way(self.level, self.launcher, self.landlock_abi), ports)
        except LaunchError:
            self._ports.give_back(ports)
            raise
        sockets = [
            *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
            *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ]
        box_control, far_control, box_status, far_status = sockets
        box_control.setblocking(False)
        box_status.setblocking(False)
        try:
            errors = os.open(
                self._stderr_dir / f"{spec.id}.err",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW,
                0o600,
            )
            try:
                async with self._send_lock:
                    await wire.send_packet(
                        control, request, [far_control.fileno(), far_status.fileno(), errors]
                    )
            finally:
                os.close(errors)
        except (OSError, ValueError) as error:
            box_control.close()
            box_status.close()
            self._ports.give_back(ports)
            raise LaunchError(f"the sandbox cannot be started: {error}") from error
        finally:
            far_control.close()
            far_status.close()
        box = SandboxProcess(spec.id, box_status, box_control)
        box.ports = ports
        self._boxes.add(box)
        box.add_exit_callback(self._forget)
        try:
            await box.begin(own_network=self.level in levels.OWN_NETWORK, on_process=on_process)
        except BaseException:
            with contextlib.suppress(OSError):
                box_status.shutdown(socket.SHUT_WR)
            if not box.watched:
                box.end()
            raise
        return box

    def _forget(self, box: SandboxProcess) -> None:
        self._boxes.discard(box)
        self._ports.give_back(box.ports)


def _reap(zygote: "subprocess.Popen[bytes]") -> None:
    """Wait for a zygote whose socket has hung up; kill it if it does not go within two seconds."""
    try:
        zygote.wait(2)
    except subprocess.TimeoutExpired:
        zygote.kill()
        zygote.wait()
