"""The repository a command is about, and git commands in it.

Without a word about it, that is the repository the notebook's cells are in: the one at or above the folder of
its Python cells, else of its bash cells; else the last one that was cloned here by ``%sandbox_git clone``.

A command is the sandbox's own git with a fixed configuration on top: no hooks, pager, editor, prompts, no
programs for diffs and no file monitor. Its output is cut off in the sandbox, so a huge diff never travels.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import GitError, SandboxError
from daytona_magics.git import failures
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files, worktree
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes of a command's output that are read; of what it says beside it, the last ones.
LIMIT, SAID = 1 << 20, 8000
#: Seconds a command that talks to nobody may take.
WITHIN = 120
_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "core.pager=cat",
    "color.ui=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "commit.gpgSign=false",
    "submodule.recurse=false",
    "log.showSignature=false",
)
_ENV = "LC_ALL=C GIT_TERMINAL_PROMPT=0 GIT_ASKPASS= GIT_EDITOR=: GIT_PAGER=cat GIT_OPTIONAL_LOCKS=0"
#: What a command says on stderr, and its exit code, come after its output, behind a NUL.
_SHELL = (
    "{{ said=$({{ {{ {command} 2>&3; printf '\\n%s' $? >&3; }} | head -c {limit} >&4; }} 3>&1 "
    "| tail -c {said}); }} 4>&1; printf '\\000%s' \"$said\""
)
#: The repositories cloned last, by sandbox.
_cloned: dict[str, str] = {}


@dataclass(frozen=True)
class Answer:
    """What a git command left.

    Attributes:
        code: exit code.
        out: its output, at most LIMIT bytes.
        said: what it said beside it.
        cut: there was more output.
    """

    code: int
    out: str
    said: str
    cut: bool = False


@dataclass(frozen=True)
class Repository:
    """A repository in a sandbox.

    Attributes:
        tie: to the sandbox.
        sandbox: the SDK's object.
        path: its top folder, absolute; of a bare one the folder it is kept in.
        bare: it has no working tree.
    """

    tie: Binding
    sandbox: Any
    path: str
    bare: bool = False

    async def run(
        self,
        *words: str,
        doing: str,
        codes: Sequence[int] = (0,),
        limit: int = LIMIT,
        within: int = WITHIN,
        config: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run ``git WORDS`` in the repository.

        Args:
            doing: for messages, such as "merging dev".
            codes: exit codes that are answers; others are errors.
            limit: bytes of output that are read.
            within: seconds it may take.
            config: settings for this command.

        Raises:
            GitError: it ended with another code.
        """
        return await run(
            self.sandbox,
            self.path,
            *words,
            doing=doing,
            codes=codes,
            limit=limit,
            within=within,
            config=config,
        )

    async def text(self, *words: str, doing: str, codes: Sequence[int] = (0, 1, 128)) -> str:
        """What ``git WORDS`` prints, without its last line end; "" when it fails."""
        found = await self.run(*words, doing=doing, codes=codes)
        return found.out.removesuffix("\n") if found.code == 0 else ""


def options(config: Mapping[str, str] | None = None) -> list[str]:
    """The settings every command gets, as words of git."""
    more = [f"{key}={value}" for key, value in (config or {}).items()]
    return [word for setting in (*_OPTIONS, *more) for word in ("-c", setting)]


async def run(
    sandbox: Any,
    folder: str,
    *words: str,
    doing: str,
    codes: Sequence[int] = (0,),
    limit: int = LIMIT,
    within: int = WITHIN,
    config: Mapping[str, str] | None = None,
) -> Answer:
    """Run git in a folder of a sandbox; as :meth:`Repository.run`."""
    git = ["git", *options(config), "--no-pager", "-C", folder, *words]
    command = f"env {_ENV} {shlex.join(git)}"
    shell = _SHELL.format(command=command, limit=limit + 1, said=SAID)
    try:
        answer = await sandbox.process.exec(f"sh -c {shlex.quote(shell)}", timeout=within)
    except sdk.error_class() as error:
        raise failures.translate(error, doing) from None
    found = _read(str(answer.result or ""), limit)
    if found.code == 127 and "git" in found.said:
        raise GitError(f"{doing}: this sandbox has no git", hint="%sandbox exec apt-get install -y git")
    # A command whose output is not read to its end is ended by that.
    if found.code not in codes and not (found.cut and found.code == 141):
        raise failures.failed(doing, f"{found.said}\n{found.out[:SAID]}" if found.code == 1 else found.said)
    return found


