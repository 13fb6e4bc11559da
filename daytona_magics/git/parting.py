"""The last push, when the kernel ends: plain HTTP from the main thread, in a bounded time.

As for the farewell of the sandbox (:mod:`~daytona_magics.sandboxes.last_requests`). What is not pushed in
time stays in the sandbox's files, and is pushed when it is used again.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from daytona_magics.git import branching, failures
from daytona_magics.git.syncing import BUDGET, Sync
from daytona_magics.sandboxes import last_requests


def watch(current: Callable[[], Sync | None]) -> Callable[[], None]:
    """Push once more when this process exits; returns what was registered, for taking it out again."""
    owner = os.getpid()

    def leave() -> None:
        found = current()
        # A forked child that exits is not the kernel exiting.
        if found is not None and os.getpid() == owner and not found.off:
            last(found)

    # Registered after the sandbox's farewell, so it runs before it.
    atexit.register(leave)
    return leave


def last(sync: Sync, budget: float = BUDGET) -> str:
    """Push what there is, within ``budget`` seconds; returns what came of it, for tests and logs."""
    until = time.monotonic() + budget
    own, git = sync.own, f"git -C {shlex.quote(sync.own.path)}"
    branch, remote = shlex.quote(f"refs/heads/{own.branch}"), branching.REMOTE
    command = f"{git} rev-list --count {branch} --not --remotes={remote} --"
    command += f" && {git} remote get-url --push {remote}"
    try:
        said = _post(sync, "process/execute", {"command": f"sh -c {shlex.quote(command)}"}, until)
        count, _, url = str(said.get("result", "")).strip().partition("\n")
        if not count.isdigit() or int(count) == 0:
            return "nothing to push"
        if failures.clean(url) != own.url:
            return "the remote is another one"
        asked: dict[str, Any] = {"path": own.path, "branch": own.branch, "remote": branching.REMOTE}
        login = sync.login
        if login is not None:
            asked |= {"username": login.username, "password": login.password}
        _post(sync, "git/push", {**asked, "set_upstream": True}, until)
    except (OSError, ValueError, TimeoutError) as error:
        return f"not pushed: {type(error).__name__}"
    return "pushed"


def _post(sync: Sync, path: str, body: dict[str, Any], until: float) -> dict[str, Any]:
    endpoint, sandbox = sync.tie.endpoint, sync.sandbox
    left = until - time.monotonic()
    if endpoint is None or left <= 0:
        raise TimeoutError
    request = urllib.request.Request(
        f"{str(sandbox.toolbox_proxy_url).rstrip('/')}/{sandbox.id}/{path}",
        method="POST",
        data=json.dumps(body).encode(),
        headers={**last_requests.headers(endpoint), "Content-Type": "application/json"},
    )
    try:
        with last_requests.send(request, left) as answer:
            text = answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
