"""A real kernel, driven the way a front end does, in folders of its own.

    with Kernel() as kernel:
        reply = kernel.run("%load_ext daytona_magics")
        assert kernel.run("%%sandbox\\n40 + 2").result == "42"

Every kernel gets its own runtime, state, Jupyter and IPython folders, so nothing of the user is touched and
two kernels never meet, unless they are given the same ``home``.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

from tests import engine_process, forked_kernels, forks, layers

ROOT = Path(__file__).resolve().parent.parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """What one execution sent back.

    Attributes:
        status: of the reply: "ok", "error" or "aborted".
        messages: every iopub message in order, as (msg_type, content, seconds since sending).
    """

    msg_id: str
    status: str = ""
    reply: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any], float]] = field(default_factory=list)
    seconds: float = 0.0

    def stream(self, name: str) -> str:
        return "".join(c["text"] for kind, c, _ in self.messages if kind == "stream" and c["name"] == name)

    @property
    def stdout(self) -> str:
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        return self.stream("stderr")

    def bundles(self, kind: str = "display_data") -> list[dict[str, Any]]:
        return [content["data"] for found, content, _ in self.messages if found == kind]

    @property
    def notes(self) -> str:
        """The text of every display and update, one per line: our notices are among them."""
        shown = [c["data"].get("text/plain", "") for k, c, _ in self.messages if k.endswith("display_data")]
        return "\n".join(shown)

    @property
    def result(self) -> str | None:
        """text/plain of the execute_result, None without one."""
        found = self.bundles("execute_result")
        return found[-1].get("text/plain") if found else None

    @property
    def error(self) -> dict[str, Any]:
        """The iopub error ({} without one)."""
        return next((c for kind, c, _ in self.messages if kind == "error"), {})

    @property
    def ename(self) -> str:
        return str(self.error.get("ename", ""))

    @property
    def traceback(self) -> str:
        return ANSI.sub("", "\n".join(self.error.get("traceback", [])))

    def __str__(self) -> str:
        lines = [f"[{self.status}] {self.seconds:.2f} s"]
        lines += [
            f"  {when:6.2f} {kind}: {ANSI.sub('', str(content))[:600]}"
            for kind, content, when in self.messages
        ]
        return "\n".join(lines)


class _ThisInterpreter(KernelSpecManager):  # type: ignore[misc]
    """A kernel is always started with the interpreter that runs the tests."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="tests", language="python")


