"""Git with a server: a real one (git http-backend with basic authentication) inside the sandbox."""

from __future__ import annotations

import shutil
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
def served(hub: GitBox) -> str:
    """A repository on the server that nobody changes: main with two commits, a branch, a tag, odd names."""
    return hub.served(
        "echo two >a; git commit -qam two; git tag v1 HEAD~1; git checkout -qb dev",
        "echo dev >'näme'; git add .; git commit -qm dev; git checkout -q main",
    )


def test_clone(hub: GitBox, served: str) -> None:
    path = hub.clone(served)
    found = hub.status(path)
    assert (found.current_branch, found.upstream, found.branch_published) == ("main", "origin/main", True)
    assert (found.ahead, found.behind, found.file_status) == (0, 0, [])
    assert hub.sh("cat a; git branch -a --format='%(refname)'", path).split() == [
        "two",
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/main",
    ]
    hub.git.clone(f"{hub.url}/public/{served}", "deep/er/public", branch="dev")
    assert hub.status("deep/er/public").current_branch == "dev"
    assert hub.sh("ls", "deep/er/public").split("\n") == ["a", "näme"]
    hub.sh("mkdir -p empty-folder")
    hub.git.clone(f"{hub.url}/public/{served}", "/home/daytona/empty-folder", branch="v1")
    assert hub.status("empty-folder").detached


def test_clone_of_a_commit(hub: GitBox, served: str) -> None:
    url = f"{hub.url}/public/{served}"
    old, dev = hub.sh(f"git -C served/{served} rev-parse main~1 dev").split()
    for name, commit in (("full", old), ("short", old[:8]), ("of-a-branch", dev), ("short-branch", dev[:8])):
        hub.git.clone(url, f"commit-{name}", commit_id=commit)
        assert hub.sh("git rev-parse HEAD", f"commit-{name}") in (old, dev)
        assert hub.status(f"commit-{name}").detached
    for missing in ("0" * 40, "abcdef12", "no-such-tag"):
        with pytest.raises(DaytonaNotFoundError, match="no commit"):
            hub.git.clone(url, "commit-missing", commit_id=missing)
        assert hub.sh("ls -d commit-missing", code=2), "nothing is left of a failed clone"


def test_shallow_clone(hub: GitBox, served: str) -> None:
    hub.git.clone(f"{hub.url}/public/{served}", "shallow", depth=1)
    assert hub.sh("git rev-list --count HEAD; git rev-parse --is-shallow-repository", "shallow") == "1\ntrue"
    assert len(hub.both("GitCommitInfo", "history", path="shallow")) == 1
    old = hub.sh(f"git -C served/{served} rev-parse main~1")
    hub.git.clone(f"{hub.url}/public/{served}", "shallow-commit", depth=1, commit_id=old)
    assert hub.sh("git rev-parse HEAD", "shallow-commit") == old


def test_clone_of_an_empty_repository(hub: GitBox) -> None:
    hub.git.init("served/empty.git", bare=True, initial_branch="trunk")
    path = hub.clone("empty.git", "public")
    found = hub.status(path)
    assert (found.current_branch, found.file_status, found.branch_published) == ("trunk", [], False)
    hub.sandbox.fs.upload_file(b"1", f"{path}/a")
    hub.git.add(path, ["."])
    hub.git.commit(path, "first", "A", "a@x")
    hub.git.push(path, hub.user, hub.password)
    assert hub.status(path).branch_published
    second = hub.clone("empty.git")
    assert hub.sh("git log --format=%s", second) == "first"


