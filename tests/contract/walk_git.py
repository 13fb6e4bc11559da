"""Scenarios of the git service, with a real server that wants a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.walk import Walk, walks

USER, PASSWORD = "ada", "pw-of-the-walk"
_PROGRAM = Path(__file__).parents[1] / "git_server.py"


async def serve(w: Walk) -> str:
    """Start a server with one repository inside; the repository's URL."""
    if "ports" not in await w.sh("mkdir -p served; ls served"):
        await w(w.box.fs.upload_file, _PROGRAM.read_bytes(), "git_server.py")
        await w.sh(
            "git config --global user.name T; git config --global user.email t@example.org; "
            "git config --global init.defaultBranch main; "
            "git init -q first && cd first && echo one > a && git add a && git commit -qm one && "
            "git checkout -q -b side && echo two > b && git add b && git commit -qm two && "
            "git checkout -q main && cd .. && git clone -q --bare first served/r.git"
        )
        login = f"printf '%s\\n' {USER} {PASSWORD}"
        await w.sh(f"{login} | setsid python3 git_server.py served > git.log 2>&1 &")
        await w.until(lambda: w.sh("cat served/ports 2>/dev/null; true"), "the git server listens")
    port = (await w.sh("cat served/ports")).split()[0]
    return f"http://127.0.0.1:{port}/private/r.git"


@walks("Git.clone", "Git.push", "Git.pull")
async def remote(w: Walk) -> None:
    """a server that wants a password has the pushed commit, and the clone has what others pushed"""
    git, url = w.box.git, await serve(w)
    await w.fails("DaytonaGitAuthFailedError", git.clone, url, "no")
    await w(git.clone, url, "work", username=USER, password=PASSWORD)
    await w(git.clone, url, "old", "side", username=USER, password=PASSWORD)
    assert await w.sh("cat work/a; ls old") == "one\na\nb"
    await w.sh("cd work && echo more > c && git add c && git commit -qm more")
    await w(git.push, "work", username=USER, password=PASSWORD)
    assert await w.sh("git -C served/r.git log -1 --format=%s main") == "more"
    await w.sh(
        "git clone -q served/r.git other && cd other && echo theirs > d && git add d && git commit -qm d"
    )
    await w.sh("cd other && git push -q")
    await w(git.pull, "work", username=USER, password=PASSWORD)
    assert await w.sh("cat work/d") == "theirs"


@walks("Git.dangerously_authenticate")
async def credentials(w: Walk) -> None:
    """git in a shell inside pushes without asking"""
    url = await serve(w)
    host = url.split("/")[2]
    ask = f"GIT_TERMINAL_PROMPT=0 git ls-remote {url}"
    assert await w.sh(ask, code=128)
    await w(w.box.git.dangerously_authenticate, USER, PASSWORD, host=host, protocol="http")
    assert "refs/heads/main" in await w.sh(ask)


@walks("Git.init", "Git.add", "Git.commit", "Git.status", "Git.configure_user")
async def committing(w: Walk) -> None:
    """git log and git config inside show the commit and its author; the status what is not committed"""
    git = w.box.git
    await w(git.init, "repo", initial_branch="trunk")
    await w(git.configure_user, "Configured", "c@example.org", "local", "repo")
    assert await w.sh("git -C repo config user.name") == "Configured"
    await w.sh("echo 1 > repo/a; echo 2 > repo/b")
    await w(git.add, "repo", ["a"])
    status = await w(git.status, "repo")
    files = {entry.name: (entry.staging.value, entry.worktree.value) for entry in status.file_status}
    assert status.current_branch == "trunk"
    assert files == {"a": ("Added", "Unmodified"), "b": ("Untracked", "Untracked")}
    made = await w(git.commit, "repo", "first", "Ada", "ada@example.org")
    assert await w.sh("git -C repo log --format='%H %s %an %ae'") == f"{made.sha} first Ada ada@example.org"


@walks("Git.create_branch", "Git.branches", "Git.checkout_branch", "Git.delete_branch")
async def branches(w: Walk) -> None:
    """git branch inside shows what was made, switched to and deleted, as the answer does"""
    git = w.box.git
    await w.sh("git init -qb main br && cd br && git commit -qm one --allow-empty")
    await w(git.create_branch, "br", "topic")
    assert await w.sh("git -C br branch --show-current") == "topic"
    assert sorted((await w(git.branches, "br")).branches) == ["main", "topic"]
    await w(git.checkout_branch, "br", "main")
    assert await w.sh("git -C br branch --show-current") == "main"
    await w(git.delete_branch, "br", "topic")
    assert await w.sh("git -C br branch --format='%(refname:short)'") == "main"
    await w.fails("DaytonaGitBranchNotFoundError", git.checkout_branch, "br", "gone")


@walks("Git.reset", "Git.restore")
async def taking_back(w: Walk) -> None:
    """the index and the files inside are as they were committed"""
    git = w.box.git
    await w.sh("git init -qb main back && cd back && echo 1 > a && git add a && git commit -qm one")
    await w.sh("cd back && echo 2 > a && git add a")
    await w(git.restore, "back", ["a"], staged=True, worktree=True)
    assert await w.sh("cat back/a; git -C back status --porcelain") == "1"
    await w.sh("cd back && echo 3 > a && git commit -qam two")
    await w(git.reset, "back", mode="hard", target="HEAD~1")
    assert await w.sh("cat back/a; git -C back log --format=%s") == "1\none"


@walks("Git.remote_add", "Git.remotes", "Git.remote_get", "Git.set_config", "Git.get_config")
async def settings(w: Walk) -> None:
    """git remote and git config inside show what was set, and the answers what git inside set"""
    git: Any = w.box.git
    await w.sh("git init -qb main conf")
    await w(git.remote_add, "conf", "up", "https://example.org/r.git")
    assert await w.sh("git -C conf remote get-url up") == "https://example.org/r.git"
    await w.sh("git -C conf remote add other https://example.org/o.git")
    remotes = (await w(git.remotes, "conf")).remotes
    assert sorted(one.name for one in remotes) == ["other", "up"]
    assert await w(git.remote_get, "conf", "other") == "https://example.org/o.git"
    await w(git.set_config, "core.editor", "ed", "local", "conf")
    assert await w.sh("git -C conf config core.editor") == "ed"
    await w.sh("git -C conf config a.b written-inside")
    assert await w(git.get_config, "a.b", "local", "conf") == "written-inside"
    assert await w(git.get_config, "a.none", "local", "conf") is None
