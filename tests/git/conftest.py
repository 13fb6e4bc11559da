"""A kernel bound to a sandbox that has a git server on its own loopback, shared by a group of tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine_process import IsolatedEngine, isolated_engine
from tests.git_box import GitBox
from tests.kernel_client import Cell, Kernel


class House:
    """An engine, a kernel with the magics loaded, and its sandbox.

    Attributes:
        hub: the sandbox from outside, with its git server.
        asks: somebody is there to answer a cell's questions.
        homes: folders of the kernels that were started.
        secrets: the folder of this machine's git settings; its credentials file is the host's login.
    """

    def __init__(self, engine: IsolatedEngine, daytona: Any) -> None:
        self.engine, self.daytona = engine, daytona
        self.secrets, self.asks = engine.home, False
        self.homes: list[Path] = []
        self.kernel = self.start()
        self.ok("%sandbox create --name git-tests --auto-stop 0 -q")
        self.hub = GitBox(daytona.get("git-tests"), engine)
        self.hub.serve()

    def start(self) -> Kernel:
        """Another kernel of the same user."""
        settings = self.secrets / "gitconfig"
        if not settings.exists():
            store = self.secrets / "credentials"
            settings.write_text(f"[credential]\n\thelper = store --file {store}\n")
            store.touch(mode=0o600)
        env = {name: self.engine.environ[name] for name in ("XDG_RUNTIME_DIR", "DAYTONA_MAGICS_HOME", "HOME")}
        kernel = Kernel(env={**env, "GIT_CONFIG_GLOBAL": str(settings), "GIT_CONFIG_NOSYSTEM": "1"})
        kernel.start()
        self.homes.append(kernel.home)
        return kernel

    def renew(self) -> None:
        """As the next module expects it, whatever the last one left: alive, at home, nobody logged in."""
        if not self.kernel.manager.is_alive():
            self.kernel = self.start()
            self.ok("%sandbox use git-tests -q")
        self.asks = False
        self.login(False)
        self.kernel.run("%sandbox_git sync off", timeout=90)
        self.ok("%%sandbox\n%cd -q ~")

    def login(self, on: bool = True) -> None:
        """Let this machine's credential helper know the server's login, or not."""
        address = self.hub.url.replace("://", f"://{self.hub.user}:{self.hub.password}@")
        (self.secrets / "credentials").write_text(f"{address}\n" if on else "")

    def ok(self, code: str) -> Cell:
        """Run a cell, which must succeed and say nothing of the password."""
        cell = self.kernel.run(code, timeout=90, allow_stdin=self.asks)
        assert cell.status == "ok", cell
        self.silent(cell)
        return cell

    def git(self, line: str) -> str:
        """What a ``%sandbox_git`` line says and returns."""
        cell = self.ok(f"%sandbox_git {line}")
        return "\n".join(filter(None, [cell.notes, cell.result]))

    def refused(self, line: str) -> str:
        """The error of a ``%sandbox_git`` line, which must be one of ours and short."""
        cell = self.kernel.run(f"%sandbox_git {line}", timeout=90, allow_stdin=self.asks)
        assert cell.status == "error" and cell.ename in ("GitError", "SandboxUsageError"), cell
        assert len(cell.error["traceback"]) <= 2, "an error of ours has no frames"
        self.silent(cell)
        return cell.traceback

    def silent(self, cell: Cell) -> None:
        """A cell must not show the password, in whatever message."""
        if hasattr(self, "hub"):
            assert self.hub.password not in str(cell.messages) + str(cell.reply)


@pytest.fixture(scope="session")
def shared_house() -> Iterator[House]:
    if shutil.which("git") is None:
        reason = "this machine has no git, so its sandboxes have none"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from daytona import Daytona

    with isolated_engine() as engine:
        daytona = Daytona(engine.config())
        made = House(engine, daytona)
        try:
            yield made
        finally:
            made.kernel.shutdown()
            for home in made.homes:
                shutil.rmtree(home, ignore_errors=True)
            daytona._sandbox_api.api_client.rest_client.pool_manager.clear()


@pytest.fixture(scope="module")
def house(shared_house: House) -> House:
    shared_house.renew()
    return shared_house