def test_clone_failures_have_their_classes(hub: GitBox, served: str) -> None:
    login = {"username": hub.user, "password": hub.password}
    private = f"{hub.url}/private/{served}"
    cases: list[tuple[type[DaytonaError], str, dict[str, Any]]] = [
        (DaytonaGitAuthFailedError, private, {}),
        (DaytonaGitAuthFailedError, private, {"username": hub.user}),
        (DaytonaGitAuthFailedError, private, {**login, "password": "wrong"}),
        (DaytonaGitRepoNotFoundError, f"{hub.url}/private/none.git", login),
        (DaytonaGitRepoNotFoundError, f"{hub.url}/public/none.git", {}),
        (DaytonaGitRepoNotFoundError, "/home/daytona/none", {}),
        (DaytonaGitBranchNotFoundError, private, {**login, "branch": "none"}),
        (DaytonaForbiddenError, f"{hub.url}/forbidden/{served}", {}),
        (DaytonaGitTransportFailedError, "http://127.0.0.1:9/x.git", login),
        (DaytonaGitTransportFailedError, "https://no-such-host.invalid/x.git", {}),
        (DaytonaGitTransportFailedError, "git://127.0.0.1:9/x.git", {}),
    ]
    for error, url, arguments in cases:
        if "forbidden" in url:
            arguments = login
        with pytest.raises(error) as caught:
            hub.git.clone(url, "failed", **arguments)
        assert type(caught.value) is error, f"{url}: {caught.value!r}"
        assert hub.password not in str(caught.value)
        assert hub.sh("ls -d failed", code=2), "nothing is left of a failed clone"
    hub.sh("mkdir full; touch full/x")
    with pytest.raises(DaytonaConflictError, match="not an empty directory"):
        hub.git.clone(private, "full", **login)
    assert hub.sh("ls full") == "x"
    with pytest.raises(DaytonaConflictError):
        hub.git.clone(private, "full/x", **login)


def test_a_login_in_the_address(hub: GitBox, served: str) -> None:
    """It is used and kept as git does, so later commands work; listings and messages do not show it."""
    address = f"{hub.url.replace('://', f'://{hub.user}:{hub.password}@')}/private/{served}"
    hub.git.clone(address, "inside")
    assert hub.sh("git remote get-url origin", "inside") == address
    assert hub.git.remote_get("inside", "origin") == address.replace(f":{hub.password}", "")
    hub.git.pull("inside")
    hub.git.remote_add("inside", "second", address, fetch=True)
    assert hub.sh("git rev-parse second/main origin/main | uniq | wc -l", "inside") == "1"
    with pytest.raises(DaytonaGitAuthFailedError) as caught:
        hub.git.pull("inside", username="eve", password="guess")
    assert hub.password not in str(caught.value) and "guess" not in str(caught.value)
    with pytest.raises(DaytonaBadRequestError) as refused:
        hub.git.clone(f"bad://u:{hub.password}@x/y", "z")
    assert hub.password not in str(refused.value)


def test_push(hub: GitBox) -> None:
    name = hub.served()
    path = hub.clone(name)
    hub.sandbox.fs.upload_file(b"1\n", f"{path}/b")
    hub.git.add(path, ["b"])
    hub.git.commit(path, "b", "A", "a@x")
    assert (hub.status(path).ahead, hub.status(path).behind) == (1, 0)
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.push(path)
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.push(path, hub.user, "wrong")
    hub.git.push(path, hub.user, hub.password)
    assert hub.status(path).ahead == 0
    hub.git.create_branch(path, "feature/x")
    assert (hub.status(path).branch_published, hub.status(path).upstream) == (False, "")
    hub.git.push(path, hub.user, hub.password)
    assert not hub.status(path).branch_published
    hub.git.push(path, hub.user, hub.password, set_upstream=True)
    assert hub.status(path).upstream == "origin/feature/x"
    assert hub.sh(f"git -C served/{name} log --format=%s feature/x").split("\n") == ["b", "one"]
    hub.sh("git branch third", path)
    hub.git.push(path, hub.user, hub.password, branch="third", remote="origin")
    assert hub.sh(f"git -C served/{name} branch --list third").strip() == "third"
    for error, arguments in (
        (DaytonaGitBranchNotFoundError, {"branch": "none"}),
        (DaytonaNotFoundError, {"remote": "none"}),
        (DaytonaBadRequestError, {"branch": "+main:main"}),
        (DaytonaBadRequestError, {"remote": hub.url}),
    ):
        with pytest.raises(error):
            hub.git.push(path, hub.user, hub.password, **arguments)
    hub.git.checkout_branch(path, "HEAD~0")
    with pytest.raises(DaytonaGitBranchNotFoundError, match="detached"):
        hub.git.push(path, hub.user, hub.password)