class Kernel:
    """A kernel process and a client for it.

    Args:
        home: folder for everything the kernel writes; made (and removed) when not given. Kernels that share
            it share an embedded engine, as the kernels of one user do.
        env: more environment variables; None as a value removes one.
        load: run ``%load_ext daytona_magics`` at the start and after a restart through :meth:`restart`.
        name: JPY_SESSION_NAME, the notebook the kernel belongs to.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        env: dict[str, str | None] | None = None,
        load: bool = True,
        name: str | None = None,
        config: str = "",
    ) -> None:
        self.owns_home = home is None
        self.home = home or Path(tempfile.mkdtemp(prefix="dm-"))
        self.load = load
        self.env = environment(self.home, env)
        if name is not None:
            self.env["JPY_SESSION_NAME"] = name
        if config:
            profile = self.home / "ipython" / "profile_default"
            profile.mkdir(parents=True, exist_ok=True)
            (profile / "ipython_config.py").write_text(config)
        self.manager: Any = None
        self.client: Any = None

    def __enter__(self) -> Kernel:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        if self.owns_home:
            stop_engine(self.env)
            shutil.rmtree(self.home, ignore_errors=True)

    # -- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        runtime = Path(self.env["JUPYTER_RUNTIME_DIR"])
        self.manager = KernelManager(
            kernel_spec_manager=_ThisInterpreter(),
            connection_file=str(runtime / f"kernel-{os.urandom(6).hex()}.json"),
        )
        self.manager.provisioner = forked_kernels.Forking(
            kernel_id=str(uuid.uuid4()), kernel_spec=self.manager.kernel_spec, parent=self.manager
        )
        work = self.home / "work"
        work.mkdir(exist_ok=True)
        self.manager.start_kernel(env=self.env, cwd=str(work))
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        if self.load:
            loaded = self.run("%load_ext daytona_magics")
            assert loaded.status == "ok", loaded

    def restart(self, *, now: bool = False) -> None:
        """Restart as a front end does: same connection file, fresh process."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self._connect()

    def shutdown(self, *, now: bool = False) -> None:
        if self.client is not None:
            self.client.stop_channels()
            self.client = None
        if self.manager is not None and self.manager.has_kernel:
            self.manager.shutdown_kernel(now=now)

    def interrupt(self) -> None:
        """The stop button."""
        self.manager.interrupt_kernel()

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)

    # -- cells -------------------------------------------------------------------------------------------

    def send(self, code: str, *, allow_stdin: bool = True) -> Cell:
        """Queue a cell without waiting for it."""
        return Cell(self.client.execute(code, allow_stdin=allow_stdin))

    def run(
        self,
        code: str,
        *,
        timeout: float = 60.0,
        on: Callable[[str, dict[str, Any], Cell], None] | None = None,
        allow_stdin: bool = True,
    ) -> Cell:
        """Run a cell to its end.

        Args:
            code: the cell.
            timeout: seconds until the test fails.
            on: called for every iopub message (msg_type, content, the cell so far).
            allow_stdin: whether the kernel may ask the front end.
        """
        return self.finish(self.send(code, allow_stdin=allow_stdin), timeout=timeout, on=on)

    def finish(
        self,
        cell: Cell,
        *,
        timeout: float = 60.0,
        on: Callable[[str, dict[str, Any], Cell], None] | None = None,
    ) -> Cell:
        """Collect messages until the kernel is idle again and has replied."""
        start = time.monotonic()
        idle = False
        while not idle:
            left = start + timeout - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no end after {timeout} s:\n{cell}")
            try:
                message = self.client.get_iopub_msg(timeout=min(left, 1.0))
            except queue.Empty:
                if not self.client.is_alive():
                    raise RuntimeError(f"the kernel died:\n{cell}") from None
                continue
            if message["parent_header"].get("msg_id") != cell.msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                idle = content["execution_state"] == "idle"
                cell.status = "ended" if idle else ""
                continue
            cell.messages.append((kind, content, time.monotonic() - start))
            if on is not None:
                on(kind, content, cell)
        cell.reply = self._reply(cell.msg_id, start + timeout)
        cell.status, cell.seconds = cell.reply["status"], time.monotonic() - start
        return cell

    def _reply(self, msg_id: str, until: float) -> dict[str, Any]:
        while True:
            message = self.client.get_shell_msg(timeout=max(0.1, until - time.monotonic()))
            if message["parent_header"].get("msg_id") == msg_id:
                return dict(message["content"])

    def complete(self, code: str, cursor: int | None = None, timeout: float = 10.0) -> list[str]:
        """What Tab offers."""
        msg_id = self.client.complete(code, len(code) if cursor is None else cursor)
        return list(self._reply(msg_id, time.monotonic() + timeout)["matches"])

    def interrupt_when(
        self, text: str, times: int = 1, *, after: float = 0.1, every: float = 0.5
    ) -> Callable[..., None]:
        """An ``on`` callback that interrupts ``after`` seconds from when ``text`` was printed.

        The pause lets the cell get to what comes after its print. Further presses follow ``every`` seconds.
        """
        done: list[bool] = []

        def press(cell: Cell) -> None:
            # A press that comes after the cell's end would hit the next one.
            if not cell.status:
                self.interrupt()
                close_loop()

        def on(kind: str, content: dict[str, Any], cell: Cell) -> None:
            if not done and text in cell.stdout:
                done.append(True)
                for number in range(times):
                    timer = threading.Timer(after + every * number, press, [cell])
                    timer.daemon = True
                    timer.start()

        return on


def close_loop() -> None:
    """Close the event loop that jupyter_client made for this thread, which is about to end.

    It would be found unclosed whenever the garbage collector comes by, in some later test or after the last.
    """
    ensure_event_loop().close()


def environment(home: Path, more: dict[str, str | None] | None = None) -> dict[str, str]:
    """Environment of a process that must not touch anything of the user's."""
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("DAYTONA_", "JPY_", "JUPYTER_", "IPYTHON"))
    }
    folders = {
        "XDG_RUNTIME_DIR": "run",
        "DAYTONA_MAGICS_HOME": "state",
        "JUPYTER_RUNTIME_DIR": "jupyter-runtime",
        "JUPYTER_DATA_DIR": "jupyter-data",
        "JUPYTER_CONFIG_DIR": "jupyter-config",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }
    for name, folder in folders.items():
        path = home / folder
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        env[name] = str(path)
    # Sandboxes of a root engine run as other users, who must be able to pass through.
    home.chmod(0o711)
    env["PYTHONPATH"] = forks.search_path(env)
    env["DAYTONA_MAGICS_SPARE"] = "0"
    for name, value in (more or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    if "DAYTONA_MAGICS_HOME" in env:
        layers.lend(Path(env["DAYTONA_MAGICS_HOME"]))
    return env


def stop_engine(env: dict[str, str]) -> None:
    """End the embedded engine that kernels with this environment started."""
    state = env.get("DAYTONA_MAGICS_HOME")
    if state is None or not engine_process.end(Path(state)):
        forks.run(["-m", "daytona_magics.engine", "stop"], env=env, cwd=ROOT, timeout=60)
    if state is not None:
        layers.take_back(Path(state))
