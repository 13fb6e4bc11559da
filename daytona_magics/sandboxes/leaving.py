"""What happens to the sandbox when the kernel ends.

``atexit`` work of a kernel is killed about 2.6 s after a shutdown request and does not run at all after a
forced restart, so this is a courtesy (the sandbox stops now instead of after auto-stop), bounded to 2 s and
never needed for anything to be cleaned up. It speaks plain HTTP from the main thread: at interpreter exit
executors are already closed and the loop thread cannot be relied on.

A kernel that is being *restarted* keeps its sandbox: the next cell re-attaches to it.
"""

from __future__ import annotations

import atexit
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from daytona_magics.sandboxes import labels

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
    """Ask the endpoint to stop or delete the sandbox, in at most 2 s.

    Returns:
        what was asked for, or why not; for tests and logs.
    """
    wanted = binding.config.on_exit
    sandbox, endpoint = binding.sandbox, binding.endpoint
    if wanted == "keep" or sandbox is None or endpoint is None:
        return "nothing to do"
    if sandbox.labels.get(labels.KERNEL) not in (None, binding.who().kernel):
        return "it belongs to another kernel"
    if binding.jobs:
        return "jobs may be running: auto-stop ends the sandbox"
    method, path = ("POST", "/stop") if wanted == "stop" else ("DELETE", "")
    request = urllib.request.Request(
        f"{endpoint.api_url}/sandbox/{sandbox.id}{path}",
        method=method,
        headers={"Authorization": f"Bearer {endpoint.api_key}", "Content-Length": "0"},
    )
    if getattr(endpoint, "organization", ""):
        request.add_header("X-Daytona-Organization-ID", endpoint.organization)
    handlers: list[Any] = [urllib.request.ProxyHandler({})] if endpoint.loopback else []
    if endpoint.api_url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=BUDGET) as answer:
            return f"{wanted}: {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{wanted} failed: {error}"
