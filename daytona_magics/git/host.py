"""What this machine's git says about the repository the notebook lives in. It is only read, never changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.errors import GitError
from daytona_magics.git import logins
from daytona_magics.git.logins import Login

#: The code of the error about a repository that has no remote a sandbox could reach.
NO_REMOTE = "NO_REMOTE"
#: Seconds one question may take.
WITHIN = 10
_SSH = re.compile(
    r"(?:ssh://(?:[\w.-]+@)?(?P<host>[\w.-]+)(?::\d+)?/|(?:[\w.-]+@)?(?P<short>[\w.-]{2,}):(?!//))(?P<path>[^:].*)"
)


@dataclass(frozen=True)
class Origin:
    """Where a repository of this machine comes from.

    Attributes:
        url: of its remote origin, in the form a sandbox can reach, without a login.
        branch: the current one; "" when HEAD is detached.
        ahead: commits of that branch that origin did not have when it was last asked.
        dirty: files that are not as committed.
        login: what stood in the address; it goes nowhere but to its server.
    """

    url: str
    branch: str
    ahead: int = 0
    dirty: int = 0
    login: Login | None = None


def setting(key: str) -> str:
    """A setting of the person at this machine; "" when it is not set or there is no git."""
    return _git(Path("/"), "config", "--global", "--get", key)


def _git(folder: Path, *words: str) -> str:
    program = shutil.which("git")
    if program is None:
        return ""
    quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    try:
        done = subprocess.run(
            [program, *quiet, "-C", str(folder), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def reachable(url: str) -> str:
    """An address as a sandbox can use it, which has no keys of this machine: ssh becomes https.

    In:  reachable("git@github.com:me/tool.git")
    Out: 'https://github.com/me/tool.git'

    Raises:
        GitError: it is a folder of this machine.
    """
    if re.match(r"https?://", url, re.IGNORECASE):
        return url
    found = over_https(url)
    if not found:
        raise GitError(
            f"{url} is on this machine, where a sandbox cannot reach it",
            code=NO_REMOTE,
            hint="--repo URL  names one it can;  %sandbox upload  copies files.",
        )
    return found


def over_https(url: str) -> str:
    """The https address of an ssh one, in either way of writing it; "" for any other.

    In:  over_https("ssh://git@git.example.org:2222/me/tool")
    Out: 'https://git.example.org/me/tool'
    """
    found = _SSH.fullmatch(url)
    return f"https://{found['host'] or found['short']}/{found['path'].lstrip('/')}" if found else ""


def current(folder: Path) -> str:
    """The branch that is checked out; "" when HEAD is detached."""
    return _git(folder, "symbolic-ref", "--short", "-q", "HEAD")


def origin(folder: Path) -> Origin:
    """Where the repository around a folder comes from.

    Raises:
        GitError: it is in none, or in one without a remote.
    """
    if shutil.which("git") is None:
        raise GitError("this machine has no git to ask about the notebook's repository", hint="Name its URL.")
    if not _git(folder, "rev-parse", "--git-dir"):
        raise GitError(f"{folder} is in no git repository", hint="--repo URL  clones one by its address.")
    url = _git(folder, "remote", "get-url", "origin")
    if not url:
        raise GitError(
            f"the repository of {folder} has no remote named origin",
            code=NO_REMOTE,
            hint="--repo URL  clones one by its address.",
        )
    branch = current(folder)
    ahead = _git(folder, "rev-list", "--count", f"refs/remotes/origin/{branch}..HEAD") if branch else ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    url, login = logins.apart(reachable(url))
    count = int(ahead) if ahead.isdigit() else 0
    return Origin(url, branch, count, len(changed.splitlines()), login)
