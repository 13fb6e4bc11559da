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
from collections.abc import Callable, Iterator
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
def box(daytona: Any, engine: IsolatedEngine) -> Iterator[GitBox]:
    made = daytona.create()
    found = GitBox(made, engine)
    found.serve()
    yield found
    daytona.delete(made)


@pytest.fixture(scope="module")
def cloned(box: GitBox) -> str:
    """A clone."""
    return box.clone(box.served())


@pytest.fixture
def repo(box: GitBox, cloned: str) -> str:
    """A clone with changes that are not committed."""
    box.sh(f"rm -f {MARK}; git checkout -q -f main; echo mine >a; git config user.secret kept", cloned)
    return cloned


def attacked(box: GitBox) -> bool:
    """Whether the mark is there; it is removed."""
    return box.sh(f"ls {MARK} 2>/dev/null && rm {MARK}; true") != ""


#: What is called, and (for the control) the command that an unguarded server would make of it.
ATTACKS: dict[str, tuple[Callable[[GitBox, str], Any], str]] = {
    "ext transport": (
        lambda box, repo: box.git.clone(f"ext::sh -c {TOUCH.replace(' ', '% ')}", "x"),
        f"git -c protocol.ext.allow=always clone 'ext::sh -c {TOUCH.replace(' ', '% ')}' x; true",
    ),
    "ext transport in capitals": (
        lambda box, repo: box.git.remote_add(repo, "evil", f"EXT::sh -c {TOUCH}", fetch=True),
        f"git -c protocol.ext.allow=always fetch 'ext::sh -c {TOUCH.replace(' ', '% ')}'; true",
    ),
    "upload-pack as an address": (
        lambda box, repo: box.git.clone(f"--upload-pack={TOUCH}", "x"),
        f"git clone --upload-pack='{TOUCH};:' . x; true",
    ),
    "upload-pack as a branch to pull": (
        lambda box, repo: box.git.pull(repo, branch=f"--upload-pack={TOUCH}"),
        f"git fetch . --upload-pack='{TOUCH};:'; true",
    ),
    "upload-pack as a remote": (
        lambda box, repo: box.git.pull(repo, remote=f"--upload-pack={TOUCH}"),
        f"git fetch --upload-pack='{TOUCH};:' .; true",
    ),
    "receive-pack as a branch to push": (
        lambda box, repo: box.git.push(repo, branch=f"--receive-pack={TOUCH}"),
        f"git push . --receive-pack='{TOUCH};:' main; true",
    ),
    "configuration as a branch to clone": (
        lambda box, repo: box.git.clone(repo, "x", branch=f"-ccore.fsmonitor={TOUCH}"),
        f"git -c core.fsmonitor='{TOUCH};:' status; true",
    ),
    "a shell in an address": (
        lambda box, repo: box.git.clone(f"$({TOUCH})`{TOUCH}`;{TOUCH}", "x"),
        f'sh -c "git clone $({TOUCH})"; true',
    ),
    "a shell in a branch": (
        lambda box, repo: box.git.checkout_branch(repo, f"$({TOUCH});{TOUCH}"),
        f'sh -c "git checkout $({TOUCH})"; true',
    ),
    "a shell in a path": (
        lambda box, repo: (
            box.git.init(f"{repo}-$({TOUCH});{TOUCH.replace('/', '.')}") or box.git.status("none")
        ),
        f'sh -c "git status $({TOUCH})"; true',
    ),
    "an option as a file": (
        lambda box, repo: box.git.add(repo, [f"--pathspec-from-file={MARK}", "--chmod=+x"]),
        f"{TOUCH}; git add --pathspec-from-file={MARK}; true",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_request_becomes_an_option_or_a_program(box: GitBox, repo: str, name: str) -> None:
    attack, control = ATTACKS[name]
    with pytest.raises(DaytonaError):
        attack(box, repo)
    assert not attacked(box)
    assert box.sh("cat a", repo) == "mine"
    box.sh(control, repo)
    assert attacked(box), "the control does nothing"


#: Options where a revision is expected would throw the changes away.
LOSSES: dict[str, tuple[Callable[[GitBox, str], Any], str]] = {
    "checkout": (lambda box, repo: box.git.checkout_branch(repo, "-f"), "git checkout -q -f"),
    "reset": (lambda box, repo: box.git.reset(repo, mode="keep", target="--hard"), "git reset -q --hard"),
    "restore": (
        lambda box, repo: box.git.restore(repo, ["b"], source="--worktree"),
        "git restore --worktree a",
    ),
    "files": (lambda box, repo: box.git.restore(repo, [":(top)*"]), "git restore ':(top)*'"),
    "glob": (lambda box, repo: box.git.restore(repo, ["*"]), "git restore '*'"),
    "commit": (lambda box, repo: box.git.reset(repo, target="--pathspec-from-file=x"), "git checkout -q a"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_in_a_request_loses_changes(box: GitBox, repo: str, name: str) -> None:
    attack, control = LOSSES[name]
    with pytest.raises(DaytonaError):
        attack(box, repo)
    assert box.sh("cat a", repo) == "mine"
    box.sh(control, repo)
    assert box.sh("cat a", repo) == "one", "the control does nothing"


def test_options_as_configuration_keys(box: GitBox, repo: str) -> None:
    for key in ("--unset-all", "--edit", "-e", "user.secret\n[core]\neditor", f"--file={repo}/.git/config"):
        with pytest.raises(DaytonaBadRequestError):
            box.git.set_config(key, "user.secret", scope="local", path=repo)
    box.git.set_config("user.name", '"\n[core]\n\teditor = evil\n', scope="local", path=repo)
    assert box.sh("git config core.editor; true", repo) == ""
    assert box.sh("git config user.secret", repo) == "kept"
    box.sh("git config --unset-all user.secret", repo)
    assert box.sh("git config user.secret; true", repo) == "", "the control does nothing"


def test_a_configuration_cannot_bring_another_transport(box: GitBox, repo: str) -> None:
    evil = f"'ext::sh -c {TOUCH.replace(' ', '% ')}'"
    box.sh(f"git config protocol.ext.allow always; git config remote.origin.url {evil}", repo)
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        box.git.pull(repo)
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        box.git.push(repo)
    assert not attacked(box)
    box.sh("git fetch; true", repo)
    assert attacked(box), "the control does nothing"
    box.sh("cp .gitconfig saved; git config --global protocol.ext.allow always")
    box.sh(f"git config --global url.{evil}.insteadOf http://safe/")
    with pytest.raises(DaytonaBadRequestError, match="not allowed"):
        box.git.clone("http://safe/", "x")
    assert not attacked(box)
    box.sh("git clone http://safe/ x; true")
    assert attacked(box), "the control does nothing"
    box.sh("mv saved .gitconfig")


def test_options_of_ssh(box: GitBox) -> None:
    box.sh(f"mkdir -p bin; printf '#!/bin/sh\\necho \"$@\" >{MARK}\\nexit 1' >bin/ssh; chmod +x bin/ssh")
    box.git.set_config("core.sshCommand", "/home/daytona/bin/ssh")
    for url in ("ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "ssh://host/-x\ny"):
        with pytest.raises(DaytonaError):
            box.git.clone(url, "x")
        assert not attacked(box)
    with pytest.raises(DaytonaError):
        box.git.clone("ssh://host/y", "x")
    assert attacked(box), "the control does nothing"
    box.git.set_config("core.sshCommand", "ssh")


def test_a_redirection_gets_no_password(box: GitBox) -> None:
    """Nor does a server get what the caller gave for another one."""
    name = box.served()
    box.sh(": >served/log")
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.clone(f"{box.url}/elsewhere/{name}", "redirected", username=box.user, password=box.password)
    log = box.sh("cat served/log")
    assert f"/private/{name}" in log and "Basic" not in log, log
    # Control: a program that answers whoever asks, as is common, tells the other server.
    ask = f"GIT_ASKPASS=/tmp/ask git clone {box.url}/elsewhere/{name} redirected"
    box.sh(f"printf '#!/bin/sh\\necho {box.password}' >/tmp/ask; chmod +x /tmp/ask; {ask}; rm /tmp/ask; true")
    other = box.other.rpartition(":")[2]
    assert re.search(rf"^{other} /private/.* Basic ", box.sh("cat served/log"), re.MULTILINE)


def test_a_hostile_server_cannot_have_the_password_shown(box: GitBox) -> None:
    with pytest.raises(DaytonaForbiddenError) as caught:
        box.git.clone(f"{box.url}/forbidden/x", "x", username=box.user, password=box.password)
    assert "you said" in str(caught.value)
    assert box.password not in str(caught.value)
    assert not re.search(r"Basic [A-Za-z0-9+/=]{8}", str(caught.value))


def test_a_password_cannot_say_more_than_itself(box: GitBox) -> None:
    for username, password in (("a\nhost=evil", "x"), ("a", "x\nquit=1"), ("a\0b", "x"), ("a", "x\ry")):
        with pytest.raises(DaytonaBadRequestError):
            box.git.clone(f"{box.url}/private/x", "x", username=username, password=password)
    odd = " $(touch x) `y` \\n %s 'q\" "
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.clone(f"{box.url}/private/x", "x", username="odd", password=odd)
    assert base64.b64encode(f"odd:{odd}".encode()).decode() in box.sh("tail -n1 served/log")


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


def while_slow(box: GitBox, call: Callable[[], Any], look: Callable[[], Any]) -> None:
    """Run ``call`` in a thread against /slow/; ``look`` while the server waits; then let it go on."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    box.sh(": >served/log")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(
            lambda: "Basic" in box.sh("cat served/log") or failed, "the server has been told the password"
        )
        look()
        time.sleep(0.2)
    finally:
        box.sh("touch served/release")
        thread.join(60)
        box.sh("rm -f served/release")
    assert not failed, failed


def test_a_password_is_nowhere_but_on_its_way(box: GitBox, engine: IsolatedEngine) -> None:
    name = box.served()
    url = f"{box.url}/slow/{name}"
    login = {"username": box.user, "password": box.password}
    seen: list[str] = []

    def look() -> None:
        seen.append(
            box.sh(
                "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; tr '\\0' '\\n' <$p/environ; done 2>&1"
            )
        )
        seen.append(box.sh("ls -l /proc/self/fd /proc/$$/fd"))

    with Watch(box.password) as watch:
        while_slow(box, lambda: box.git.clone(url, "quiet", **login), look)
        box.commit_on_server(name, "echo 2 >a; git commit -qam 2")
        while_slow(box, lambda: box.git.pull("quiet", **login), look)
        box.sh("echo 3 >b; git add b; git commit -qm 3", "quiet")
        while_slow(box, lambda: box.git.push("quiet", **login), look)
    assert watch.rounds > 3
    assert watch.found == set()
    assert not any(box.password in text for text in seen)
    assert not any("socket:" in text for text in seen), "a program of the user's has inherited the socket"
    everywhere = box.sh("grep -rlaF -e $0 . /tmp /dev/shm 2>/dev/null; true".replace("$0", box.password))
    assert everywhere == "", everywhere
    for file in engine.base.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert box.password.encode() not in file.read_bytes(), file
    # Controls: both ways of looking find the password when an ordinary git is given it in its address.
    raw = url.replace("://", f"://{box.user}:{box.password}@")
    with Watch(box.password) as watch:
        while_slow(box, lambda: box.sh(f"git clone -q {raw} loud"), look)
    assert any("git-remote-http" in found for found in watch.found)
    assert "loud/.git/config" in box.sh(f"grep -rlaF -e {box.password} .; true")


def test_an_address_with_a_password_is_in_no_command_line(box: GitBox) -> None:
    """It is kept in the configuration, because that is where the caller put it."""
    name = box.served()
    url = f"{box.url}/slow/{name}".replace("://", f"://{box.user}:{box.password}@")
    with Watch(box.password) as watch:
        while_slow(box, lambda: box.git.clone(url, "kept"), lambda: None)
        while_slow(box, lambda: box.git.pull("kept"), lambda: None)
        box.sh("git commit -q --allow-empty -m x", "kept")
        while_slow(box, lambda: box.git.push("kept"), lambda: None)
        while_slow(box, lambda: box.git.remote_add("kept", "two", url, fetch=True), lambda: None)
        box.git.set_config("http.extraHeader", f"X: {box.password}", scope="local", path="kept")
        box.git.dangerously_authenticate(box.user, box.password, host="example.org")
    assert watch.found == set()
    assert box.sh(f"grep -rlaF -e {box.password} kept") == "kept/.git/config"
    with pytest.raises(DaytonaBadRequestError, match="visible"):
        box.git.set_config(f"url.{url}.insteadOf", "x")
    box.sh("rm .git-credentials; git config --global --unset credential.helper")


@pytest.mark.parametrize("level", ["L2", "L1"])
def test_lower_levels(level: str) -> None:
    """The same holds where command lines of other sandboxes can be read, and nothing is mounted."""
    with isolated_engine(DAYTONA_MAGICS_ISOLATION=level) as engine:
        client = Daytona(engine.config())
        sandbox = client.create()
        box = GitBox(sandbox, engine)
        box.serve()
        name = box.served()
        login = {"username": box.user, "password": box.password}
        with Watch(box.password) as watch:
            while_slow(box, lambda: box.git.clone(f"{box.url}/slow/{name}", "quiet", **login), lambda: None)
            box.sandbox.fs.upload_file(b"two", "quiet/a")
            box.git.add("quiet", ["."])
            box.git.commit("quiet", "two", "A", "a@x")
            while_slow(box, lambda: box.git.push("quiet", **login), lambda: None)
            url = f"{box.url}/slow/{name}".replace("://", f"://{box.user}:{box.password}@")
            while_slow(box, lambda: box.git.clone(url, "kept"), lambda: None)
            while_slow(box, lambda: box.git.pull("kept"), lambda: None)
        assert watch.found == set()
        assert watch.rounds > 3
        assert box.sh("git log --format=%s", "kept").split() == ["two", "one"]
        client.delete(sandbox)
