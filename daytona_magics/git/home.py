"""A repository of this machine that takes what a sandbox made, and trusts none of it.

Every command is this machine's git with nothing that could run a program: no hooks, file monitor, filters,
maintenance, transports but files, and in a bounded memory and time. Objects are checked as they come, no tag
and no submodule comes along, and what is taken is exactly one commit, named by its id. A branch is only ever
made or moved forward, and none that is checked out. The files are changed by :func:`apply` alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daytona_magics.errors import GitError, printable
from daytona_magics.git import failures

#: Seconds one command may take, and KiB of memory it may address.
WITHIN, MEMORY = 300, 4 << 20
#: Commits that are asked for their branches.
_LOOKS = 20
#: Bytes of a bundle before its objects that are looked at.
HEADER = 1 << 20
_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    "color.ui=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.fsckObjects=true",
    "transfer.fsckObjects=true",
    "fetch.prune=false",
    "fetch.writeCommitGraph=false",
    "protocol.allow=never",
    "protocol.version=2",
    "protocol.file.allow=always",
    "credential.helper=",
    "pack.threads=1",
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=256m",
    "apply.whitespace=nowarn",
    "apply.ignoreWhitespace=no",
)
#: A person may have told git to use no bare repository it meets; the one made here is meant.
_ROOM = ("safe.bareRepository=all",)
_FETCH = ("fetch", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
_KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH")
#: Where a system cannot bound memory, git still bounds what it reads at once.
_SHELL = 'ulimit -v "$0" 2>/dev/null; exec "$@"'
_ID = re.compile(r"[0-9a-f]{40}")
#: What a patch says of kinds of files. No line of a file's content begins so: those begin with a sign.
_KINDS = re.compile(rb"^(?:(?:old|new|new file|deleted file) mode |index )(.*)$", re.M)
_PLAIN = re.compile(rb"(?:[0-9a-f]{40}\.\.[0-9a-f]{40})? ?(?:100644|100755)?")


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, output, and what it said beside it."""

    code: int
    out: bytes
    said: str


