"""What is only on this machine, carried into the notebook's clone: ``--repo . --include-dirty``.

A repository with a remote is cloned from there; one without is copied, as a bundle of one branch. One patch
has the rest: commits that are not pushed, changes that are not committed, and files git does not track, for
which a copy of the index is told of them. It begins at the newest commit both sides have, and is applied in
the sandbox to the files alone. Ignored files stay here, and so do files whose names say that they hold keys,
unless that is asked for; they are named.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.errors import GitError
from daytona_magics.git import repository
from daytona_magics.git.home import Home
from daytona_magics.git.repository import Repository
from daytona_magics.git.views import line_of
from daytona_magics.notebook.card import counted
from daytona_magics.sandboxes import files, trees
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

#: Bytes of the patch, files git does not track, and names that are listed.
MOST, UNTRACKED, SHOWN = 64 << 20, 2000, 10
#: Names of files that hold keys, in lower case.
SECRET = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc"),
    *("*secret*", "*credential*", "*password*", "*.token", "*_token", "*service_account*.json", ".htpasswd"),
)
#: What looks so and is meant to be read by everybody.
OPEN = ("*.example", "*.sample", "*.template", "*.pub", "*.py", "*.ipynb", "*.md", "*.rst", "*.ts", "*.js")


@dataclass(frozen=True)
class Changes:
    """What is only on this machine.

    Attributes:
        patch: it.
        count: files it is about.
        left: names of files that look secret and are not in it.
    """

    patch: bytes
    count: int
    left: tuple[str, ...]

    def said(self) -> str:
        """One or two sentences."""
        what = f"{counted(self.count, 'file')} that only this machine had so went along, not committed"
        if not self.left:
            return what if self.count else "this machine has nothing that the server has not"
        more = f" and {len(self.left) - SHOWN:,} more" if len(self.left) > SHOWN else ""
        names = ", ".join(f"`{line_of(name, 80)}`" for name in self.left[:SHOWN]) + more
        return f"{what}; left out, for they look secret: {names}   (`--include-secrets`)"


def looks_secret(name: str) -> bool:
    """In:  looks_secret("conf/.env"), looks_secret(".env.example"), looks_secret("secret_santa.py")
    Out: (True, False, False)
    """
    last = name.rpartition("/")[2].lower()
    if any(fnmatch.fnmatchcase(last, pattern) for pattern in OPEN):
        return False
    return any(fnmatch.fnmatchcase(last, pattern) for pattern in SECRET)


def changes(there: Home, base: str, *, secrets: bool) -> Changes:
    """What differs on this machine from a commit. Nothing here is changed.

    Args:
        secrets: files that look secret as well.

    Raises:
        GitError: it is too much.
    """
    new = _names(there, "ls-files", "--others", "--exclude-standard", "-z")
    if len(new) > UNTRACKED:
        raise GitError(
            f"git does not track {len(new):,} files here, more than the {UNTRACKED:,} that are carried along",
            code="TOO_MUCH",
            hint="A .gitignore names those that stay;  git add  tracks the others.",
        )
    # Another repository inside of this one is a folder to git, and stays.
    new = [name for name in new if not name.endswith("/")]
    changed = _names(there, "diff", "--name-only", "--no-renames", "-z", base, "--")
    left = () if secrets else tuple(name for name in [*changed, *new] if looks_secret(name))
    wanted = [name for name in new if name not in left]
    with tempfile.TemporaryDirectory(prefix="daytona-magics-") as folder:
        index = Path(folder) / "index"
        own = Path(there.text("rev-parse", "--path-format=absolute", "--git-path", "index"))
        if own.is_file():
            # With its time: by that git knows which files may have changed since without looking different.
            shutil.copy2(own, index)
        aside = {"GIT_INDEX_FILE": str(index)}
        for start in range(0, len(wanted), 200):
            _ran(there, aside, "add", "--intent-to-add", "--", *_literal(wanted[start : start + 200]))
        plain = ("--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--no-relative", "--ignore-submodules=all")
        without = [f":(top,exclude,literal){name}" for name in left]
        patch = _ran(there, aside, "diff", *plain, *prefixes, base, "--", ":/", *without)
    if len(patch) > MOST:
        raise GitError(
            f"what is only on this machine has {len(patch) >> 20:,} MiB, more than {MOST >> 20} MiB",
            code="TOO_MUCH",
            hint="git push  brings commits there;  %sandbox upload  copies files.",
        )
    return Changes(patch, len({*changed, *wanted} - {*left}), left)


def _literal(names: list[str]) -> list[str]:
    return [f":(top,literal){name}" for name in names]


def _names(there: Home, *words: str) -> list[str]:
    # As the system has them: a name that is no text must still be left out when it looks secret.
    done = there.git(*words)
    return [os.fsdecode(name) for name in done.out.split(b"\0") if name] if done.code == 0 else []


def _ran(there: Home, env: dict[str, str], *words: str) -> bytes:
    done = there.git(*words, env=env)
    if done.code:
        raise GitError(f"git {words[0]} on this machine: {done.said.strip()[:500]}")
    return done.out


async def copy(tie: Binding, tell: Reporter, there: Home, branch: str) -> Repository:
    """A clone in the sandbox of one branch of a repository of this machine, without a remote.

    Raises:
        GitError: nothing is committed on it, or it is too much.
    """
    sandbox = await tie.usable(tell)
    tell.progress(f"packing {branch}")
    with tempfile.TemporaryDirectory(prefix="daytona-magics-") as folder:
        bundle = Path(folder) / "bundle"
        words = ("bundle", "create", "-q", str(bundle), f"refs/heads/{branch}")
        done = await asyncio.to_thread(there.git, *words)
        if done.code:
            raise GitError(f"packing {branch} of {there.top}: {done.said.strip()[:500]}", hint="git commit")
        if (size := bundle.stat().st_size) > MOST:
            raise GitError(
                f"{branch} has {size >> 20:,} MiB, more than the {MOST >> 20} MiB that are copied at once",
                code="TOO_MUCH",
                hint="--repo URL  clones it from a server.",
            )
        data = bundle.read_bytes()
    top = f"{(await repository.folder(tie, sandbox)).rstrip('/')}/{there.top.name}"
    async with await trees.resting_place(sandbox) as place:
        tell.progress(f"copying {branch}")
        await files.asked("the repository", sandbox.fs.upload_file(data, place.path))
        clone = ("clone", "-q", "--branch", branch, "--", place.path, top)
        await repository.run(sandbox, "/", *clone, doing=f"copying {branch}")
    found = Repository(tie, sandbox, top)
    await found.run("remote", "remove", "origin", doing="leaving the copy without a remote")
    repository.remember(sandbox, top)
    return found


async def carry(found: Repository, tell: Reporter, there: Home, *, secrets: bool) -> Changes:
    """Carry it into a clone that has no changes of its own.

    Raises:
        GitError: this machine has not heard of what the server has, or both changed the same lines.
    """
    tip = await found.text("rev-parse", "HEAD", doing="looking at HEAD")
    base = await asyncio.to_thread(there.text, "merge-base", "HEAD", tip)
    if not base:
        raise GitError(
            f"this machine's repository does not have the server's last commit, {tip[:10]}",
            code="UNRELATED",
            hint="git fetch  on this machine, then  %sandbox create  again.",
        )
    tell.progress("looking at what is only on this machine")
    made = await asyncio.to_thread(changes, there, base, secrets=secrets)
    if not made.patch:
        return made
    async with await trees.resting_place(found.sandbox) as place:
        tell.progress(f"carrying {counted(made.count, 'file')} along")
        await files.asked("the changes", found.sandbox.fs.upload_file(made.patch, place.path))
        doing = "applying what is only on this machine"
        await found.run("apply", "--whitespace=nowarn", place.path, doing=doing)
    return made
