"""Pushing a notebook's branch after each cell, in the background.

The end of a cell only sets a mark; a task on the loop thread looks whether the branch has commits the remote
does not have, and pushes it if so. One push at a time: in this kernel by the task, among the kernels of this
machine by a lock on a file that the system gives back when its holder dies, whatever the way. A push that
was cut off is made again after the next cell; git pushes what is missing and nothing twice.

Only the notebook's own branch is pushed, never with force, only while the sandbox's labels say so (another
kernel of the sandbox may have switched it off), and only to the address that was there when syncing was
switched on: when the repository in the sandbox says another one, or the server takes no login of this
machine, syncing is off, and says why. Whatever goes wrong is said once, after the next cell; commits
stay where they are.

When the kernel ends there is one more look, in at most BUDGET seconds, by plain HTTP like the farewell of the
sandbox, which follows it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from daytona_magics.engine import places
from daytona_magics.errors import GitError, SandboxError
from daytona_magics.git import branching, failures, logins, reading, talking
from daytona_magics.git.branching import Own
from daytona_magics.git.logins import Login, Server
from daytona_magics.git.repository import Repository
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Silent

#: Seconds the last look may take; between two tries for the lock, and how long one waits for it.
BUDGET, TRY_EVERY, PATIENCE = 1.5, 0.05, 60.0


class Sync:
    """Keeps one branch pushed.

    Attributes:
        own: the branch.
        pushed: how many times it was pushed by this kernel.
        trouble: why the last look did not end well; "" when it did.
        off: syncing has ended, because of ``trouble``; until it is switched on again.
        login: what the remote wants to hear, once that is known; in this kernel's memory only.
    """

    def __init__(self, tie: Binding, own: Own, login: Login | None) -> None:
        self.tie, self.own = tie, own
        self.sandbox = tie.bound()
        self.pushed, self.trouble, self.off = 0, "", False
        self.login = login
        self._told = ""
        self._marked = False
        self._task: asyncio.Task[None] | None = None

    # -- in the background -----------------------------------------------------------------------------

    def mark(self) -> None:
        """A cell has ended; callable from the main thread, returns at once."""
        if not self.off:
            loop_thread().loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._marked = True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._marked and not self.off:
            self._marked = False
            try:
                await self.flush()
            except SandboxError as error:
                self.trouble = str(error)
            except Exception as error:  # noqa: BLE001 - nobody waits for this, so it is told after the next cell
                self.trouble = f"{type(error).__name__} while looking for commits to push"

    async def flush(self) -> bool:
        """Push if there is something to push; returns whether there was.

        Raises:
            SandboxError: it could not be pushed.
        """
        found = Repository(self.tie, self.sandbox, self.own.path)
        if not await branching.unpushed(found, self.own.branch):
            self.trouble = ""
            return False
        async with self._turn():
            # Another kernel may have been here meanwhile.
            if not await branching.unpushed(found, self.own.branch) or not await self._meant():
                return False
            await self._check(found)
            await self._push(found)
        self.pushed += 1
        self.trouble = ""
        return True

    async def _meant(self) -> bool:
        """Whether the labels, as the endpoint has them now, still say that this is to be pushed."""
        await sdk.asked(self.sandbox.refresh_data(), "asking whether it is to be pushed")
        return branching.own(self.sandbox) == self.own

    async def _check(self, found: Repository) -> None:
        url = await reading.remote_url(found, branching.REMOTE, push=True)
        if failures.clean(url) != self.own.url:
            self.off = True
            raise GitError(
                f"sync is off: {branching.REMOTE} is now {failures.clean(url)}, and was {self.own.url}",
                code="REMOTE_CHANGED",
            )

    async def _push(self, found: Repository) -> None:
        async def once() -> None:
            await talking.push(found, Silent(), branching.REMOTE, self.own.branch, self.login, upstream=True)

        try:
            await once()
        except GitError as error:
            server = logins.server_of(self.own.url)
            if error.code != "GIT_AUTH_FAILED" or server is None:
                raise
            await self._again(server, once)

    async def _again(self, server: Server, once: Callable[[], Awaitable[None]]) -> None:
        """Once more with the login this machine has now; without one, syncing is off."""
        fresh = await asyncio.to_thread(logins.find, server, logins.user_of(self.own.url))
        try:
            if fresh is None or fresh == self.login:
                what = "no login for it" if fresh is None else f"only a login it refuses ({fresh.source})"
                raise GitError(
                    f"{server} wants one to push, and this machine has {what}", code="GIT_AUTH_FAILED"
                )
            logins.check(server)
            self.login = fresh
            await once()
        except GitError as error:
            if error.code != "GIT_AUTH_FAILED":
                raise
            self.off = True
            raise GitError(f"sync is off: {error}", code=error.code) from None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """While inside, no other kernel of this machine pushes this branch."""
        fd = os.open(self._lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise GitError(f"another kernel is pushing {self.own.branch}") from None
                    await asyncio.sleep(TRY_EVERY)
            yield
        finally:
            os.close(fd)

    def _lock_file(self) -> Path:
        name = hashlib.sha256(f"{self.sandbox.id} {self.own.branch}".encode()).hexdigest()[:16]
        folder = places.runtime_dir() / "git"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{name}.lock"

    async def settled(self) -> None:
        """Wait until no look is under way."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def news(self) -> str:
        """What went wrong, if it was not told yet."""
        told, self._told = self._told, self.trouble
        return self.trouble if self.trouble and self.trouble != told else ""
