"""Cells on other sandboxes than the notebook's own, one or several at once.

A :class:`Beside` is a tie like the kernel's binding, to a sandbox the kernel is not bound to: its channel is
opened at first use and kept, and it never makes a sandbox. Names find any sandbox of the endpoint. Patterns
and labels find only what these magics made on this machine: in a shared organisation a ``*`` must not reach
what belongs to somebody else.

In such a sandbox cells run in a context of this kernel; when whoever owned the sandbox is dead, this kernel
continues its context and takes it over, so that nobody reaps what is in use.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.sandboxes import attaching, identity, labels
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter, state_of

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

    from daytona_magics.runtime.channel import Channel

#: Sandboxes one cell may run in.
MOST = 100


class Beside(Binding):
    """A sandbox this kernel uses without being bound to it. Gives no sandbox instead when it is gone.

    Args:
        main: the kernel's own binding, whose endpoint and settings count.
        sandbox: the SDK's object.
        context: name of the guest context cells run in.
    """

    def __init__(self, main: Binding, sandbox: AsyncSandbox, context: str) -> None:
        super().__init__(main.config, main.who)
        self._main = main
        self._follow()
        self.bind(sandbox, context)

    def _follow(self) -> None:
        main = self._main
        self.config, self.client, self.endpoint, self._choice = (
            main.config,
            main.client,
            main.endpoint,
            main._choice,
        )

    async def connect(self, tell: Reporter) -> AsyncDaytona:
        client = await self._main.connect(tell)
        self._follow()
        return client

    async def disconnect(self) -> None:
        """Close the channel; the client is the kernel's and stays."""
        await self.unbind()

    async def _usable(self, tell: Reporter) -> AsyncSandbox:
        await self.connect(tell)
        sandbox = self.bound()
        await self.awake(tell)
        return sandbox


def names(text: str) -> list[str]:
    """The names, patterns and labels of ``--sandbox``.

    Raises:
        SandboxUsageError: there is none, or an empty one.

    In:  names("a, b,agent-*")
    Out: ['a', 'b', 'agent-*']
    """
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise SandboxUsageError(
            f"--sandbox {text!r}: write names with commas between, like a,b",
            hint="%sandbox list  shows the sandboxes.",
        )
    return list(dict.fromkeys(found))


def is_pattern(name: str) -> bool:
    """Whether it stands for any number of sandboxes: a glob, or a label ``KEY=VALUE``."""
    return bool(re.search(r"[*?\[=]", name))


def open_now(main: Binding, wanted: Sequence[str]) -> list[tuple[Binding, Channel]] | None:
    """The ties and channels when all are open and were used moments ago; callable from any thread."""
    found = []
    for name in wanted:
        tie = None if is_pattern(name) else _known(main, name)
        channel = tie.open_channel() if tie is not None else None
        if tie is None or channel is None:
            return None
        found.append((tie, channel))
    return found


def _known(main: Binding, name: str) -> Binding | None:
    """The tie to a sandbox by name or id, None when there is none yet."""
    if main.sandbox is not None and name in (main.sandbox.name, main.sandbox.id) and not main.gone:
        return main
    for tie in main.beside.values():
        if tie.sandbox is not None and name in (tie.sandbox.name, tie.sandbox.id) and not tie.gone:
            return tie
    return None


async def ready(main: Binding, wanted: Sequence[str], tell: Reporter) -> list[tuple[Binding, Channel]]:
    """Make sure that each of these sandboxes is started and has an open channel.

    Args:
        wanted: names, ids, patterns, labels; see :func:`names`.

    Returns:
        ties with their channels, in the order they were named, each sandbox once.

    Raises:
        SandboxGone: one does not exist.
        SandboxError: a pattern matches none, or one could not be reached; the message names all of them.
    """
    await main.rediscover(tell)
    ties: dict[str, Binding] = {}
    for name in wanted:
        for tie in await _resolved(main, name, tell):
            ties[tie.bound().id] = tie
    if len(ties) > MOST:
        raise SandboxUsageError(f"a cell runs in at most {MOST} sandboxes at once, not in {len(ties)}")
    if len(ties) > 1:
        tell.progress(f"connecting to {len(ties)} sandboxes")
    several = len(ties) > 1
    found = await asyncio.gather(
        *(tie.ready(_Steps(tell, several)) for tie in ties.values()), return_exceptions=True
    )
    failed = {
        tie.bound().name: error
        for tie, error in zip(ties.values(), found, strict=True)
        if isinstance(error, BaseException)
    }
    for tie in ties.values():
        if tie.gone and tie is not main:
            main.beside.pop(tie.bound().id, None)
    if failed:
        first = next(iter(failed.values()))
        if len(ties) == 1 or not isinstance(first, SandboxError):
            raise first
        raise SandboxError(
            f"nothing was run: {len(failed)} of {len(ties)} sandboxes cannot be used: "
            + "; ".join(f"{name}: {error}" for name, error in failed.items()),
            hint="%sandbox list  shows their states.",
        )
    return [(tie, channel) for tie, channel in zip(ties.values(), found, strict=True)]  # type: ignore[misc]


