"""What a log can be made of: jobs and cells, commands of sessions, the entrypoint, files of the sandbox.

A source is followed by one coroutine on the loop thread, which gives what comes to a :class:`Sink` and waits
when that has enough; it returns how it ended, or raises why the way there broke. Followed again it goes on
behind what it gave before.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from daytona_magics.errors import SandboxError, printable
from daytona_magics.notebook.card import size
from daytona_magics.notebook.spool import NAME
from daytona_magics.runtime import peeking
from daytona_magics.runtime.events import (
    Display,
    Done,
    Error,
    Event,
    FlowWindow,
    Gap,
    Notice,
    Reconnecting,
    Result,
)
from daytona_magics.runtime.events import Stream as Text
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint as endpoints
from daytona_magics.sandboxes import files
from daytona_magics.widgets.log_store import STDERR, STDOUT

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from daytona_magics.runtime.channel import Channel
    from daytona_magics.sandboxes.binding import Binding

#: Seconds between two looks at a file that grows; when nothing has come for a while; looks until then.
OFTEN, SELDOM, EAGER = 0.25, 1.0, 20
#: Seconds until a look that nobody answered is told, and tried again.
PATIENCE = 6.0
#: Bytes from the end of a file that are shown; what is before them can be downloaded.
FILE_TAIL = 64 << 20
#: Characters of a session's log that wait for the disk.
WAITING = 1 << 20
_ENDS = {"interrupted": "interrupted", "timeout": "stopped: it took too long", "died": "its process died"}


class Sink(Protocol):
    """Where a source's output goes. On the loop thread."""

    def text(
        self, kind: int, text: str, done: Callable[[], None] | None = None, *, live: bool = True
    ) -> None:
        """Some text of stdout or stderr; ``done`` is called, on any thread, once it is written down."""

    def note(self, text: str) -> None:
        """A sentence of ours, among the lines."""

    def says(self, state: str, text: str = "") -> None:
        """How the source is: "live", "waiting"."""


class Source(ABC):
    """Base of the sources.

    Attributes:
        key: names it among all of a sandbox.
        name: for people.
    """

    def __init__(self, key: str, name: str) -> None:
        self.key, self.name = key, printable(name, line=True)[:200]

    @abstractmethod
    async def follow(self, way: Way, sink: Sink) -> str:
        """Give everything to the sink, until there will be no more; returns a sentence about the end."""

    def whole(self, way: Way) -> AsyncGenerator[bytes, None] | None:
        """All there is, byte for byte, as the sandbox has it; None when only what came here is known."""
        return None


