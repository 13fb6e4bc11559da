"""This machine's logins: where they are found, for whom, and that they are nowhere to be seen.

While a network call runs, one program inside the sandbox and one outside look at every process and file
(``watch.py``). The control is the same call in the careless way: the looks must find that.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daytona_magics.errors import GitError
from daytona_magics.git import logins
from daytona_magics.git.logins import Login, Server
from tests.engine_process import wait_until
from tests.git.conftest import House

WATCH = Path(__file__).with_name("watch.py")
GITHUB = Server("https", "github.com")


class Watch:
    """Both programs, looking while inside; ``found`` is what they saw, inside and outside."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.found: tuple[list[str], list[str]] = ([""], [""])
        pair = base64.b64encode(f"{house.hub.user}:{house.hub.password}".encode()).decode()
        self._secrets = f"{house.hub.password}\n{pair}\n"

    def __enter__(self) -> Watch:
        hub, base = self.house.hub, self.house.engine.base
        hub.sandbox.fs.upload_file(WATCH.read_bytes(), "/tmp/watch.py")
        hub.sh("rm -f /tmp/seen* /tmp/stop; echo 0 >/tmp/seen.looks")
        # The server's own log says what it was told.
        words = "/tmp/seen /tmp/stop $HOME,/tmp,/dev/shm $HOME/served/log"
        lines = "printf '%s\\n' " + " ".join(self._secrets.split())
        hub.sh(f"{lines} | setsid python3 /tmp/watch.py {words} >/tmp/watch.log 2>&1 &")
        self._outcome, self._stop = base / "seen", base / "stop"
        for path in (self._outcome, self._stop):
            path.unlink(missing_ok=True)
        self._looks = base / "seen.looks"
        self._looks.write_text("0")
        folders = f"{self.house.kernel.home},{base / 'home'},{base / 'run'},{self.house.engine.state}"
        left_out = [str(self.house.secrets / "credentials")]
        state = self.house.engine.state
        # Copies of this machine's programs, which the engine makes meanwhile.
        left_out += [str(state / "layers"), *map(str, (state / "sandboxes").glob("*/home/**/served/log"))]
        self._outside = subprocess.Popen(
            [sys.executable, WATCH, self._outcome, self._stop, folders, *left_out],
            stdin=subprocess.PIPE,
            text=True,
        )
        assert self._outside.stdin is not None
        self._outside.stdin.write(self._secrets)
        self._outside.stdin.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.touch()
        self.house.hub.sh("touch /tmp/stop")
        assert self._outside.wait(60) == 0
        wait_until(lambda: "seen" in self.house.hub.sh("ls /tmp").split(), "the look inside ends", 60)
        inside = self.house.hub.sh("cat /tmp/seen").splitlines()
        self.found = (inside, self._outcome.read_text().splitlines())

    def look(self) -> None:
        """Wait until both have looked at everything from now on."""
        inside, outside = self._counts()
        wait_until(
            lambda: all(n > m + 1 for n, m in zip(self._counts(), (inside, outside), strict=True)),
            "both have looked",
            90,
        )

    def _counts(self) -> tuple[int, int]:
        return int(self.house.hub.sh("cat /tmp/seen.looks")), int(self._looks.read_text())


def during(house: House, line: str, served: str, release: bool = True) -> Watch:
    """Run a line that talks to ``/slow/``, and look while the server, which has the login, lets it wait."""
    hub = house.hub
    hub.sh("rm -f served/release; : >served/log")
    with Watch(house) as watch:
        cell = house.kernel.send(f"%sandbox_git {line}", allow_stdin=False)
        told = f"/slow/{served}"
        wait_until(
            lambda: any(told in one and "Basic" in one for one in hub.sh("cat served/log").splitlines()),
            f"the server is told the login by {line}",
            60,
        )
        watch.look()
        hub.sh("touch served/release")
        done = house.kernel.finish(cell, timeout=90)
    assert done.status == "ok", done
    house.silent(done)
    return watch


@pytest.fixture(scope="module")
def slow(house: House) -> Iterator[str]:
    """A repository behind the slow part of the server, cloned to ``slow``."""
    house.login()
    name = house.hub.served()
    seen = during(house, f"clone {house.hub.url}/slow/{name} slow", name)
    assert seen.found == ([], [])
    yield name


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("true", "fetch -C slow"),
        ("git checkout -q -b one; echo 1 >>a; git commit -qam one", "push -C slow"),
        ("git checkout -q main", "pull -C slow"),
    ],
    ids=["fetch", "push", "pull"],
)
def test_a_login_is_seen_nowhere_while_it_is_used(house: House, slow: str, before: str, line: str) -> None:
    house.hub.sh(before, "slow")
    assert during(house, line, slow).found == ([], [])
    assert house.hub.password not in house.hub.sh("cat .git/config .git/FETCH_HEAD .git/logs/*", "slow", None)


def test_the_careless_way_is_seen(house: House) -> None:
    """The control: in the command line, the environment and the configuration both looks find it."""
    hub, name = house.hub, house.hub.served()
    address = hub.url.replace("://", f"://{hub.user}:{hub.password}@")
    hub.sh("rm -f served/release")
    with Watch(house) as watch:
        hub.sh(f"TOKEN={hub.password} setsid git clone -q {address}/slow/{name} careless >/dev/null 2>&1 &")
        wait_until(lambda: f"/slow/{name}" in hub.sh("cat served/log"), "the server is asked", 60)
        watch.look()
        hub.sh("touch served/release")
        wait_until(lambda: "a" in hub.sh("ls careless", None, None).split(), "it is cloned", 60)
    inside, outside = watch.found
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
