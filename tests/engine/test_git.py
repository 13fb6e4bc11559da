"""Git without a network: what the unmodified SDK does to a repository, and what the repository is then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams
from daytona.common.errors import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaForbiddenError,
    DaytonaGitBranchExistsError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitDirtyWorktreeError,
    DaytonaGitMergeConflictError,
    DaytonaGitRepoNotFoundError,
    DaytonaNotFoundError,
)

from tests.engine_process import IsolatedEngine
from tests.git_box import GitBox, quote

ODD_NAMES = [
    "näme-日本-🎉",
    "new\nline",
    "tab\t;$x`y`",
    'quote"\\',
    " space ",
    "-dash",
    "--hard",
    ":(top)*",
    "*",
]


@pytest.fixture(scope="module")
def box(daytona: Any, engine: IsolatedEngine) -> Iterator[GitBox]:
    made = daytona.create()
    yield GitBox(made, engine)
    daytona.delete(made)


def test_from_init_to_history(box: GitBox) -> None:
    box.git.init("first", initial_branch="trunk")
    unborn = box.status("first")
    assert (unborn.current_branch, unborn.detached, unborn.file_status) == ("trunk", False, [])
    assert (unborn.ahead, unborn.behind, unborn.branch_published, unborn.upstream) == (0, 0, False, "")
    listed = box.both("ListBranchResponse", "branches", path="first")
    assert (listed.branches, listed.current) == ([], "trunk")
    status, refused = box.raw("GET", "history", path="first")
    assert (status, refused["code"]) == (404, "GIT_BRANCH_NOT_FOUND")

    box.sandbox.fs.upload_file(b"one\n", "first/a")
    box.sandbox.fs.upload_file(b"two\n", "first/b/c")
    box.git.add("first", ["a"])
    assert box.files("first") == {"a": ("Added", "Unmodified"), "b/c": ("Untracked", "Untracked")}
    message = "  # kept: as it is — ☃\n\n\nno cleaning  "
    sha = box.git.commit("first", message, "Ada Lovelacé", "ada@example.org").sha
    assert sha == box.sh("git rev-parse HEAD", "first")
    assert box.sh("git log -1 --format=%cn,%ce", "first") == "Ada Lovelacé,ada@example.org"
    box.git.add("first", ["."])
    second = box.git.commit("first", "second", "B", "b@example.org").sha
    (newest, oldest) = box.both("GitCommitInfo", "history", path="first")
    assert (newest.hash, newest.message, oldest.hash, oldest.message) == (second, "second", sha, message)
    assert (oldest.author, oldest.email) == ("Ada Lovelacé", "ada@example.org")
    assert oldest.timestamp == box.sh("git log -1 --format=%aI HEAD~1", "first")

    with pytest.raises(DaytonaBadRequestError, match="nothing to commit"):
        box.git.commit("first", "empty", "B", "b@example.org")
    empty = box.git.commit("first", "empty", "B", "b@example.org", allow_empty=True).sha
    assert box.sh("git rev-parse HEAD^", "first") == second != empty
    for author, email, text in (("", "e@x", "m"), ("a<b", "e@x", "m"), ("a", "e\nx", "m"), ("a", "e@x", " ")):
        with pytest.raises(DaytonaBadRequestError):
            box.git.commit("first", text, author, email, allow_empty=True)


def test_init_bare_and_twice(box: GitBox) -> None:
    box.git.init("deep/er/bare", bare=True)
    assert box.sh("git rev-parse --is-bare-repository", "deep/er/bare") == "true"
    assert box.both("ListBranchResponse", "branches", path="deep/er/bare").current == "main"
    with pytest.raises(DaytonaConflictError, match="already"):
        box.git.init("deep/er/bare")
    with pytest.raises(DaytonaBadRequestError, match="work tree"):
        box.git.status("deep/er/bare")


def test_status_says_what_happened_to_each_file(box: GitBox) -> None:
    repo = box.repository(
        "printf 'long enough\\nto be found\\nagain' >old; cp a gone; cp a staged",
        "cp a both; cp a kind; cp a cached",
        "printf '\\0\\1\\377binary' >binary; git add .; git commit -qm more",
        "git mv old new; rm gone; echo 2 >>a; echo 2 >>staged; echo 2 >>both",
        "git add staged both; echo 3 >>both",
        "rm kind; ln -s a kind; git rm -q --cached cached; git rm -q binary; mkdir d; touch d/x d/y",
        "git add -N d/y; echo ignored >.gitignore; touch ignored",
    )
    assert box.files(repo) == {
        "a": ("Unmodified", "Modified"),
        "staged": ("Modified", "Unmodified"),
        "both": ("Modified", "Modified"),
        "gone": ("Unmodified", "Deleted"),
        "new": ("Renamed", "Unmodified"),
        "kind": ("Unmodified", "Modified"),
        "binary": ("Deleted", "Unmodified"),
        "cached": ("Deleted", "Untracked"),
        "d/x": ("Untracked", "Untracked"),
        "d/y": ("Unmodified", "Added"),
        ".gitignore": ("Untracked", "Untracked"),
    }
    assert len(box.status(repo).file_status) == len(box.files(repo)), "one entry for a file"
    (renamed,) = [entry for entry in box.status(repo).file_status if entry.name == "new"]
    assert renamed.extra == "old"


def test_names_of_files_are_bytes(box: GitBox) -> None:
    repo = box.repository()
    for name in ODD_NAMES:
        box.sandbox.fs.upload_file(b"x", f"{repo}/{name}")
    box.sh("printf x >$(printf 'bad\\377byte')", repo)
    assert set(box.files(repo)) == {*ODD_NAMES, "bad\\xffbyte"}
    for name in ODD_NAMES:
        box.git.add(repo, [name])
        staged = [n for n, state in box.files(repo).items() if state[0] == "Added"]
        assert staged == [name], "exactly the file of this name is staged"
        box.git.reset(repo, files=[name])
    box.git.add(repo, ODD_NAMES)
    box.git.commit(repo, "odd", "A", "a@x")
    box.sh("rm -- *", repo)
    box.git.restore(repo, ODD_NAMES)
    assert box.files(repo) == {"a": ("Unmodified", "Deleted")}
    renamed = "to\nhere"
    box.sh(f"git mv {quote(ODD_NAMES[0])} {quote(renamed)}", repo)
    (entry,) = [e for e in box.status(repo).file_status if e.staging.value == "Renamed"]
    assert (entry.name, entry.extra) == (renamed, ODD_NAMES[0])


def test_line_ends_and_ignored_files(box: GitBox) -> None:
    repo = box.repository(
        "printf 'x\\r\\ny\\r\\n' >crlf; git add crlf; git commit -qm crlf; echo no >.gitignore"
    )
    assert "crlf" not in box.files(repo)
    box.git.set_config("core.autocrlf", "input", scope="local", path=repo)
    box.sandbox.fs.upload_file(b"1\r\n2\r\n", f"{repo}/new")
    box.git.add(repo, ["new"])
    assert box.sh("git cat-file blob :new | od -An -c | tr -d ' '", repo) == "1\\n2\\n"
    box.sandbox.fs.upload_file(b"", f"{repo}/no")
    with pytest.raises(DaytonaBadRequestError, match=r"ignored"):
        box.git.add(repo, ["no"])
    with pytest.raises(DaytonaBadRequestError, match="did not match any files"):
        box.git.add(repo, ["missing"])
    with pytest.raises(DaytonaBadRequestError, match="outside repository"):
        box.git.add(repo, ["../elsewhere"])
    with pytest.raises(DaytonaBadRequestError, match="at least one file"):
        box.git.add(repo, [])


def test_where_head_is(box: GitBox) -> None:
    repo = box.repository("git branch '(detached)'")
    box.git.checkout_branch(repo, "(detached)")
    assert (box.status(repo).current_branch, box.status(repo).detached) == ("(detached)", False)
    sha = box.sh("git rev-parse HEAD", repo)
    for name in (sha, sha[:7], "HEAD~0"):
        box.git.checkout_branch(repo, name)
        found = box.status(repo)
        assert (found.current_branch, found.detached, found.upstream) == ("HEAD", True, "")
        assert box.both("ListBranchResponse", "branches", path=repo).current == ""
        box.git.checkout_branch(repo, "main")
    box.git.checkout_branch(repo, "HEAD")
    assert not box.status(repo).detached
    # An upstream that is gone is none, as on the platform.
    clone = f"{repo}-clone"
    box.sh(f"git clone -q {repo} {clone}; cd {clone}; git update-ref -d refs/remotes/origin/main; true")
    gone = box.status(clone)
    assert (gone.upstream, gone.branch_published, gone.ahead) == ("", False, 0)


def test_branches(box: GitBox) -> None:
    repo = box.repository()
    box.git.create_branch(repo, "feature/ünicode")
    listed = box.both("ListBranchResponse", "branches", path=repo)
    assert (sorted(listed.branches), listed.current) == (["feature/ünicode", "main"], "feature/ünicode")
    box.sh("echo x >unmerged; git add .; git commit -qm x", repo)
    with pytest.raises(DaytonaGitBranchExistsError):
        box.git.create_branch(repo, "main")
    with pytest.raises(DaytonaConflictError):
        box.git.delete_branch(repo, "feature/ünicode")
    box.git.checkout_branch(repo, "main")
    box.git.delete_branch(repo, "feature/ünicode")
    assert box.git.branches(repo).branches == ["main"]
    with pytest.raises(DaytonaGitBranchNotFoundError):
        box.git.delete_branch(repo, "feature/ünicode")
    with pytest.raises(DaytonaGitBranchNotFoundError):
        box.git.checkout_branch(repo, "nowhere")
    for bad in ("-x", "a..b", "a b", "x.lock", "/x", "x/", "a~1", "@", "HEAD", "a@{b", "x\ny", ".x", ""):
        with pytest.raises(DaytonaBadRequestError):
            box.git.create_branch(repo, bad)


def test_checkout_keeps_what_is_not_committed(box: GitBox) -> None:
    repo = box.repository("git checkout -qb other; echo two >a; git commit -qam two; git checkout -q main")
    box.sandbox.fs.upload_file(b"mine\n", f"{repo}/a")
    with pytest.raises(DaytonaGitDirtyWorktreeError, match="a"):
        box.git.checkout_branch(repo, "other")
    assert box.sandbox.fs.download_file(f"{repo}/a") == b"mine\n"
    assert box.status(repo).current_branch == "main"
    box.git.create_branch(repo, "with-changes")
    assert box.files(repo) == {"a": ("Unmodified", "Modified")}
    box.git.add(repo, ["a"])
    box.git.commit(repo, "mine", "A", "a@x")
    box.sh("git merge -q other", repo, code=1)
    assert box.files(repo) == {"a": ("Updated but unmerged", "Updated but unmerged")}
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.checkout_branch(repo, "main")
    with pytest.raises(DaytonaGitMergeConflictError):
        box.git.commit(repo, "too early", "A", "a@x")
    box.sandbox.fs.upload_file(b"both\n", f"{repo}/a")
    box.git.add(repo, ["a"])
    merged = box.git.commit(repo, "merge", "A", "a@x").sha
    assert len(box.sh(f"git rev-list --parents -n1 {merged}", repo).split()) == 3


def test_reset(box: GitBox) -> None:
    repo = box.repository("echo two >a; git commit -qam two; echo three >a; cp a b; git add .")
    box.git.reset(repo)
    assert box.files(repo) == {"a": ("Unmodified", "Modified"), "b": ("Untracked", "Untracked")}
    box.git.add(repo, ["."])
    box.git.reset(repo, files=["b"])
    assert box.files(repo) == {"a": ("Modified", "Unmodified"), "b": ("Untracked", "Untracked")}
    box.git.reset(repo, mode="soft", target="HEAD~1")
    assert box.sh("git log --format=%s; cat a", repo) == "one\nthree"
    box.git.reset(repo, mode="hard", target="HEAD@{1}")
    assert box.sh("git log --format=%s; cat a", repo) == "two\none\ntwo"
    box.sandbox.fs.upload_file(b"mine\n", f"{repo}/a")
    for mode in ("keep", "merge"):
        with pytest.raises(DaytonaGitDirtyWorktreeError):
            box.git.reset(repo, mode=mode, target="HEAD~1")
    assert box.sandbox.fs.download_file(f"{repo}/a") == b"mine\n"
    with pytest.raises(DaytonaNotFoundError, match="nowhere"):
        box.git.reset(repo, target="nowhere")
    with pytest.raises(DaytonaBadRequestError, match="soft, mixed"):
        box.git.reset(repo, mode="harder")
    with pytest.raises(DaytonaBadRequestError, match="limited to files"):
        box.git.reset(repo, mode="hard", files=["a"])


@pytest.mark.parametrize(
    ("staged", "worktree", "index", "tree"),
    [(None, None, "two", "two"), (True, None, "one", "three"), (True, True, "one", "one"),
     (None, True, "two", "two"), (True, False, "one", "three")],
)  # fmt: skip
def test_restore(box: GitBox, staged: bool | None, worktree: bool | None, index: str, tree: str) -> None:
    repo = box.repository("echo two >a; git add a; echo three >a")
    box.git.restore(repo, ["a"], staged=staged, worktree=worktree)
    assert box.sh("git show :a; cat a", repo).split() == [index, tree]


def test_restore_from_a_revision(box: GitBox) -> None:
    repo = box.repository("echo two >a; git commit -qam two; echo three >a")
    box.git.restore(repo, ["a"], source="HEAD~1")
    assert box.sh("cat a; git show :a", repo).split() == ["one", "two"]
    with pytest.raises(DaytonaNotFoundError, match="nowhere"):
        box.git.restore(repo, ["a"], source="nowhere")
    with pytest.raises(DaytonaBadRequestError, match="did not match"):
        box.git.restore(repo, ["missing"])
    for arguments in ({"staged": False, "worktree": False}, {"worktree": False}):
        with pytest.raises(DaytonaBadRequestError, match="at least one of"):
            box.git.restore(repo, ["a"], **arguments)


def test_configuration(box: GitBox) -> None:
    repo = box.repository()
    value = 'a "quoted" \\ value # not ; a comment\n\tsecond line = [x]  '
    assert box.git.get_config("test.value") is None
    box.git.set_config("test.value", value)
    box.git.set_config("test.sub.section.Value", "deep")
    assert box.git.get_config("test.value") == value
    assert box.sh("git config test.value; printf .") == f"{value}\n."
    assert box.git.get_config("test.sub.section.value") == "deep"
    assert box.git.get_config("test.value", scope="local", path=repo) is None
    box.git.set_config("test.value", "here", scope="local", path=repo)
    box.git.set_config("test.value", "here again", scope="local", path=repo)
    assert box.sh("git config --local --get-all test.value", repo) == "here again"
    box.git.configure_user("Grace", "grace@example.org", scope="local", path=repo)
    assert box.sh("git config user.name; git config user.email", repo) == "Grace\ngrace@example.org"
    assert box.both("GitConfigResponse", "config", key="user.name", scope="local", path=repo).value == "Grace"
    assert box.both("GitConfigResponse", "config", key="user.missing", scope="system").value is None
    with pytest.raises(DaytonaBadRequestError, match="path of a repository"):
        box.git.set_config("a.b", "c", scope="local")
    with pytest.raises(DaytonaBadRequestError, match="scope"):
        box.git.set_config("a.b", "c", scope="worktree")
    with pytest.raises(DaytonaGitRepoNotFoundError):
        box.git.get_config("a.b", scope="local", path="missing")
    if box.sh("test -w /etc && echo yes; true"):
        box.git.set_config("a.b", "c", scope="system")
        assert (
            box.git.get_config("a.b", scope="system") == "c" == box.sh("git config --file /etc/gitconfig a.b")
        )
    else:
        with pytest.raises(DaytonaForbiddenError):
            box.git.set_config("a.b", "c", scope="system")
    for bad in ("nothing", "a.", ".b", "a.1b", "a b.c", "-a.b", "a.b\nc.d", "--global.x"):
        with pytest.raises(DaytonaBadRequestError):
            box.git.set_config(bad, "x")
    box.sh("touch .git/config.lock", repo)
    with pytest.raises(DaytonaConflictError, match="locked"):
        box.git.set_config("a.b", "c", scope="local", path=repo)
    assert box.sh("ls .git/config.lock", repo), "the other git's lock is left alone"


def test_remotes(box: GitBox) -> None:
    repo = box.repository()
    assert box.both("ListRemotesResponse", "remotes", path=repo).remotes == []
    box.git.remote_add(repo, "origin", "https://example.org/x.git")
    box.git.remote_add(repo, "with.dots-and_more", "git@example.org:x/y.git")
    with pytest.raises(DaytonaConflictError, match="already exists"):
        box.git.remote_add(repo, "origin", "https://example.org/y.git")
    box.git.remote_add(repo, "origin", "https://user:secret@example.org/y.git", overwrite=True)
    assert box.git.remote_get(repo, "origin") == "https://user@example.org/y.git"
    assert box.sh("git remote get-url origin", repo) == "https://user:secret@example.org/y.git"
    assert box.sh("git config remote.origin.fetch", repo) == "+refs/heads/*:refs/remotes/origin/*"
    assert box.git.remote_get(repo, "with.dots-and_more") == "git@example.org:x/y.git"
    assert box.git.remote_get(repo, "none") is None
    for name in ("", "-x", "a b", "../x", "x.lock", "a..b"):
        with pytest.raises(DaytonaBadRequestError):
            box.git.remote_add(repo, name, "https://example.org/x")


def test_only_the_folder_itself_is_a_repository(box: GitBox) -> None:
    repo = box.repository("mkdir sub hollow hollow/.git")
    for path in (f"{repo}/sub", f"{repo}/hollow", f"{repo}/a", "missing", "/", "nul-is-refused"):
        with pytest.raises(DaytonaGitRepoNotFoundError):
            box.git.status(path)
    status, body = box.raw("GET", "status", path="a\0b")
    assert (status, body["code"]) == (400, "BAD_REQUEST")
    assert box.raw("GET", "status")[0] == 400
    assert body["source"] == "DAYTONA_DAEMON"


def test_worktrees_and_submodules(box: GitBox) -> None:
    inner = box.repository()
    repo = box.repository(
        f"git -c protocol.file.allow=always submodule --quiet add ../{inner} module; git commit -qm module",
        "git worktree add -q ../tree -b in-tree; git config --global core.hooksPath /tmp",
    )
    assert box.status("tree").current_branch == "in-tree"
    box.sandbox.fs.upload_file(b"x", "tree/new")
    box.git.add("tree", ["."])
    assert (box.files("tree"), box.files(repo)) == ({"new": ("Added", "Unmodified")}, {})
    with pytest.raises(DaytonaConflictError):
        box.git.checkout_branch(repo, "in-tree")
    box.sandbox.fs.upload_file(b"x", f"{repo}/module/a")
    assert box.files(f"{repo}/module") == {"a": ("Unmodified", "Modified")}
    assert box.files(repo) == {"module": ("Unmodified", "Modified")}
    box.git.add(f"{repo}/module", ["a"])
    box.git.commit(f"{repo}/module", "inside", "A", "a@x")
    box.git.add(repo, ["module"])
    assert box.files(repo) == {"module": ("Modified", "Unmodified")}
    box.sh("git config --global --unset core.hooksPath")


def test_five_thousand_files(box: GitBox, record_property: Any) -> None:
    repo = box.repository(
        "mkdir d; cd d; seq -f 'a file with a rather long name, number %g' 5000 | xargs -d '\\n' touch"
    )
    started = time.monotonic()
    found = box.git.status(repo).file_status
    record_property("seconds", time.monotonic() - started)
    print(f"status of 5,000 files: {time.monotonic() - started:.3f} s")
    assert len({entry.name for entry in found}) == 5000
    box.git.add(repo, ["d"])
    assert {state for state in box.files(repo).values()} == {("Added", "Unmodified")}
    box.git.commit(repo, "many", "A", "a@x")
    assert box.files(repo) == {}
    box.git.add(repo, [f"d/a file with a rather long name, number {n}" for n in range(1, 5001)])


def test_long_answers_come_in_parts(box: GitBox) -> None:
    text = "x" * 100_000
    repo = box.repository()
    for number in range(8):
        box.git.commit(repo, f"{number}{text}", "A", "a@x", allow_empty=True)
    found = box.git._api_client.get_commit_history(repo)
    assert [commit.message for commit in found[:-1]] == [f"{number}{text}" for number in range(7, -1, -1)]
    box.sh("seq 60000 >m; git commit -q --allow-empty -F m", repo)
    status, refused = box.raw("GET", "history", path=repo)
    assert (status, refused["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert "one entry of more than 256 KiB" in refused["message"]


async def test_the_asynchronous_client_and_many_calls_at_once(async_daytona: AsyncDaytona) -> None:
    sandbox = await async_daytona.create()
    git = sandbox.git
    await git.init("repo", initial_branch="main")
    names = [f"file{number}" for number in range(12)]
    await asyncio.gather(*(sandbox.fs.upload_file(b"x", f"repo/{name}") for name in names))
    # git itself would refuse all but one: its index is locked.
    await asyncio.gather(*(git.add("repo", [name]) for name in names), *(git.status("repo") for _ in names))
    assert {entry.staging.value for entry in (await git.status("repo")).file_status} == {"Added"}
    made = await git.commit("repo", "all", "A", "a@x")
    await git.create_branch("repo", "two")
    await git.checkout_branch("repo", "main")
    await git.delete_branch("repo", "two")
    assert (await git.branches("repo")).branches == ["main"]
    await git.remote_add("repo", "origin", "/home/daytona/bare")
    assert [r.url for r in (await git.remotes("repo")).remotes] == ["/home/daytona/bare"]
    await git.init("bare", bare=True)
    await git.push("repo", set_upstream=True)
    await git.clone("/home/daytona/bare", "copy", branch="main")
    await git.pull("copy")
    assert (await git._api_client.get_commit_history("copy"))[0].hash == made.sha
    await git.configure_user("A", "a@x")
    assert await git.get_config("user.email") == "a@x"
    await git.set_config("user.email", "b@x", scope="local", path="copy")
    await sandbox.fs.upload_file(b"y", "copy/file0")
    await git.restore("copy", ["file0"])
    await git.reset("copy", mode="hard")
    await git.dangerously_authenticate("me", "secret", host="example.org")
    assert await sandbox.fs.download_file(".git-credentials") == b"https://me:secret@example.org\n"
    with pytest.raises(DaytonaGitBranchExistsError):
        await git.create_branch("repo", "main")
    await sandbox.delete()


def test_a_sandbox_without_git(daytona: Any) -> None:
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(env_vars={"PATH": "/nowhere"}))
    with pytest.raises(DaytonaError, match="this sandbox has no git; install git"):
        sandbox.git.init("repo")
    daytona.delete(sandbox)


def test_odd_requests_are_refused(box: GitBox) -> None:
    repo = box.repository()
    odd: list[tuple[str, str, Any]] = [
        ("POST", "add", {"path": repo, "files": "a"}),
        ("POST", "add", {"path": repo, "files": [1]}),
        ("POST", "add", {"path": repo, "files": ["a\0b"]}),
        ("POST", "add", {"path": repo, "files": [""]}),
        ("POST", "add", {"path": 5, "files": ["a"]}),
        ("POST", "add", {"files": ["a"]}),
        ("POST", "commit", {"path": repo, "message": "m", "author": "a", "email": "e", "allow_empty": "yes"}),
        ("POST", "commit", {"path": repo, "author": "a", "email": "e"}),
        ("POST", "clone", {"path": "x", "url": "/x", "depth": -1}),
        ("POST", "clone", {"path": "x", "url": "/x", "depth": "many"}),
        ("POST", "clone", {"path": "x", "url": "u" * 10_000}),
        ("POST", "checkout", {"path": repo, "branch": "x\0y"}),
        ("POST", "credentials", {"username": "a", "password": "b\nhost=evil"}),
        ("POST", "credentials", {"username": "a", "password": "b", "host": "evil/x"}),
        ("POST", "credentials", {"username": "a", "password": "b", "protocol": "ssh"}),
        ("DELETE", "branches", {"path": repo}),
        ("POST", "reset", []),
    ]
    for method, path, body in odd:
        status, answer = box.raw(method, path, body)
        assert (status, answer["source"]) == (400, "DAYTONA_DAEMON"), (path, body, answer)
    many = {"path": repo, "files": ["a"] * 50_001}
    assert box.raw("POST", "add", many)[0] == 413
    huge = {"path": repo, "files": ["x" * 500] * 4000}
    assert box.raw("POST", "add", huge)[0] == 413


def test_hooks_and_programs_of_the_configuration_do_not_run(box: GitBox) -> None:
    """As on the platform; what runs by an ordinary command in the sandbox is the control."""
    repo = box.repository(
        "printf '#!/bin/sh\\necho $0 >>/tmp/hooks\\n' | tee .git/hooks/pre-commit .git/hooks/post-commit"
        " .git/hooks/post-checkout .git/hooks/commit-msg >.git/hooks/reference-transaction",
        "chmod +x .git/hooks/*; printf '#!/bin/sh\\necho monitor >>/tmp/hooks' >.git/monitor",
        "chmod +x .git/monitor",
        "git config core.fsmonitor .git/monitor; git config core.editor 'touch /tmp/hooks'",
        "git config commit.gpgSign true; git config gpg.program /nowhere",
    )
    box.sh("rm -f /tmp/hooks")
    box.sandbox.fs.upload_file(b"2", f"{repo}/a")
    box.git.status(repo)
    box.git.add(repo, ["."])
    box.git.commit(repo, "no hooks", "A", "a@x")
    box.git.create_branch(repo, "b")
    assert box.sh("ls /tmp/hooks", code=2)
    box.sh(
        "git status; git -c commit.gpgSign=false commit -q --allow-empty -m hooks; git checkout -qb c", repo
    )
    assert {"monitor", ".git/hooks/pre-commit"} <= set(box.sh("cat /tmp/hooks").split("\n"))


def test_this_machine_has_git() -> None:
    """Everything above needs it: say so in one place, instead of failing everywhere."""
    found = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("git version") and os.access("/bin/sh", os.X_OK)