class _Steps:
    """A reporter for one of several: its notes pass, its steps would only flicker."""

    def __init__(self, tell: Reporter, several: bool) -> None:
        self._tell, self._several = tell, several

    def progress(self, text: str) -> None:
        if not self._several:
            self._tell.progress(text)

    def note(self, text: str) -> None:
        self._tell.note(text)


async def _resolved(main: Binding, name: str, tell: Reporter) -> list[Binding]:
    if is_pattern(name):
        found = await matching(main, [name], tell)
        if not found:
            raise SandboxError(
                f"no sandbox made here matches {name!r}",
                hint="Patterns and labels find only those of these magics on this machine: "
                "%sandbox list --mine",
            )
        return [_known(main, box.id) or await _begin(main, box) for box in found]
    known = _known(main, name)
    if known is not None and known is not main:
        # One of that name may have been deleted and made again.
        try:
            await sdk.retrying(known.bound().refresh_data, tell.progress)
        except sdk.error_class() as error:
            if not sdk.not_found(error):
                raise sdk.translate(error, f"asking for the state of {name}") from None
            known = None
        if known is not None and state_of(known.bound()) in ("destroyed", "destroying"):
            known = None
    if known is not None:
        return [known]
    assert main.client is not None
    tell.progress(f"looking for sandbox {name}")
    return [await _begin(main, await attaching.get(main.client, name, tell))]


async def _begin(main: Binding, box: AsyncSandbox) -> Binding:
    """A tie to a sandbox the kernel is not bound to."""
    main.check_isolation(box)
    who = main.who()
    identity.hold(who.kernel)
    owner, context = box.labels.get(labels.KERNEL, ""), box.labels.get(labels.CONTEXT, "")
    made_here = ours(main, box)
    free = made_here and not identity.alive(owner)
    mine = owner == who.kernel or free
    if free and owner != who.kernel:
        taken = {labels.KERNEL: who.kernel, labels.GROUP: box.labels.get(labels.GROUP) or "taken"}
        await sdk.asked(labels.merge(box, taken), "changing labels")
    previous = main.beside.pop(box.id, None)
    if previous is not None:
        await previous.disconnect()
    tie = Beside(main, box, context if mine and context else who.context)
    main.beside[box.id] = tie
    if mine:
        main.made.add(box.id)
    return tie


def ours(main: Binding, box: Any) -> bool:
    """Whether these magics made it on this machine, by its labels."""
    made_by, host = box.labels.get(labels.CREATED_BY), box.labels.get(labels.HOST)
    return bool(made_by == labels.CREATOR and host == main.who().host)


async def matching(
    main: Binding, patterns: Sequence[str], tell: Reporter, *, ended: bool = False
) -> list[AsyncSandbox]:
    """The sandboxes made by these magics on this machine that match any of these, by name.

    Args:
        patterns: globs of names, or labels ``KEY=VALUE``.
        ended: also those in a state nothing can be run in.
    """
    client = await main.connect(tell)
    made = {labels.CREATED_BY: labels.CREATOR, labels.HOST: main.who().host}
    gone = ("destroyed", "destroying") if ended else attaching.ENDED
    alive = [box for box in await attaching.find(client, made, tell) if state_of(box) not in gone]
    found = {box.id: box for box in alive if any(_matches(box, pattern) for pattern in patterns)}
    return sorted(found.values(), key=lambda box: _natural(box.name))


def _matches(box: Any, pattern: str) -> bool:
    key, equals, value = pattern.partition("=")
    if equals:
        return bool(box.labels.get(key) == value)
    return fnmatchcase(str(box.name), pattern)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """In: sorted(["a-10", "a-9"], key=_natural)  Out: ['a-9', 'a-10']"""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


__all__ = ["Beside", "is_pattern", "matching", "names", "open_now", "ours", "ready"]