def _read(text: str, limit: int) -> Answer:
    """In: _read("out\\0warning\\n1", 10)  Out: Answer(1, 'out', 'warning')"""
    out, nul, rest = text.rpartition("\0")
    said, _, code = rest.rpartition("\n")
    if not nul or not code.strip().isdigit():
        raise SandboxError("git's answer makes no sense", hint="%sandbox exec git --version")
    cut = len(out.encode("utf-8", "replace")) > limit
    return Answer(int(code), out[:limit] if cut else out, said.strip("\n"), cut)


def remember(sandbox: Any, path: str) -> None:
    """A repository was cloned here; commands are about it where the cells' folder is in none."""
    _cloned[str(sandbox.id)] = path


async def find(tie: Binding, tell: Reporter, path: str | None = None) -> Repository:
    """The repository a command is about.

    Args:
        path: a folder in it, as a person writes it; None for that of the notebook's cells.

    Raises:
        GitError: there is none.
    """
    sandbox = await tie.usable(tell)
    if path is not None:
        where = await files.remote_path(sandbox, path)
        found, why = await around(tie, sandbox, where)
        if found is None:
            raise _none(path, why)
        return found
    found, where, why = await nearest(tie, sandbox)
    if found is None:
        raise _none(where, why)
    return found


async def nearest(tie: Binding, sandbox: Any) -> tuple[Repository | None, str, str]:
    """The repository the notebook's cells are in, else the last clone; it starts nothing.

    Returns:
        it or None, the folder of the cells, and what git says of that.
    """
    where, *others = await _folders(tie, sandbox)
    found, why = await around(tie, sandbox, where)
    if (cloned := _cloned.get(str(sandbox.id))) is not None:
        others.append(cloned)
    for other in others:
        if found is None:
            found, _ = await around(tie, sandbox, other)
    return found, where, why


async def folder(tie: Binding, sandbox: Any) -> str:
    """The folder the notebook's cells are in; the sandbox's own where none has run."""
    return (await _folders(tie, sandbox))[0]


async def _folders(tie: Binding, sandbox: Any) -> list[str]:
    """The folders the notebook's cells are in, that of the newest cell first."""
    found: list[str] = []
    if tie.channel is not None and not tie.channel.closed:
        found = await worktree.folders(tie.channel, tie.context)
    return found or [str(await sandbox.get_work_dir())]


async def around(tie: Binding, sandbox: Any, where: str) -> tuple[Repository | None, str]:
    """The repository at or above a folder; else None and what git says."""
    words = ("rev-parse", "--is-bare-repository", "--absolute-git-dir", "--show-toplevel")
    answer = await run(sandbox, where, *words, doing="looking for the repository", codes=(0, 128))
    lines = answer.out.splitlines()
    if answer.code == 0 and len(lines) == 3:
        return Repository(tie, sandbox, lines[2]), ""
    if len(lines) >= 2 and lines[0] == "true":
        return Repository(tie, sandbox, lines[1], bare=True), ""
    return None, answer.said


def _none(where: str, said: str) -> GitError:
    if "dubious ownership" in said:
        return GitError(
            f"{where} belongs to another user of the sandbox, so git does not touch it",
            code="FORBIDDEN",
            hint=f"%sandbox exec git config --global --add safe.directory {shlex.quote(where)}",
        )
    if "cannot change to" in said:
        return GitError(f"there is no folder {where!r} in the sandbox", code="GIT_REPO_NOT_FOUND")
    if "must be run in a work tree" in said:
        return GitError(
            f"{where} is inside of git's own folder", code="GIT_REPO_NOT_FOUND", hint="Use -C PATH."
        )
    return GitError(
        f"{where} is in no git repository",
        code="GIT_REPO_NOT_FOUND",
        hint="%sandbox_git clone URL  makes one;  -C PATH  names another folder.",
    )


__all__ = ["Answer", "Repository", "around", "find", "folder", "nearest", "options", "remember", "run"]
