"""The Python interface: sandboxes for programs, with or without a notebook.

    import daytona_magics as dm

    with dm.create(name="lab") as box:
        box.push(numbers=[1, 2, 3])
        box.run("total = sum(numbers)")
        assert box.pull("total") == 6

Every method has an awaitable twin (``run_async``, ...), which may be awaited on any event loop. Both do the
same work on the package's own loop thread; the plain one waits for it. In a notebook :func:`current` is the
sandbox of its ``%%sandbox`` cells, with their variables; in a script it is one of the process's own, which
stops when the process ends, like a kernel's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.api_sandbox import LANGUAGES, Sandbox
from daytona_magics.api_waiting import now, soon
from daytona_magics.sandboxes.report import Silent

__all__ = [
    "LANGUAGES",
    "Sandbox",
    "create",
    "create_async",
    "current",
    "get",
    "get_async",
    "system_prompt",
    "use",
    "use_async",
]


def current() -> Sandbox:
    """The sandbox of this notebook's cells, or of this process; created by its first use, not by this call.

    In:  current().run("40 + 2").result
    Out: 42
    """
    return Sandbox(sandboxes.current())


def system_prompt(base: str = "") -> str:
    """:meth:`Sandbox.system_prompt` of the current sandbox: instructions for an agent in this process.

    In:  agent = Agent(instructions=dm.system_prompt("You write Python."))
    """
    return current().system_prompt(base)


def create(
    name: str | None = None,
    *,
    snapshot: str | None = None,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    cpu: int | None = None,
    memory: int | None = None,
    disk: int | None = None,
    **params: Any,
) -> Sandbox:
    """Create a sandbox beside the current one. With ``with`` it is deleted at the end.

    Args:
        name: None for a fresh one.
        snapshot: what it is made from; None for the setting ``snapshot``.
        env: environment variables of all that runs in it.
        labels: put on it, besides those that say whose it is.
        cpu, memory, disk: CPUs, GiB and GiB it may use; None for the endpoint's choice.
        params: other fields of the SDK's ``CreateSandboxFromSnapshotParams``, like ``auto_stop_interval``.

    Raises:
        SandboxError: it could not be created; nothing is left behind.
    """
    return now(_create(name, snapshot, env, labels, {"cpu": cpu, "memory": memory, "disk": disk}, params))


async def create_async(
    name: str | None = None,
    *,
    snapshot: str | None = None,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    cpu: int | None = None,
    memory: int | None = None,
    disk: int | None = None,
    **params: Any,
) -> Sandbox:
    """:func:`create`, awaitable.

    In:  boxes = await asyncio.gather(*(create_async() for _ in range(4)))
    """
    size = {"cpu": cpu, "memory": memory, "disk": disk}
    return await soon(_create(name, snapshot, env, labels, size, params))


async def _create(
    name: str | None,
    snapshot: str | None,
    env: Mapping[str, str] | None,
    labels: Mapping[str, str] | None,
    size: dict[str, int | None],
    params: dict[str, Any],
) -> Sandbox:
    from daytona_magics.sandboxes import making

    main, name = sandboxes.current(), name or f"sandbox-{secrets.token_hex(3)}"
    more = {"snapshot": snapshot, "env_vars": env and dict(env), "labels": labels and dict(labels)}
    chosen = {**params, **{key: value for key, value in more.items() if value}}
    asked = {key: value for key, value in size.items() if value is not None}
    made = (await making.create_many(main, Silent(), [name], chosen, asked))[name]
    if isinstance(made, BaseException):
        raise made
    return await _get(made.id)


def get(name: str) -> Sandbox:
    """A sandbox that exists, by name or id; the current one stays what it is.

    Raises:
        SandboxGone: there is none.
    """
    return now(_get(name))


async def get_async(name: str) -> Sandbox:
    """:func:`get`, awaitable."""
    return await soon(_get(name))


async def _get(name: str) -> Sandbox:
    from daytona_magics.sandboxes import several

    return Sandbox((await several.ready(sandboxes.current(), [name], Silent()))[0][0])


def use(name: str) -> Sandbox:
    """Make a sandbox that exists the current one, by name or id; a stopped one is started.

    Raises:
        SandboxGone: there is none.
    """
    return now(_use(name))


async def use_async(name: str) -> Sandbox:
    """:func:`use`, awaitable."""
    return await soon(_use(name))


async def _use(name: str) -> Sandbox:
    from daytona_magics.sandboxes import actions

    await actions.use(sandboxes.current(), name, Silent(), wanted={}, context=None)
    return current()
