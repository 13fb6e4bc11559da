"""This machine's logins: where they are found, for whom, and that they are nowhere to be seen.

While a network call runs, one program inside the sandbox and one outside look at every process and file
(``watch.py``). The control is the same call in the careless way: the looks must find that.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from daytona_magics.errors import GitError
from daytona_magics.git import logins
from daytona_magics.git.logins import Login, Server
from tests.engine_process import wait_until
from tests.git.conftest import House
from tests.git.forge_house import TOKEN, ForgeHouse, forge_house
from tests.git.test_git_forges import Work

pytestmark = pytest.mark.shard_group("git and this machine")

WATCH = Path(__file__).with_name("watch.py")
GITHUB = Server("https", "github.com")


class Watch:
    """Both programs, looking while inside.

    Args:
        name: of what they leave, one for each watch.
    """

    def __init__(self, house: House, name: str) -> None:
        self.house, self.name = house, name
        pair = base64.b64encode(f"{house.hub.user}:{house.hub.password}".encode()).decode()
        self._secrets = f"{house.hub.password}\n{pair}\n{TOKEN}\n"
        self._inside = f"/tmp/{name}"
        self._outside = house.engine.base / name
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Watch:
        hub, base, state = self.house.hub, self.house.engine.base, self.house.engine.state
        hub.sandbox.fs.upload_file(WATCH.read_bytes(), "/tmp/watch.py")
        # The server's own log says what it was told.
        words = f"{self._inside} {self._inside}.stop $HOME,/tmp,/dev/shm $HOME/served/log"
        lines = "printf '%s\\n' " + " ".join(self._secrets.split())
        hub.sh(f"{lines} | setsid python3 /tmp/watch.py {words} >/tmp/watch.log 2>&1 &")
        folders = f"{self.house.kernel.home},{base / 'home'},{base / 'run'},{state}"
        left_out = [str(self.house.secrets / "credentials")]
        # Copies of this machine's programs, which the engine makes meanwhile.
        left_out += [str(state / "layers"), *map(str, (state / "sandboxes").glob("*/home/**/served/log"))]
        self._process = subprocess.Popen(
            [sys.executable, WATCH, self._outside, f"{self._outside}.stop", folders, *left_out],
            stdin=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._secrets)
        self._process.stdin.close()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._outside.with_name(f"{self.name}.stop").touch()
        self.house.hub.sh(f"touch {self._inside}.stop")
        assert self._process.wait(60) == 0

    def found(self) -> tuple[list[str], list[str]]:
        """What both, inside and outside, saw since they began; after a whole look of each from now on."""
        looks = self._outside.with_name(f"{self.name}.looks")
        wait_until(looks.exists, "the look outside has begun", 60)
        before = int(looks.read_text())
        asked = f"$(cat {self._inside}.looks || echo 0)"
        self.house.hub.sh(f"echo $(( {asked} + 2 )) >/tmp/enough")
        self.house.hub.until(f"test {asked} -ge $(cat /tmp/enough)", "the look inside is over", seconds=90)
        wait_until(lambda: int(looks.read_text()) >= before + 2, "the look outside is over", 90)
        inside = self.house.hub.sh(f"cat {self._inside}").splitlines()
        return inside, self._outside.read_text().splitlines()


@pytest.fixture(scope="module")
def watch(house: House) -> Iterator[Watch]:
    with Watch(house, "seen") as made:
        yield made


class Slow:
    """Lines that talk to the slow part of the server, which waits when it has the login."""

    def __init__(self, house: House, watch: Watch) -> None:
        self.house, self.watch = house, watch
        self.served = house.hub.served("git branch -m main", "git branch other")

    def during(self, cell: str, *, then: Callable[[], None] | None = None) -> None:
        """Run a cell, and look while the server lets it wait; then once more, when it is over.

        Args:
            then: waits for what the cell does in the background.
        """
        hub = self.house.hub
        hub.sh("rm -f served/release; : >served/log")
        sent = self.house.kernel.send(cell, allow_stdin=False)
        hub.until(f"grep -q '/slow/{self.served}.* Basic' served/log", f"the server is told by {cell}")
        assert self.watch.found() == ([], []), cell
        hub.sh("touch served/release")
        done = self.house.kernel.finish(sent, timeout=90)
        assert done.status == "ok", done
        self.house.silent(done)
        if then is not None:
            then()
        assert self.watch.found() == ([], []), cell


@pytest.fixture(scope="module")
def slow(house: House, watch: Watch) -> Iterator[Slow]:
    """Cloned to ``slow``."""
    house.login()
    made = Slow(house, watch)
    made.during(f"%sandbox_git clone {house.hub.url}/slow/{made.served} slow")
    yield made
    house.login(False)


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("true", "fetch"),
        ("git checkout -q -b one; echo 1 >>a; git commit -qam one", "push"),
        ("git checkout -q main", "pull"),
        ("git checkout -q one", "merge --into main --yes"),
        ("git -C ~/served/{served} branch late main", "checkout late"),
        ("git checkout -q -b nb/mine; echo 2 >>a; git commit -qam two", "sync on"),
    ],
    ids=["fetch", "push", "pull", "merge", "checkout", "sync"],
)
def test_a_login_is_seen_nowhere_while_it_is_used(house: House, slow: Slow, before: str, line: str) -> None:
    house.hub.sh(before.format(served=slow.served), "slow")
    slow.during(f"%sandbox_git {line} -C slow")
    if line == "sync on":
        there = f"git -C served/{slow.served} log -1 --format=%s nb/mine | grep -q three"
        slow.during(
            "%%sandbox bash\ncd ~/slow; echo 3 >>a; git commit -qam three",
            then=lambda: house.hub.until(there, "the branch is pushed"),
        )
        house.git("sync off")
        house.ok("%%sandbox bash\ncd ~")
    logs = house.hub.sh("cat .git/config .git/FETCH_HEAD .git/logs/*", "slow", None)
    assert house.hub.password not in logs


def test_a_token_is_seen_nowhere_while_a_forge_is_asked(house: House, watch: Watch, tmp_path: Path) -> None:
    bare = tmp_path / "forge.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    with forge_house("github", bare) as forge:
        host = forge.url.partition("://")[2]
        house.ok(f"import os\nos.environ['GH_HOST'] = {host!r}")
        (house.secrets / "credentials").write_text(f"http://x:{TOKEN}@{host}\n")
        work = Work(house, forge)
        for line in ("compare", "pr -t Two", "merge --into main --yes"):
            forge.held, forge.calls[:] = True, []
            sent = house.kernel.send(f"%sandbox_git {line} -C {work.path}", allow_stdin=False)
            wait_until(partial(_has_token, forge), f"the forge has the token of {line}", 60)
            assert watch.found() == ([], []), line
            forge.held = False
            done = house.kernel.finish(sent, timeout=90)
            assert done.status == "ok" and TOKEN not in str(done.messages), done
        house.ok("del os.environ['GH_HOST']")
        house.login(False)
    assert watch.found() == ([], [])


def _has_token(forge: ForgeHouse) -> bool:
    return any(TOKEN in authorization for _, _, authorization in forge.calls)


def test_the_careless_way_is_seen(house: House) -> None:
    """The control: in the command line, the environment and the configuration both looks find it."""
    hub, name = house.hub, house.hub.served()
    address = hub.url.replace("://", f"://{hub.user}:{hub.password}@")
    hub.sh("rm -f served/release; : >served/log")
    with Watch(house, "careless") as watch:
        hub.sh(f"TOKEN={hub.password} setsid git clone -q {address}/slow/{name} careless >/dev/null 2>&1 &")
        hub.until(f"grep -q /slow/{name} served/log", "the server is asked")
        inside, outside = watch.found()
        hub.sh("touch served/release")
        hub.until("test -e careless/a", "it is cloned")
    assert "environ of git" in inside and "cmdline of git" in inside
    assert any(one.endswith("careless/.git/config") for one in inside)
    assert "environ of git" in outside and any(one.endswith("careless/.git/config") for one in outside)
    hub.sh("rm -rf careless")


def test_a_login_goes_to_its_own_server_only(house: House) -> None:
    """Neither a redirection nor an address the sandbox has changed makes another server hear it."""
    hub, name = house.hub, house.hub.served()
    house.login()
    other = hub.other.rpartition(":")[2]

    def told() -> list[str]:
        return [line for line in hub.sh("cat served/log").splitlines() if "Basic" in line]

    hub.sh(": >served/log")
    house.refused(f"clone {hub.url}/elsewhere/{name} redirected")
    house.git(f"clone {hub.url}/private/{name} changed")
    hub.sh(f"git remote set-url origin {hub.url}/elsewhere/{name}", "changed")
    house.refused("fetch -C changed")
    hub.sh(f"git remote set-url origin {hub.other}/private/{name}; echo 1 >>a; git commit -qam 1", "changed")
    for line in ("fetch -C changed", "push -C changed", "pull -C changed"):
        house.refused(line)
    assert told() and not [line for line in told() if line.startswith(f"{other} ")], told()
    # A rule in the sandbox's settings is an address of its own as well.
    hub.sh(
        f"git config --global url.{hub.other}/private/.insteadOf https://github.com/;"
        f"git remote set-url origin https://github.com/{name}",
        "changed",
    )
    house.refused("fetch -C changed")
    assert not [line for line in told() if line.startswith(f"{other} ")]
    hub.sh("git config --global --remove-section url." + f"{hub.other}/private/")


def test_what_a_server_repeats_is_not_shown(house: House) -> None:
    hub, name = house.hub, house.hub.served()
    house.login()
    path = hub.clone(name)
    hub.sh(f"git remote set-url origin {hub.url}/forbidden/{name}", path)
    house.ok("%xmode Verbose")
    for line in ("fetch", "pull", "push"):
        house.refused(f"{line} -C {path}")
    house.ok("%xmode Context")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Programs of this machine for logins: none but those a test makes; git has no settings."""
    real = subprocess.run(
        ["sh", "-c", "command -v git"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / "git").symlink_to(real)
    for name in ("GH_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def make(name: str, text: str) -> None:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)

    return make


def test_where_logins_are_found(tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert logins.find(GITHUB) is None
    monkeypatch.setenv("GITHUB_TOKEN", "of-variable")
    assert logins.find(GITHUB) == Login("x-access-token", "of-variable", "variable GITHUB_TOKEN")
    assert logins.find(Server("https", "github.com.evil.example")) is None
    assert logins.find(Server("http", "github.com")) is None
    tools("gitconfig", '[credential]\n\thelper = "!f() { echo username=ada; echo password=of-helper; }; f"\n')
    assert logins.find(GITHUB) == Login("ada", "of-helper", "git's credential helper")
    tools("gh", '#!/bin/sh\n[ "$*" = "auth token --hostname github.com" ] && echo of-gh\n')
    assert logins.find(GITHUB) == Login("x-access-token", "of-gh", "gh")
    tools("glab", '#!/bin/sh\n[ "$5" = gitlab.com ] && echo of-glab\n')
    assert logins.find(Server("https", "gitlab.com")) == Login("oauth2", "of-glab", "glab")
    assert "of-gh" not in repr(logins.find(GITHUB)), "a password is not in what is printed of a login"


def test_a_helper_that_answers_for_another_place_is_not_heard(tools: Callable[[str, str], None]) -> None:
    answer = "echo host=evil.example; echo username=ada; echo password=pw"
    tools("gitconfig", f'[credential]\n\thelper = "!f() {{ {answer}; }}; f"\n')
    assert logins.find(GITHUB) is None


def test_no_tool_can_ask_or_hang(
    tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logins, "WITHIN", 2)
    tools("gh", f"#!/bin/sh\n(echo asked >/dev/tty) 2>/dev/null && touch {tmp_path}/asked; exec sleep 60\n")
    assert logins.find(GITHUB) is None
    assert not (tmp_path / "asked").exists()


def test_plain_http_over_a_network_gets_no_login() -> None:
    logins.check(Server("https", "example.org"))
    logins.check(Server("http", "127.0.0.1:8080"))
    with pytest.raises(GitError, match="unencrypted"):
        logins.check(Server("http", "example.org"))
    with pytest.raises(GitError, match="unencrypted"):
        logins.check(Server("http", "127.0.0.1.example.org"))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://ada:pw@git.example.org:8443/x.git", Server("https", "git.example.org:8443")),
        ("HTTPS://GitHub.com/x", GITHUB),
        ("http://[::1]:80/x", Server("http", "[::1]:80")),
        ("git@github.com:me/x.git", None),
        ("/srv/x.git", None),
        ("https://github.com@evil.example/x", Server("https", "evil.example")),
        ("https://host:port/x", None),
    ],
)
def test_the_server_of_an_address(url: str, server: Server | None) -> None:
    assert logins.server_of(url) == server
