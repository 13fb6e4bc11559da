"""``%sandbox create --repo``: a new sandbox clones from a server on this machine that it may reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import wait_until
from tests.git.conftest import House
from tests.git.test_git_logins import Watch
from tests.git.test_git_verbs import was_interrupted

pytestmark = pytest.mark.shard_group("git and this machine")

#: This machine as programs in a sandbox can name it: 127.0.0.1 is the sandbox itself to them.
ADDRESS = "127.0.0.2"
SERVER = Path(__file__).resolve().parents[1] / "git_server.py"
CREATE = f"%sandbox create --auto-stop 0 --network-allow-list {ADDRESS}/32 --repo"


class Away:
    """A git server on this machine.

    Attributes:
        url: of the repository, with branches main and dev, behind the login.
        bare: its folder.
    """

    def __init__(self, folder: Path, house: House) -> None:
        self.folder, self.house = folder, house
        self.bare = folder / "tool.git"
        work = folder / "work"
        self.git("init", "-q", "-b", "main", str(work), at=folder)
        for branch, name in (("main", "a"), ("dev", "b")):
            self.git("checkout", "-q", "-B", branch, at=work)
            (work / name).write_text("one\n")
            self.git("add", ".", at=work)
            self.git("commit", "-qm", name, at=work)
        self.git("clone", "-q", "--bare", str(work), str(self.bare), at=folder)
        self.git("symbolic-ref", "HEAD", "refs/heads/main")
        self.process = subprocess.Popen(
            [sys.executable, SERVER, str(folder)],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "ADDRESS": ADDRESS},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{house.hub.user}\n{house.hub.password}\n")
        self.process.stdin.close()
        wait_until((folder / "ports").exists, "the git server listens", 60)
        self.root = f"http://{ADDRESS}:{(folder / 'ports').read_text().split()[0]}"
        self.url = f"{self.root}/private/tool.git"

    def git(self, *words: str, at: Path | None = None, check: bool = True) -> str:
        person = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        command = ["git", *person, *words]
        done = subprocess.run(command, cwd=at or self.bare, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def login(self) -> None:
        """Let this machine know the login."""
        pair = f"{self.house.hub.user}:{self.house.hub.password}"
        (self.house.secrets / "credentials").write_text(f"{self.root.replace('://', f'://{pair}@')}\n")

    def held(self) -> str:
        """The address of the repository where the server waits once it has the login, until ``release``."""
        (self.folder / "release").unlink(missing_ok=True)
        (self.folder / "log").write_text("")
        return f"{self.root}/slow/tool.git"

    def is_told(self) -> None:
        """Wait until the server has the login."""
        log = self.folder / "log"
        wait_until(lambda: "Basic" in log.read_text(), "the server is told", 90)

    def release(self) -> None:
        (self.folder / "release").touch()


@pytest.fixture(scope="module")
def away(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    made = Away(tmp_path_factory.mktemp("away"), house)
    yield made
    made.process.terminate()
    made.process.wait(30)


@pytest.fixture
def alone(house: House) -> Iterator[None]:
    """The sandbox that is made in a test is removed after it, and the usual one is used again."""
    yield
    house.kernel.run("%sandbox_git sync off", timeout=90)
    house.ok("%sandbox delete -q")
    house.ok("%sandbox use git-tests -q")


def test_a_new_sandbox_begins_with_a_clone(house: House, away: Away, alone: None) -> None:
    away.login()
    with Watch(house, "create") as watch:
        sent = house.kernel.send(f"{CREATE} {away.held()} --branch dev", allow_stdin=False)
        away.is_told()
        assert watch.found() == ([], []), "while it clones"
        away.release()
        made = house.kernel.finish(sent, timeout=90)
        assert made.status == "ok", made
        house.silent(made)
        assert "cells are in /home/daytona/tool, on `nb/" in made.notes and "logged in at" in made.notes
        shown = house.git("branches -a")
        assert "origin/main" in shown and "origin/dev" in shown, "all branches are known"
        house.ok("%%sandbox bash\ngit config user.name A; git config user.email a@b.c; echo 2 >>b")
        house.ok("%%sandbox_git commit -a\nIn a cell")
        found = re.search(r"on `(nb/[^`]+)`", made.notes)
        assert found is not None
        branch = found[1]
        said = house.git("sync")
        assert "trouble" not in said and "not pushed" not in said, said
        pushed = ("rev-parse", "--verify", "-q", f"refs/heads/{branch}")
        wait_until(lambda: away.git(*pushed, check=False) != "", "it is pushed", 60)
        assert watch.found() == ([], []), "in all that was done"
    assert away.git("log", "--format=%s", branch).split("\n") == ["In a cell", "b", "a"]
    assert away.git("log", "-1", "--format=%s", "dev") == "b"


def test_a_clone_that_is_interrupted_can_be_tried_again(house: House, away: Away, alone: None) -> None:
    away.login()
    sent = house.kernel.send(f"{CREATE} {away.held()}", allow_stdin=False)
    away.is_told()
    house.kernel.interrupt()
    cell = house.kernel.finish(sent, timeout=90)
    assert was_interrupted(cell), cell
    assert "was created and has no clone" in str(cell), cell
    assert f"clone {away.root}/slow/tool.git --sync" in str(cell), "how to go on is said"
    # git removes what is half done; the server still waits.
    house.ok(
        '%%sandbox bash\nfor i in $(seq 600); do test -z "$(ls)" && break; sleep .05; done; test -z "$(ls)"'
    )
    away.release()
    house.login(False)
    assert "credentials" in house.refused(f"clone --sync {away.url}")
    assert "only --branch and a login" in house.refused(f"clone --sync {away.url} elsewhere")
    away.login()
    said = house.git(f"clone --sync {away.url}")
    assert "on `nb/" in said and "pushed after each cell" in said
    assert "tool" in house.ok("%%sandbox bash\npwd").stdout


def test_a_repository_without_a_remote_is_copied(
    house: House, alone: None, tmp_path: Path, away: Away
) -> None:
    """Commits are allowed, nothing is pushed, and that is said; they come back as a branch."""
    mine = tmp_path / "local"
    away.git("init", "-q", "-b", "main", str(mine), at=tmp_path)
    (mine / "a").write_text("one\n")
    refused = house.kernel.run(f"%sandbox create --auto-stop 0 --repo {mine}", timeout=90)
    assert refused.ename == "GitError" and "packing main" in refused.traceback, "nothing is committed"
    house.ok("%sandbox delete -q")
    away.git("add", ".", at=mine)
    away.git("commit", "-qm", "one", at=mine)
    (mine / "a").write_text("two\n")
    made = house.ok(f"%sandbox create --auto-stop 0 --repo {mine} --include-dirty")
    assert "sync is off" in made.notes and "has no remote named origin" in made.notes, made
    assert house.ok("%%sandbox bash\ncat a; git remote").stdout == "two\n", made.notes
    house.ok("%%sandbox_git commit -a --author 'Ada <a@b.c>'\nIn the sandbox")
    assert "sync is off: the repository has no remote" in str(house.ok("%sandbox status").result)
    assert "nowhere" in house.git("sync")
    assert "no remote" in house.refused("sync on")
    assert "1 commit →" in house.git(f"fetch --to {mine}")
    assert "In the sandbox" in away.git("log", "--all", "--format=%s", at=mine)
    assert away.git("status", "--porcelain", at=mine) == "M a", "the checkout is as it was"


def test_a_clone_that_cannot_be(house: House, away: Away, alone: None) -> None:
    house.login(False)
    cell = house.kernel.run(f"{CREATE} {away.url}", timeout=90, allow_stdin=False)
    assert cell.ename == "GitError" and "was created, but has no clone" in cell.traceback, cell
    assert f"%sandbox_git clone {away.url} --sync" in cell.traceback
    for line in ("--branch x", f"-n 2 --repo {away.url}", "--repo http://u:pw@127.0.0.1:9/x"):
        assert house.kernel.run(f"%sandbox create {line}", timeout=90).ename == "SandboxUsageError"
