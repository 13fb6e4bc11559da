"""What one execution has sent so far, and what its consumer has been told.

A feed outlives connections: it knows the last sequence number it has, so that after a cut the guest is asked
for exactly what is missing. Bytes are collected while they come in and handed on as text once everything that
arrived together was read (at most 64 KiB for each event), through one incremental UTF-8 decoder for each
stream, so that a character cut in two by a frame's end is whole again in the text.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable
from typing import Literal

from daytona_magics.errors import SandboxError
from daytona_magics.runtime import decode
from daytona_magics.runtime.events import Display, Done, Event, FlowWindow, Stream, volume
from daytona_magics.runtime.guest import frames

Sink = Callable[[Event], None]

#: Text collected before it is handed on although more may be at hand, bytes.
MAX_TEXT = 64 << 10
#: How messages with a mimebundle begin; anything else is small.
_BUNDLES = (b'{"msg": "display"', b'{"msg": "result"')
_STARTED = b'{"msg": "started"}'
_NAMES: dict[int, Literal["stdout", "stderr"]] = {frames.STDOUT: "stdout", frames.STDERR: "stderr"}


class OutOfSequence(Exception):
    """A frame is missing between the last one and this one."""


class Feed:
    """One execution's side of the channel.

    Args:
        exec_id: the execution.
        sink: called on the loop thread with every event, in order.
        window: flow control with the consumer, None when the sink keeps nothing.
        after: last sequence number the consumer already has.
        errors: what becomes of bytes that are no UTF-8, as in :meth:`bytes.decode`.

    Attributes:
        last: sequence number of the last frame taken.
        stream: stream number the guest gave it, None before.
        boot: boot id of the guest the request was first sent to; empty before.
        acknowledged: whether a guest said that it has the request.
        resend: whether this connection was asked again for missing frames, and has answered.
        asked_at: sequence number of the last frame when it was asked.
        done: resolved with the Done event, or with what made the execution's output unusable.
        volume: bytes of output handed on so far, see :func:`~daytona_magics.runtime.events.volume`.
        skim: only the amount of the text is wanted from now on.
        so_far: what comes later than the first answer is not wanted.
    """

    def __init__(
        self,
        exec_id: str,
        sink: Sink,
        window: FlowWindow | None = None,
        after: int = 0,
        errors: str = "replace",
    ) -> None:
        self.id = exec_id
        self.window = window
        self.last = after
        self.stream: int | None = None
        self.boot = ""
        self.acknowledged = False
        self.resend: Literal["no", "asked", "answered"] = "no"
        self.asked_at = 0
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Done] = self._loop.create_future()
        self._turn: asyncio.Future[None] | None = None
        self._sink = sink
        self._name: Literal["stdout", "stderr"] = "stdout"
        self._bytes = bytearray()
        self._parts = bytearray()
        self._skipped = 0  # bytes of a display that is larger than the consumer takes
        self._end: int | None = None
        self._uncounted = 0  # bytes of text taken and in no event yet
        self.volume = 0
        self.so_far = False
        self.skim = False
        self._stop: int | None = None
        self._decoders = {n: codecs.getincrementaldecoder("utf-8")(errors) for n in ("stdout", "stderr")}

    async def over(self, lost: asyncio.Future[str]) -> None:
        """Wait until it is done, or the connection that carries it has ended (``lost``)."""
        if not self.done.done() and not lost.done():
            self._turn = self._loop.create_future()
            try:
                await self._turn
            finally:
                self._turn = None

    def settle(self, done: Done) -> None:
        """It has ended so."""
        self.done.set_result(done)
        self._woken()

    def _woken(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def ends_at(self, sequence: int) -> None:
        """The guest says that the execution has ended and that this was its last frame."""
        self._end = sequence
        self._check_end()

    def stops_at(self, sequence: int) -> None:
        """What comes after this frame is not wanted; the feed then ends with the status "running"."""
        if self._stop is None:
            self._stop = sequence
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop is not None and self.last >= self._stop and not self.done.done():
            self.flush(final=True)
            self.settle(Done("running"))

    def _check_end(self) -> None:
        if self._end is not None and self.last >= self._end and not self.done.done():
            self.flush()
            self.fail(SandboxError("the sandbox no longer has the output of this execution, which has ended"))

    def take(self, frame: frames.Frame) -> None:
        """Take the next frame; one the feed already has is skipped.

        Raises:
            OutOfSequence: frames before this one are missing; nothing was taken.
            ProtocolError: the frame is not what our guest sends.
        """
        sequence = frame.sequence
        if sequence != self.last + 1:
            if sequence <= self.last:
                return
            if frame.type != frames.GAP:
                raise OutOfSequence(f"frame {sequence} came after {self.last}")
        kind = frame.type
        name = _NAMES.get(kind)
        if name is not None:
            self.last = sequence
            if name != self._name:
                self.flush()
                self._name = name
            self._bytes += frame.payload
            if len(self._bytes) >= MAX_TEXT:
                self.flush()
        elif kind == frames.MESSAGE:
            self._message(frame)
        elif kind == frames.GAP:
            gap = decode.gap(frame.payload)
            if gap.kept and gap.frames != sequence - self.last:
                raise OutOfSequence(
                    f"{gap.frames} frames were passed over up to {sequence}, after {self.last}"
                )
            self.last = sequence
            self._parts.clear()
            self._skipped = 0
            self.flush()
            self.emit(gap)
            self._check_end()
        else:
            decode.refuse(f"a frame of type {kind:#x} in an execution's stream")
        if self._stop is not None:
            self._check_stop()

    def _message(self, frame: frames.Frame) -> None:
        self._parts += frame.payload
        if self._skipped + len(self._parts) > decode.MAX_MESSAGE:
            self._parts.clear()
            decode.refuse(f"a message of more than {decode.MAX_MESSAGE >> 20} MiB")
        self.last = frame.sequence
        largest = self.window.largest if self.window is not None else 0
        if self._skipped or (0 < largest < len(self._parts) and self._parts.startswith(_BUNDLES)):
            self._skipped += len(self._parts)
            self._parts.clear()
        if frame.flags & frames.FLAG_MORE:
            return
        payload, self._parts = self._parts, bytearray()
        skipped, self._skipped = self._skipped, 0
        if payload == _STARTED:
            return
        event = Display({}, size=skipped) if skipped else decode.event(payload)
        if event is None:
            return
        self.flush(final=isinstance(event, Done))
        self.emit(event)
        if isinstance(event, Done) and not self.done.done():
            self.settle(event)

    def flush(self, final: bool = False) -> None:
        """Hand on the text collected so far; ``final`` also what was left of a cut character."""
        if self._bytes:
            text = self._decoders[self._name].decode(self._bytes)
            self._uncounted += len(self._bytes)
            self._bytes.clear()
            if text:
                self._text(self._name, text)
        if final:
            for name in _NAMES.values():
                rest = self._decoders[name].decode(b"", True)
                if rest:
                    self._text(name, rest)

    def _text(self, name: Literal["stdout", "stderr"], text: str) -> None:
        size, self._uncounted = self._uncounted, 0
        self.emit(Stream(name, text, size))

    def emit(self, event: Event) -> None:
        """Give one event to the sink; whatever the sink raises ends the execution's feed with it."""
        if self.done.done():
            return
        self.volume += volume(event)
        if self.window is not None:
            self.window.handed(event)
        try:
            self._sink(event)
        except Exception as error:  # noqa: BLE001 - the consumer's own fault goes back to the consumer
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the feed with an error, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # seen: whoever waits still gets it, and nobody waiting is no fault
            self._woken()

    def lost_connection(self) -> None:
        """What belongs to one connection is forgotten; parts of a message and of a character are kept."""
        self.stream = None
        self.resend = "no"
        self._woken()
