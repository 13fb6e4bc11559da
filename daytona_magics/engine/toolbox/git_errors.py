"""What git said when it failed, as the platform's errors.

git runs with ``LC_ALL=C``, so its sentences are the English ones. What the remote side says (``remote: …``)
is shown but does not decide which error it is. Every text is cleaned of credentials first.
"""

import re

from .agent import Refused
from .git_names import scrub

#: Most characters of a message that a client is shown.
MAX_MESSAGE = 2000

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_PREFIX = re.compile(r"^(fatal|error): ", re.IGNORECASE)
_SHOWN = ("fatal:", "error:", "remote:", "conflict", "!", "\t", "automatic merge", "please", "committing")

_NOT_FOUND = (404, "GIT_REPO_NOT_FOUND")
_NO_BRANCH = (404, "GIT_BRANCH_NOT_FOUND")
_AUTH = (401, "GIT_AUTH_FAILED")
_DIRTY = (409, "GIT_DIRTY_WORKTREE")
_CONFLICT = (409, "GIT_MERGE_CONFLICT")
_TRANSPORT = (502, "GIT_TRANSPORT_FAILED")
_DENIED = (403, "FILE_ACCESS_DENIED")

#: The first pattern that is found decides; so what is special stands before what is general.
_KINDS: tuple[tuple[str, tuple[int, str]], ...] = (
    (r"transport '.*' not allowed|strange (hostname|pathname|port)", (400, "BAD_REQUEST")),
    (r"no space left on device|disk quota exceeded|file size limit", (507, "DISK_FULL")),
    (r"authentication failed|could not read (username|password)|terminal prompts disabled", _AUTH),
    (r"invalid username or password|permission denied \(|http basic: access denied", _AUTH),
    (r"returned error: 401", _AUTH),
    (r"returned error: 403", (403, "FORBIDDEN")),
    (r"returned error: 404|repository '.*' (not found|does not exist)|repository not found", _NOT_FOUND),
    (r"does not appear to be a git repository|not a git repository", _NOT_FOUND),
    (r"remote branch .* not found|couldn't find remote ref|src refspec .* does not match any", _NO_BRANCH),
    (r"branch '.*' not found|invalid reference|not a commit and a branch", _NO_BRANCH),
    (r"a branch named '.*' already exists", (409, "GIT_BRANCH_EXISTS")),
    (r"already exists and is not an empty directory|remote .* already exists", (409, "CONFLICT")),
    (r"cannot delete branch .* (checked out|used by worktree)", (409, "CONFLICT")),
    (r"checked out at|already used by worktree", (409, "CONFLICT")),
    (r"cannot lock ref|unable to create '.*\.lock'|could not lock config file", (409, "CONFLICT")),
    (r"automatic merge failed|unmerged files|resolve your current index|needs merge", _CONFLICT),
    (r"could not apply|you have not concluded|not possible to fast-forward", _CONFLICT),
    (r"refusing to merge unrelated histories|is in the middle of (a|another) ", _CONFLICT),
    (r"local changes .*would be overwritten|working tree files would be (overwritten|removed)", _DIRTY),
    (r"commit your changes or stash them|not uptodate|you have unstaged changes", _DIRTY),
    (r"index contains uncommitted changes|would be overwritten by merge", _DIRTY),
    (r"dubious ownership", (403, "FORBIDDEN")),
    (r"could not resolve (host|proxy)|failed to connect|connection (refused|reset|timed out)", _TRANSPORT),
    (r"timed out|certificate|\bssl\b|\btls\b|gnutls|host key verification failed", _TRANSPORT),
    (r"remote end hung up|early eof|rpc failed|could not read from remote|unable to access", _TRANSPORT),
    (r"unable to connect|unable to look up|http request failed|invalid server response", _TRANSPORT),
    (r"protocol error|bad (line|band)|expected flush|unexpected disconnect|index-pack fail", _TRANSPORT),
    (r"permission denied|read-only file system|operation not permitted", _DENIED),
)


def clean(output: bytes, secrets: tuple[str, ...] = ()) -> str:
    """What git printed, without credentials, colours and control characters (line breaks stay)."""
    # A remote redraws its progress with carriage returns.
    text = output.decode("utf-8", "surrogateescape").replace("\r", "\n")
    return scrub(_ESCAPE.sub("", text), secrets)


def kind(text: str) -> tuple[int, str]:
    """HTTP status and code for what git said."""
    own = "\n".join(line for line in text.lower().splitlines() if not line.startswith("remote:"))
    for pattern, answer in _KINDS:
        if re.search(pattern, own):
            return answer
    return 400, "BAD_REQUEST"


def summary(text: str) -> str:
    """The lines of `text` that say what went wrong, without git's hints and progress."""
    lines = [line.rstrip() for line in text.splitlines()]
    telling = [line for line in lines if line.lower().lstrip(" ").startswith(_SHOWN)] or lines
    said = "\n".join(line for line in telling if line.strip() and not line.startswith("hint:"))
    said = _PREFIX.sub("", said)
    return said if len(said) <= MAX_MESSAGE else said[:MAX_MESSAGE] + " […]"


def failure(what: str, output: bytes, secrets: tuple[str, ...] = ()) -> Refused:
    """The refusal for a failed git command. `what` is shown when git said nothing."""
    text = clean(output, secrets)
    status, code = kind(text)
    return Refused(status, code, summary(text) or f"{what} failed and said nothing")


def push_failure(report: bytes, output: bytes, secrets: tuple[str, ...] = ()) -> Refused:
    """The refusal for a failed push; `report` is what ``git push --porcelain`` printed.

    A line is ``!<TAB>from:to<TAB>[rejected] (fetch first)``: rejected here because the other side has
    commits of its own, or ``[remote rejected]`` by a hook or rule over there.
    """
    rejected = [line.split("\t")[-1] for line in clean(report, secrets).splitlines() if line.startswith("!")]
    text = clean(output, secrets)
    if not rejected:
        return failure("git push", output, secrets)
    said = [line for line in text.splitlines() if line.startswith("remote:") and line[7:].strip()]
    message = "\n".join([*rejected, *said])[:MAX_MESSAGE]
    if rejected[0].startswith("[remote rejected]") or rejected[0].startswith("[remote failure]"):
        return Refused(422, "GIT_REMOTE_REJECTED", message)
    return Refused(409, "GIT_PUSH_REJECTED", message)
