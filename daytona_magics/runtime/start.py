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
shell, no relay and no Python for it. Where the offer is not taken up, a shell waits for the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import EndpointError, SandboxError, SandboxGone, SandboxUnreachable
from daytona_magics.runtime.bundle import RUN, Bundle, bundle, run_soon
from daytona_magics.runtime.link import Link, LinkLost
from daytona_magics.runtime.transport import HandOver, PtyAddress, PtyError, PtySocket

if TYPE_CHECKING:
    from daytona import AsyncSandbox

FOLDER = ".daytona-magics"
#: Where in it the guest's daemon takes terminals (guest/paths.py).
TERMINALS = "run/guest.terminals"
QUIET = "quiet"
HELLO_WITHIN = 3.0
#: Seconds for opening a PTY the first time, and when reconnecting.
OPEN_WITHIN, REOPEN_WITHIN = 10.0, 4.0
#: Seconds a daemon that is being started may take until it takes terminals.
DAEMON_WITHIN = 5.0
NO_PYTHON = "this sandbox has no Python ≥ 3.8, which running cells needs"

#: What daemon and attach import of the standard library, in the order of what takes longest.
_DAEMON_AHEAD = (
    "json, ast, traceback, tokenize, zlib, struct, fcntl, select, signal, mmap, array, termios, shlex"
)
_ATTACH_AHEAD = "zlib, select, termios"
#: Finds the guest's file and a Python, and starts the daemon; plain sh, because any shell may read it.
#: Answers in lines that start with "dm-"; anything else is a shell's or a Python's own noise. The daemon runs
#: without -I or -S: the workers forked from it have to look like an ordinary interpreter.
_SCRIPT = """
d="${{HOME:-$PWD}}/{folder}"; f="$d/{name}"; s={staged}
echo "dm-home ${{HOME:-$PWD}}"
[ -d "$d" ] || mkdir -p -m 700 "$d"
[ -z "{quiet}" ] || [ -d "$d/{quiet}" ] || {{ mkdir -p "$d/{quiet}"; ln -s "$d" "$d/{quiet}/{folder}"; }}
if [ -n "$s" ]; then mv -f "$d/$s" "$f"; fi
n=0; [ -f "$f" ] && n=$(wc -c < "$f")
if [ "$((n))" -ne {size} ]; then echo dm-upload; exit 0; fi
for p in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
q=$(command -v $p 2>/dev/null)
case "$q" in /*) ;; *) continue;; esac
echo "dm-python $q"
"$q" -c '{run}' "$f" daemon < /dev/null && exit 0
done
exit 1
"""
#: The same while the guest's file is being uploaded, for where a relative path leads into the home.
_SCRIPT_SOON = """
d="${{HOME:-$PWD}}/{folder}"; f="$d/{name}"
echo "dm-home ${{HOME:-$PWD}}"
[ "$PWD" = "${{HOME:-$PWD}}" ] || {{ echo dm-upload; exit 0; }}
for p in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
command -v $p > /dev/null 2>&1 || continue
$p -c 'import sys; print("dm-python", sys.executable); {run}' "$f" {size} daemon < /dev/null && exit 0
[ -f "$f" ] || {{ echo dm-upload; exit 0; }}
done
exit 1
"""


@dataclass(frozen=True)
class Started:
    """A running daemon and what attaches to it.

    Attributes:
        python: the interpreter the daemon runs under, an absolute path.
        path: the guest's file.
        home: the sandbox user's home.
        started: whether this call started the daemon.
    """

    python: str
    path: str
    home: str
    started: bool

    @property
    def line(self) -> str:
        """What is typed into the PTY's shell; the leading space keeps it out of histories."""
        words = shlex.join([self.python, "-ISc", RUN, self.path, "attach"])
        return f" exec {words}\n"


