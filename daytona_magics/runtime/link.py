"""One connection to a guest, from its hello to its loss. It never reconnects: a channel makes a new link.

    PtySocket.receive -> Decoder -> control replies -> the futures of ``request``
                                 -> execution frames -> feeds (by stream number)
    flush: once everything at hand is read, feeds hand on their text and the bytes taken are acknowledged

Acknowledgements are the flow control: the guest sends at most 128 KiB beyond the last one. While a feed's
consumer is behind (its :class:`~daytona_magics.runtime.events.FlowWindow` is full) none is sent. A guest that
goes on sending without them is no longer read: its bytes stay in the socket until the consumer has room.

The heartbeat runs only while something is outstanding, so an idle notebook keeps nothing awake: a ping after
each second without a byte, and after five silent seconds the line counts as a black hole and is dropped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from daytona_magics.errors import ProtocolError
from daytona_magics.runtime import decode
from daytona_magics.runtime.feed import Feed, OutOfSequence
from daytona_magics.runtime.guest import frames
from daytona_magics.runtime.records import GuestInfo
from daytona_magics.runtime.transport import PtyError, PtySocket

PING_AFTER = 1.0
BLACK_HOLE_AFTER = 5.0
#: Acknowledge at once from here on; what is less waits for ACK_DELAY seconds.
ACK_BYTES, ACK_FRAMES, ACK_DELAY = 16 << 10, 16, 0.02
#: Bytes a consumer may be beyond its window's limit before the line is no longer read. What a guest sends
#: without an acknowledgement, and a message under way, is less (128 KiB on the line, as it weighs in memory).
BEYOND = 2 << 20
#: Seconds a guest that answers pings may take for any other answer.
ANSWER_WITHIN = 30.0

Reply = dict[str, Any]
_TEXT = json.JSONEncoder(separators=(",", ":")).encode


class LinkLost(Exception):
    """The connection ended; its text says how."""


class Refused(Exception):
    """The guest answered a request with an error.

    Attributes:
        code: the guest's word for it, e.g. "unknown-execution".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Asked:
    """A request; ``future`` gets its answer, ``due`` is the time of the loop by which it must have come."""

    __slots__ = ("due", "future", "number", "on_reply", "op")

    def __init__(
        self,
        op: str,
        number: int,
        future: asyncio.Future[Reply],
        on_reply: Callable[[Reply], None] | None,
        now: float,
    ) -> None:
        self.op, self.number, self.future, self.on_reply = op, number, future, on_reply
        self.due = now + ANSWER_WITHIN


