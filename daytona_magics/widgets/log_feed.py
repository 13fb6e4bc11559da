"""One source of a log while it is followed, and the thread that writes what it says."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, printable
from daytona_magics.notebook import offers
from daytona_magics.widgets.log_intake import Intake
from daytona_magics.widgets.log_store import NOTE, STDERR, STDOUT, LogStore

if TYPE_CHECKING:
    from daytona_magics.widgets.log_sources import Source
    from daytona_magics.widgets.log_way import Way

#: Seconds between two looks whether a way that broke is there again; until it is tried without knowing that,
#: at first and at last (each time it is twice as long).
AGAIN, FIRST_TRY, LAST_TRY = 2.0, 4.0, 64.0


class Writer:
    """Writes what sources say, in the order it came, on a thread of its own.

    Args:
        wake: called after each piece.
        fail: called with a sentence when the disk takes no more.
    """

    def __init__(self, wake: Callable[[bool], None], fail: Callable[[str], None]) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._wake, self._fail = wake, fail
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="daytona-magics-log", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        """Do this after everything put before it."""
        self._queue.put(work)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if not self.closed:
                try:
                    work()
                except OSError as error:
                    self._fail(f"this machine's disk took no more ({error.strerror}): lines are missing here")
                self._wake(False)

    def close(self) -> None:
        """Write nothing more. Idempotent."""
        self.closed = True
        self._queue.put(None)


class Feed:
    """One source of a widget. A :class:`~.log_sources.Sink`; on the loop thread.

    Args:
        number: of the source.
        source: what is followed.
        store, writer: where its lines go.
        wake: tells pages that something is new, and whether the source has come to an end.

    Attributes:
        state: "live", "waiting", "ended", "lost" or "removed".
        said: a few words about that.
        open: the line of each stream that has not ended.
    """

    def __init__(
        self, number: int, source: Source, store: LogStore, writer: Writer, wake: Callable[[bool], None]
    ) -> None:
        self.number, self.source = number, source
        self._store, self._writer, self._wake = store, writer, wake
        self._intakes = {kind: Intake(store, number, kind) for kind in (STDOUT, STDERR)}
        self.state, self.said = "waiting", ""
        self._lost, self._pause = "", FIRST_TRY
        self._offers = offers.Offers()
        self._task: asyncio.Task[None] | None = None
        self._way: Way | None = None

    def open(self, kind: int) -> str:
        """The line of a stream that has not ended yet."""
        return self._intakes[kind].open

    def described(self) -> dict[str, Any]:
        """As a page is told."""
        return {"name": self.source.name, "state": self.state, "said": self.said}

    @property
    def over(self) -> bool:
        """Whether nothing follows it now."""
        return self._task is None or self._task.done()

    def follow(self, way: Way) -> None:
        """Follow it, from where it was left."""
        if self.over:
            self._way = way
            self.state, self.said = "waiting", "connecting"
            self._task = asyncio.ensure_future(self._follow(way))

    async def stop(self) -> None:
        """Follow it no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def remove(self) -> None:
        """Somebody wants no more of it."""
        await self.stop()
        self._set("removed", "not followed any more")

    async def _follow(self, way: Way) -> None:
        while True:
            try:
                said = await self.source.follow(way, self)
                break
            except SandboxError as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - the reader must hear that nothing more comes
                self._lose(f"{type(error).__name__}: {error}")
            await self._reachable(way)
        self.end()
        self.note(said)
        self._writer.put(lambda: self._set("ended", said))

    def _lose(self, text: str) -> None:
        text = printable(text, line=True)
        if text != self._lost:
            self._lost = text
            self.note(f"not followed any more: {text}")
        self._set("lost", text)

    async def _reachable(self, way: Way) -> None:
        """Wait until it is worth while to try again; nothing is started for that."""
        waited = 0.0
        while not (way.started and (way.open or waited >= self._pause)):
            await asyncio.sleep(AGAIN)
            waited += AGAIN
        await asyncio.sleep(AGAIN)
        self._pause = min(2 * self._pause, LAST_TRY)
        self._set("waiting", "connecting")

    async def _again(self, way: Way) -> None:
        await self._reachable(way)
        await self._follow(way)

    def _set(self, state: str, said: str = "") -> None:
        self.state, self.said = state, said
        self._wake(state in ("ended", "lost"))

    # -- what the source says ----------------------------------------------------------------------------

    def text(
        self, kind: int, text: str, done: Callable[[], None] | None = None, *, live: bool = True
    ) -> None:
        """Some text of stdout or stderr."""
        now = time.time() if live else 0.0
        self._lost, self._pause = "", FIRST_TRY

        def write() -> None:
            self._intakes[kind].feed(text, now)
            if done is not None:
                done()

        self._writer.put(write)
        for port in self._offers.seen(str(kind), text):
            self.note(offers.hint(port))

    def note(self, text: str, done: Callable[[], None] | None = None) -> None:
        """A sentence among the lines."""
        data = printable(text, line=True).encode("utf-8")[:4096]

        def write() -> None:
            self._store.append(self.number, NOTE, [(data, False)], time.time())
            if done is not None:
                done()

        self._writer.put(write)

    def says(self, state: str, text: str = "") -> None:
        """How it is."""
        if self.state != "lost" and (state, text) != (self.state, self.said):
            self._set(state, text)

    def end(self) -> None:
        """Lines that have not ended are lines."""
        now = time.time()

        def write() -> None:
            for one in self._intakes.values():
                one.end(now)

        self._writer.put(write)

    def give_up(self, text: str) -> None:
        """The sandbox does not run: wait until it does again."""
        if self.state in ("live", "waiting") and self._task is not None and self._way is not None:
            self._task.cancel()
            self._lose(text)
            self._task = asyncio.ensure_future(self._again(self._way))

    def take_up(self) -> None:
        """The sandbox runs again: go on now."""
        if self.state == "lost" and self._task is not None and self._way is not None:
            self._task.cancel()
            self._task = None
            self._lost, self._pause = "", FIRST_TRY
            self.follow(self._way)
