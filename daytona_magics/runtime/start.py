"""Getting a guest to run in a sandbox, and a line to it.

Two ways lead in. ``process.execute`` runs a few lines of shell that find a Python and start the guest's
daemon; they ask for an upload of the guest's file first when the sandbox does not have it (file API). Then a
PTY session is opened and one line is typed into its shell,

     exec /usr/bin/python3 -ISc RUN /home/daytona/.daytona-magics/guest-0.1.0-1f2e3d4c.pyz attach

which replaces the shell by a byte relay to the daemon. Nothing else is ever typed: start-up files, aliases
and line limits of shells make that unreliable. A shell whose start-up files swallow the line gets a second
chance with an environment in which it finds no start-up files.

In a sandbox created a moment ago all of this goes side by side: while the guest is uploaded, a Python starts
for the daemon and one in the terminal, and both wait for the file (``attach-soon`` also for the daemon).
Whatever goes wrong there, the way above is taken instead.

The embedded engine is offered to hand the terminal to the daemon itself (:class:`HandOver`): then there is no
shell, no relay and no Python for it. Where the offer is not taken up, a shell waits for the line. And the
engine may have created the sandbox beforehand, by :func:`.launching.recipe`: then the guest is there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from typing import TYPE_CHECKING

from daytona_magics.errors import EndpointError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.bundle import bundle, run_soon
from daytona_magics.runtime.launching import FOLDER, QUIET, Started, start_daemon
from daytona_magics.runtime.link import Link, LinkLost
from daytona_magics.runtime.transport import HandOver, PtyAddress, PtyError, PtySocket

if TYPE_CHECKING:
    from daytona import AsyncSandbox

#: Where in it the guest's daemon takes terminals (guest/paths.py).
TERMINALS = "run/guest.terminals"
HELLO_WITHIN = 3.0
#: Seconds for opening a PTY the first time, and when reconnecting.
OPEN_WITHIN, REOPEN_WITHIN = 10.0, 4.0
#: Seconds a daemon that is being started may take until it takes terminals.
DAEMON_WITHIN = 5.0

#: What attach imports of the standard library, in the order of what takes longest.
_ATTACH_AHEAD = "zlib, select, termios"


class AttachEnded(LinkLost):
    """The terminal's program ended before a guest answered."""