def test_rejected_pushes(hub: GitBox) -> None:
    name = hub.served()
    path = hub.clone(name)
    hub.commit_on_server(name, "echo theirs >c; git add c; git commit -qm theirs")
    hub.sh("echo ours >c; git add c; git commit -qm ours", path)
    with pytest.raises(DaytonaGitPushRejectedError, match="fetch first"):
        hub.git.push(path, hub.user, hub.password)
    hub.sh(f"git fetch -q ../served/{name}", path)
    with pytest.raises(DaytonaGitPushRejectedError, match="rejected"):
        hub.git.push(path, hub.user, hub.password)
    hook = f"served/{name}/hooks/pre-receive"
    hub.sh(f"printf '#!/bin/sh\\necho protected branch: ask Ada >&2; exit 1\\n' >{hook}; chmod +x {hook}")
    hub.git.create_branch(path, "protected")
    with pytest.raises(DaytonaGitRemoteRejectedError, match="protected branch: ask Ada"):
        hub.git.push(path, hub.user, hub.password)


def test_pull(hub: GitBox) -> None:
    name = hub.served()
    path = hub.clone(name)
    hub.commit_on_server(name, "echo two >a; git commit -qam two")
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.pull(path)
    hub.git.pull(path, hub.user, hub.password)
    assert hub.sh("cat a; git log --format=%s", path).split() == ["two", "two", "one"]
    hub.git.pull(path, hub.user, hub.password)
    hub.commit_on_server(
        name,
        "git checkout -qb other; echo three >a; git commit -qam three; git push -q origin other:other",
        "git checkout -q main",
    )
    hub.git.pull(path, hub.user, hub.password, branch="other", remote="origin")
    assert hub.sh("cat a", path) == "three"
    assert hub.status(path).ahead == 1
    for error, arguments in (
        (DaytonaGitBranchNotFoundError, {"branch": "none"}),
        (DaytonaNotFoundError, {"remote": "none"}),
        (DaytonaBadRequestError, {"branch": "a:b"}),
    ):
        with pytest.raises(error):
            hub.git.pull(path, hub.user, hub.password, **arguments)
    hub.git.checkout_branch(path, "HEAD~0")
    with pytest.raises(DaytonaGitBranchNotFoundError, match="detached"):
        hub.git.pull(path, hub.user, hub.password)


def test_pull_does_not_lose_anything(hub: GitBox) -> None:
    name = hub.served()
    path = hub.clone(name)
    hub.commit_on_server(name, "echo theirs >a; git commit -qam theirs")
    hub.sandbox.fs.upload_file(b"mine\n", f"{path}/a")
    with pytest.raises(DaytonaGitDirtyWorktreeError, match="a"):
        hub.git.pull(path, hub.user, hub.password)
    assert hub.sandbox.fs.download_file(f"{path}/a") == b"mine\n"
    assert (hub.status(path).ahead, hub.status(path).behind) == (0, 1)
    hub.git.add(path, ["a"])
    hub.git.commit(path, "mine", "A", "a@x")
    # Two branches with commits of their own: refused, unless the configuration says what to do.
    with pytest.raises(DaytonaGitMergeConflictError, match=r"pull\.rebase"):
        hub.git.pull(path, hub.user, hub.password)
    assert hub.files(path) == {}
    assert (hub.status(path).ahead, hub.status(path).behind) == (1, 1)
    hub.git.set_config("pull.rebase", "false", scope="local", path=path)
    with pytest.raises(DaytonaGitMergeConflictError):
        hub.git.pull(path, hub.user, hub.password)
    assert hub.files(path) == {"a": ("Updated but unmerged", "Updated but unmerged")}
    with pytest.raises(DaytonaGitMergeConflictError):
        hub.git.pull(path, hub.user, hub.password)
    hub.git.reset(path, mode="hard")
    hub.git.set_config("pull.rebase", "true", scope="local", path=path)
    with pytest.raises(DaytonaGitMergeConflictError):
        hub.git.pull(path, hub.user, hub.password)
    hub.sh("git rebase --abort", path)
    hub.commit_on_server(name, "git reset -q --hard HEAD~1; echo x >b; git add b; git commit -qm forced")
    hub.git.pull(path, hub.user, hub.password)
    assert hub.sh("git log --format=%s", path).split() == ["mine", "forced", "one"]


