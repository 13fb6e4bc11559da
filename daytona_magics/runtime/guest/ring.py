"""Python-level output of a worker: a shared memory ring for the text, one pipe for everything else.

``print`` must cost little more than in a plain interpreter, nothing printed may be lost when the process is
killed by a signal in the next instant, and a line must be seen at once even if C code then holds the GIL for
a minute. A pipe write per ``write()`` is too slow, a buffer in the process dies with it. So text goes into
memory shared with the daemon, which is woken through a pipe only when it said that it sleeps; awake, it
looks again every 5 ms until nothing is new.

There is no shared position. The memory is filled with the byte 0xFF, which UTF-8 never contains; the writer
appends with ``mmap.write`` (one C call, atomic among threads) and the reader takes what stands before the
first 0xFF. A byte is either unwritten or final. (It may be written twice: the C library copies short texts in
two overlapping halves. So the reader, which may have taken it in between, writes nothing into the memory.)
When the memory is full the writer waits until the reader has everything (TAIL), and fills it anew.

Python has no memory barriers, and processors such as ARM's let others see writes to different places in
another order than they were made. Nothing here relies on that order. Each byte says itself whether it is
there. TAIL is written depending on what is in the bytes that were copied, which every processor keeps in
order. The rest goes through the pipe, whose lock the kernel takes on both sides: who has read a record sees
what was written before it was sent. That a writer misses ASLEEP can happen anywhere; the reader looks again.

The *tag pipe* is ordered and carries records, each with the absolute offset in the text it belongs to:

    W  wake up                               Z  the memory was emptied and is used again from its first byte
    1/2  from here on it is stdout/stderr    R  what had gone into fds 1 and 2, in bytes: read that first
    A/B  bytes that are not UTF-8            M  a JSON message

The writer sends a record before the text behind it; the reader looks at the memory first and at the pipe
second, so it knows every record that concerns the text it saw.
"""

from __future__ import annotations

# The C module under signal, whose functions make an enumeration's member of each number.
import _signal  # type: ignore[import-not-found]
import _thread
import array
import fcntl
import mmap
import os
import signal
import struct
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

SIZE = 1 << 20
_RECORD = struct.Struct("<cQI")
RECORD_SIZE = _RECORD.size
#: A message longer than this is believed to be a broken pipe, not a message.
MAX_MESSAGE = 80 << 20

#: Control words: the reader wants to be woken; offset up to which it has taken text; bytes it has taken from
#: the pipe of fd 1, and of fd 2.
ASLEEP, TAIL, RAW = 0, 1, 2
_TOTALS = struct.Struct("<QQ")

WAKE, RESET, RAW_FIRST, MESSAGE = b"W", b"Z", b"R", b"M"
STREAMS = (b"1", b"2")
BINARY = {b"A": b"1", b"B": b"2"}
UNWRITTEN = b"\xff"
#: Bytes of one binary record, and of one piece of the memory that is filled.
PIECE = 1 << 16
PIPE_BUF = 4096
_mask = _signal.pthread_sigmask
_CLEAN = UNWRITTEN * PIECE


class Ring:
    """The shared memory of one worker, made by the daemon before it forks."""

    def __init__(self) -> None:
        self.data = mmap.mmap(-1, SIZE)
        self.clean()
        self._control = mmap.mmap(-1, 4096)
        self.words = memoryview(self._control)[:64].cast("Q")
        self.words[ASLEEP] = 1

    def clean(self) -> None:
        """Make all of the memory unwritten."""
        for start in range(0, SIZE, PIECE):
            self.data[start : start + PIECE] = _CLEAN

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._control.close()
        self.data.close()


