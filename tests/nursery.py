"""Many small kernels: processes that hold the extension, are killed, restarted and interrupted like kernels.

A nursery is one process that has imported everything once and forks a kernel for each order; a kernel is a
real process with a real shell, lock and engine, without the sockets of Jupyter. Its identity is its
connection file, as a kernel's is, so a second process with the same file is the same kernel restarted.

    with Nursery(home) as nursery:
        kernel = nursery.kernel("a", ["%%sandbox\\nx = 1"])
        kernel.wait_for("done 0")
        kernel.kill()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.kernel_client import ROOT, environment

PROGRAM = r"""
import json, os, signal, sys, types
import asyncio, encodings.idna
# What a first cell needs is imported (the SDK does that late), so that a fork has it.
from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams, DaytonaConfig, DaytonaError
from daytona import ListSandboxesQuery
import IPython.core.completer, IPython.core.magics, IPython.core.display_functions, IPython.terminal.ipapp
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
import daytona_magics.magics.cell, daytona_magics.magics.line, daytona_magics.magics.several
import daytona_magics.magics.line_lifecycle, daytona_magics.magics.line_reaping
import daytona_magics.notebook.several, daytona_magics.notebook.pump, daytona_magics.runtime.channel
import daytona_magics.sandboxes.several, daytona_magics.sandboxes.reaping

daytona_magics.sandboxes.reaping.PAUSE = 0.5

def live(order):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = open(order["log"], "a", buffering=1)
    out = os.open(order["log"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1); os.dup2(out, 2)
    connect = types.ModuleType("ipykernel.connect")
    connect.get_connection_file = lambda: order["connection"]
    sys.modules["ipykernel.connect"] = connect
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    kernel = types.SimpleNamespace(_allow_stdin=True, _shutdown_message=None)
    shell.kernel = kernel
    def shut_down(number, frame):
        kernel._shutdown_message = {"content": {"restart": number == signal.SIGUSR1}}
        raise SystemExit
    signal.signal(signal.SIGTERM, shut_down)
    signal.signal(signal.SIGUSR1, shut_down)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shell.run_line_magic("load_ext", "daytona_magics")
    print("loaded", file=log)
    for number, cell in enumerate(order["cells"]):
        print("begin", number, file=log)
        result = shell.run_cell(cell)
        if kernel._shutdown_message:
            raise SystemExit
        error = result.error_in_exec or result.error_before_exec
        print("done", number, type(error).__name__ if error else "ok", file=log)
    print("idle", file=log)
    while True:
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass

def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(0)
            live(order)
        print(pid, flush=True)

main()
"""


class Small:
    """One process of a small kernel.

    Attributes:
        pid: its process.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log
        self._stat = _start_time(pid)

    @property
    def said(self) -> list[str]:
        """What it has written: ``loaded``, ``begin N``, ``done N ok`` or ``done N ErrorName``, ``idle``."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def out(self) -> str:
        """What its cells printed."""
        out = self._log.with_name(self._log.name + ".out")
        return out.read_text(errors="replace") if out.exists() else ""

    def wait_for(self, words: str, within: float = 60.0) -> str:
        """Wait until it has written a line that begins with these words; returns the line."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            for line in self.said:
                if line.startswith(words):
                    return line
            assert self.alive, f"it died: {self.said}\n{self.out}"
            time.sleep(0.01)
        raise AssertionError(f"no {words!r} within {within} s: {self.said}\n{self.out}")

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self._stat != ""

    def tell(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL, within: float = 30.0) -> None:
        """Send it a signal and wait until it is gone: SIGKILL, SIGTERM (shut down), SIGUSR1 (restart)."""
        self.tell(number)
        until = time.monotonic() + within
        while self.alive:
            assert time.monotonic() < until, f"it does not end: {self.said}\n{self.out}"
            time.sleep(0.01)


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        # The nursery waits for none: a process is gone when its last thread is, and its locks with it.
        return ""


class Nursery:
    """The process that forks small kernels, all of one user, in ``home``."""

    def __init__(self, home: Path) -> None:
        self.home, self.env = home, environment(home)
        self._kernels: list[Small] = []
        self._process: subprocess.Popen[str] | None = None
        self._count = 0
        self._one = threading.Lock()

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def kernel(self, name: str, cells: list[str]) -> Small:
        """A process of the kernel of this name, which runs these cells and then waits."""
        with self._one:
            return self._kernel(name, cells)

    def _kernel(self, name: str, cells: list[str]) -> Small:
        assert self._process is not None and self._process.stdin and self._process.stdout
        connection = self.home / "jupyter-runtime" / f"{name}.json"
        if not connection.exists():
            connection.write_text(json.dumps({"key": os.urandom(16).hex()}))
        self._count += 1
        log = self.home / f"log-{name}-{self._count}"
        order = {"connection": str(connection), "log": str(log), "cells": cells}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        made = Small(int(self._process.stdout.readline()), log)
        self._kernels.append(made)
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kernel in self._kernels:
            kernel.end()
        assert self._process is not None
        with self._process as process:
            process.kill()