@dataclass(frozen=True)
class Home:
    """A repository of this machine.

    Attributes:
        top: its top folder.
    """

    top: Path

    def git(
        self,
        *words: str,
        given: bytes = b"",
        settings: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run git in it.

        Args:
            given: its standard input.
            settings: more of them, beside those every command gets.
            env: more variables.

        Raises:
            GitError: there is no git here, or it did not end in time.
        """
        program = shutil.which("git")
        if program is None:
            raise GitError("this machine has no git")
        options = [word for one in (*_OPTIONS, *settings) for word in ("-c", one)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _KEPT}
        kept |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file"}
        kept |= {"GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", **(env or {})}
        command = ["/bin/sh", "-c", _SHELL, str(MEMORY), program, *options, "-C", str(self.top), *words]
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, env=kept, timeout=WITHIN, check=False
            )
        except subprocess.TimeoutExpired:
            raise GitError(f"git {words[0]} on this machine took more than {WITHIN} s") from None
        return Ran(done.returncode, done.stdout, printable(done.stderr.decode("utf-8", "replace")))

    def text(self, *words: str, given: bytes = b"") -> str:
        """What a command prints, without its last line end; "" when it fails."""
        done = self.git(*words, given=given)
        return done.out.decode("utf-8", "replace").removesuffix("\n") if done.code == 0 else ""


def of(folder: Path) -> Home:
    """The repository around a folder of this machine.

    Raises:
        GitError: it is in none with files.
    """
    top = Home(folder).text("rev-parse", "--show-toplevel") if folder.is_dir() else ""
    if not top:
        raise GitError(
            f"{folder} is in no git repository of this machine",
            code="GIT_REPO_NOT_FOUND",
            hint="--to FOLDER  names one;  %sandbox download  copies files.",
        )
    return Home(Path(top))


def shared(home: Home, commits: Sequence[str], *, checked_out: bool) -> str:
    """The first of some commits that is part of a branch here; "" when none is.

    Args:
        commits: their ids, as a sandbox says them.
        checked_out: part of the one that is checked out.
    """
    wanted = [one for one in commits if _ID.fullmatch(one)]
    answer = home.text("cat-file", "--batch-check=%(objecttype)", given="\n".join(wanted).encode())
    kinds = zip(wanted, answer.splitlines(), strict=False)
    here = [commit for commit, kind in kinds if kind == "commit"]
    if checked_out:
        # The newest that the sandbox's history has in common with this one's, however far apart they are.
        found = home.text("merge-base", "HEAD", here[0]) if here else ""
        return found if found in commits else ""
    # One that is here and on no branch is the rest of something that was given up; there are few in a row.
    for commit in here[:_LOOKS]:
        if home.text("for-each-ref", "--count=1", "--contains", commit):
            return commit
    return ""


def check_name(home: Home, name: str) -> str:
    """A name for a branch here.

    Raises:
        GitError: git has no such names, or it looks like a commit.
    """
    good = name.isprintable() and len(name) <= 200 and not _ID.fullmatch(name) and name != "HEAD"
    if not good or home.text("check-ref-format", "--branch", name) != name:
        raise GitError(f"{printable(name, line=True)[:200]!r} is no name for a branch", hint="--branch NAME")
    return name


def tip_of(bundle: Path) -> str:
    """The one commit a bundle is about.

    Raises:
        GitError: it is no bundle, or another than was asked for: of several refs, or with parts left out.
    """
    with bundle.open("rb") as file:
        head, empty, _ = file.read(HEADER).partition(b"\n\n")
    lines = head.decode("utf-8", "replace").split("\n")
    refs = [line for line in lines[1:] if not line.startswith(("-", "@"))]
    capabilities = {line for line in lines[1:] if line.startswith("@")}
    sha, _, name = refs[0].partition(" ") if refs else ("", "", "")
    good = lines[0] in ("# v2 git bundle", "# v3 git bundle") and capabilities <= {"@object-format=sha1"}
    if not (good and empty and len(refs) == 1 and name == "HEAD" and _ID.fullmatch(sha)):
        raise GitError("what the sandbox sent is not the bundle that was asked for", code="BAD_BUNDLE")
    return sha


def take(home: Home, bundle: Path, base: str, branch: str) -> None:
    """Make a branch of what a bundle brings, or move it forward. No file is changed.

    git checks objects that come from a repository, and not in all versions those of a bundle. So the bundle
    is opened in a repository that is thrown away, and fetched from there.

    Args:
        bundle: a file in a folder with nothing else in it.
        base: the commit it begins after, which is here.

    Raises:
        GitError: the objects are not sound, or the branch is checked out or has commits of its own.
    """
    tip, room = tip_of(bundle), Home(bundle.with_name("room.git"))
    objects = home.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
    _must(Home(bundle.parent).git("init", "-q", "--bare", "--template=", str(room.top)))
    (room.top / "objects/info").mkdir(exist_ok=True)
    (room.top / "objects/info/alternates").write_text(f"{objects}\n")
    _must(room.git("update-ref", "refs/heads/base", base, settings=_ROOM))
    _must(room.git(*_FETCH, str(bundle), "HEAD:refs/heads/tip", settings=_ROOM))
    if room.git("rev-parse", "refs/heads/tip", settings=_ROOM).out.decode().strip() != tip:
        raise GitError("what the sandbox sent is not the commit it names", code="BAD_BUNDLE")
    _taken(home.git(*_FETCH, str(room.top), f"refs/heads/tip:refs/heads/{branch}"), branch)


def point(home: Home, commit: str, branch: str) -> None:
    """Make a branch at a commit that is here, or move it forward to it.

    Raises:
        GitError: the branch is checked out or has commits of its own.
    """
    _taken(home.git(*_FETCH, ".", f"{commit}:refs/heads/{branch}"), branch)


def _taken(done: Ran, branch: str) -> None:
    if "refusing to fetch into" in done.said:
        raise GitError(
            f"branch {branch} is checked out on this machine, and files here are not changed by this",
            code="CHECKED_OUT",
            hint="--branch OTHER  makes another branch;  --patch  shows the changes as a patch.",
        )
    if "rejected" in done.said:
        raise GitError(
            f"branch {branch} of this machine has other commits than the sandbox's; it was left as it is",
            code="GIT_DIVERGED",
            hint="--branch OTHER  makes another branch.",
        )
    _must(done)


def _must(done: Ran) -> None:
    """Raise GitError for a command that failed; what it says of a remote is about none, so no hint."""
    if done.code:
        found = failures.failed("taking what the sandbox sent", done.said, "BAD_BUNDLE")
        raise GitError(f"{found}; nothing was changed", code=found.code)


def files_of(home: Home, patch: bytes) -> list[str]:
    """The files a patch is about, as this machine's git reads it.

    Raises:
        GitError: it is no patch.
    """
    done = home.git("apply", "--numstat", "-z", "-", given=patch)
    if done.code:
        raise GitError("what the sandbox sent is not the patch that was asked for", code="BAD_PATCH")
    entries = done.out.decode("utf-8", "replace").split("\0")[:-1]
    return [entry.split("\t", 2)[-1] for entry in entries]


def apply(home: Home, patch: bytes) -> None:
    """Change files here as a patch says; all of it, or nothing.

    Filters of this machine's git do not run: a patch could bring a .gitattributes that asks for them.

    Raises:
        GitError: it does not fit, leads out of the repository, or makes a link.
    """
    if not all(_PLAIN.fullmatch(kind) for kind in _KINDS.findall(patch)):
        raise GitError(
            "the patch makes or changes links or other repositories; nothing was changed",
            code="BAD_PATCH",
            hint="%sandbox_git fetch --to FOLDER  brings it as a branch.",
        )
    done = home.git("apply", "-", given=patch, settings=_filters(home))
    if done.code:
        found = failures.failed("applying the patch", done.said, "DOES_NOT_FIT")
        raise GitError(
            f"{found}; nothing was changed",
            code=found.code,
            hint="The files here are not as those the sandbox began with:  "
            "%sandbox_git fetch --to FOLDER  brings it as a branch.",
        )


def _filters(home: Home) -> list[str]:
    """Settings that put each filter of this machine's git out of work."""
    keys = home.text("config", "--name-only", "-z", "--get-regexp", r"^filter\.").split("\0")
    names = {key.removeprefix("filter.").rpartition(".")[0] for key in keys if key}
    if strange := [name for name in names if "=" in name]:
        raise GitError(f"filter {strange[0]!r} of this machine's git cannot be put out of work for a patch")
    empty = [f"filter.{name}.{kind}=" for name in sorted(names) for kind in ("smudge", "clean", "process")]
    return [*empty, *(f"filter.{name}.required=false" for name in sorted(names))]
