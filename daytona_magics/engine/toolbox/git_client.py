"""The engine's side of git: asks the toolbox inside a sandbox and checks what it says.

In : (await git(sandbox.toolbox, "commit", path="repo", message="one", …)).rest["hash"]
Out: '5b1f…'
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from . import wire
from .answers import MAX_NAME, MAX_PATH, ToolboxError, integer, protocol_errors, text
from .client import MAX_ENTRIES, MAX_LISTING, Toolbox
from .wire import JSON, WireError

#: Seconds until the answer to an operation; longer than the toolbox gives its git.
LOCAL_LIMIT, NETWORK_LIMIT = 900.0, 3 * 3600.0
NETWORK = frozenset({"clone", "push", "pull", "add_remote"})
STATES = frozenset(
    {"Unmodified", "Untracked", "Modified", "Added", "Deleted", "Renamed", "Copied", "Updated but unmerged"}
)
_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_MAX_TEXT = 256 << 10


class Answer(NamedTuple):
    """What an operation answered: a list (maybe empty) of checked entries, and the rest, not checked yet."""

    entries: list[Any]
    rest: dict[str, Any]


async def git(toolbox: Toolbox, verb: str, **arguments: Any) -> Answer:
    """Do ``git.VERB`` in a sandbox. Cancelling ends the git that runs inside.

    Raises ToolboxError with the platform's code, 413 for a longer answer than 200,000 entries or 32 MiB, and
    502 for an answer that makes no sense.
    """
    limit = NETWORK_LIMIT if verb in NETWORK else LOCAL_LIMIT
    try:
        return await asyncio.wait_for(_git(toolbox, verb, arguments), limit)
    except asyncio.TimeoutError:
        message = f"git {verb} did not end within {limit:g} s"
        raise ToolboxError(504, "REQUEST_TIMEOUT", message) from None


async def _git(toolbox: Toolbox, verb: str, arguments: dict[str, Any]) -> Answer:
    entries: list[Any] = []
    size = 0
    check = _ENTRIES.get(verb)
    with await toolbox.begin(f"git.{verb}", **arguments) as operation, protocol_errors():
        while True:
            frame = await operation.frame(None)
            wire.close_fds(frame.fds)
            if frame.fds or frame.type != JSON:
                raise WireError("a message was expected and something else came")
            message = wire.parse_json(frame.payload)
            if "entries" not in message:
                return Answer(entries, message)
            part = message["entries"]
            size += len(frame.payload)
            if not isinstance(part, list) or not part:
                raise WireError("a part of a list holds nothing")
            if size > MAX_LISTING + wire.MAX_FRAME or len(entries) + len(part) > MAX_ENTRIES:
                raise WireError("the list is longer than was agreed")
            if check is None:
                raise WireError("a list was not asked for")
            # Now, not at the end: what else is in an entry could take many times the memory of its bytes.
            entries += [check(_object(entry)) for entry in part]


def status_json(answer: Answer) -> dict[str, Any]:
    """A checked ``GitStatus``."""
    with protocol_errors():
        rest = answer.rest
        if type(rest.get("detached")) is not bool:
            raise WireError("a status does not say whether HEAD is detached")
        upstream = text(rest, "upstream", MAX_NAME)
        return {
            "currentBranch": text(rest, "branch", MAX_NAME),
            "detached": rest["detached"],
            "upstream": upstream,
            "branchPublished": bool(upstream),
            "ahead": integer(rest, "ahead", 0, 1 << 53),
            "behind": integer(rest, "behind", 0, 1 << 53),
            "fileStatus": [_file_json(_object(entry)) for entry in answer.entries],
        }


def _file_json(entry: dict[str, Any]) -> dict[str, Any]:
    found = {
        "name": text(entry, "name", MAX_PATH),
        "extra": text(entry, "extra", MAX_PATH),
        "staging": text(entry, "staging", 32),
        "worktree": text(entry, "worktree", 32),
    }
    if not {found["staging"], found["worktree"]} <= STATES:
        raise WireError("a file has an unknown state")
    return found


def branches_json(answer: Answer) -> dict[str, Any]:
    """A checked ``ListBranchResponse``."""
    with protocol_errors():
        names = [_branch_json(_object(entry))["name"] for entry in answer.entries]
        return {"branches": names, "current": text(answer.rest, "current", MAX_NAME)}


def remotes_json(answer: Answer) -> dict[str, Any]:
    """A checked ``ListRemotesResponse``."""
    with protocol_errors():
        return {"remotes": [_remote_json(_object(entry)) for entry in answer.entries]}


def _remote_json(entry: dict[str, Any]) -> dict[str, Any]:
    return {"name": text(entry, "name", MAX_NAME), "url": text(entry, "url", MAX_PATH)}


def _branch_json(entry: dict[str, Any]) -> dict[str, Any]:
    return {"name": text(entry, "name", MAX_NAME)}


def history_json(answer: Answer) -> list[dict[str, Any]]:
    """A checked list of ``GitCommitInfo``."""
    with protocol_errors():
        return [_commit_json(_object(entry)) for entry in answer.entries]


def _commit_json(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "hash": _hash(entry),
        "author": text(entry, "author", _MAX_TEXT),
        "email": text(entry, "email", _MAX_TEXT),
        "message": text(entry, "message", _MAX_TEXT),
        "timestamp": text(entry, "timestamp", 64),
    }


def hash_json(answer: Answer) -> dict[str, Any]:
    """A checked ``GitCommitResponse``."""
    with protocol_errors():
        return {"hash": _hash(answer.rest)}


def value_json(answer: Answer) -> dict[str, Any]:
    """A checked ``GitConfigResponse``."""
    with protocol_errors():
        unset = answer.rest.get("value", "") is None
        return {"value": None if unset else text(answer.rest, "value", 1 << 20)}


def _hash(message: dict[str, Any]) -> str:
    found = text(message, "hash", 64)
    if not _HASH.match(found):
        raise WireError("a commit has an impossible hash")
    return found


def _object(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise WireError("an entry of a list is no object")
    return entry


#: What the entries of a list must be, by operation; the others answer with none.
_ENTRIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "status": _file_json,
    "branches": _branch_json,
    "remotes": _remote_json,
    "history": _commit_json,
}