class Attacher:
    """Opens lines to one sandbox's guest, and remembers what worked.

    Args:
        sandbox: the SDK's sandbox.
        address: where its PTYs are.
        fresh: the sandbox was created a moment ago.
    """

    def __init__(self, sandbox: AsyncSandbox, address: PtyAddress, fresh: bool = False) -> None:
        self.sandbox = sandbox
        self.address = address
        self._fresh = fresh
        self._started: Started | None = None
        self._quiet_shell = False
        self._deleting: set[asyncio.Task[None]] = set()

    async def attach(self, first: bool) -> Link:
        """Open a PTY, attach to the daemon, wait for its hello; starts the daemon when needed.

        Args:
            first: nothing is known of the sandbox yet: the guest may have to be uploaded, the shell may need
                the environment without start-up files, and it may all take longer.

        Raises:
            PtyError: the PTY could not be opened.
            LinkLost: no guest answered, with the noise seen instead.
            SandboxError: see :func:`start_daemon`.
        """
        if first:
            return await self._attach_first()
        try:
            return await self._type(self._quiet_shell, REOPEN_WITHIN)
        except AttachEnded:
            # The line is there and no guest behind it: the daemon ended meanwhile, or its file is gone.
            self._started = await asyncio.wait_for(start_daemon(self.sandbox), OPEN_WITHIN)
            return await self._type(self._quiet_shell, REOPEN_WITHIN)

    async def _attach_first(self) -> Link:
        quiet = self._quiet_shell
        plan = [quiet, quiet, not quiet]
        if self._fresh:
            self._fresh = False
            link = await self._attach_fresh()
            if link is not None:
                return link
            del plan[:-1]
        opening = None if plan[0] else asyncio.create_task(self._open(False, OPEN_WITHIN))
        while True:
            try:
                # The shell of the first terminal starts while the daemon does.
                self._started = await start_daemon(self.sandbox, quiet=plan[0])
            except BaseException:
                if opening is not None:
                    await self._discard(opening)
                raise
            try:
                link = await self._type(plan.pop(0), OPEN_WITHIN, opening)
            except LinkLost as error:
                if not plan:
                    raise
                opening = None
                if not isinstance(error, AttachEnded):
                    # Silence: start-up files are in the way. (An end may be a daemon just ending: once more.)
                    del plan[:-1]
            else:
                self._quiet_shell = quiet if plan else not quiet
                return link

    async def _attach_fresh(self) -> Link | None:
        """Upload, daemon and terminal side by side; None when no guest answered on that line."""
        opening = asyncio.create_task(self._open(False, OPEN_WITHIN, DAEMON_WITHIN))
        if self.address.loopback:
            # The sandbox may be one that was kept ready, with a guest in it.
            socket = await opening
            if socket.handed is not None and not socket.handed.patience:
                return await self._greeted(socket)
        guest = bundle()
        path = f"{FOLDER}/{guest.name}"
        # In the order of how long each takes.
        starting = asyncio.create_task(start_daemon(self.sandbox, soon=True))
        # A relative path is the home's in every default snapshot; elsewhere the start script asks for it.
        uploading = asyncio.create_task(self.sandbox.fs.upload_file(guest.data, path, timeout=60))
        try:
            await uploading
        except BaseException:
            uploading.cancel()
            starting.cancel()
            await self._discard(opening)
            raise
        link: Link | None = None
        try:
            link = Link(await opening)
            if link.socket.handed is None:
                run = f"python3 -ISc {shlex.quote(run_soon(_ATTACH_AHEAD))}"
                link.socket.send(f" exec {run} ~/{path} {len(guest.data)} attach-soon\n".encode())
            hello = asyncio.create_task(link.hello(HELLO_WITHIN, True))
            await asyncio.wait({starting, hello}, return_when=asyncio.FIRST_EXCEPTION)
            if starting.done():
                self._started = starting.result()
            await hello
            self._started = await starting
            return link
        except BaseException as error:
            starting.cancel()
            if link is None:
                await self._discard(opening)
                raise
            await link.abort()
            await asyncio.gather(starting, hello, return_exceptions=True)
            self.delete(link.socket.session)
            if isinstance(error, LinkLost):
                return None
            raise

    async def _greeted(self, socket: PtySocket) -> Link | None:
        """The link over a terminal that a daemon has taken; None when it says nothing."""
        link = Link(socket)
        try:
            await link.hello(HELLO_WITHIN, True)
            return link
        except BaseException as error:
            await link.abort()
            self.delete(socket.session)
            if isinstance(error, LinkLost):
                return None
            raise

    async def _open(self, quiet: bool, timeout: float, daemon_within: float = 0.0) -> PtySocket:
        session = f"daytona-magics-{secrets.token_hex(8)}"
        envs = self._no_startup_files() if quiet else None
        offers = [HandOver(f"~/{FOLDER}/{TERMINALS}", within) for within in sorted({0.0, daemon_within})]
        return await PtySocket.open(self.address, session, envs=envs, hand_over=offers, timeout=timeout)

    async def _discard(self, opening: asyncio.Task[PtySocket]) -> None:
        """Close a terminal that nobody needs, as soon as it is open."""
        with contextlib.suppress(PtyError):
            socket = await opening
            await socket.abort()
            self.delete(socket.session)

    def _no_startup_files(self) -> dict[str, str]:
        # zsh reads ZDOTDIR, sh and dash read ENV, bash looks in HOME. The folder is empty but for a link to
        # the guest's own, which is found through HOME too.
        assert self._started is not None
        empty = f"{self._started.home}/{FOLDER}/{QUIET}"
        return {"ZDOTDIR": empty, "ENV": "", "BASH_ENV": "", "HOME": empty, "PROMPT_COMMAND": "", "PS1": "$ "}

    async def _type(
        self, quiet: bool, timeout: float, opening: asyncio.Task[PtySocket] | None = None
    ) -> Link:
        socket = await (opening or self._open(quiet, timeout))
        link = Link(socket)
        try:
            if socket.handed is None:
                if self._started is None:
                    raise AttachEnded("the guest takes no terminals any more")
                socket.send(self._started.line.encode())
            await link.hello(HELLO_WITHIN, self._started is None or self._started.started)
            return link
        except LinkLost as error:
            ended = isinstance(error, AttachEnded) or (socket.ended and not link.alive)
            kind = AttachEnded if ended else LinkLost
            noise = link.noise()
            await link.abort()
            self.delete(socket.session)
            seen = "\nThe last it showed:\n" + "\n".join(f"    {line}" for line in noise) if noise else ""
            raise kind(f"{error}{seen}") from None
        except BaseException:
            await link.abort()
            raise

    def delete(self, session: str) -> None:
        """Delete a PTY session in the background: nobody waits for it, least of all on a broken path."""
        task = asyncio.create_task(self._delete(session), name="dm-pty-delete")
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    async def _delete(self, session: str) -> None:
        # One that cannot be deleted (any more) is no fault: it ends with its sandbox at the latest.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.sandbox.process.kill_pty_session(session, request_timeout=3), 3)

    async def settle(self) -> None:
        """Wait for the deletions under way, at most 3 s."""
        if self._deleting:
            await asyncio.wait(self._deleting, timeout=3)