class Writer:
    """The worker's end.

    Args:
        ring: the shared memory.
        tag: write end of the tag pipe (blocking).
        raw: write ends of the raw pipes (fds 1 and 2), asked for unread data.
    """

    def __init__(self, ring: Ring, tag: int, raw: tuple[int, int]) -> None:
        self._ring = ring
        self._tag = tag
        self._raw = raw
        self._base = 0
        self.lock = _thread.RLock() if hasattr(_thread, "RLock") else _thread.allocate_lock()
        self._current = b""
        #: The stream whose text may be appended without a lock; None: take the slow way.
        self._fast: list[bytes | None] = [None]
        # Without a GIL mmap.write is not atomic.
        self._lock_free = getattr(sys, "_is_gil_enabled", lambda: True)()
        self.careful = False
        self._last_write = 0.0
        self._lines: dict[bytes, bytes] | None = None  # in a forked child: unfinished lines
        os.register_at_fork(
            before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self._forked
        )

    def _forked(self) -> None:
        """A forked child writes whole lines straight into fds 1 and 2: the ring has one writer."""
        self.lock.release()
        self._lines = {}
        self._fast[0] = None

    def _write_line(self, stream: bytes, data: bytes) -> None:
        assert self._lines is not None
        data = self._lines.pop(stream, b"") + data
        cut = data.rfind(b"\n") + 1 if len(data) < 65536 else len(data)
        self._lines[stream] = data[cut:]
        view = memoryview(data)[:cut]
        while view:
            view = view[os.write(self._raw[STREAMS.index(stream)], view) :]

    def flush(self) -> None:
        """Write unfinished lines of a forked child; elsewhere nothing is ever held back."""
        for stream, data in list((self._lines or {}).items()):
            assert self._lines is not None
            self._lines[stream] = b""
            if data:
                os.write(self._raw[STREAMS.index(stream)], data)

    def _send(self, kind: bytes, offset: int, payload: bytes = b"") -> None:
        self._write(_RECORD.pack(kind, offset, len(payload)) + payload)

    def _write(self, records: bytes) -> None:
        if len(records) <= PIPE_BUF:  # written whole or not at all, a KeyboardInterrupt cannot cut it
            os.write(self._tag, records)
            return
        with Uninterrupted():
            view = memoryview(records)
            while view:
                view = view[os.write(self._tag, view) :]

    def _offset(self) -> int:
        return self._base + self._ring.data.tell()

    def raw_unread(self) -> bytes:
        """Bytes that went into fds 1 and 2 until now, for a record; empty if the daemon has read all."""
        totals, unread = [], 0
        for number, fd in enumerate(self._raw):
            taken, count = -1, 0
            # The daemon may be reading: what it takes must not be counted twice.
            while taken != self._ring.words[RAW + number]:
                taken = self._ring.words[RAW + number]
                count = waiting(fd)
            totals.append(taken + count)
            unread += count
        return _TOTALS.pack(*totals) if unread else b""

    def make_text_write(self, stream: bytes) -> Callable[[str], int]:
        """The function that writes str to b"1" (stdout) or b"2" (stderr). It runs twice per ``print``."""
        put, words, fast, slow = self._ring.data.write, self._ring.words, self._fast, self._slow
        wake, encode = self._wake, str.encode

        def write(text: str) -> int:
            try:
                data = encode(text)
                # No other thread can run between the check and the write: there is no call in between.
                if fast[0] is stream:
                    put(data)
                else:
                    slow(stream, data)
            except (ValueError, TypeError):
                slow(stream, _encode(text))
            if words[ASLEEP]:
                wake(len(text))
            return len(text)

        return write

    def write_bytes(self, stream: bytes, data: bytes) -> None:
        """Write bytes of any kind."""
        if UNWRITTEN not in data:
            self._slow(stream, data)
        elif self._lines is not None:
            self._write_line(stream, data)
        else:
            kind = next(k for k, v in BINARY.items() if v == stream)
            with self.lock:
                self._before(stream)
                for start in range(0, len(data), PIECE):
                    self._send(kind, self._offset(), data[start : start + PIECE])
            return
        if self._ring.words[ASLEEP]:
            self._wake(len(data))

    def _slow(self, stream: bytes, data: bytes) -> None:
        """Everything but the common case: another stream, a full ring, a careful cell, a forked child."""
        with self.lock:
            if self._lines is not None:
                self._write_line(stream, data)
                return
            self._before(stream)
            view = memoryview(data)
            while view:
                room = SIZE - self._ring.data.tell()
                if room == 0:
                    self._empty()
                    continue
                self._ring.data.write(view[:room])
                view = view[room:]

    def _before(self, stream: bytes) -> None:
        if self._current is not stream:
            # A KeyboardInterrupt may come at any line: unknown is right at all of them.
            self._fast[0] = None
            self._current = b""
            self._send(stream, self._offset())
            self._current = stream
        if self.careful:
            now = time.perf_counter()
            if now - self._last_write > 3e-5 and (totals := self.raw_unread()):
                self._send(RAW_FIRST, self._offset(), totals)
            self._last_write = now
        elif self._lock_free:
            self._fast[0] = stream

    def be_careful(self, careful: bool) -> None:
        """Say whether this cell has started a process: a write after a pause then looks for raw output."""
        self.careful = careful
        self._fast[0] = None

    def _empty(self) -> None:
        """Wait until the daemon has everything, then start again at the first byte (the memory is full)."""
        words, end = self._ring.words, self._offset()
        fast, self._fast[0] = self._fast[0], None
        self._send(WAKE, 0)
        while words[TAIL] != end:
            time.sleep(0.0002)
        with Uninterrupted():
            self._ring.clean()
            self._ring.data.seek(0)
            self._base = end
            self._send(RESET, end)
        self._fast[0] = fast

    def _wake(self, count: int) -> None:
        """Wake the daemon; if the raw pipes hold something unread, it was most likely there first."""
        if self._lines is not None:
            return
        with self.lock:
            totals = self.raw_unread() if count else b""
            if totals:
                self._send(RAW_FIRST, max(self._base, self._offset() - count), totals)
            else:
                self._send(WAKE, 0)

    def message(self, *bodies: bytes) -> None:
        """Send JSON messages, ordered after everything written so far."""
        if self._lines is not None:
            raise OSError("a forked process cannot send messages to the notebook")
        with self.lock:
            if totals := self.raw_unread():
                self._send(RAW_FIRST, self._offset(), totals)
            offset = self._offset()
            records = [_RECORD.pack(MESSAGE, offset, len(body)) + body for body in bodies]
            if sum(map(len, records)) <= PIPE_BUF:
                self._write(b"".join(records))
            else:
                for record in records:
                    self._write(record)