class Way:
    """How sources reach the sandbox, by a channel that is not the notebook's: a flood holds up no cell."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._reviving: asyncio.Future[str] | None = None

    async def sandbox(self) -> AsyncSandbox:
        """The sandbox. Raises SandboxError when there is none."""
        return self.binding.bound()

    async def channel(self) -> Channel:
        """The channel, opened when there is none. Raises SandboxError."""
        from daytona_magics.runtime.channel import Channel

        async with self._opening:
            sandbox = await self.sandbox()
            if self._channel is not None and (self._channel.closed or self._channel.sandbox.id != sandbox.id):
                await self.close()
            if self._channel is None:
                assert self.binding.endpoint is not None
                made = Channel(
                    sandbox,
                    api_key=self.binding.endpoint.api_key,
                    reconnect_for=self.binding.config.reconnect_for,
                )
                try:
                    await sdk.asked(made.open(), f"connecting to {sandbox.name}")
                except BaseException:
                    await made.close()
                    raise
                self._channel = made
            return self._channel

    def broken(self, event: Reconnecting) -> None:
        """The line is tried again; an embedded engine that died is started by whoever asks for it."""
        endpoint = self.binding.endpoint
        if event.attempt == 2 and endpoint is not None and endpoint.kind == "embedded":
            self._reviving = asyncio.ensure_future(asyncio.to_thread(endpoints.revive))

    @property
    def open(self) -> bool:
        """Whether the notebook itself reaches the sandbox now."""
        return self.binding.open_channel() is not None

    async def close(self) -> None:
        """Give the channel up. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class JobSource(Source):
    """The output of a job or a cell.

    Args:
        id: the execution.
        name: for people.
        ended: whether it had ended when this was made: then when its lines came is not known.
    """

    def __init__(self, id: str, name: str, *, ended: bool = False) -> None:
        super().__init__(f"job:{id}", f"{name} ({id[:NAME]})")
        self.id = id
        self._past = ended
        self._seen = 0

    async def follow(self, way: Way, sink: Sink) -> str:
        channel = await way.channel()
        window = FlowWindow()
        skip, began = self._seen, time.monotonic()
        self._seen = 0

        def hear(event: Event) -> None:
            nonlocal skip
            if isinstance(event, Text):
                self._seen += event.size
                text = event.text
                if skip:
                    # Given before the way broke. Pieces may be cut differently this time.
                    known, skip = min(skip, event.size), max(0, skip - event.size)
                    if known == event.size:
                        window.consumed(event)
                        return
                    text = text.encode("utf-8", "replace")[known:].decode("utf-8", "replace")
                # What comes at once was there before; when, nobody knows.
                live = not self._past and time.monotonic() - began > 1.0
                kind = STDOUT if event.name == "stdout" else STDERR
                sink.text(kind, text, lambda: window.consumed(event), live=live)
                return
            window.consumed(event)
            self._told(event, way, sink)

        sink.says("live")
        try:
            return _ended(await channel.follow(self.id, hear, window=window))
        except SandboxError as error:
            if "knows no execution" in str(error):
                return "its output is gone: the sandbox was stopped, or it made room for newer output"
            raise

    def _told(self, event: Event, way: Way, sink: Sink) -> None:
        if isinstance(event, Gap):
            sink.note(
                f"{size(event.bytes)} of output are missing here: they were more than the sandbox keeps"
            )
        elif isinstance(event, Notice):
            sink.note(printable(event.text, line=True))
        elif isinstance(event, Error):
            lines = "\n".join(event.traceback) or f"{event.ename}: {event.evalue}"
            sink.text(STDERR, lines + "\n")
        elif isinstance(event, Result | Display):
            shown = event.data.get("text/plain")
            if isinstance(shown, str):
                sink.text(STDOUT, shown + "\n")
        elif isinstance(event, Reconnecting):
            way.broken(event)
            sink.says("waiting", "the connection broke; trying again")

    def whole(self, way: Way) -> AsyncGenerator[bytes, None]:
        return _job_bytes(self.id, way)


async def _job_bytes(id: str, way: Way) -> AsyncGenerator[bytes, None]:
    """A job's text byte for byte, no faster than it is taken."""
    own = Way(way.binding)  # the first channel follows it already
    queue: asyncio.Queue[Text | None] = asyncio.Queue()
    window = FlowWindow()

    def hear(event: Event) -> None:
        if isinstance(event, Text):
            queue.put_nowait(event)
            return
        window.consumed(event)
        if isinstance(event, Done):
            queue.put_nowait(None)

    channel = await own.channel()
    following = asyncio.ensure_future(
        channel.follow(id, hear, window=window, so_far=True, errors="surrogateescape")
    )
    following.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            window.consumed(event)
            yield event.text.encode("utf-8", "surrogateescape")
        await following
    finally:
        following.cancel()
        await own.close()


def _ended(done: Done) -> str:
    if done.status in _ENDS:
        said = _ENDS[done.status]
    elif done.exit_code:
        said = f"exit code {done.exit_code}"
    else:
        said = "ended" if done.status == "ok" else "ended with an error"
    if done.status == "ok" and done.exit_code == 0:
        said = "exit code 0"
    if done.signal:
        said += f", signal {done.signal}"
    return f"{said} after {done.seconds:.1f} s"


@dataclass
class _Place:
    """Where a file was read to."""

    file: str = ""
    offset: int = -FILE_TAIL


