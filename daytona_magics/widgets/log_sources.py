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
    Reconnected,
    Reconnecting,
    Result,
)
from daytona_magics.runtime.events import Stream as Text
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.report import state_of
from daytona_magics.widgets.log_store import STDERR, STDOUT
from daytona_magics.widgets.log_way import Way

if TYPE_CHECKING:
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

    def note(self, text: str, done: Callable[[], None] | None = None) -> None:
        """A sentence of ours, among the lines; ``done`` as for text."""

    def says(self, state: str, text: str = "") -> None:
        """How the source is: "live", "waiting"."""

    def end(self) -> None:
        """Lines that have not ended are lines."""


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


class _Amount:
    """How much of an execution's output there was."""

    def __init__(self) -> None:
        self.bytes = self.others = 0

    def text(self, most: _Amount, length: int) -> int:
        """So many bytes more; returns how many of them ``most``, which grows, had already."""
        known = min(max(0, most.bytes - self.bytes), length)
        self.bytes += length
        most.bytes = max(most.bytes, self.bytes)
        return known

    def other(self, most: _Amount) -> bool:
        """One event more; whether ``most`` had it already."""
        self.others += 1
        known, most.others = self.others <= most.others, max(most.others, self.others)
        return known


class JobSource(Source):
    """The output of a job or a cell.

    Followed again after a break, the sandbox sends it from the beginning: what was given before is passed
    over, counted in bytes of text and in other events.

    Args:
        id: the execution.
        name: for people.
        ended: whether it had ended when this was made: then when its lines came is not known.
    """

    def __init__(self, id: str, name: str, *, ended: bool = False) -> None:
        super().__init__(f"job:{id}", f"{name} ({id[:NAME]})")
        self.id = id
        self._past = ended
        self._given = _Amount()

    async def follow(self, way: Way, sink: Sink) -> str:
        channel = await way.channel()
        window, now, began = FlowWindow(), _Amount(), time.monotonic()

        def hear(event: Event) -> None:
            if not isinstance(event, Text):
                # What is not text is no smaller for that: it waits for the disk, too.
                if not self._told(event, now, sink, lambda: window.consumed(event)):
                    window.consumed(event)
                return
            data = event.text.encode("utf-8", "surrogateescape")
            if (known := now.text(self._given, len(data))) == len(data):
                window.consumed(event)
                return
            text = data[known:].decode("utf-8", "replace")
            # What comes at once was there before; when, nobody knows.
            live = not self._past and time.monotonic() - began > 1.0
            kind = STDOUT if event.name == "stdout" else STDERR
            sink.text(kind, text, lambda: window.consumed(event), live=live)

        sink.says("live")
        try:
            return _ended(await channel.follow(self.id, hear, window=window, errors="surrogateescape"))
        except SandboxError as error:
            if "knows no execution" in str(error):
                return "its output is gone: the sandbox was stopped, or it made room for newer output"
            raise

    def _told(self, event: Event, now: _Amount, sink: Sink, done: Callable[[], None]) -> bool:
        """Tell of what is no text; whether ``done`` is called once that is written down."""
        if isinstance(event, Reconnecting):
            sink.says("waiting", "the connection broke; trying again")
        elif isinstance(event, Reconnected):
            sink.says("live")
        elif isinstance(event, Gap):
            if missing := event.bytes - now.text(self._given, event.bytes):
                sink.note(
                    f"{size(missing)} of output are missing here: they were more than the sandbox keeps"
                )
        elif not isinstance(event, Notice | Error | Result | Display) or now.other(self._given):
            return False
        elif isinstance(event, Notice):
            sink.note(printable(event.text, line=True), done)
            return True
        elif isinstance(event, Error):
            lines = "\n".join(event.traceback) or f"{event.ename}: {event.evalue}"
            sink.text(STDERR, lines + "\n", done)
            return True
        elif isinstance(shown := event.data.get("text/plain"), str):
            sink.text(STDOUT, shown + "\n", done)
            return True
        return False

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
        place, quiet, said, began = self._place, 0, "connecting", time.monotonic()
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
            if said:
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
        if piece.news:
            # What the file said last is not continued by what it, or another one, says first.
            self._decoder.reset()
            sink.end()
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
                if code is None:
                    raise SandboxError("the connection broke")
            else:
                await sandbox.process.get_entrypoint_logs_async(*handlers)
                await sandbox.refresh_data()
                if state_of(sandbox) != "started":
                    raise SandboxError(f"the sandbox is {state_of(sandbox)}")
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
