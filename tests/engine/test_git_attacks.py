"""Git: what a name, an address or a configuration could make git do, and where a password could be seen.

Each attack has a control: the same thing done by an ordinary git in the sandbox, which does work.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daytona import Daytona
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaForbiddenError,
    DaytonaGitAuthFailedError,
)

from tests.engine_process import IsolatedEngine, isolated_engine, wait_until
from tests.git_box import GitBox

MARK = "/tmp/attacked"
TOUCH = f"touch {MARK}"


@pytest.fixture(scope="module")
def cloned(hub: GitBox) -> str:
    """A clone."""
    return hub.clone(hub.served())


@pytest.fixture
def repo(hub: GitBox, cloned: str) -> str:
    """A clone with changes that are not committed."""
    hub.sh(f"rm -f {MARK}; git checkout -q -f main; echo mine >a; git config user.secret kept", cloned)
    return cloned


def attacked(hub: GitBox) -> bool:
    """Whether the mark is there; it is removed."""
    return hub.sh(f"ls {MARK} 2>/dev/null && rm {MARK}; true") != ""


#: What is called, and (for the control) the command that an unguarded server would make of it.
ATTACKS: dict[str, tuple[Callable[[GitBox, str], Any], str]] = {
    "ext transport": (
        lambda hub, repo: hub.git.clone(f"ext::sh -c {TOUCH.replace(' ', '% ')}", "x"),
        f"git -c protocol.ext.allow=always clone 'ext::sh -c {TOUCH.replace(' ', '% ')}' x; true",
    ),
    "ext transport in capitals": (
        lambda hub, repo: hub.git.remote_add(repo, "evil", f"EXT::sh -c {TOUCH}", fetch=True),
        f"git -c protocol.ext.allow=always fetch 'ext::sh -c {TOUCH.replace(' ', '% ')}'; true",
    ),
    "upload-pack as an address": (
        lambda hub, repo: hub.git.clone(f"--upload-pack={TOUCH}", "x"),
        f"git clone --upload-pack='{TOUCH};:' . x; true",
    ),
    "upload-pack as a branch to pull": (
        lambda hub, repo: hub.git.pull(repo, branch=f"--upload-pack={TOUCH}"),
        f"git fetch . --upload-pack='{TOUCH};:'; true",
    ),
    "upload-pack as a remote": (
        lambda hub, repo: hub.git.pull(repo, remote=f"--upload-pack={TOUCH}"),
        f"git fetch --upload-pack='{TOUCH};:' .; true",
    ),
    "receive-pack as a branch to push": (
        lambda hub, repo: hub.git.push(repo, branch=f"--receive-pack={TOUCH}"),
        f"git push . --receive-pack='{TOUCH};:' main; true",
    ),
    "configuration as a branch to clone": (
        lambda hub, repo: hub.git.clone(repo, "x", branch=f"-ccore.fsmonitor={TOUCH}"),
        f"git -c core.fsmonitor='{TOUCH};:' status; true",
    ),
    "a shell in an address": (
        lambda hub, repo: hub.git.clone(f"$({TOUCH})`{TOUCH}`;{TOUCH}", "x"),
        f'sh -c "git clone $({TOUCH})"; true',
    ),
    "a shell in a branch": (
        lambda hub, repo: hub.git.checkout_branch(repo, f"$({TOUCH});{TOUCH}"),
        f'sh -c "git checkout $({TOUCH})"; true',
    ),
    "a shell in a path": (
        lambda hub, repo: (
            hub.git.init(f"{repo}-$({TOUCH});{TOUCH.replace('/', '.')}") or hub.git.status("none")
        ),
        f'sh -c "git status $({TOUCH})"; true',
    ),
    "an option as a file": (
        lambda hub, repo: hub.git.add(repo, [f"--pathspec-from-file={MARK}", "--chmod=+x"]),
        f"{TOUCH}; git add --pathspec-from-file={MARK}; true",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_request_becomes_an_option_or_a_program(hub: GitBox, repo: str, name: str) -> None:
    attack, control = ATTACKS[name]
    with pytest.raises(DaytonaError):
        attack(hub, repo)
    assert not attacked(hub)
    assert hub.sh("cat a", repo) == "mine"
    hub.sh(control, repo)
    assert attacked(hub), "the control does nothing"


#: Options where a revision is expected would throw the changes away.
LOSSES: dict[str, tuple[Callable[[GitBox, str], Any], str]] = {
    "checkout": (lambda hub, repo: hub.git.checkout_branch(repo, "-f"), "git checkout -q -f"),
    "reset": (
        lambda hub, repo: hub.git.reset(repo, mode="keep", target="--hard"),
        "git reset -q --hard",
    ),
    "restore": (
        lambda hub, repo: hub.git.restore(repo, ["b"], source="--worktree"),
        "git restore --worktree a",
    ),
    "files": (lambda hub, repo: hub.git.restore(repo, [":(top)*"]), "git restore ':(top)*'"),
    "glob": (lambda hub, repo: hub.git.restore(repo, ["*"]), "git restore '*'"),
    "commit": (
        lambda hub, repo: hub.git.reset(repo, target="--pathspec-from-file=x"),
        "git checkout -q a",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_in_a_request_loses_changes(hub: GitBox, repo: str, name: str) -> None:
    attack, control = LOSSES[name]
    with pytest.raises(DaytonaError):
        attack(hub, repo)
    assert hub.sh("cat a", repo) == "mine"
    hub.sh(control, repo)
    assert hub.sh("cat a", repo) == "one", "the control does nothing"


def test_options_as_configuration_keys(hub: GitBox, repo: str) -> None:
    for key in ("--unset-all", "--edit", "-e", "user.secret\n[core]\neditor", f"--file={repo}/.git/config"):
        with pytest.raises(DaytonaBadRequestError):
            hub.git.set_config(key, "user.secret", scope="local", path=repo)
    hub.git.set_config("user.name", '"\n[core]\n\teditor = evil\n', scope="local", path=repo)
    assert hub.sh("git config core.editor; true", repo) == ""
    assert hub.sh("git config user.secret", repo) == "kept"
    hub.sh("git config --unset-all user.secret", repo)
    assert hub.sh("git config user.secret; true", repo) == "", "the control does nothing"


def test_a_configuration_cannot_bring_another_transport(hub: GitBox, repo: str) -> None:
    evil = f"'ext::sh -c {TOUCH.replace(' ', '% ')}'"
    hub.sh(f"git config protocol.ext.allow always; git config remote.origin.url {evil}", repo)
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        hub.git.pull(repo)
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        hub.git.push(repo)
    assert not attacked(hub)
    hub.sh("git fetch; true", repo)
    assert attacked(hub), "the control does nothing"
    hub.sh("cp .gitconfig saved; git config --global protocol.ext.allow always")
    hub.sh(f"git config --global url.{evil}.insteadOf http://safe/")
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        hub.git.clone("http://safe/", "x")
    assert not attacked(hub)
    hub.sh("git clone http://safe/ x; true")
    assert attacked(hub), "the control does nothing"
    hub.sh("mv saved .gitconfig")


def test_options_of_ssh(hub: GitBox) -> None:
    hub.sh(f"mkdir -p bin; printf '#!/bin/sh\\necho \"$@\" >{MARK}\\nexit 1' >bin/ssh; chmod +x bin/ssh")
    hub.git.set_config("core.sshCommand", "/home/daytona/bin/ssh")
    for url in ("ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "ssh://host/-x\ny"):
        with pytest.raises(DaytonaError):
            hub.git.clone(url, "x")
        assert not attacked(hub)
    with pytest.raises(DaytonaError):
        hub.git.clone("ssh://host/y", "x")
    assert attacked(hub), "the control does nothing"
    hub.git.set_config("core.sshCommand", "ssh")


def test_a_redirection_gets_no_password(hub: GitBox) -> None:
    """Nor does a server get what the caller gave for another one."""
    name = hub.served()
    hub.sh(": >served/log")
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.clone(f"{hub.url}/elsewhere/{name}", "redirected", username=hub.user, password=hub.password)
    log = hub.sh("cat served/log")
    assert f"/private/{name}" in log and "Basic" not in log, log
    # Control: a program that answers whoever asks, as is common, tells the other server.
    ask = f"GIT_ASKPASS=/tmp/ask git clone {hub.url}/elsewhere/{name} redirected"
    hub.sh(f"printf '#!/bin/sh\\necho {hub.password}' >/tmp/ask; chmod +x /tmp/ask; {ask}; rm /tmp/ask; true")
    other = hub.other.rpartition(":")[2]
    assert re.search(rf"^{other} /private/.* Basic ", hub.sh("cat served/log"), re.MULTILINE)


def test_a_hostile_server_cannot_have_the_password_shown(hub: GitBox) -> None:
    with pytest.raises(DaytonaForbiddenError) as caught:
        hub.git.clone(f"{hub.url}/forbidden/x", "x", username=hub.user, password=hub.password)
    assert "you said" in str(caught.value)
    assert hub.password not in str(caught.value)
    assert not re.search(r"Basic [A-Za-z0-9+/=]{8}", str(caught.value))


def test_a_password_cannot_say_more_than_itself(hub: GitBox) -> None:
    for username, password in (("a\nhost=evil", "x"), ("a", "x\nquit=1"), ("a\0b", "x"), ("a", "x\ry")):
        with pytest.raises(DaytonaBadRequestError):
            hub.git.clone(f"{hub.url}/private/x", "x", username=username, password=password)
    odd = " $(touch x) `y` \\n %s 'q\" "
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.clone(f"{hub.url}/private/x", "x", username="odd", password=odd)
    assert base64.b64encode(f"odd:{odd}".encode()).decode() in hub.sh("tail -n1 served/log")


class Watch:
    """Looks again and again for a text in the command lines and environments of all processes."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._stop = threading.Event()
        self.found: set[str] = set()
        self.rounds = 0
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.is_set():
            for process in [name for name in os.listdir("/proc") if name.isdecimal()]:
                for file in ("cmdline", "environ"):
                    # A process may be gone again, or be somebody else's.
                    with contextlib.suppress(OSError):
                        if self._text in Path("/proc", process, file).read_bytes():
                            self.found.add(f"{file}: {Path('/proc', process, 'cmdline').read_bytes()!r}")
            self.rounds += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def while_slow(hub: GitBox, call: Callable[[], Any], look: Callable[[], Any]) -> None:
    """Run ``call`` in a thread against /slow/; ``look`` while the server waits; then let it go on."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    hub.sh(": >served/log")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(
            lambda: "Basic" in hub.sh("cat served/log") or failed, "the server has been told the password"
        )
        look()
        time.sleep(0.2)
    finally:
        hub.sh("touch served/release")
        thread.join(60)
        hub.sh("rm -f served/release")
    assert not failed, failed


def test_a_password_is_nowhere_but_on_its_way(hub: GitBox, engine: IsolatedEngine) -> None:
    name = hub.served()
    url = f"{hub.url}/slow/{name}"
    login = {"username": hub.user, "password": hub.password}
    seen: list[str] = []

    def look() -> None:
        seen.append(
            hub.sh(
                "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; tr '\\0' '\\n' <$p/environ; done 2>&1"
            )
        )
        seen.append(hub.sh("ls -l /proc/self/fd /proc/$$/fd"))

    with Watch(hub.password) as watch:
        while_slow(hub, lambda: hub.git.clone(url, "quiet", **login), look)
        hub.commit_on_server(name, "echo 2 >a; git commit -qam 2")
        while_slow(hub, lambda: hub.git.pull("quiet", **login), look)
        hub.sh("echo 3 >b; git add b; git commit -qm 3", "quiet")
        while_slow(hub, lambda: hub.git.push("quiet", **login), look)
    assert watch.rounds > 3
    assert watch.found == set()
    assert not any(hub.password in text for text in seen)
    assert not any("socket:" in text for text in seen), "a program of the user's has inherited the socket"
    everywhere = hub.sh("grep -rlaF -e $0 . /tmp /dev/shm 2>/dev/null; true".replace("$0", hub.password))
    assert everywhere == "", everywhere
    for file in engine.base.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert hub.password.encode() not in file.read_bytes(), file
    # Controls: both ways of looking find the password when an ordinary git is given it in its address.
    raw = url.replace("://", f"://{hub.user}:{hub.password}@")
    with Watch(hub.password) as watch:
        while_slow(hub, lambda: hub.sh(f"git clone -q {raw} loud"), look)
    assert any("git-remote-http" in found for found in watch.found)
    assert "loud/.git/config" in hub.sh(f"grep -rlaF -e {hub.password} .; true")


def test_an_address_with_a_password_is_in_no_command_line(hub: GitBox) -> None:
    """It is kept in the configuration, because that is where the caller put it."""
    name = hub.served()
    url = f"{hub.url}/slow/{name}".replace("://", f"://{hub.user}:{hub.password}@")
    with Watch(hub.password) as watch:
        while_slow(hub, lambda: hub.git.clone(url, "kept"), lambda: None)
        while_slow(hub, lambda: hub.git.pull("kept"), lambda: None)
        hub.sh("git commit -q --allow-empty -m x", "kept")
        while_slow(hub, lambda: hub.git.push("kept"), lambda: None)
        while_slow(hub, lambda: hub.git.remote_add("kept", "two", url, fetch=True), lambda: None)
        hub.git.set_config("http.extraHeader", f"X: {hub.password}", scope="local", path="kept")
        hub.git.dangerously_authenticate(hub.user, hub.password, host="example.org")
    assert watch.found == set()
    assert hub.sh(f"grep -rlaF -e {hub.password} kept") == "kept/.git/config"
    with pytest.raises(DaytonaBadRequestError, match="visible"):
        hub.git.set_config(f"url.{url}.insteadOf", "x")
    hub.sh("rm .git-credentials; git config --global --unset credential.helper")


@pytest.mark.parametrize("level", ["L2", "L1"])
def test_lower_levels(level: str) -> None:
    """The same holds where command lines of other sandboxes can be read, and nothing is mounted."""
    with isolated_engine(DAYTONA_MAGICS_ISOLATION=level) as engine:
        client = Daytona(engine.config())
        sandbox = client.create()
        hub = GitBox(sandbox, engine)
        hub.serve()
        name = hub.served()
        login = {"username": hub.user, "password": hub.password}
        with Watch(hub.password) as watch:
            while_slow(
                hub,
                lambda: hub.git.clone(f"{hub.url}/slow/{name}", "quiet", **login),
                lambda: None,
            )
            hub.sandbox.fs.upload_file(b"two", "quiet/a")
            hub.git.add("quiet", ["."])
            hub.git.commit("quiet", "two", "A", "a@x")
            while_slow(hub, lambda: hub.git.push("quiet", **login), lambda: None)
            url = f"{hub.url}/slow/{name}".replace("://", f"://{hub.user}:{hub.password}@")
            while_slow(hub, lambda: hub.git.clone(url, "kept"), lambda: None)
            while_slow(hub, lambda: hub.git.pull("kept"), lambda: None)
        assert watch.found == set()
        assert watch.rounds > 3
        assert hub.sh("git log --format=%s", "kept").split() == ["two", "one"]
        client.delete(sandbox)
