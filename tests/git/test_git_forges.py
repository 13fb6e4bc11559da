"""``%sandbox_git open, compare, pr, merge --into`` in a real kernel, against a stand-in of both forges' APIs.

The sandbox's repository has the stand-in as its remote; what was pushed there is brought to the stand-in's
own repository by the test, because a sandbox reaches no port of this machine.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.git.conftest import House

from .forge_house import PATH, TOKEN, Fault, ForgeHouse, forge_house
from .test_git_verbs import html_of

pytestmark = pytest.mark.shard_group("git and this machine")

_numbers = itertools.count(1)
VARIABLES = {"github": "GH_HOST", "gitlab": "GITLAB_HOST"}


class Work:
    """A repository of the sandbox on branch ``nb/work``, two commits ahead of main, and its forge."""

    def __init__(self, house: House, forge: ForgeHouse) -> None:
        self.house, self.forge = house, forge
        self.path = house.hub.repository(
            "git branch -m main",
            "git checkout -q -b nb/work",
            "echo two >b; git add b; git commit -q -m 'Add b'",
            "echo three >c; git add c; git commit -q -m 'Add c'",
            f"git remote add origin {forge.url}/{PATH}.git",
        )
        self.push("main", "nb/work")

    def push(self, *branches: str) -> None:
        """What the branches are at is on the forge, and the sandbox's git knows."""
        hub, name = self.house.hub, f"bundle{next(_numbers)}"
        known = "; ".join(f"git update-ref refs/remotes/origin/{one} {one}" for one in branches)
        hub.sh(f"git bundle create -q ../{name} --all; {known}", self.path)
        file = self.forge.repository.parent / name
        file.write_bytes(hub.sandbox.fs.download_file(name))
        specs = [f"+refs/heads/{one}:refs/heads/{one}" for one in branches]
        subprocess.run(["git", "fetch", "-q", str(file), *specs], cwd=self.forge.repository, check=True)

    def git(self, line: str) -> str:
        return self.house.git(f"{line} -C {self.path}")

    def refused(self, line: str) -> str:
        return self.house.refused(f"{line} -C {self.path}")


@pytest.fixture(params=sorted(VARIABLES))
def work(request: pytest.FixtureRequest, house: House, tmp_path: Path) -> Iterator[Work]:
    bare = tmp_path / "forge.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    with forge_house(request.param, bare) as forge:
        host = forge.url.partition("://")[2]
        other = next(name for kind, name in VARIABLES.items() if kind != request.param)
        variable = VARIABLES[request.param]
        house.ok(f"import os\nos.environ.pop({other!r}, None); os.environ[{variable!r}] = {host!r}")
        (house.secrets / "credentials").write_text(f"http://x:{TOKEN}@{host}\n")
        yield Work(house, forge)
        house.ok(f"os.environ.pop({variable!r})")
        house.login(False)


def test_compare_request_and_merge(work: Work) -> None:
    forge = work.forge
    assert f"{forge.url}/{PATH}/" in work.git("open") and "tree/nb/work" in work.git("open")
    shown = work.git("compare")
    assert "nb/work has 2 commits that main has not" in shown and "/compare/main...nb/work" in shown
    assert "git's credential helper" in shown, "whose login it was is said"
    made = work.house.ok(f"%sandbox_git pr -C {work.path}")
    assert "equest " in str(made.result) and "1 is open: work (nb/work → main)" in str(made.result)
    assert f'href="{forge.url}/{PATH}/' in html_of(made) and "noopener" in html_of(made)
    assert forge.requests[1]["body"] == "- Add b\n- Add c"
    assert "1 is open already: work" in work.git("pr main -t 'Another title'")
    asked = work.refused("merge --into main")
    assert (
        "this would merge nb/work" in asked
        and "--into main --yes" in asked
        and forge.count("main", "nb/work")
    )
    merged = work.git("merge --into main --yes")
    assert f"nb/work is in main of {PATH} now by" in merged and forge.count("main", "nb/work") == 0
    assert forge.git("show", "main:c") == "three"
    assert TOKEN not in work.house.hub.sh(f"grep -r {TOKEN[:8]} ~/{work.path} ~/.git* || echo none")


def test_the_cell_is_title_and_text(work: Work) -> None:
    work.house.ok(f"%%sandbox_git pr --draft -C {work.path}\nFit the model\n\nWhy: `$HOME` {{x}}\n")
    one = work.forge.requests[1]
    assert (one["title"], one["body"], one["draft"]) == ("Fit the model", "Why: `$HOME` {x}", True)
    cell = work.house.kernel.run(f"%%sandbox_git pr -t T -C {work.path}\nFit the model")
    assert "leave one out" in cell.traceback
    assert "give it a --title" in work.refused("pr -m text")


def test_nothing_goes_that_is_not_pushed(work: Work) -> None:
    work.house.hub.sh("echo 4 >d; git add d; git commit -q -m later", work.path)
    assert "1 to push" in work.git("open") and "1 more not pushed" in work.git("compare")
    for line in ("pr", "merge --into main --yes"):
        said = work.refused(line)
        assert "1 commit is not pushed yet" in said and "%sandbox_git push" in said
    assert not work.forge.requests and work.forge.count("main", "nb/work") == 2


def test_refusals(work: Work) -> None:
    work.forge.faults.append(Fault("GET", "/compare", 403, {"message": "no right"}, times=2))
    said = work.refused("compare main")
    assert "does not allow this" in said and "no right" in said and "In the browser:" in said
    (work.house.secrets / "credentials").write_text("")
    said = work.refused("pr main -t x")
    assert "wants a login" in said or "does not accept" in said
    assert "leave out other branches" in work.refused("merge --into main --abort")
    assert "is the base itself" in work.refused("compare nb/work")


def test_a_server_that_is_no_forge(house: House) -> None:
    hub = house.hub
    served = hub.served("git branch -m main")
    path = hub.clone(served)
    hub.sh("git checkout -q -b mine; echo 2 >b; git add b; git commit -q -m mine", path)
    house.login()
    said = house.refused(f"compare -C {path}")
    assert "on no GitHub or GitLab" in said and "merge --into BASE" in said
    house.git(f"push -C {path}")
    hub.commit_on_server(served, "git checkout -q main", "echo 3 >c", "git add c", "git commit -qm theirs")
    assert "squash is for GitHub and GitLab" in house.refused(
        f"merge --into main --yes --method squash -C {path}"
    )
    assert "mine is in main of origin now" in house.git(f"merge --into main --yes -C {path}")
    names = hub.sh(f"git -C ~/served/{served} ls-tree --name-only main").split()
    assert (
        names == ["a", "b", "c"]
        and hub.sh("git status --porcelain; git branch --show-current", path) == "mine"
    )
    assert "has everything of mine already" in house.git(f"merge --into main --yes -C {path}")
    hub.sh("echo mine >a; git commit -qam clash", path)
    house.git(f"push -C {path}")
    hub.commit_on_server(served, "git checkout -q main", "echo theirs >a", "git commit -qam clash")
    before = hub.sh(f"git -C ~/served/{served} rev-parse main")
    said = house.refused(f"merge --into main --yes -C {path}")
    assert "there are conflicts in a; nothing was changed" in said and "merge origin/main" in said
    assert hub.sh(f"git -C ~/served/{served} rev-parse main") == before
    house.login(False)