async def explain(sandbox: AsyncSandbox, error: Exception, secret: str) -> SandboxError | None:
    """What a failure to reach a sandbox means for good; None when trying again may help.

    Asks the control plane for the sandbox's state, at most 3 s.

    Args:
        sandbox: the sandbox.
        error: what the SDK, or opening the PTY, raised.
        secret: the API key; it is cut out of whatever text is passed on.
    """
    if isinstance(error, SandboxError):
        return error
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    if status in (401, 403):
        return EndpointError("the endpoint refuses our key", hint="%sandbox doctor checks endpoint and key.")
    if status is None and not isinstance(error, AttachEnded):
        return None
    try:
        await asyncio.wait_for(sandbox.refresh_data(request_timeout=3), 3)
    except Exception as problem:  # noqa: BLE001 - any failure to ask leaves the question open
        if getattr(problem, "status_code", None) == 404:
            return SandboxGone(
                f"sandbox {sandbox.id} no longer exists", hint="%sandbox create makes a new one."
            )
        return None
    state = str(getattr(sandbox.state, "value", sandbox.state) or "unknown")
    if state in ("destroyed", "destroying"):
        return SandboxGone(f"sandbox {sandbox.id} was deleted", hint="%sandbox create makes a new one.")
    if state in (
        "stopped",
        "stopping",
        "archived",
        "archiving",
        "paused",
        "pausing",
        "error",
        "build_failed",
    ):
        why = getattr(sandbox, "error_reason", None)
        words = plain(why, secret) if why else ""
        return SandboxUnreachable(
            f"sandbox {sandbox.id} is {state}{': ' + words if words else ''}",
            hint="%sandbox start starts it again (variables are lost, files are kept).",
        )
    return None


def plain(error: object, secret: str) -> str:
    """An error's text for a reader: one paragraph, without the API key.

    In:  plain("no entry for sk-1234567", "sk-1234567")
    Out: 'no entry for ***'
    """
    text = str(error) or type(error).__name__
    return text.replace(secret, "***")[:2000] if secret else text[:2000]