class FileSource(Source):
    """A file of the sandbox that grows, like ``tail -F``: rotated, cut off, not there yet.

    Args:
        path: the file; ``~`` is the home.
    """

    def __init__(self, path: str, name: str = "") -> None:
        super().__init__(f"file:{path}", name or path)
        self.path = path
        self._place = _Place()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def follow(self, way: Way, sink: Sink) -> str:
        place, quiet, said, began = self._place, 0, "", time.monotonic()
        while True:
            channel = await way.channel()
            try:
                piece = await asyncio.wait_for(
                    peeking.piece(channel, self.path, place.file, place.offset), PATIENCE
                )
            except (TimeoutError, asyncio.TimeoutError):
                said = "the sandbox does not answer"
                sink.says("waiting", "the sandbox does not answer; trying again")
                continue
            except SandboxError as error:
                if type(error) is not SandboxError:
                    raise
                if str(error) != said:
                    said = str(error)
                    sink.says("waiting", f"{printable(said, line=True)}; waiting for it")
                await asyncio.sleep(SELDOM)
                continue
            if said or not place.file:
                said = ""
                sink.says("live")
            self._tell(piece, place, sink)
            place.file, place.offset = piece.file, piece.offset + len(piece.data)
            if piece.data:
                quiet, written = 0, asyncio.Event()
                live = time.monotonic() - began > 1.0
                sink.text(STDOUT, self._decoder.decode(piece.data), _soon(written.set), live=live)
                await written.wait()
                if piece.offset + len(piece.data) < piece.size:
                    continue
            quiet += 1
            await asyncio.sleep(OFTEN if quiet < EAGER else SELDOM)

    def _tell(self, piece: peeking.Piece, place: _Place, sink: Sink) -> None:
        if not place.file and piece.offset:
            sink.note(f"the first {size(piece.offset)} are not shown; a download has them")
        if piece.news == "rotated":
            sink.note(f"another file is {printable(self.path, line=True)} now")
        elif piece.news == "cut":
            sink.note("the file was cut off and begins anew")

    def whole(self, way: Way) -> AsyncGenerator[bytes, None]:
        return _file_bytes(self.path, way)


async def _file_bytes(path: str, way: Way) -> AsyncGenerator[bytes, None]:
    sandbox = await way.sandbox()
    async for piece in files.content(sandbox, path, await files.remote_path(sandbox, path)):
        yield piece


class CommandSource(Source):
    """The log of a session's command, or of the entrypoint.

    Args:
        session: the session's id; "" for the entrypoint.
        command: the command's id.
        name: for people.
    """

    def __init__(self, session: str, command: str, name: str) -> None:
        super().__init__(f"session:{session}/{command}" if session else "entrypoint", name)
        self.session, self.command = session, command
        self._seen = {STDOUT: 0, STDERR: 0}

    async def follow(self, way: Way, sink: Sink) -> str:
        sandbox = await way.sandbox()
        skip, began = dict(self._seen), time.monotonic()
        room, waiting = asyncio.Event(), 0

        def written(length: int) -> None:
            nonlocal waiting
            waiting -= length
            room.set()

        async def take(kind: int, text: str) -> None:
            nonlocal waiting
            known = min(skip[kind], len(text))
            skip[kind] -= known
            text = text[known:]
            if not text:
                return
            self._seen[kind] += len(text)
            waiting += len(text)
            sink.text(kind, text, _soon(written, len(text)), live=time.monotonic() - began > 1.0)
            while waiting > WAITING:
                room.clear()
                await room.wait()

        sink.says("live")
        handlers = (lambda text: take(STDOUT, text)), (lambda text: take(STDERR, text))
        try:
            if self.session:
                await sandbox.process.get_session_command_logs_async(self.session, self.command, *handlers)
                ended = await sandbox.process.get_session_command(self.session, self.command)
                code = ended.exit_code
            else:
                await sandbox.process.get_entrypoint_logs_async(*handlers)
                code = None
        except sdk.error_class() as error:
            if sdk.not_found(error):
                raise SandboxError(f"there is no {self.name} in the sandbox (any more)") from None
            raise sdk.translate(error, f"reading the log of {self.name}") from None
        return "ended" if code is None else f"exit code {code}"


def _soon(act: Callable[..., None], *given: Any) -> Callable[[], None]:
    """What does this on the loop, called on any thread."""
    loop = asyncio.get_running_loop()

    def later() -> None:
        loop.call_soon_threadsafe(act, *given)

    return later


async def known(binding: Binding, channel: Channel) -> list[Source]:
    """Everything the sandbox has a log of, the newest first of each kind."""
    from daytona_magics.runtime import decode

    status = await channel.status()
    looks = [decode.look(one) for one in status["executions"]]
    found: list[Source] = [
        JobSource(one.id, one.name, ended=one.state == "done") for one in reversed(looks) if not one.dropped
    ]
    for one in status["contexts"]:
        path = str(one.get("late_output", ""))
        if path and one.get("name") == binding.context:
            found.append(FileSource(path, "printed between cells"))
    sandbox = binding.bound()
    try:
        sessions = await sandbox.process.list_sessions()
    except sdk.error_class():
        sessions = []
    for session in sessions:
        for command in reversed(session.commands or []):
            found.append(
                CommandSource(
                    session.session_id, command.id or "", f"{session.session_id}: {command.command}"
                )
            )
    return found
