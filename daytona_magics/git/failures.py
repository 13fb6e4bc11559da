"""What git or the git API says when it fails, as one clear sentence and the command that helps.

The API's errors carry a code; what a command printed is sorted into the same codes, so that both ways give
the same answers. Everything said comes from the sandbox or from a remote server: passwords that stand in an
address are taken out, and so is the login of the call, whoever repeats it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from daytona_magics.errors import GitError, SandboxError
from daytona_magics.sandboxes import client as sdk

#: Most characters of what git said that are shown.
LONGEST = 1200

_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s]+@", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:fatal|error): ", re.IGNORECASE | re.MULTILINE)

HINTS = {
    "GIT_AUTH_FAILED": "%sandbox_git credentials  shows which login is used for a host, and why.",
    "GIT_REPO_NOT_FOUND": "A private repository may look like none:  %sandbox_git credentials",
    "GIT_BRANCH_NOT_FOUND": "%sandbox_git branches  lists them.",
    "GIT_BRANCH_EXISTS": "%sandbox_git checkout NAME  goes there.",
    "GIT_PUSH_REJECTED": "The remote branch has commits that are not here:  %sandbox_git pull  brings them, "
    "then push again.",
    "GIT_REMOTE_REJECTED": "The other side does not take it (a protected branch, a hook, a rule):  "
    "%sandbox_git branch NAME  makes a branch of your own to push.",
    "GIT_DIRTY_WORKTREE": "Changes that are not committed are in the way:  %sandbox_git commit -a -m TEXT  "
    "or  %sandbox_git restore .",
    "GIT_MERGE_CONFLICT": "%sandbox_git status  shows where it stands.",
    "GIT_TRANSPORT_FAILED": "%sandbox_git remote  shows the address;  %sandbox network  what may be reached.",
    "GIT_REMOTE_NOT_FOUND": "%sandbox_git remote  lists them;  %sandbox_git remote add NAME URL  adds one.",
    "DISK_FULL": "The sandbox's disk is full:  %sandbox exec df -h .",
}

#: Two branches that have no commit in common.
APART = "%sandbox_git reset --hard REMOTE/BRANCH  takes theirs and gives up what is only here."
#: What a command prints, by code; the first that is found decides.
_KINDS: tuple[tuple[str, str], ...] = (
    ("DISK_FULL", r"no space left on device|disk quota exceeded"),
    (
        "GIT_AUTH_FAILED",
        r"authentication failed|could not read (username|password)|terminal prompts disabled",
    ),
    ("GIT_AUTH_FAILED", r"permission denied \(|http basic: access denied|returned error: 401"),
    ("FORBIDDEN", r"returned error: 403"),
    ("GIT_REPO_NOT_FOUND", r"repository '.*' not found|repository not found|does not appear to be a git rep"),
    ("GIT_REPO_NOT_FOUND", r"not a git repository|returned error: 404"),
    ("GIT_BRANCH_NOT_FOUND", r"couldn't find remote ref|unknown revision|bad revision|not something we can"),
    ("GIT_BRANCH_NOT_FOUND", r"invalid reference|pathspec '.*' did not match|src refspec .* does not match"),
    ("GIT_REMOTE_REJECTED", r"\[remote rejected\]"),
    ("GIT_PUSH_REJECTED", r"\[rejected\]|stale info|fetch first|non-fast-forward"),
    (
        "GIT_MERGE_CONFLICT",
        r"automatic merge failed|unmerged files|you have not concluded|unresolved conflict",
    ),
    ("GIT_DIRTY_WORKTREE", r"would be overwritten by|commit your changes or stash|uncommitted changes"),
    ("GIT_LOCKED", r"unable to create '.*\.lock'|cannot lock ref"),
    ("GIT_TRANSPORT_FAILED", r"could not resolve|failed to connect|connection (refused|reset|timed out)"),
    (
        "GIT_TRANSPORT_FAILED",
        r"unable to access|certificate|remote end hung up|early eof|could not read from",
    ),
)


def clean(text: str, secrets: Sequence[str] = ()) -> str:
    """Text without passwords of addresses and without ``secrets``.

    In:  clean("https://ada:pw@host/x")
    Out: 'https://***@host/x'
    """
    for secret in secrets:
        if len(secret) > 2:
            text = text.replace(secret, "***")
    return _USERINFO.sub(r"\1***@", text)


def code_of(text: str) -> str:
    """The code for what a git command printed; "" when it is none of those known."""
    lower = text.lower()
    return next((code for code, pattern in _KINDS if re.search(pattern, lower)), "")


def failed(doing: str, text: str, code: str = "", secrets: Sequence[str] = ()) -> GitError:
    """The error for a command that failed.

    Args:
        doing: what was being done, for the message ("merging dev").
        text: what git said.
        code: overrules what the text looks like.
        secrets: must not be repeated.
    """
    lines = [line for line in clean(text, secrets).splitlines() if line.strip() and line[:5] != "hint:"]
    said = _PREFIX.sub("", "\n".join(lines)).strip() or "git said nothing"
    said = said if len(said) <= LONGEST else said[:LONGEST] + " […]"
    code = code or code_of(text)
    hint = APART if "unrelated histories" in said else HINTS.get(code, "")
    return GitError(f"{doing}: {said}", code=code, hint=hint)


def translate(error: BaseException, doing: str, secrets: Sequence[str] = ()) -> BaseException:
    """An exception of the SDK as a :class:`GitError`; those that are not about git as everywhere else."""
    known = sys.modules.get("daytona.common.errors")
    if known is None or not isinstance(error, known.DaytonaError):
        return error
    code = str(getattr(error, "code", "") or "")
    daemon = getattr(error, "source", None) == "DAYTONA_DAEMON"
    said = _PREFIX.sub("", clean(str(error), secrets)).strip()
    # Beside the wrapped server's sentence the SDK says which of its own calls it was.
    said = re.sub(r"^Failed to [a-z ]+: ", "", said)
    if code.startswith("GIT_") or code == "DISK_FULL" or daemon:
        return failed(doing, said, code)
    if sdk.not_found(error) or (sdk.refused(error) and code_of(said)):
        return failed(doing, said)
    found = sdk.translate(error, doing)
    if secrets and isinstance(found, SandboxError):
        return type(found)(clean(str(found), secrets), hint=found.hint)
    return found
