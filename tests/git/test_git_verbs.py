"""``%sandbox_git`` in a real kernel: the verbs, what they draw, and what they say when git refuses."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.git import stopping
from tests.engine_process import wait_until
from tests.git.conftest import House
from tests.kernel_client import Cell

pytestmark = pytest.mark.shard_group("verbs and awkward repositories")

ATTACK = "<img src=x onerror=alert(1)>\x1b[2J"


def was_interrupted(cell: Cell) -> bool:
    """It says that git was told to end; on a busy machine that it still is being told."""
    said = str(cell)
    return "git in the sandbox was told to stop" in said or "clean-up goes on in the background" in said


def html_of(cell: Cell) -> str:
    return str(cell.bundles("execute_result")[-1]["text/html"])


def test_from_nothing_to_a_commit(house: House) -> None:
    house.hub.sh("mkdir fresh; cd fresh; git init -q; echo 1 >a; mkdir 'sub dir'; echo 2 >'sub dir/nä'")
    assert "On main, no commits yet, following no remote branch" in house.git("status -C fresh")
    assert "No commits yet" in house.git("log -C fresh") and "No branches yet" in house.git(
        "branches -C fresh"
    )
    assert "nothing is committed yet" in house.refused("push -C fresh")
    assert "2 files staged" in house.git("add . -C 'fresh/sub dir'")
    made = house.ok("%%sandbox_git commit -C fresh\n\nFirst\n\nWhy: `$HOME` {x} '\"\n")
    assert "First" in str(made.result)
    assert house.hub.sh("git log --format=%B%an%ae", "fresh") == (
        "First\n\nWhy: `$HOME` {x} '\"\nTestertester@example.org"
    )
    assert "Nothing to commit" in house.git("status -C fresh")
    assert "there is nothing to commit" in house.refused("commit -m x -C fresh")


def test_what_changed_is_grouped_and_drawn(house: House) -> None:
    path = house.hub.repository("echo b >b", "echo c >c", "git add .", "git commit -qm more")
    house.hub.sh(f"cd {path}; echo two >>a; git add a; echo three >>a; rm b; git mv c d; echo x >new")
    cell = house.ok(f"%sandbox_git status -C {path}")
    shown = str(cell.result)
    assert [line for line in shown.splitlines() if line[:1] == " "] == [
        "  M  a",
        "  R  c → d",
        "  M  a",
        "  D  b",
        "  ?  new",
    ]
    assert "Staged (2)" in shown and "Changed, not staged (2)" in shown and "Not tracked (1)" in shown
    assert "<details open" in html_of(cell) and "Changed, not staged" in html_of(cell)
    assert "nothing is staged" in house.refused(f"commit -m x -C {house.hub.repository('echo 2 >a')}")
    found = house.ok(f"found = %sandbox_git status -C {path}\n[found.branch, len(found), found.ahead]")
    assert found.result == "['main', 4, 0]"
    assert "+three" in house.git(f"diff -C {path}") and "+two" in house.git(f"diff --staged -C {path}")
    assert "a | 1 +" in house.git(f"diff --stat -C {path} -- a")
    assert "No difference" in house.git(f"diff -C {path} -- d")
    house.git(f"restore b -C {path}")
    house.git(f"reset -C {path} -- a d c")
    assert house.hub.sh("cat b; git status --porcelain", path).split("\n") == [
        "b",
        " M a",
        " D c",
        "?? d",
        "?? new",
    ]
    assert "On main" in house.git(f"reset --hard -C {path}")
    assert house.hub.sh("git status --porcelain", path) == "?? d\n?? new"


def test_what_comes_from_the_sandbox_only_shows_itself(house: House) -> None:
    path = house.hub.repository("mkdir x")
    house.hub.sandbox.fs.upload_file(ATTACK.encode() * 3, f"{path}/a")
    house.hub.sh(f"cd {path}; touch '{ATTACK}'; git add .; git commit -qm '{ATTACK}'; echo y >>'{ATTACK}'")
    for line in ("status", "diff HEAD~1", "log", "branches", "status"):
        cell = house.ok(f"%sandbox_git {line} -C {path}")
        assert "<img" not in html_of(cell) and "\x1b" not in html_of(cell) and "\x1b" not in str(cell.result)
        assert "&lt;img" in html_of(cell), "the attack is in what is shown"


def test_a_huge_difference_is_bounded(house: House) -> None:
    path = house.hub.repository()
    house.hub.sh("seq 300000 >a; for i in $(seq 300); do seq 50 >f$i; done; git add -N .", path)
    cell = house.ok(f"%sandbox_git diff -C {path}")
    assert len(html_of(cell)) < 1_500_000 and len(str(cell.result)) < 300_000
    assert "lines are not shown" in str(cell.result) and "only its beginning" in str(cell.result)
    long = house.hub.repository()
    house.hub.sh("head -c 900000 /dev/zero | tr '\\0' x >a", long)
    assert "more characters" in house.git(f"diff -C {long}")


def test_branches_and_a_merge_with_conflicts(house: House) -> None:
    path = house.hub.repository()
    house.git(f"branch dev -C {path}")
    house.hub.sh(
        "echo dev >a; git commit -qam dev; git checkout -q main; echo main >a; git commit -qam main", path
    )
    said = house.refused(f"merge dev -C {path}")
    assert "there are conflicts in a" in said and "%sandbox_git merge --abort" in said
    shown = house.git(f"status -C {path}")
    assert "Conflicts (1)" in shown and "A merge is under way" in shown
    assert "there are conflicts in a" in house.refused(f"commit -m no -C {path}")
    house.git(f"merge --abort -C {path}")
    assert house.hub.sh("git status --porcelain; cat a", path) == "main"
    assert "no merge is under way" in house.refused(f"merge --abort -C {path}")
    house.refused(f"merge dev -C {path}")
    house.hub.sh("echo both >a", path)
    house.git(f"add a -C {path}")
    house.git(f"commit -m joined -C {path}")
    assert house.hub.sh("git log --format=%s -1; git rev-list --count HEAD", path) == "joined\n4"
    assert "dev" in house.git(f"log -n 1 dev -C {path}")
    house.git(f"branch -d dev -C {path}")
    house.git(f"checkout -b alone -C {path}")
    house.hub.sh("echo z >z; git add z; git commit -qm z; git checkout -q main", path)
    assert "has commits that are on no other branch" in house.refused(f"branch -d alone -C {path}")
    house.git(f"branch -d --force alone -C {path}")
    assert house.hub.sh("git branch --format='%(refname:short)'", path) == "main"
    assert "already exists" in house.refused(f"branch main -C {path}")
    assert "detached" in house.git(f"checkout HEAD~1 -C {path}")
    assert "HEAD is detached" in house.refused(f"push -C {path}")
    assert "HEAD is detached" in house.refused(f"pull -C {path}")


def test_the_repository_is_the_one_around_the_cells(house: House) -> None:
    outer = house.hub.repository("mkdir -p deep/er", "git init -q deep/nested")
    house.ok(f"%%sandbox\n%cd ~/{outer}/deep/er")
    assert f"/{outer})" in house.git("status")
    house.ok(f"%%sandbox\n%cd ~/{outer}/deep/nested")
    assert "deep/nested)" in house.git("status"), "the innermost one, as git sees it"
    house.ok("%%sandbox\n%cd ~")
    house.ok(f"%%sandbox bash\ncd ~/{outer}/deep")
    assert f"/{outer})" in house.git("status"), "bash cells are cells, too"
    house.ok(f"%%sandbox\n%cd ~/{outer}/deep/nested")
    assert "deep/nested)" in house.git("status")
    house.ok("%%sandbox bash\ntrue")
    assert f"/{outer})" in house.git("status"), "the newest cell decides"
    house.ok("%%sandbox bash\ncd ~")
    house.ok("%%sandbox\n%cd ~")
    assert "there is no folder" in house.refused("status -C nowhere")
    assert "is in no git repository" in house.refused("status -C /tmp")
    assert "inside of git's own folder" in house.refused(f"status -C {outer}/.git")
    assert f"/{outer})" in house.git(f"status -C ~/{outer} -s git-tests")
    assert "one sandbox at a time" in house.refused("status -s a,b")


def test_with_a_server(house: House) -> None:
    hub, name = house.hub, house.hub.served()
    url = f"{hub.url}/private/{name}"
    house.login(False)
    assert "credentials" in house.refused(f"clone {url} denied")
    assert hub.sh("ls -d denied 2>&1", code=2)
    house.login()
    assert "certificate is not checked" in house.git(f"clone --insecure-skip-tls {url} unchecked")
    said = house.git(f"clone {url} mine")
    assert "On main, following origin/main: in step" in said
    assert "logged in at http://127.0.0.1:" in said and "with git's credential helper" in said
    assert "mine)" in house.git("status"), "the last clone, where the cells are in none"
    house.git("branch topic")
    house.hub.sh("echo 2 >>a; git commit -qam two", "mine")
    assert "follows no branch" in house.refused("pull")
    assert "it now follows origin/topic" in house.git("push")
    assert "in step" in house.git("status")
    assert hub.sh(f"git -C served/{name} log --format=%s topic -1") == "two"
    house.git("checkout main")
    hub.commit_on_server(name, "git checkout -q main", "echo 3 >b", "git add b", "git commit -qm three")
    assert "1 to pull" in house.git("fetch")
    hub.sh("echo 4 >>a; git commit -qam four", "mine")
    said = house.refused("push")
    assert "%sandbox_git pull" in said
    assert "commits of their own" in house.refused("pull")
    house.git("merge origin/main")
    assert "pushed main to origin" in house.git("push")
    hub.commit_on_server(name, "git checkout -q main", "echo 5 >b", "git commit -qam five")
    assert "pulled 1 commit from origin" in house.git("pull")
    assert "already up to date" in house.git("pull")
    assert "ada" in house.git("credentials") and "credential helper" in house.git("credentials")
    hub.sh(
        f"cd served/{name}/hooks; printf '#!/bin/sh\\necho protected branch; exit 1\\n' >pre-receive; "
        "chmod +x pre-receive"
    )
    hub.sh("echo 6 >>a; git commit -qam six", "mine")
    said = house.refused("push")
    assert "protected branch" in said and "a branch of your own" in said
    assert hub.password not in hub.sh("cat .git/config .git/logs/HEAD ~/.gitconfig", "mine")


def test_all_branches_of_the_remote(house: House) -> None:
    """A clone knows all of them, and one that is newer than the clone is asked for."""
    hub = house.hub
    house.login()
    name = hub.served("git branch -m main", "git branch other", "git branch third")
    house.git(f"clone {hub.url}/private/{name} all")
    assert hub.sh("git branch -r --format='%(refname:short)'", "all").split("\n")[-3:] == [
        "origin/main",
        "origin/other",
        "origin/third",
    ]
    assert "On other, following origin/other: in step" in house.git("checkout other -C all")
    hub.commit_on_server(
        name,
        "git checkout -q -b late",
        "echo 3 >b",
        "git add b",
        "git commit -qm late; git push -q -u origin late",
    )
    said = house.git("checkout late -C all")
    assert "late was not known here and came from origin" in said and "following origin/late: in step" in said
    assert hub.sh("cat b", "all") == "3"
    assert "nowhere" in house.refused("checkout nowhere -C all")
    assert "%sandbox_git branches" in house.refused("checkout 'no*where' -C all")
    house.git(f"clone --depth 1 {hub.url}/private/{name} one")
    assert hub.sh("git branch -r --format='%(refname:short)'", "one").split("\n")[-1] == "origin/main"
    assert "following origin/third: in step" in house.git("checkout third -C one")
    house.login(False)
    assert "credentials" in house.refused("checkout unknown -C one"), "no login, no answer"


#: A commit whose message has the words, a person's fetch in a terminal, and the fetch that is to be ended.
GITS = """cd REPO
export GIT_EDITOR='touch ../writing; sleep 300 #'
git commit --allow-empty -e -m 'fetch and merge' >/dev/null 2>&1 & echo $! >../pids
fetch="'git', '-c', 'protocol.ext.allow=always', 'fetch', 'ext::sleep 301'"
python3 -c "import pty; pty.spawn([$fetch])" </dev/null >/dev/null 2>&1 &
cd /
git -c a.b='x
y' -c protocol.ext.allow=always -C ~/REPO fetch 'ext::sleep 302' >/dev/null 2>&1 & echo $! >>~/pids
"""
#: Whether a program with this argument runs.
RUNS = "grep -sqzx '{}' /proc/[0-9]*/cmdline"


def test_only_the_call_that_was_interrupted_is_ended(house: House) -> None:
    path = house.hub.repository()
    house.hub.sh(GITS.replace("REPO", path))
    for seconds in ("[3]01", "[3]02"):
        house.hub.until(RUNS.format(seconds), "it waits for its remote")
    house.hub.until("test -e writing", "the commit waits for its message")

    async def exec_(command: str, timeout: int) -> Any:
        return house.hub.sandbox.process.exec(command, timeout=timeout)

    sandbox: Any = SimpleNamespace(process=SimpleNamespace(exec=exec_))
    ended = partial(stopping._end, sandbox, f"/home/daytona/{path}")
    assert asyncio.run(ended(("push", "pull"))) == 0
    assert asyncio.run(ended(("fetch", "merge", "rebase"))) == 1
    committing, ours = house.hub.sh("cat pids").split()
    house.hub.until(f"! test -e /proc/{ours}/cwd", "it has ended")
    house.hub.sh(f"test -e /proc/{committing}/cwd && {RUNS.format('[3]01')}")
    assert asyncio.run(ended(("commit",))) == 1
    left = "for one in /proc/[0-9]*; do grep -sqzx '30[012]' $one/cmdline && kill ${one#/proc/}; done; true"
    house.hub.sh(left)


def test_a_push_that_is_interrupted_is_ended_and_made_again(house: House) -> None:
    hub = house.hub
    house.login()
    name = hub.served("git branch -m main")
    hub.sh("touch served/release")
    house.git(f"clone {hub.url}/slow/{name} cut")
    hub.sh("echo 2 >>a; git commit -qam two", "cut")
    hub.sh("rm served/release; : >served/log")
    sent = house.kernel.send("%sandbox_git push -C cut", allow_stdin=False)
    hub.until("grep -q 'receive-pack.* Basic' served/log", "the push has begun")
    house.kernel.interrupt()
    cell = house.kernel.finish(sent, timeout=90)
    assert was_interrupted(cell), cell
    hub.until("! grep -sqzx '[p]ush' /proc/[0-9]*/cmdline", "git has ended")
    hub.sh("touch served/release")
    there = f"git -C served/{name} log --format=%s main"
    assert hub.sh(there) == "one" and hub.sh(f"find cut/.git served/{name} -name '*.lock'") == ""
    assert "pushed main to origin" in house.git("push -C cut")
    assert hub.sh(there) == "two\none"


def test_remotes_and_settings(house: House) -> None:
    path = house.hub.repository()
    assert "No remotes" in house.git(f"remote -C {path}")
    assert "%sandbox_git remote add" in house.refused(f"push -C {path}")
    house.git(f"remote add origin https://example.invalid/x.git -C {path}")
    assert "https://example.invalid/x.git" in house.git(f"remote -C {path}")
    assert "already exists" in house.refused(f"remote add origin https://example.invalid/y.git -C {path}")
    assert "saved in the notebook" in house.refused(
        f"remote add two https://u:pw@example.invalid/x -C {path}"
    )
    assert "saved in the notebook" in house.refused("clone https://u:pw@example.invalid/x")
    assert "example.invalid" in house.git(f"credentials -C {path}")
    house.git(f"remote remove origin -C {path}")
    house.git(f"config --local notes.mine 'a b' -C {path}")
    assert "a b" in house.git(f"config notes.mine -C {path}")
    assert "looks like a key" in house.refused(f"config http.token ghp_0123456789abcdef0123 -C {path}")
    assert "no such variable" in house.refused(
        f"fetch --token-env NO_SUCH -C {house.hub.clone(house.hub.served())}"
    )


def test_the_box_that_asks_shows_nothing_and_remembers(house: House) -> None:
    """Where this machine has no login the person is asked, once for the kernel."""
    hub = house.hub
    url = f"{hub.url}/private/{hub.served()}"
    house.login(False)
    asked: list[tuple[str, bool]] = []
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                question = house.kernel.client.get_stdin_msg(timeout=0.2)["content"]
            except queue.Empty:
                continue
            asked.append((question["prompt"], question["password"]))
            house.kernel.client.input(hub.password if question["password"] else hub.user)

    listener = threading.Thread(target=listen)
    listener.start()
    house.asks = True
    try:
        said = house.git(f"clone {url} asked")
        house.git("fetch -C asked")
    finally:
        house.asks = False
        ended.set()
        listener.join()
    assert [secret for _, secret in asked] == [False, True], asked
    assert "with what was typed" in said
    assert "what was typed" in house.git("credentials -C asked")
    assert "1 typed login forgotten" in house.git("credentials --forget")
    refused = house.kernel.run("%sandbox_git fetch -C asked", allow_stdin=False)
    assert refused.ename == "GitError" and "credentials" in refused.traceback
    house.login()


@pytest.mark.parametrize("verb", ["status", "push", "log"])
def test_a_cell_below_a_verb_that_reads_none_is_refused(house: House, verb: str) -> None:
    cell = house.kernel.run(f"%%sandbox_git {verb}\nrm -rf /")
    assert cell.ename == "SandboxUsageError" and "only commit and pr do" in cell.traceback


def test_tab_offers_branches(house: House) -> None:
    served = house.hub.served()
    house.git(f"clone {house.hub.url}/public/{served} tab")
    house.hub.sh("git branch feature", "tab")
    for line in ("checkout ", "diff ", "merge --into "):
        wanted = {"main", "feature", "origin/main"}
        wait_until(partial(_offers, house, line, wanted), f"branches are offered after {line}", 60)
    path = house.hub.repository("git branch elsewhere")
    line = f"checkout -C ~/{path} "
    wait_until(partial(_offers, house, line, {"elsewhere"}), "those of another repository", 60)
    assert not _offers(house, line, {"feature"})


def _offers(house: House, line: str, wanted: set[str]) -> bool:
    return wanted <= set(house.kernel.complete(f"%sandbox_git {line}", timeout=60))