def waiting(fd: int) -> int:
    """Bytes that can be read from ``fd`` now; 0 if that cannot be said."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except OSError:
        return 0
    return max(0, count[0])


def _encode(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("write() argument must be str, not %s" % type(text).__name__)
    return text.encode("utf-8", "backslashreplace")


class Uninterrupted:
    """SIGINT is held back inside: what happens here cannot be left half done by a KeyboardInterrupt."""

    def __enter__(self) -> None:
        self._before = _mask(signal.SIG_BLOCK, ())
        try:
            _mask(signal.SIG_BLOCK, (signal.SIGINT,))
        except BaseException:
            # A SIGINT that came just before is delivered by this very call, when the block is already set.
            _mask(signal.SIG_SETMASK, self._before)
            raise

    def __exit__(self, *_: object) -> None:
        _mask(signal.SIG_SETMASK, self._before)


class Broken(Exception):
    """The worker wrote nonsense into its control words or its tag pipe."""


class Reader:
    """The daemon's end: ``collect`` hands over what is new, in order.

    Args:
        tag: read end of the tag pipe (non-blocking).
        on_bytes: called as ``on_bytes(stream, data)``.
        on_message: called with the JSON bytes.
        read_raw: reads the raw pipes until so many bytes have come from each of them since the beginning.
    """

    def __init__(
        self,
        ring: Ring,
        tag: int,
        on_bytes: Callable[[bytes, bytes], Any],
        on_message: Callable[[bytes], Any],
        read_raw: Callable[[tuple[int, ...]], Any],
    ) -> None:
        self._ring = ring
        self._tag = tag
        self._on_bytes = on_bytes
        self._on_message = on_message
        self._read_raw = read_raw
        self._pipe = bytearray()
        self._base = 0
        self._index = 0
        self._stream = b"1"
        self.ended = False

    def collect(self) -> bool:
        """Take everything written; True if there was any. Raises Broken."""
        self._ring.words[ASLEEP] = 0
        end = self._written()
        worked = self._read_pipe()
        while len(self._pipe) >= RECORD_SIZE:
            kind, offset, length = _RECORD.unpack_from(self._pipe)
            if length > MAX_MESSAGE:
                raise Broken("a message of %d bytes" % length)
            if len(self._pipe) < RECORD_SIZE + length:
                break
            payload = bytes(self._pipe[RECORD_SIZE : RECORD_SIZE + length])
            del self._pipe[: RECORD_SIZE + length]
            self._record(kind, offset, payload)
            if kind == RESET:
                # What was seen belongs to the round before; the next look (in 5 ms, or at the next record)
                # reads the pipe again before it takes any of the new one.
                end = 0
        return self._take(end) or worked

    def _written(self) -> int:
        end = self._ring.data.find(UNWRITTEN, self._index)
        return SIZE if end < 0 else end

    def _read_pipe(self) -> bool:
        worked = False
        while True:
            try:
                data = os.read(self._tag, 1 << 18)
            except BlockingIOError:
                return worked
            if not data:
                self.ended = True
                return worked
            self._pipe += data
            worked = True
            if len(self._pipe) > MAX_MESSAGE + (1 << 20):
                return worked

    def _record(self, kind: bytes, offset: int, payload: bytes) -> None:
        if kind == WAKE:
            return
        if not self._base <= offset <= self._base + SIZE:
            raise Broken("a record at an impossible place")
        self._take(offset - self._base)
        if kind in STREAMS:
            self._stream = kind
        elif kind == RAW_FIRST:
            if len(payload) != _TOTALS.size:
                raise Broken("a record without its numbers")
            self._read_raw(_TOTALS.unpack(payload))
        elif kind == MESSAGE:
            self._on_message(payload)
        elif kind in BINARY:
            self._on_bytes(BINARY[kind], payload)
        elif kind == RESET:
            self._base, self._index = offset, 0
        else:
            raise Broken("an unknown record")

    def _take(self, end: int) -> bool:
        if end <= self._index:
            return False
        ring = self._ring
        data = ring.data[self._index : end]
        # Looking at what was copied is also what keeps TAIL behind it.
        if UNWRITTEN in data:
            raise Broken("a record about text that is not there")
        self._index = end
        ring.words[TAIL] = self._base + end
        self._on_bytes(self._stream, data)
        return True

    def sleep(self) -> None:
        """Ask to be woken by the next write. Call ``collect`` once more after a moment: a write at the very
        same time may not have seen the request."""
        self._ring.words[ASLEEP] = 1
