"""One terminal: a PTY session of the sandbox, its connection, and what it prints on its way to the pages.

The sandbox is read no further while more than :data:`terminal_stream.AHEAD` bytes wait for the page. The
platform drops a client that lags behind, and lets the program run on; so with a program that prints without
end the shell connects again when the page has caught up, and a line in the terminal says that something is
missing. An interrupt (Ctrl-C) acts at once all the same: what still waits is thrown away, as a terminal's
driver does, and a line says how much that was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import printable
from daytona_magics.runtime.transport import PtyAddress, PtyError, PtySocket, Shape
from daytona_magics.sandboxes import terminals
from daytona_magics.sandboxes.report import state_of
from daytona_magics.widgets.terminal_stream import AHEAD, PIECE, Stream

if TYPE_CHECKING:
    from daytona import AsyncSandbox

ENVIRONMENT = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
#: Seconds between two messages to the page, and after which a page that shows nothing is taken to be away.
SPACING, AWAY_AFTER = 0.012, 10.0
#: Bytes per second that are read while no page looks.
UNWATCHED_RATE = 4 << 20
#: An interrupt throws away what waits when it is more than this; what is left of it; seconds it lasts at
#: most, and the silence that ends it.
FLUSH_ABOVE, FLUSH_LEAVES, FLUSH_FOR, FLUSH_QUIET = 256 << 10, 2 << 10, 3.0, 0.1
#: Pauses before a lost connection is tried again, seconds, and how long in all.
PAUSES, RECONNECT_FOR = (0.1, 0.3, 1.0, 3.0), 60.0
#: Seconds a new shell gets for its first word before a command is typed into it.
FIRST_WORD = 1.0
INTERRUPT = b"\x03"
#: What the platform says to a client that it drops, and what stands in the terminal where output is missing.
LAGGING = "slow consumer"
TOO_FAST = "output is missing here: the program printed faster than it could be shown"
CUT_OFF = "output may be missing here: the connection was lost"


class Shell:
    """A terminal. All coroutines run on the loop thread.

    Args:
        session: its id in the sandbox.
        existing: it is there already.
        send: called with (number, bytes) for the pages.
        changed: called when its state changed.

    Attributes:
        state: "opening", "running", "lost" (connecting again), "cut" (given up), "ended", "stopped" (the
            sandbox)
        said: what a person should know of it.
        code: exit code of the program; None when nobody said it.
        watched: a page shows it.
    """

    def __init__(
        self,
        sandbox: AsyncSandbox,
        address: PtyAddress,
        session: str,
        *,
        existing: bool,
        stream: Stream,
        send: Callable[[int, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.sandbox, self.address, self.session, self.stream = sandbox, address, session, stream
        self.state, self.said, self.watched = "opening", "", True
        self.code: int | None = None
        self.cols = self.rows = 0
        self._existing, self._send, self._changed = existing, send, changed
        self._socket: PtySocket | None = None
        self._news, self._room, self._spoke = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._flush_until = self._added_at = 0.0
        self._interrupted, self._connected = False, True
        self._flushed = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._sizing: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------------------------

    async def open(self, cols: int, rows: int, cwd: str = "", command: str = "") -> None:
        """Make the session, or connect to it.

        Raises:
            PtyError: that failed.
        """
        self.cols, self.rows = cols, rows
        self._socket = await PtySocket.open(
            self.address,
            self.session,
            envs=ENVIRONMENT,
            shape=Shape(cols, rows, cwd),
            existing=self._existing,
        )
        if self._existing:
            await terminals.resize(self.sandbox, self.session, cols, rows)
        else:
            terminals.opened(self.session, self.address)
        self._become("running")
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._pump())]
        if command:
            self._tasks.append(asyncio.create_task(self._begin(command)))

    async def _begin(self, command: str) -> None:
        """Type the command once the shell has said something, so that it is not echoed before the prompt."""
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._spoke.wait(), FIRST_WORD)
        self._put(command.encode() + b"\r")

    async def end(self) -> None:
        """End the session with what runs in it. Idempotent."""
        self.state = "ended" if self.state != "stopped" else self.state
        await self.let_go()
        with suppress(Exception):
            await asyncio.wait_for(terminals.end(self.sandbox, self.session), terminals.WITHIN)

    async def let_go(self) -> None:
        """Disconnect; the session lives on."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()

    def _become(self, state: str, said: str = "") -> None:
        self.state, self.said = state, printable(said)
        self._changed()

    # -- what is typed ---------------------------------------------------------------------------------------

    async def type(self, data: bytes) -> None:
        """Send what a person typed; returns when it has left."""
        self.put(data)
        if self._socket is not None:
            await self._socket.flushed()

    def put(self, data: bytes) -> None:
        """Send what a person typed; it leaves soon."""
        if INTERRUPT in data and self.stream.waiting > FLUSH_ABOVE:
            self._interrupted = True
            self._added_at = time.monotonic()
            self._flush_until = self._added_at + FLUSH_FOR
            self._drop()
            self._room.set()
        self._put(data)

    def _put(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.send(data)

    def resize(self, cols: int, rows: int) -> None:
        """Change the size; of many changes in a row the last one counts."""
        if (cols, rows) == (self.cols, self.rows):
            return
        self.cols, self.rows = cols, rows
        self._changed()
        if self._sizing is None or self._sizing.done():
            self._sizing = asyncio.create_task(self._resize())

    async def _resize(self) -> None:
        told = None
        while told != (self.cols, self.rows) and self.state == "running":
            told = self.cols, self.rows
            await terminals.resize(self.sandbox, self.session, *told)

    # -- what is printed -------------------------------------------------------------------------------------

    def shown(self, number: int) -> None:
        """A view has shown everything before this number."""
        self.stream.seen(number)
        if not self.watched:
            self.watched = True
            # What went by meanwhile is missing there: a number it does not expect tells it so.
            self._send(self.stream.sent, b"")
        self._news.set()

    async def _read(self) -> None:
        read = 0
        while self._socket is not None:
            while self.stream.waiting >= AHEAD:
                self._room.clear()
                await self._room.wait()
            try:
                data = await self._socket.receive()
            except PtyError as error:
                if not await self._broken(self._socket, str(error)):
                    return
                continue
            self.stream.add(data)
            self._spoke.set()
            self._added_at = time.monotonic()
            if self._added_at < self._flush_until and self.stream.waiting > FLUSH_ABOVE:
                self._drop()
            self._news.set()
            read += len(data)
            if read > PIECE:
                # What has arrived is received without a pause; others want to run, too.
                read = 0
                await asyncio.sleep(0)

    def _drop(self) -> None:
        self._flushed += self.stream.drop(FLUSH_LEAVES)

    async def _pump(self) -> None:
        last = 0.0
        while True:
            self._news.clear()
            await self._flushing()
            if self.stream.open:
                await asyncio.sleep(max(0.0, last + SPACING - time.monotonic()))
                last = time.monotonic()
                at, data = self.stream.take()
                if self.watched:
                    self._send(at, data)
                else:
                    self.stream.seen(self.stream.sent)
                    await asyncio.sleep(len(data) / UNWATCHED_RATE)
                if self.stream.waiting < AHEAD // 2:
                    self._room.set()
            elif not self._news.is_set():
                await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), AWAY_AFTER if self.stream.waiting else None)
        except (TimeoutError, asyncio.TimeoutError):
            self.watched = False
            self.stream.seen(self.stream.sent)

    async def _flushing(self) -> None:
        """After an interrupt: wait until the program is quiet, then say what was thrown away."""
        while self._flush_until:
            left = min(self._flush_until, self._added_at + FLUSH_QUIET) - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(left)
        if self._flushed:
            self.stream.drop(FLUSH_LEAVES)
            self.stream.before(_mark(f"{self._flushed:,} bytes not shown after the interrupt"))
        self._flushed, self._flush_until = 0, 0.0
        if self._connected:
            # It has arrived; a connection that is lost later has nothing to do with it.
            self._interrupted = False

    # -- what breaks -----------------------------------------------------------------------------------------

    async def _broken(self, socket: PtySocket, why: str) -> bool:
        """The connection ended. Returns whether there is a new one."""
        self._connected = False
        await socket.abort()
        if socket.exit_code is not None:
            await self._ended(socket.exit_code)
            return False
        lagging = why == LAGGING
        if not lagging:
            self._become("lost", f"The connection to the terminal is lost ({why}); connecting again …")
        failed = await self._again(TOO_FAST if lagging else CUT_OFF)
        if not failed:
            return True
        if await self._sandbox_is_up() is False:
            terminals.ended(self.session)
            self._become("stopped", "The sandbox is not running any more; the shell has ended.")
        elif failed == "gone":
            await self._ended(None)
        else:
            self._become("cut", f"The terminal cannot be reached ({failed}).")
        self._socket = None
        return False

    async def reconnect(self) -> None:
        """Try again what was given up."""
        if self.state != "cut":
            return
        self._become("lost", "Connecting again …")
        failed = await self._again(CUT_OFF)
        if failed == "gone":
            await self._ended(None)
        elif failed:
            self._become("cut", f"The terminal cannot be reached ({failed}).")
        else:
            self._tasks.append(asyncio.create_task(self._read()))

    async def _again(self, mark: str) -> str:
        """Connect to the session once more; ``mark`` stands in the terminal then. Returns "" or why not."""
        until, tries, why = time.monotonic() + RECONNECT_FOR, 0, "no answer"
        while time.monotonic() < until:
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
            try:
                self._socket = await PtySocket.open(self.address, self.session, existing=True, timeout=5)
            except PtyError as error:
                if error.status in (404, 410):
                    return "gone"
                why = str(error)
                if error.refused_here:
                    # The embedded engine has ended; nobody starts it for an idle terminal.
                    return "the embedded engine has ended"
                if tries > 1 and await self._sandbox_is_up() is False:
                    return why
                continue
            self.stream.add(_mark(mark))
            self._connected = True
            if self._interrupted:
                # It may have gone down with the connection.
                self._interrupted = False
                self._put(INTERRUPT)
            # A prompt, or a full screen, may have been printed to nobody: another size has it drawn again.
            await terminals.resize(self.sandbox, self.session, self.cols, self.rows + 1)
            await terminals.resize(self.sandbox, self.session, self.cols, self.rows)
            if self.state != "running":
                self._become("running")
            return ""
        return why

    async def _sandbox_is_up(self) -> bool | None:
        """Whether the sandbox runs; None when nobody knows."""
        try:
            await asyncio.wait_for(self.sandbox.refresh_data(), 5)
        except Exception as error:  # noqa: BLE001 - asked beside the real failure, which is told
            return None if not _is_not_found(error) else False
        return state_of(self.sandbox) == "started"

    async def _ended(self, code: int | None) -> None:
        terminals.ended(self.session)
        self.code, self._socket = code, None
        if code != 0 and await self._sandbox_is_up() is False:
            self._become("stopped", "The sandbox is not running any more; the shell has ended.")
            return
        how = "The shell has ended" + ("" if code is None else f" with exit code {code}")
        self._become("ended", f"{how}.")


def _is_not_found(error: Exception) -> bool:
    from daytona_magics.sandboxes import client as sdk

    return sdk.not_found(error)


def _mark(text: str) -> bytes:
    """A line of ours in the terminal; an escape sequence that was cut off before it ends with it."""
    return f"\x18\r\n\x1b[0;2m[{text}]\x1b[0m\r\n".encode()


def as_view(shell: Shell | None) -> dict[str, Any]:
    """What a view shows of a terminal."""
    if shell is None:
        return {"state": "opening", "said": "", "code": None, "cols": 0, "rows": 0}
    return {
        "state": shell.state,
        "said": shell.said,
        "code": shell.code,
        "cols": shell.cols,
        "rows": shell.rows,
    }
