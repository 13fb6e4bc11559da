"""What ``--repo`` of ``%sandbox create`` names: an address, or a repository of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daytona_magics.errors import GitError, SandboxUsageError
from daytona_magics.notebook.card import counted

if TYPE_CHECKING:
    from daytona_magics.git.logins import Login


@dataclass(frozen=True)
class Source:
    """What ``--repo`` means.

    Attributes:
        url: the address; "" for a repository of this machine that has none a sandbox can reach.
        here: that repository.
        branch: to begin at; None for the remote's own.
        said: a warning.
        folder: of this machine, whose changes are carried along; None for none.
        secrets: those of files that look secret as well.
        login: what the address brought along; None where this machine's are looked for.
    """

    url: str
    branch: str | None
    said: str = ""
    folder: Path | None = None
    secrets: bool = False
    login: Login | None = None
    here: Path | None = None


def source_of(repo: str, branch: str | None, *, carry: bool = False, secrets: bool = False) -> Source:
    """What ``--repo``, ``--branch``, ``--include-dirty`` and ``--include-secrets`` mean.

    Raises:
        GitError: the notebook, or the folder that is named, is in no repository with an origin.
    """
    from daytona_magics.git import host, logins, talking

    folder = Path(repo).expanduser()
    if repo != "." and not folder.is_dir():
        if logins.password_of(repo):
            raise SandboxUsageError("the address has a password in it, which would be saved in the notebook")
        if not re.match(r"[a-z][a-z0-9+.-]*://|/|[\w.-]+@[\w.-]+:", repo, re.IGNORECASE):
            raise SandboxUsageError(f"--repo {repo}: neither a folder of this machine nor an address")
        talking.folder_of(repo)
        if carry:
            raise SandboxUsageError("--include-dirty goes with --repo . or a folder of this machine")
        return Source(repo, branch)
    folder = notebook_folder() if repo == "." else folder
    try:
        found = host.origin(folder)
    except GitError as error:
        if error.code != host.NO_REMOTE or not (branch or host.current(folder)):
            raise
        branch = branch or host.current(folder)
        return Source("", branch, f"sync is off: {error}", folder if carry else None, secrets, here=folder)
    if branch is None and not found.branch:
        raise GitError("HEAD is detached here, so there is no current branch", hint="--branch BRANCH")
    if carry:
        return Source(found.url, branch or found.branch, "", folder, secrets, found.login)
    left = []
    if found.dirty:
        left.append(f"{counted(found.dirty, 'file')} not committed")
    if found.ahead and branch in (None, found.branch):
        left.append(f"{counted(found.ahead, 'commit')} not pushed")
    said = (
        f"what is only on this machine is not in the sandbox: {' and '.join(left)}   (`--include-dirty`)"
        if left
        else ""
    )
    return Source(found.url, branch or found.branch, said, login=found.login)


def notebook_folder() -> Path:
    """The folder the notebook is in; the kernel's own where that is not known."""
    from daytona_magics.sandboxes import running
    from daytona_magics.sandboxes.identity import notebook_path

    told = Path(notebook_path(running()) or "")
    return told.parent if told.is_absolute() and told.parent.is_dir() else Path.cwd()