class Link:
    """A connection to a guest. Make one with a connected PtySocket, then await :meth:`hello`.

    Attributes:
        info: what the guest said about itself, None before its hello.
        lost: resolved with the reason once the connection has ended.
        answers: how many requests were answered on it.
    """

    def __init__(self, socket: PtySocket) -> None:
        self.socket = socket
        self.info: GuestInfo | None = None
        self.answers = 0
        self._loop = loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._decoder = frames.Decoder()
        self._hello: asyncio.Future[Reply] = loop.create_future()
        self._feeds: dict[int, Feed] = {}
        self._requests: dict[int, Asked] = {}
        self._request_count = 0
        self._sent_sequence = 0
        self._control_sequence = 0
        self._control_parts = bytearray()
        self._taken = self._acknowledged = self._frames_since_ack = 0
        self._flush_due = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self._soon: list[tuple[str, dict[str, Any]]] = []
        self._roomy = asyncio.Event()
        self._holding = False
        self._last_heard = loop.time()
        self._watcher: asyncio.Task[None] | None = None
        self._aborting: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._read(), name="dm-link-reader")

    # -- opening and ending ------------------------------------------------------------------------

    async def hello(self, timeout: float, started: bool) -> GuestInfo:
        """Wait for the guest's first words.

        Raises:
            LinkLost: the connection ended, or nothing came within ``timeout`` seconds.
            ProtocolError: the words are not our guest's.
        """
        ends: list[asyncio.Future[Any]] = [self._hello, self.lost]
        done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._hello in done:
            self.info = decode.hello(self._hello.result(), started)
            return self.info
        raise LinkLost(self.lost.result() if done else f"no hello from the guest within {timeout:g} s")

    def noise(self, lines: int = 20) -> list[str]:
        """The last lines of what arrived and was no frame (banners, a shell's complaints)."""
        text = bytes(self._decoder.noise + self._decoder._buffer).decode("utf-8", "replace")
        printable = "".join(c if c.isprintable() or c == "\n" else " " for c in text.replace("\r", ""))
        return [line[:300] for line in printable.split("\n") if line.strip()][-lines:]

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return not self.lost.done()

    def drop(self, reason: str) -> None:
        """Declare the connection lost; waiting requests fail with LinkLost. Idempotent."""
        if not self.lost.done():
            self._end(reason)
            self._aborting = asyncio.create_task(self.socket.abort(), name="dm-link-abort")

    def _end(self, reason: str) -> None:
        self.lost.set_result(reason)
        for asked in self._requests.values():
            if not asked.future.done():
                asked.future.set_exception(LinkLost(reason))
                asked.future.exception()
        self._requests.clear()
        for feed in list(self._feeds.values()):
            feed.flush()
            feed.lost_connection()
        self._feeds.clear()
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        for task in (self._reader, self._watcher):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Close the connection in good order."""
        if not self.lost.done():
            self._end("closed")
        await self.socket.close()

    async def abort(self) -> None:
        """Drop the connection without waiting for the other side."""
        self.drop("dropped")
        if self._aborting is not None:
            await self._aborting

    # -- sending -----------------------------------------------------------------------------------

    def _send(self, *messages: dict[str, Any]) -> None:
        """Send messages, all in one go."""
        pieces = []
        for message in messages:
            for flags, piece in frames.split(_TEXT(message).encode()):
                self._sent_sequence += 1
                pieces.append(frames.encode(frames.CONTROL, 0, self._sent_sequence, piece, flags))
        self.socket.send(b"".join(pieces))

    async def request(
        self,
        op: str,
        on_reply: Callable[[Reply], None] | None = None,
        *,
        within: float = ANSWER_WITHIN,
        **fields: Any,
    ) -> Reply:
        """Ask the guest; returns its reply.

        Args:
            op: the operation.
            on_reply: called with an accepted reply before any frame behind it is looked at.
            within: seconds it may take.
            fields: the operation's arguments.

        Raises:
            Refused: the guest answered with an error.
            LinkLost: the connection ended before the answer.
            TimeoutError: the connection stands and no answer came.
        """
        return await self.answered(self.ask(op, on_reply, fields), within)

    async def answered(self, asked: Asked, within: float = ANSWER_WITHIN) -> Reply:
        """Wait for the answer to what was asked; returns and raises as :meth:`request`."""
        try:
            if within == ANSWER_WITHIN:
                # The heartbeat counts these seconds: that saves a timer for each request.
                return await asked.future
            return await asyncio.wait_for(asked.future, within)
        except asyncio.TimeoutError:
            raise TimeoutError(f"the guest did not answer {asked.op!r} within {within:g} s") from None
        finally:
            self._requests.pop(asked.number, None)

    def ask(self, op: str, on_reply: Callable[[Reply], None] | None, fields: dict[str, Any]) -> Asked:
        """Send a request; :meth:`answered` waits for its answer.

        Raises:
            LinkLost: the connection has ended.
        """
        if self.lost.done():
            raise LinkLost(self.lost.result())
        # Whatever waits to be told goes with it.
        waiting = self._untold() if self._ack_timer is not None else []
        self._request_count += 1
        asked = Asked(op, self._request_count, self._loop.create_future(), on_reply, self._loop.time())
        self._requests[asked.number] = asked
        self._send({"op": op, "req": self._request_count, **fields}, *waiting)
        self._watch()
        return asked

    def tell(self, op: str, **fields: Any) -> None:
        """Ask without caring for the answer."""
        if not self.lost.done():
            self._request_count += 1
            self._send({"op": op, "req": self._request_count, **fields})

    def tell_soon(self, op: str, **fields: Any) -> None:
        """Ask for what needs no answer, within ACK_DELAY: tidying up must not hold up a cell's end."""
        self._soon.append((op, fields))
        self._acknowledge_soon()

    # -- feeds -------------------------------------------------------------------------------------

    def carry(self, feed: Feed, stream: int) -> None:
        """From now on frames of this stream belong to this feed.

        Raises:
            ProtocolError: the guest gave two executions one stream.
        """
        holder = self._feeds.get(stream)
        if holder is not None and holder is not feed:
            decode.refuse("two executions in one stream")
        feed.stream = stream
        self._feeds[stream] = feed
        self._watch()

    def release(self, feed: Feed) -> None:
        """Frames of this feed are no longer wanted."""
        if feed.stream is not None and self._feeds.get(feed.stream) is feed:
            del self._feeds[feed.stream]
        self._roomy.set()
        self._acknowledge_soon()

    # -- receiving ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                await self._room()
                data = await self.socket.receive()
                for frame in self._decoder.feed(data):
                    self._last_heard = self._loop.time()
                    self._taken += frame.size
                    self._frames_since_ack += 1
                    if frame.stream:
                        feed = self._feeds.get(frame.stream)
                        if feed is not None:
                            self._to_feed(feed, frame)
                    else:
                        self._control(frame)
                if not self._flush_due:
                    # Runs when receive() has nothing more at hand and yields: so bursts become one event.
                    self._flush_due = True
                    self._loop.call_soon(self._flush)
        except PtyError as error:
            self.drop(str(error))
        except ProtocolError as error:
            for feed in list(self._feeds.values()):
                feed.fail(error)
            if not self._hello.done():
                self._hello.set_exception(error)
            self.drop(str(error))

    async def _room(self) -> None:
        """Wait until no consumer is so far behind that only a guest without manners can have caused it."""
        while any(self._crowded(feed) for feed in self._feeds.values()):
            self._holding = True
            try:
                await self._roomy.wait()
            finally:
                self._holding = False
                # The silence was ours.
                self._last_heard = self._loop.time()

    def _crowded(self, feed: Feed) -> bool:
        window = feed.window
        if window is None or feed.done.done() or window.outstanding <= window.limit + BEYOND:
            return False
        self._roomy.clear()
        return window.full(self._wake)

    def _to_feed(self, feed: Feed, frame: frames.Frame) -> None:
        try:
            feed.take(frame)
        except OutOfSequence:
            self._ask_again(feed)
        except ProtocolError as error:
            feed.fail(error)
        if feed.done.done() and self._feeds.get(frame.stream) is feed:
            del self._feeds[frame.stream]

    def _ask_again(self, feed: Feed) -> None:
        """Frames are missing on a line that should lose none: ask for them; refuse if that did not help."""
        if feed.resend == "asked":
            return  # what was under way before the answer is skipped; it comes again
        if feed.resend == "answered" and feed.last <= feed.asked_at:
            feed.fail(
                ProtocolError("the sandbox left out part of this cell's output and would not send it again")
            )
            return
        feed.resend, feed.asked_at = "asked", feed.last

        def answered(reply: Reply) -> None:
            feed.resend = "answered"

        def ended(future: asyncio.Future[Reply]) -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, Refused):
                feed.fail(ProtocolError(f"the sandbox lost part of this cell's output: {error}"))

        asked = self.ask("subscribe", answered, {"id": feed.id, "after": feed.last, "skim": feed.skim})
        asked.future.add_done_callback(ended)

    def _control(self, frame: frames.Frame) -> None:
        if frame.type != frames.CONTROL:
            decode.refuse(f"a frame of type {frame.type:#x} among the control messages")
        self._control_sequence += 1
        if frame.sequence != self._control_sequence:
            raise PtyError("part of the line's traffic was lost")
        self._control_parts += frame.payload
        if len(self._control_parts) > decode.MAX_CONTROL:
            decode.refuse("a control message without end")
        if frame.flags & frames.FLAG_MORE:
            return
        message = decode.json_object(self._control_parts, "a control message")
        self._control_parts.clear()
        op = decode.text(message, "op", limit=40)
        if op == "reply":
            self._reply(message)
        elif op == "hello" and not self._hello.done():
            self._hello.set_result(message)

    def _reply(self, message: Reply) -> None:
        if message.get("req") is None:
            # To what was told, not asked: nobody waits for it.
            return
        asked = self._requests.pop(decode.integer(message, "req"), None)
        if asked is None or asked.future.done():
            return
        future, on_reply = asked.future, asked.on_reply
        self.answers += 1
        if not decode.boolean(message, "ok"):
            code = decode.text(message, "error", "error", 200)
            future.set_exception(Refused(code, decode.text(message, "message", code, 10_000)))
            return
        try:
            if on_reply is not None:
                on_reply(message)
        except ProtocolError as error:
            future.set_exception(error)
        else:
            future.set_result(message)

    # -- acknowledging -----------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        for feed in list(self._feeds.values()):
            feed.flush()
        self._acknowledge_soon()

    def _acknowledge_soon(self) -> None:
        waiting = self._taken - self._acknowledged
        if waiting >= ACK_BYTES or self._frames_since_ack >= ACK_FRAMES:
            self._acknowledge()
        elif (waiting or self._soon) and self._ack_timer is None and not self.lost.done():
            self._ack_timer = self._loop.call_later(ACK_DELAY, self._acknowledge)

    def _acknowledge(self) -> None:
        waiting = self._untold()
        if waiting and not self.lost.done():
            self._send(*waiting)

    def _untold(self) -> list[dict[str, Any]]:
        """What the guest is to be told by now: what can be tidied up, and how much was taken."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        soon, self._soon = self._soon, []
        waiting = [{"op": op, **fields} for op, fields in soon]
        if self._taken == self._acknowledged:
            return waiting
        if any(feed.window is not None and feed.window.full(self._wake) for feed in self._feeds.values()):
            return waiting
        self._acknowledged = self._taken
        self._frames_since_ack = 0
        return [*waiting, {"op": "ack", "bytes": self._taken}]

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._roomy.set()
        self._acknowledge()

    # -- heartbeat ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._last_heard = self._loop.time()
            self._watcher = asyncio.create_task(self._heartbeat(), name="dm-link-heartbeat")

    async def _heartbeat(self) -> None:
        pinged = 0.0
        while self._feeds or self._requests:
            before = self._loop.time()
            await asyncio.sleep(PING_AFTER / 2)
            now = self._loop.time()
            if self._holding or now - before > BLACK_HOLE_AFTER / 2:
                # We do not listen, or this machine slept or was busy: that says nothing about the line.
                self._last_heard = now
            for asked in self._requests.values():
                if now >= asked.due and not asked.future.done():
                    asked.future.set_exception(asyncio.TimeoutError())
                    asked.future.exception()
            silent = now - self._last_heard
            if silent >= BLACK_HOLE_AFTER:
                self.drop(f"no sign of life for {silent:.0f} s")
                return
            if silent >= PING_AFTER and now - pinged >= PING_AFTER:
                pinged = now
                self.tell("ping")
