"""What happens to the sandbox when the kernel ends.

``atexit`` work of a kernel is killed about 2.6 s after a shutdown request and does not run at all after a
forced restart, so this is a courtesy (the sandbox stops now instead of after auto-stop), bounded to 2 s and
never needed for anything to be cleaned up (:mod:`.last_requests`).

A kernel that is being *restarted* keeps its sandbox: the next cell re-attaches to it.
"""

from __future__ import annotations

import atexit
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from daytona_magics.sandboxes import labels, last_requests

#: Seconds the farewell may take.
BUDGET = 2.0


def watch(binding: Any, shell: Callable[[], Any]) -> None:
    """Stop or delete the binding's sandbox when this process exits, as the setting on_exit says."""
    owner = os.getpid()

    def leave() -> None:
        # A forked child that exits is not the kernel exiting.
        if os.getpid() == owner and shutting_down(shell()):
            farewell(binding)

    atexit.register(leave)


def shutting_down(shell: Any) -> bool:
    """Whether the kernel ends for good. Unknown counts as no: auto-stop covers it.

    ipykernel keeps the reply to the shutdown request; its ``restart`` flag is the only word there is about
    which of the two this exit is. A terminal and a program have no kernel and know no restart.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return True
    message = getattr(kernel, "_shutdown_message", None)
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    return isinstance(content, dict) and content.get("restart") is False


def farewell(binding: Any) -> str:
    """Ask the endpoint to stop or delete this kernel's sandboxes, in at most 2 s for all of them.

    What another kernel owns or another program made is left as it is, even when this kernel was bound to it.

    Returns:
        what was asked for, or why not; for tests and logs.
    """
    wanted, endpoint = binding.config.on_exit, binding.endpoint
    sandbox, beside = binding.sandbox, list(getattr(binding, "made", ()))
    if wanted == "keep" or endpoint is None or (sandbox is None and not beside):
        return "nothing to do"
    if binding.jobs:
        return "jobs may be running: auto-stop ends the sandbox"
    until, said = time.monotonic() + BUDGET, []
    if sandbox is not None:
        owner, maker = sandbox.labels.get(labels.KERNEL), sandbox.labels.get(labels.CREATED_BY)
        if owner not in (None, binding.who().kernel):
            said.append("it belongs to another kernel")
        elif owner is not None and maker != labels.CREATOR:
            said.append("another program made it")
        else:
            beside.insert(0, sandbox.id)
    for name in dict.fromkeys(beside):
        left = until - time.monotonic()
        if left <= 0:
            said.append("no time for more")
            break
        said.append(_ask(endpoint, wanted, name, left))
    return "; ".join(said)


def _ask(endpoint: Any, wanted: str, sandbox: str, within: float) -> str:
    """One request to stop or delete a sandbox, by its id."""
    method, path = ("POST", "/stop") if wanted == "stop" else ("DELETE", "")
    request = urllib.request.Request(
        f"{endpoint.api_url}/sandbox/{sandbox}{path}",
        method=method,
        headers={**last_requests.headers(endpoint), "Content-Length": "0"},
    )
    try:
        with last_requests.send(request, within) as answer:
            return f"{wanted}: {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{wanted} failed: {error}"