def test_an_upstream_that_was_forced(hub: GitBox) -> None:
    name = hub.served("echo two >a; git commit -qam two")
    path = hub.clone(name)
    hub.commit_on_server(name, "git reset -q --hard HEAD~1; echo other >a; git commit -qam other")
    with pytest.raises(DaytonaGitMergeConflictError):
        hub.git.pull(path, hub.user, hub.password)
    assert (hub.status(path).ahead, hub.status(path).behind) == (1, 1)
    hub.git.reset(path, mode="hard", target="origin/main")
    assert hub.sh("cat a", path) == "other"


def test_branches_of_a_remote_can_be_checked_out(hub: GitBox) -> None:
    name = hub.served("git branch dev")
    path = hub.clone(name)
    with pytest.raises(DaytonaGitBranchNotFoundError):
        hub.git.checkout_branch(path, "dev")
    hub.git.remote_add(path, "all", f"{hub.url}/public/{name}", fetch=True)
    hub.git.checkout_branch(path, "dev")
    assert (hub.status(path).upstream, hub.status(path).detached) == ("all/dev", False)


def test_stored_credentials_are_used_and_given_ones_are_not_stored(hub: GitBox) -> None:
    name = hub.served()
    host = hub.url.partition("://")[2]
    hub.git.set_config("credential.helper", "store")
    path = hub.clone(name)
    assert hub.sh("cat .git-credentials 2>/dev/null; true") == ""
    # Control: an ordinary git in the sandbox does store what it is given.
    hub.sh(f"git ls-remote -q http://{hub.user}:{hub.password}@{host}/private/{name} >/dev/null")
    assert hub.password in hub.sh("cat .git-credentials")
    hub.sh("rm .git-credentials; git config --global --unset credential.helper")
    with pytest.raises(DaytonaGitAuthFailedError):
        hub.git.pull(path)
    hub.git.dangerously_authenticate(hub.user, hub.password, host=host, protocol="http")
    assert hub.sh("stat -c %a .git-credentials") == "600"
    hub.git.pull(path)
    hub.git.clone(f"{hub.url}/private/{name}", "by-stored")
    hub.sh("rm .git-credentials; git config --global --unset credential.helper")


@pytest.mark.skipif(not shutil.which("openssl"), reason="a certificate is made by openssl, which is missing")
def test_a_certificate_of_ones_own(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create()
    hub = GitBox(sandbox, engine)
    hub.serve(certificate=True)
    url = f"{hub.other}/private/{hub.served()}"
    login = {"username": hub.user, "password": hub.password}
    with pytest.raises(DaytonaGitTransportFailedError, match="certificate"):
        hub.git.clone(url, "verified", **login)
    assert hub.password not in hub.sh("cat served/log"), "nothing was said to a server that is not verified"
    hub.git.clone(url, "insecure", insecure_skip_tls=True, **login)
    # For that call only.
    with pytest.raises(DaytonaGitTransportFailedError, match="certificate"):
        hub.git.pull("insecure", **login)
    daytona.delete(sandbox)


def test_a_server_that_falls_silent(daytona: Any, engine: IsolatedEngine) -> None:
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(env_vars={"GIT_HTTP_LOW_SPEED_TIME": "1"}))
    hub = GitBox(sandbox, engine)
    hub.serve()
    with pytest.raises(DaytonaGitTransportFailedError, match="too slow"):
        hub.git.clone(f"{hub.url}/stalled/x.git", "stalled")
    daytona.delete(sandbox)


def test_a_client_that_gives_up_does_not_stop_the_clone(hub: GitBox) -> None:
    """The SDK says so of ``request_timeout``. What the engine itself gives up is ended, see the toolbox's."""
    name = hub.served()
    hub.sh("rm -f served/release")
    login = {"username": hub.user, "password": hub.password}
    with pytest.raises(DaytonaError):
        hub.git.clone(f"{hub.url}/slow/{name}", "patient", **login, request_timeout=1)
    hub.sh("touch served/release")
    wait_until(lambda: hub.sh("cat patient/a 2>/dev/null; true") == "one", "the clone is finished")
