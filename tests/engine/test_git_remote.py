"""Git with a server: a real one (git http-backend with basic authentication) inside the sandbox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from daytona import CreateSandboxFromSnapshotParams
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaForbiddenError,
    DaytonaGitAuthFailedError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitDirtyWorktreeError,
    DaytonaGitMergeConflictError,
    DaytonaGitPushRejectedError,
    DaytonaGitRemoteRejectedError,
    DaytonaGitRepoNotFoundError,
    DaytonaGitTransportFailedError,
    DaytonaNotFoundError,
)

from tests.engine_process import IsolatedEngine, wait_until
from tests.git_box import GitBox


@pytest.fixture(scope="module")
def box(daytona: Any, engine: IsolatedEngine) -> Iterator[GitBox]:
    made = daytona.create()
    found = GitBox(made, engine)
    found.serve()
    yield found
    daytona.delete(made)


@pytest.fixture(scope="module")
def served(box: GitBox) -> str:
    """A repository on the server that nobody changes: main with two commits, a branch, a tag, odd names."""
    return box.served(
        "echo two >a; git commit -qam two; git tag v1 HEAD~1; git checkout -qb dev",
        "echo dev >'näme'; git add .; git commit -qm dev; git checkout -q main",
    )


def test_clone(box: GitBox, served: str) -> None:
    path = box.clone(served)
    found = box.status(path)
    assert (found.current_branch, found.upstream, found.branch_published) == ("main", "origin/main", True)
    assert (found.ahead, found.behind, found.file_status) == (0, 0, [])
    assert box.sh("cat a; git branch -a --format='%(refname)'", path).split() == [
        "two",
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/main",
    ]
    box.git.clone(f"{box.url}/public/{served}", "deep/er/public", branch="dev")
    assert box.status("deep/er/public").current_branch == "dev"
    assert box.sh("ls", "deep/er/public").split("\n") == ["a", "näme"]
    box.sh("mkdir -p empty-folder")
    box.git.clone(f"{box.url}/public/{served}", "/home/daytona/empty-folder", branch="v1")
    assert box.status("empty-folder").detached


def test_clone_of_a_commit(box: GitBox, served: str) -> None:
    url = f"{box.url}/public/{served}"
    old, dev = box.sh(f"git -C served/{served} rev-parse main~1 dev").split()
    for name, commit in (("full", old), ("short", old[:8]), ("of-a-branch", dev), ("short-branch", dev[:8])):
        box.git.clone(url, f"commit-{name}", commit_id=commit)
        assert box.sh("git rev-parse HEAD", f"commit-{name}") in (old, dev)
        assert box.status(f"commit-{name}").detached
    for missing in ("0" * 40, "abcdef12", "no-such-tag"):
        with pytest.raises(DaytonaNotFoundError, match="no commit"):
            box.git.clone(url, "commit-missing", commit_id=missing)
        assert box.sh("ls -d commit-missing", code=2), "nothing is left of a failed clone"


def test_shallow_clone(box: GitBox, served: str) -> None:
    box.git.clone(f"{box.url}/public/{served}", "shallow", depth=1)
    assert box.sh("git rev-list --count HEAD; git rev-parse --is-shallow-repository", "shallow") == "1\ntrue"
    assert len(box.both("GitCommitInfo", "history", path="shallow")) == 1
    old = box.sh(f"git -C served/{served} rev-parse main~1")
    box.git.clone(f"{box.url}/public/{served}", "shallow-commit", depth=1, commit_id=old)
    assert box.sh("git rev-parse HEAD", "shallow-commit") == old


def test_clone_of_an_empty_repository(box: GitBox) -> None:
    box.git.init("served/empty.git", bare=True, initial_branch="trunk")
    path = box.clone("empty.git", "public")
    found = box.status(path)
    assert (found.current_branch, found.file_status, found.branch_published) == ("trunk", [], False)
    box.sandbox.fs.upload_file(b"1", f"{path}/a")
    box.git.add(path, ["."])
    box.git.commit(path, "first", "A", "a@x")
    box.git.push(path, box.user, box.password)
    assert box.status(path).branch_published
    second = box.clone("empty.git")
    assert box.sh("git log --format=%s", second) == "first"


def test_clone_failures_have_their_classes(box: GitBox, served: str) -> None:
    login = {"username": box.user, "password": box.password}
    private = f"{box.url}/private/{served}"
    cases: list[tuple[type[DaytonaError], str, dict[str, Any]]] = [
        (DaytonaGitAuthFailedError, private, {}),
        (DaytonaGitAuthFailedError, private, {"username": box.user}),
        (DaytonaGitAuthFailedError, private, {**login, "password": "wrong"}),
        (DaytonaGitRepoNotFoundError, f"{box.url}/private/none.git", login),
        (DaytonaGitRepoNotFoundError, f"{box.url}/public/none.git", {}),
        (DaytonaGitRepoNotFoundError, "/home/daytona/none", {}),
        (DaytonaGitBranchNotFoundError, private, {**login, "branch": "none"}),
        (DaytonaForbiddenError, f"{box.url}/forbidden/{served}", {}),
        (DaytonaGitTransportFailedError, "http://127.0.0.1:9/x.git", login),
        (DaytonaGitTransportFailedError, "https://no-such-host.invalid/x.git", {}),
        (DaytonaGitTransportFailedError, "git://127.0.0.1:9/x.git", {}),
    ]
    for error, url, arguments in cases:
        if "forbidden" in url:
            arguments = login
        with pytest.raises(error) as caught:
            box.git.clone(url, "failed", **arguments)
        assert type(caught.value) is error, f"{url}: {caught.value!r}"
        assert box.password not in str(caught.value)
        assert box.sh("ls -d failed", code=2), "nothing is left of a failed clone"
    box.sh("mkdir full; touch full/x")
    with pytest.raises(DaytonaConflictError, match="not an empty directory"):
        box.git.clone(private, "full", **login)
    assert box.sh("ls full") == "x"
    with pytest.raises(DaytonaConflictError):
        box.git.clone(private, "full/x", **login)


def test_a_login_in_the_address(box: GitBox, served: str) -> None:
    """It is used and kept as git does, so later commands work; listings and messages do not show it."""
    address = f"{box.url.replace('://', f'://{box.user}:{box.password}@')}/private/{served}"
    box.git.clone(address, "inside")
    assert box.sh("git remote get-url origin", "inside") == address
    assert box.git.remote_get("inside", "origin") == address.replace(f":{box.password}", "")
    box.git.pull("inside")
    box.git.remote_add("inside", "second", address, fetch=True)
    assert box.sh("git rev-parse second/main origin/main | uniq | wc -l", "inside") == "1"
    with pytest.raises(DaytonaGitAuthFailedError) as caught:
        box.git.pull("inside", username="eve", password="guess")
    assert box.password not in str(caught.value) and "guess" not in str(caught.value)
    with pytest.raises(DaytonaBadRequestError) as refused:
        box.git.clone(f"bad://u:{box.password}@x/y", "z")
    assert box.password not in str(refused.value)


def test_push(box: GitBox) -> None:
    name = box.served()
    path = box.clone(name)
    box.sandbox.fs.upload_file(b"1\n", f"{path}/b")
    box.git.add(path, ["b"])
    box.git.commit(path, "b", "A", "a@x")
    assert (box.status(path).ahead, box.status(path).behind) == (1, 0)
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.push(path)
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.push(path, box.user, "wrong")
    box.git.push(path, box.user, box.password)
    assert box.status(path).ahead == 0
    box.git.create_branch(path, "feature/x")
    assert (box.status(path).branch_published, box.status(path).upstream) == (False, "")
    box.git.push(path, box.user, box.password)
    assert not box.status(path).branch_published
    box.git.push(path, box.user, box.password, set_upstream=True)
    assert box.status(path).upstream == "origin/feature/x"
    assert box.sh(f"git -C served/{name} log --format=%s feature/x").split("\n") == ["b", "one"]
    box.sh("git branch third", path)
    box.git.push(path, box.user, box.password, branch="third", remote="origin")
    assert box.sh(f"git -C served/{name} branch --list third").strip() == "third"
    for error, arguments in (
        (DaytonaGitBranchNotFoundError, {"branch": "none"}),
        (DaytonaNotFoundError, {"remote": "none"}),
        (DaytonaBadRequestError, {"branch": "+main:main"}),
        (DaytonaBadRequestError, {"remote": box.url}),
    ):
        with pytest.raises(error):
            box.git.push(path, box.user, box.password, **arguments)
    box.git.checkout_branch(path, "HEAD~0")
    with pytest.raises(DaytonaGitBranchNotFoundError, match="detached"):
        box.git.push(path, box.user, box.password)


def test_rejected_pushes(box: GitBox) -> None:
    name = box.served()
    path = box.clone(name)
    box.commit_on_server(name, "echo theirs >c; git add c; git commit -qm theirs")
    box.sh("echo ours >c; git add c; git commit -qm ours", path)
    with pytest.raises(DaytonaGitPushRejectedError, match="fetch first"):
        box.git.push(path, box.user, box.password)
    box.sh(f"git fetch -q ../served/{name}", path)
    with pytest.raises(DaytonaGitPushRejectedError, match="rejected"):
        box.git.push(path, box.user, box.password)
    hook = f"served/{name}/hooks/pre-receive"
    box.sh(f"printf '#!/bin/sh\\necho protected branch: ask Ada >&2; exit 1\\n' >{hook}; chmod +x {hook}")
    box.git.create_branch(path, "protected")
    with pytest.raises(DaytonaGitRemoteRejectedError, match="protected branch: ask Ada"):
        box.git.push(path, box.user, box.password)


def test_pull(box: GitBox) -> None:
    name = box.served()
    path = box.clone(name)
    box.commit_on_server(name, "echo two >a; git commit -qam two")
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.pull(path)
    box.git.pull(path, box.user, box.password)
    assert box.sh("cat a; git log --format=%s", path).split() == ["two", "two", "one"]
    box.git.pull(path, box.user, box.password)
    box.commit_on_server(
        name,
        "git checkout -qb other; echo three >a; git commit -qam three; git push -q origin other:other",
        "git checkout -q main",
    )
    box.git.pull(path, box.user, box.password, branch="other", remote="origin")
    assert box.sh("cat a", path) == "three"
    assert box.status(path).ahead == 1
    for error, arguments in (
        (DaytonaGitBranchNotFoundError, {"branch": "none"}),
        (DaytonaNotFoundError, {"remote": "none"}),
        (DaytonaBadRequestError, {"branch": "a:b"}),
    ):
        with pytest.raises(error):
            box.git.pull(path, box.user, box.password, **arguments)
    box.git.checkout_branch(path, "HEAD~0")
    with pytest.raises(DaytonaGitBranchNotFoundError, match="detached"):
        box.git.pull(path, box.user, box.password)


def test_pull_does_not_lose_anything(box: GitBox) -> None:
    name = box.served()
    path = box.clone(name)
    box.commit_on_server(name, "echo theirs >a; git commit -qam theirs")
    box.sandbox.fs.upload_file(b"mine\n", f"{path}/a")
    with pytest.raises(DaytonaGitDirtyWorktreeError, match="a"):
        box.git.pull(path, box.user, box.password)
    assert box.sandbox.fs.download_file(f"{path}/a") == b"mine\n"
    assert (box.status(path).ahead, box.status(path).behind) == (0, 1)
    box.git.add(path, ["a"])
    box.git.commit(path, "mine", "A", "a@x")
    # Two branches with commits of their own: refused, unless the configuration says what to do.
    with pytest.raises(DaytonaGitMergeConflictError, match=r"pull\.rebase"):
        box.git.pull(path, box.user, box.password)
    assert box.files(path) == {}
    assert (box.status(path).ahead, box.status(path).behind) == (1, 1)
    box.git.set_config("pull.rebase", "false", scope="local", path=path)
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.pull(path, box.user, box.password)
    assert box.files(path) == {"a": ("Updated but unmerged", "Updated but unmerged")}
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.pull(path, box.user, box.password)
    box.git.reset(path, mode="hard")
    box.git.set_config("pull.rebase", "true", scope="local", path=path)
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.pull(path, box.user, box.password)
    box.sh("git rebase --abort", path)
    box.commit_on_server(name, "git reset -q --hard HEAD~1; echo x >b; git add b; git commit -qm forced")
    box.git.pull(path, box.user, box.password)
    assert box.sh("git log --format=%s", path).split() == ["mine", "forced", "one"]


def test_an_upstream_that_was_forced(box: GitBox) -> None:
    name = box.served("echo two >a; git commit -qam two")
    path = box.clone(name)
    box.commit_on_server(name, "git reset -q --hard HEAD~1; echo other >a; git commit -qam other")
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.pull(path, box.user, box.password)
    assert (box.status(path).ahead, box.status(path).behind) == (1, 1)
    box.git.reset(path, mode="hard", target="origin/main")
    assert box.sh("cat a", path) == "other"


def test_branches_of_a_remote_can_be_checked_out(box: GitBox) -> None:
    name = box.served("git branch dev")
    path = box.clone(name)
    with pytest.raises(DaytonaGitBranchNotFoundError):
        box.git.checkout_branch(path, "dev")
    box.git.remote_add(path, "all", f"{box.url}/public/{name}", fetch=True)
    box.git.checkout_branch(path, "dev")
    assert (box.status(path).upstream, box.status(path).detached) == ("all/dev", False)


def test_stored_credentials_are_used_and_given_ones_are_not_stored(box: GitBox) -> None:
    name = box.served()
    host = box.url.partition("://")[2]
    box.git.set_config("credential.helper", "store")
    path = box.clone(name)
    assert box.sh("cat .git-credentials 2>/dev/null; true") == ""
    # Control: an ordinary git in the sandbox does store what it is given.
    box.sh(f"git ls-remote -q http://{box.user}:{box.password}@{host}/private/{name} >/dev/null")
    assert box.password in box.sh("cat .git-credentials")
    box.sh("rm .git-credentials; git config --global --unset credential.helper")
    with pytest.raises(DaytonaGitAuthFailedError):
        box.git.pull(path)
    box.git.dangerously_authenticate(box.user, box.password, host=host, protocol="http")
    assert box.sh("stat -c %a .git-credentials") == "600"
    box.git.pull(path)
    box.git.clone(f"{box.url}/private/{name}", "by-stored")
    box.sh("rm .git-credentials; git config --global --unset credential.helper")


@pytest.mark.skipif(not shutil.which("openssl"), reason="a certificate is made by openssl, which is missing")
def test_a_certificate_of_ones_own(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create()
    box = GitBox(sandbox, engine)
    box.serve(certificate=True)
    url = f"{box.other}/private/{box.served()}"
    login = {"username": box.user, "password": box.password}
    with pytest.raises(DaytonaGitTransportFailedError, match="certificate"):
        box.git.clone(url, "verified", **login)
    assert box.password not in box.sh("cat served/log"), "nothing was said to a server that is not verified"
    box.git.clone(url, "insecure", insecure_skip_tls=True, **login)
    # For that call only.
    with pytest.raises(DaytonaGitTransportFailedError, match="certificate"):
        box.git.pull("insecure", **login)
    daytona.delete(sandbox)


def test_a_server_that_falls_silent(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(env_vars={"GIT_HTTP_LOW_SPEED_TIME": "1"}))
    box = GitBox(sandbox, engine)
    box.serve()
    with pytest.raises(DaytonaGitTransportFailedError, match="too slow"):
        box.git.clone(f"{box.url}/stalled/x.git", "stalled")
    daytona.delete(sandbox)


def test_a_client_that_gives_up_does_not_stop_the_clone(box: GitBox) -> None:
    """The SDK says so of ``request_timeout``. What the engine itself gives up is ended, see the toolbox's."""
    name = box.served()
    box.sh("rm -f served/release")
    login = {"username": box.user, "password": box.password}
    with pytest.raises(DaytonaError):
        box.git.clone(f"{box.url}/slow/{name}", "patient", **login, request_timeout=1)
    box.sh("touch served/release")
    wait_until(lambda: box.sh("cat patient/a 2>/dev/null; true") == "one", "the clone is finished")
