"""The channel to one sandbox's guest: cells go in, events come out, whatever happens to the line between.

    execute -> _line() -> Link.request("execute") -> feed <- frames
                 |            line lost?
                 +---- reconnect: a new PTY, a fresh attach, ``subscribe after=last`` ----+

Three rules decide what happens after a cut:

- A request is sent again only while no guest has acknowledged it, and only to the same boot of the guest; the
  guest runs an id at most once, so sending it again there is safe.
- An acknowledged execution is only ever followed: the guest is asked for the frames after the last one here.
- A guest with another boot id knows nothing of the old one's cells: that is an error saying what is known,
  never a second run.

All coroutines belong to the loop thread (see :mod:`daytona_magics.runtime.loop`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from daytona_magics.errors import ProtocolError, SandboxError, SandboxUnreachable
from daytona_magics.runtime import decode
from daytona_magics.runtime.events import Done, FlowWindow
from daytona_magics.runtime.feed import Feed, Sink
from daytona_magics.runtime.line import Line
from daytona_magics.runtime.link import Asked, Link, LinkLost, Refused, Reply
from daytona_magics.runtime.records import ExecRequest, GuestInfo, Look, new_id

__all__ = ["Channel", "ExecRequest", "FlowWindow", "GuestInfo", "new_id"]

#: Seconds within which an interrupt is told or refused.
INTERRUPT_WITHIN = 2.0


class Channel(Line):
    """The one line to a sandbox's guest, made as a :class:`Line` is; many executions may share it."""

    # -- executions --------------------------------------------------------------------------------

    async def execute(
        self,
        request: ExecRequest,
        sink: Sink,
        window: FlowWindow | None = None,
        *,
        keep_above: float = float("inf"),
    ) -> Done:
        """Run a cell, once; returns when it has ended and all its output was handed to the sink.

        Args:
            request: the cell. Its id must be new.
            sink: called on the loop thread with every event in order, Done last.
            window: flow control with whoever consumes what the sink keeps.
            keep_above: bytes of output beyond which the sandbox keeps its copy until :meth:`forget`.

        Raises:
            SandboxUnreachable: the line broke for good; the message says what is known of the cell.
            SandboxGone: the sandbox was deleted.
            ProtocolError: what came back is not what our guest sends.

        Cancelling leaves the cell running in the sandbox; see :meth:`interrupt`.
        """
        return await self.begin(request, sink, window, keep_above=keep_above)

    def begin(
        self,
        request: ExecRequest,
        sink: Sink,
        window: FlowWindow | None = None,
        *,
        keep_above: float = float("inf"),
    ) -> Coroutine[Any, Any, Done]:
        """Like :meth:`execute`, on the loop thread: where there is a line the cell leaves at once.

        The coroutine that is returned must begin: it also lets go of what was begun here.
        """
        feed, fields = Feed(request.id, sink, window), request.fields()
        link, asked = self._link, None
        if link is not None and link.info is not None and link.alive and feed.id not in self._feeds:
            feed.boot = link.info.boot
            self._feeds[feed.id] = feed
            asked = link, link.ask("execute", _accepted(link, feed), fields)
        return self._carry(feed, fields, keep_above, asked)

    async def submit(self, request: ExecRequest) -> None:
        """Hand over a cell that runs as a job, once; returns when the guest has it.

        Raises:
            SandboxUnreachable: it is not known whether it runs.
        """
        boot = ""
        while True:
            link = await self._line()
            assert link.info is not None
            if boot and link.info.boot != boot:
                raise SandboxUnreachable(
                    "the sandbox's side was started anew; it is not known whether the job ran"
                )
            boot = link.info.boot
            try:
                # Sent again after a cut it is the same job: the guest runs an id once.
                await link.request("execute", **request.fields())
                return
            except LinkLost:
                continue
            except Refused as error:
                raise SandboxError(f"the sandbox refused the job: {error}") from None
            except TimeoutError as error:
                raise SandboxUnreachable(f"{error}; it is not known whether the job runs") from None

    async def follow(
        self,
        exec_id: str,
        sink: Sink,
        after: int = 0,
        window: FlowWindow | None = None,
        *,
        so_far: bool = False,
        errors: str = "replace",
    ) -> Done:
        """Take part in an execution that runs, or ran, in the sandbox; like :meth:`execute` otherwise.

        Args:
            exec_id: the execution.
            sink: see :meth:`execute`.
            after: sequence number of the last frame not wanted; 0 gives all that the sandbox kept.
            window: see :meth:`execute`.
            so_far: end with what there is now, with the status "running" when it runs on.
            errors: what becomes of bytes that are no UTF-8, as in :meth:`bytes.decode`.

        Raises:
            SandboxError: the sandbox knows no such execution.
        """
        feed = Feed(exec_id, sink, window, after, errors)
        feed.so_far = so_far
        feed.acknowledged = True
        self._retained.add(exec_id)
        return await self._carry(feed, None)

    async def skim(self, exec_id: str) -> None:
        """Have no more of an execution's text sent, only how much there is; the sandbox keeps it."""
        feed = self._feeds.get(exec_id)
        if feed is None or feed.done.done():
            return
        self._retained.add(exec_id)
        # A link made later is told when it subscribes.
        feed.skim = True
        if feed.acknowledged and self._link is not None and self._link.alive:
            with contextlib.suppress(LinkLost, Refused, TimeoutError):
                await self._link.request("skim", id=exec_id)

    def retain(self, exec_id: str) -> None:
        """Have the sandbox keep an execution's output after its end (for :meth:`follow`). Any thread.

        Without it the sandbox may delete its copy once the whole output was handed out here.
        """
        self._retained.add(exec_id)

    async def forget(self, exec_id: str) -> None:
        """Let the sandbox delete an execution's output; the id stays known and never runs again."""
        self._retained.discard(exec_id)
        with contextlib.suppress(SandboxError):
            await self.ask("forget", id=exec_id)

    def forget_soon(self, exec_id: str) -> None:
        """Like :meth:`forget`, without waiting and without asking twice; for the loop thread."""
        if self._link is not None and self._link.alive:
            self._link.tell_soon("forget", id=exec_id)

    async def look(self, exec_id: str, tail: int = 0) -> Look:
        """What the guest says of an execution, with the last ``tail`` bytes of its text (up to 1 MiB).

        Raises:
            SandboxError: the sandbox knows no such execution.
        """
        return decode.look(await self.ask("describe", id=exec_id, tail=tail))

    @property
    def carrying(self) -> tuple[str, ...]:
        """The executions whose output comes over it now."""
        return tuple(self._feeds)

    async def _carry(
        self,
        feed: Feed,
        fields: dict[str, Any] | None,
        keep_above: float = float("inf"),
        asked: tuple[Link, Asked] | None = None,
    ) -> Done:
        if asked is None and feed.id in self._feeds:
            raise SandboxError(f"execution {feed.id} is already being followed")
        self._feeds[feed.id] = feed
        link: Link | None = None
        try:
            while not feed.done.done() or asked is not None:
                link, first = asked or (await self._line_for(feed), None)
                asked = None
                if link is None:
                    break
                with contextlib.suppress(LinkLost):  # the next round makes a new link
                    await self._bind(link, feed, fields, first)
                    await feed.over(link.lost)
            done = await feed.done
            spare = feed.id not in self._retained and feed.volume <= keep_above
            if link is not None and feed.acknowledged and spare:
                link.tell_soon("forget", id=feed.id)
            return done
        except SandboxUnreachable as error:
            known = _known(feed)
            raise type(error)(f"{error}{known}", hint=error.hint) from None
        finally:
            self._retained.discard(feed.id)
            del self._feeds[feed.id]
            if link is not None:
                link.release(feed)

    async def _line_for(self, feed: Feed) -> Link | None:
        """The living link; None when the feed ends first (interrupted before there was a link)."""
        if self._link is not None and self._link.alive:
            return self._link
        making = asyncio.ensure_future(self._line())
        ends: list[asyncio.Future[Any]] = [making, feed.done]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return None if feed.done.done() else making.result()
        finally:
            making.cancel()
            making.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _bind(
        self, link: Link, feed: Feed, fields: dict[str, Any] | None, asked: Asked | None = None
    ) -> None:
        """Have the guest run, or go on sending, this execution on this link; ``asked``: it was asked to."""
        assert link.info is not None
        if feed.boot and feed.boot != link.info.boot:
            raise SandboxUnreachable("the sandbox's side was started anew while the cell was under way")
        feed.boot = link.info.boot

        def going_on(reply: Reply) -> None:
            link.carry(feed, decode.integer(reply, "stream", 1, 2**32 - 1))
            if reply.get("state") == "done":
                feed.ends_at(decode.integer(reply, "last", 0, 2**32 - 1))
            elif feed.so_far:
                feed.stops_at(decode.integer(reply, "last", 0, 2**32 - 1))

        try:
            if asked is None and not feed.acknowledged and fields is not None:
                asked = link.ask("execute", _accepted(link, feed), fields)
            if asked is not None:
                reply = await link.answered(asked)
                if not decode.boolean(reply, "known"):
                    return
                # It ran on after its acknowledgement was lost.
            await link.request("subscribe", going_on, id=feed.id, after=feed.last, skim=feed.skim)
        except Refused as error:
            if error.code == "unknown-execution":
                raise SandboxError(f"the sandbox knows no execution {feed.id}") from None
            raise SandboxError(f"the sandbox refused the cell: {error}") from None
        except TimeoutError as error:
            raise ProtocolError(str(error)) from None

    # -- questions ---------------------------------------------------------------------------------

    async def interrupt(self, exec_id: str, level: int) -> str:
        """Interrupt an execution; returns the guest's sentence about what that did.

        Args:
            exec_id: the execution.
            level: 1 SIGINT to the cell, 2 ends the processes it started, 3 kills its worker.

        Raises:
            SandboxUnreachable: it could not be told within 2 s; the cell may still be running.
        """
        feed = self._feeds.get(exec_id)
        if feed is not None and not feed.boot and not feed.acknowledged:
            done = Done("interrupted", text="the cell had not been sent to the sandbox yet")
            feed.emit(done)
            if not feed.done.done():
                feed.settle(done)
            return done.text
        try:
            reply = await asyncio.wait_for(self._interrupt(exec_id, level, feed), INTERRUPT_WITHIN)
        except (TimeoutError, asyncio.TimeoutError, LinkLost):
            raise SandboxUnreachable(
                f"the interrupt did not reach the sandbox in {INTERRUPT_WITHIN:g} s; the cell may be running",
                hint="Press interrupt again once the sandbox is reached; `%sandbox reset` ends the cell.",
            ) from None
        except Refused as error:
            raise SandboxError(f"the sandbox refused the interrupt: {error}") from None
        return decode.text(reply, "did", limit=10_000)

    async def _interrupt(self, exec_id: str, level: int, feed: Feed | None) -> Reply:
        while True:
            try:
                return await (await self._line()).request("interrupt", id=exec_id, level=level)
            except Refused as error:
                # Right after a cut the guest may not have been sent the cell (again) yet.
                if error.code != "unknown-execution" or feed is None or feed.acknowledged:
                    raise
                await asyncio.sleep(0.05)
            except LinkLost:
                await asyncio.sleep(0.05)

    async def answer(
        self, exec_id: str, number: int, text: str = "", *, error: str = "", end: bool = False
    ) -> bool:
        """Answer a question of a running cell; False when it does not wait for this answer (any more).

        Args:
            number: the question's number, from its :class:`~daytona_magics.runtime.events.Input`.
            text: the answer.
            error: why there is none; the cell's ``input()`` raises that.
            end: the input was ended; it raises EOFError.

        Raises:
            SandboxUnreachable: the line broke and did not come back.
        """
        try:
            await self.ask("answer", id=exec_id, number=number, text=text, error=error, end=end)
        except SandboxUnreachable:
            raise
        except SandboxError:
            return False
        return True

    async def reset(self, contexts: Sequence[str] | None = None) -> None:
        """Give contexts (None: all) new workers; cells running in them are killed. Files stay."""
        await self.ask("reset", contexts=None if contexts is None else list(contexts))

    async def status(self) -> dict[str, Any]:
        """What the guest runs: ``{"contexts": [...], "executions": [...]}``, checked."""
        return decode.status(await self.ask("status"))


def _accepted(link: Link, feed: Feed) -> Callable[[Reply], None]:
    """What is done with the answer to ``execute``, before anything behind it is looked at."""

    def accepted(reply: Reply) -> None:
        stream = decode.integer(reply, "stream", 1, 2**32 - 1)
        feed.acknowledged = True
        if not decode.boolean(reply, "known"):
            link.carry(feed, stream)

    return accepted


def _known(feed: Feed) -> str:
    if not feed.boot:
        return ". The cell was not sent: it did not run."
    if not feed.acknowledged:
        return ". The sandbox never confirmed the cell: it is not known whether it ran."
    return f". The cell was started there; its output up to frame {feed.last} came, its end is not known."
