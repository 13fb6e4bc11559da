"""One client: decodes its requests, sends replies and the frames it subscribed to, within its window.

The platform drops a client that is 256 pty reads behind. So at most 64 writes and 128 KiB are unacknowledged;
replies are exempt (a client must always get an answer) but counted. A write is at most 4,000 bytes.
"""

from __future__ import annotations

import collections
import json
import os

from . import frames, loop
from .execution import DONE
from .journal import Cursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .doors import Line
    from .execution import Execution
    from .loop import Loop, Timer

WRITE = 4000
WINDOW_WRITES = 64
WINDOW_BYTES = 128 << 10
MAX_REQUEST = 64 << 20
#: Seconds that the answer to a request may wait for the first output of its cell, to leave in one write.
LINGER = 0.002
#: A client that sent so many bytes that are no frames is no client of ours.
MAX_NOISE = 1 << 20


class Connection:
    """A connected client.

    Args:
        line: what it is reached by; closed with the connection.
        on_request: called as ``on_request(connection, request)`` with each decoded CONTROL object.
        on_close: called once with the connection.
    """

    def __init__(
        self,
        loop: Loop,
        line: Line,
        on_request: Callable[[Connection, dict[str, Any]], Any],
        on_close: Callable[[Connection], Any],
    ) -> None:
        self._loop = loop
        self._read_fd, self._write_fd, self._end_fd = line.read, line.write, line.end
        self._on_request = on_request
        self._on_close = on_close
        self._decoder = frames.Decoder()
        self._incoming = bytearray()
        self._sequence = 0
        self._control: collections.deque[bytes] = collections.deque()
        self._cursors: dict[int, Cursor] = {}
        self._ready: collections.deque[int] = collections.deque()  # streams with something to send
        self._partial = b""
        self._written = 0  # bytes of frames written
        self._unacked: collections.deque[int] = collections.deque()  # ``_written`` after each open write
        self._acked = 0
        self._waiting = False  # for the line to take more
        self._scheduled = False
        self._patient = False
        self._lingering: Timer | None = None
        self.closed = False
        loop.add(line.read, self._receive)
        if line.end >= 0:
            loop.add(line.end, lambda events: self.close())

    # -- in ------------------------------------------------------------------------------------------------

    def _receive(self, events: int) -> None:
        data = loop.received(self._read_fd)
        if data is None:
            return
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            if frame.type == frames.CONTROL and frame.stream == 0 and not self.closed:
                self._piece(frame)
        if self._decoder.dropped > MAX_NOISE:
            self.close()

    def _piece(self, frame: frames.Frame) -> None:
        self._incoming += frame.payload
        if len(self._incoming) > MAX_REQUEST:
            self.close()
            return
        if frame.flags & frames.FLAG_MORE:
            return
        body, self._incoming = bytes(self._incoming), bytearray()
        try:
            request = json.loads(body.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            request = None
        if isinstance(request, dict):
            if request.get("op") == "ack":
                self._ack(request.get("bytes"))
            else:
                self._on_request(self, request)
        else:
            self.send(
                {"op": "reply", "req": None, "ok": False, "error": "bad-request", "message": "not JSON"}
            )

    def _ack(self, count: Any) -> None:
        if isinstance(count, int) and self._acked < count <= self._written:
            self._acked = count
            while self._unacked and self._unacked[0] <= count:
                self._unacked.popleft()
            if self._ready:
                self._pump_soon()

    # -- out -----------------------------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        """Send one CONTROL object."""
        if self.closed:
            return
        for flags, piece in frames.split(json.dumps(message).encode("utf-8", "surrogatepass")):
            self._sequence += 1
            self._control.append(frames.encode(frames.CONTROL, 0, self._sequence, piece, flags))
        self._pump_soon()

    def subscribe(self, execution: Execution, after: int, skim: bool = False) -> None:
        """Send the frames of an execution from sequence ``after + 1`` on, now and as they come.

        ``skim``: of its text only how much there is.
        """
        cursor = self._cursors[execution.stream] = Cursor(execution.journal, execution.stream, after)
        cursor.skim = skim
        self.changed(execution)

    def skim(self, execution: Execution) -> None:
        """From now on send of an execution's text only how much there is."""
        cursor = self._cursors.get(execution.stream)
        if cursor is not None:
            cursor.skim = True

    def unsubscribe(self, execution: Execution) -> None:
        """Send no more of an execution."""
        self._cursors.pop(execution.stream, None)

    def changed(self, execution: Execution) -> None:
        """There may be new frames of this execution."""
        stream = execution.stream
        cursor = self._cursors.get(stream)
        if cursor is not None and cursor.pending:
            if stream not in self._ready:
                self._ready.append(stream)
            if execution.state == DONE:
                # Nothing of it follows, so there is nothing to wait for.
                self.pump()
            else:
                self._pump_soon()

    def _pump_soon(self) -> None:
        """What one round of the loop produces leaves in one write."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.soon(self._round_over)

    def linger(self) -> None:
        """What this round produces may wait a moment for what the next one does."""
        self._patient = True

    def _round_over(self) -> None:
        patient, self._patient = self._patient, False
        if patient:
            self._scheduled = False
            self._lingering = self._lingering or self._loop.later(LINGER, self.pump)
        else:
            self.pump()

    def _writable(self, events: int) -> None:
        self._waiting = False
        self._loop.remove(self._write_fd)
        self.pump()

    def _window_open(self) -> bool:
        return len(self._unacked) < WINDOW_WRITES and self._written - self._acked < WINDOW_BYTES

    def _packet(self) -> bytes:
        """The next write: replies first, then one frame after the other of each stream in turn."""
        parts: list[bytes] = []
        room = WRITE
        while self._control and len(self._control[0]) <= room:
            parts.append(self._control.popleft())
            room -= len(parts[-1])
        tries = len(self._ready)
        while tries and self._window_open():
            tries -= 1
            stream = self._ready.popleft()
            cursor = self._cursors.get(stream)
            if cursor is None:
                continue
            data = cursor.take(min(room, WINDOW_BYTES - (self._written - self._acked)))
            if data:
                parts.append(data)
                room -= len(data)
            if cursor.pending:
                self._ready.append(stream)
        return b"".join(parts)

    def pump(self) -> None:
        """Write as much as the line and the window take."""
        self._scheduled = False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        while not self._waiting and not self.closed:
            if not self._partial:
                self._partial = self._packet()
                if not self._partial:
                    return
                self._written += len(self._partial)
                self._unacked.append(self._written)
            try:
                sent = os.write(self._write_fd, self._partial)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            self._partial = self._partial[sent:]
            if self._partial:
                self._waiting = True
                self._loop.add(self._write_fd, self._writable, loop.OUT)

    def close(self) -> None:
        """Drop the client; what it was subscribed to goes on."""
        if self.closed:
            return
        self.closed = True
        for fd in (self._read_fd, self._write_fd, self._end_fd):
            if fd >= 0:
                self._loop.remove(fd)
                os.close(fd)
        self._on_close(self)