async def start_daemon(sandbox: AsyncSandbox, quiet: bool = False, soon: bool = False) -> Started:
    """Make sure the guest's daemon runs in the sandbox, uploading the guest if it has none.

    Args:
        sandbox: the sandbox.
        quiet: have the folder made that serves as a home without start-up files.
        soon: the guest is being uploaded right now.

    Raises:
        SandboxError: the sandbox has no usable Python, or the guest said why it cannot run.
        Exception: whatever the SDK raises (see :func:`explain`).
    """
    guest = bundle()
    answer = await _execute(sandbox, guest, "", quiet, soon)
    if answer.upload:
        staged = f"{guest.name}.{secrets.token_hex(4)}"
        await sandbox.fs.upload_file(guest.data, f"{answer.home}/{FOLDER}/{staged}", timeout=60)
        answer = await _execute(sandbox, guest, staged, quiet)
    if answer.result is None:
        seen = f" ({answer.tail})" if answer.tail else ""
        raise SandboxError(
            NO_PYTHON + seen, hint="Use a snapshot or image that has one; the default snapshots do."
        )
    if answer.result.get("ok") is not True:
        raise SandboxError(f"the guest could not start: {answer.result.get('error', answer.tail)!s:.500}")
    return Started(
        python=answer.python,
        path=f"{answer.home}/{FOLDER}/{guest.name}",
        home=answer.home,
        started=answer.result.get("started") is True,
    )


@dataclass
class _Answer:
    home: str = ""
    python: str = ""
    upload: bool = False
    result: dict[str, Any] | None = None
    tail: str = ""


async def _execute(
    sandbox: AsyncSandbox, guest: Bundle, staged: str, quiet: bool, soon: bool = False
) -> _Answer:
    script = (_SCRIPT_SOON if soon else _SCRIPT).format(
        folder=FOLDER,
        quiet=QUIET if quiet else "",
        name=guest.name,
        size=len(guest.data),
        staged=shlex.quote(staged),
        run=run_soon(_DAEMON_AHEAD) if soon else RUN,
    )
    response = await sandbox.process.exec(script, timeout=30)
    return read_answer(str(response.result or "")[-65536:])


def read_answer(output: str) -> _Answer:
    """Read what the start script printed; of several Pythons tried, the last one counts.

    In:  read_answer("dm-home /root\\ndm-upload\\n").upload
    Out: True
    """
    answer = _Answer()
    noise = []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == "dm-home":
            answer.home = _path(rest)
        elif word == "dm-python":
            answer.python = _path(rest)
        elif word == "dm-upload":
            answer.upload = True
        elif line.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                answer.result = value if isinstance(value, dict) else None
        elif line.strip():
            noise.append(line.strip())
    answer.tail = "; ".join(noise[-2:])[:300]
    if not answer.home:
        raise SandboxError(
            f"the sandbox's shell did not run the start script ({answer.tail or 'it said nothing'})"
        )
    return answer


def _path(value: str) -> str:
    if not re.fullmatch(r"/[^\x00-\x1f\x7f]{0,1000}", value):
        raise SandboxError("the sandbox named a folder that is no path")
    return value.rstrip("/") or "/"


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
        if first or self._started is None:
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
        guest = bundle()
        path = f"{FOLDER}/{guest.name}"
        # In the order of how long each takes.
        starting = asyncio.create_task(start_daemon(self.sandbox, soon=True))
        # A relative path is the home's in every default snapshot; elsewhere the start script asks for it.
        uploading = asyncio.create_task(self.sandbox.fs.upload_file(guest.data, path, timeout=60))
        opening = asyncio.create_task(self._open(False, OPEN_WITHIN, DAEMON_WITHIN))
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
            if not link.socket.handed:
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

    async def _open(self, quiet: bool, timeout: float, daemon_within: float = 0.0) -> PtySocket:
        session = f"daytona-magics-{secrets.token_hex(8)}"
        envs = self._no_startup_files() if quiet else None
        hand_over = HandOver(f"~/{FOLDER}/{TERMINALS}", daemon_within)
        return await PtySocket.open(self.address, session, envs=envs, hand_over=hand_over, timeout=timeout)

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
        assert self._started is not None
        socket = await (opening or self._open(quiet, timeout))
        link = Link(socket)
        try:
            if not socket.handed:
                socket.send(self._started.line.encode())
            await link.hello(HELLO_WITHIN, self._started.started)
            return link
        except LinkLost as error:
            kind = LinkLost if link.alive or not socket.ended else AttachEnded
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
