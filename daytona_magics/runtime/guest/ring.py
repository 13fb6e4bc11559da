"""Python-level output of a worker: a shared memory ring for the bytes, one pipe for what is not bytes.

``print`` must cost little more than in a plain interpreter, nothing printed may be lost when the process is
killed by a signal in the next instant, and a line must be seen at once even if C code then holds the GIL for
a minute. A pipe write per ``write()`` is too slow, a buffer in the process dies with it. So the bytes go into
memory shared with the daemon, which is woken through a pipe only when it said that it sleeps; awake, it
looks again every 5 ms until nothing is new.

The *tag pipe* is ordered and carries records, each with the absolute offset in the byte flow it belongs to:

    W  wake up                               Z  the ring was emptied and starts again at its first byte
    1/2  from here on it is stdout/stderr    R  the pipes of fds 1 and 2 held unread data: read them first
    M  a JSON message

The writer publishes ``head`` (a ring position) after the bytes, and sends a record before the bytes behind it.
The reader reads ``head`` first and the records second, so it knows every record that concerns those bytes.
"""

from __future__ import annotations

import _thread
import array
import fcntl
import mmap
import os
import signal
import struct
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

HEAD, ASLEEP, TAIL = 0, 1, 2  # slots of the control words

WAKE, RESET, RAW_FIRST, MESSAGE = b"W", b"Z", b"R", b"M"
STREAMS = (b"1", b"2")


class Ring:
    """The shared memory of one worker, made by the daemon before it forks."""

    def __init__(self) -> None:
        self.data = mmap.mmap(-1, SIZE)
        self._control = mmap.mmap(-1, 4096)
        self.words = memoryview(self._control)[:64].cast("Q")
        self.words[ASLEEP] = 1

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
        #: True once this cell has started a process: pauses between writes are then worth a look at the pipes.
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
        self._current = b""

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
        record = _RECORD.pack(kind, offset, len(payload)) + payload
        if len(record) <= 4096:  # PIPE_BUF: written whole or not at all, a KeyboardInterrupt cannot cut it
            os.write(self._tag, record)
            return
        with _Uninterrupted():
            view = memoryview(record)
            while view:
                view = view[os.write(self._tag, view) :]

    def _offset(self) -> int:
        return self._base + self._ring.data.tell()

    def raw_unread(self) -> bool:
        """Whether the daemon has not read yet what went into fds 1 and 2."""
        count = array.array("i", [0])
        for fd in self._raw:
            try:
                fcntl.ioctl(fd, termios.FIONREAD, count)
            except OSError:
                continue
            if count[0]:
                return True
        return False

    def make_write(self, stream: bytes) -> Callable[[bytes], None]:
        """The function that writes bytes to b"1" (stdout) or b"2" (stderr)."""
        ring, words, lock = self._ring.data, self._ring.words, self.lock
        put, tell = ring.write, ring.tell

        def write(data: bytes) -> None:
            with lock:
                if self._lines is not None:
                    return self._write_line(stream, data)
                if self._current is not stream or self.careful:
                    self._before(stream)
                try:
                    put(data)
                except ValueError:
                    self._put_long(data)
                words[HEAD] = tell()
            if words[ASLEEP]:
                self._wake(len(data))

        return write

    def make_text_write(self, stream: bytes) -> Callable[[str], int]:
        """``write`` for str, as one flat function: it runs twice per ``print``."""
        ring, words, lock = self._ring.data, self._ring.words, self.lock
        put, tell = ring.write, ring.tell
        slow = self.make_write(stream)

        def write(text: str) -> int:
            with lock:
                if self._current is stream and not self.careful:
                    try:
                        put(text.encode())
                    except (ValueError, AttributeError, TypeError):
                        slow(_encode(text))
                    words[HEAD] = tell()
                else:
                    slow(_encode(text))
                    return len(text)
            if words[ASLEEP]:
                self._wake(len(text))
            return len(text)

        return write

    def _before(self, stream: bytes) -> None:
        if self._current is not stream:
            self._send(stream, self._offset())
            self._current = stream
        if self.careful:
            now = time.perf_counter()
            if now - self._last_write > 3e-5 and self.raw_unread():
                self._send(RAW_FIRST, self._offset())
            self._last_write = now

    def _put_long(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = SIZE - self._ring.data.tell()
            if room == 0:
                self._empty()
                continue
            self._ring.data.write(view[:room])
            self._ring.words[HEAD] = self._ring.data.tell()
            view = view[room:]

    def _empty(self) -> None:
        """Wait until the daemon has everything, then start again at the first byte."""
        words = self._ring.words
        end = self._base + SIZE
        self._send(WAKE, 0)
        while words[TAIL] != end:
            time.sleep(0.0002)
        with _Uninterrupted():
            words[HEAD] = 0
            self._ring.data.seek(0)
            self._base = end
            self._send(RESET, end)

    def _wake(self, count: int) -> None:
        """Wake the daemon; if the raw pipes hold something unread, it was most likely there first."""
        if self._lines is not None:
            return
        with self.lock:
            if count and self.raw_unread():
                self._send(RAW_FIRST, max(self._base, self._offset() - count))
            else:
                self._send(WAKE, 0)

    def message(self, body: bytes) -> None:
        """Send one JSON message, ordered after everything written so far."""
        if self._lines is not None:
            raise OSError("a forked process cannot send messages to the notebook")
        with self.lock:
            self._ring.words[HEAD] = self._ring.data.tell()
            if self.raw_unread():
                self._send(RAW_FIRST, self._offset())
            self._send(MESSAGE, self._offset(), body)


def _encode(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("write() argument must be str, not %s" % type(text).__name__)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


class _Uninterrupted:
    """SIGINT is held back inside: what happens here cannot be left half done by a KeyboardInterrupt."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class Broken(Exception):
    """The worker wrote nonsense into its control words or its tag pipe."""


class Reader:
    """The daemon's end: ``collect`` hands over what is new, in order.

    Args:
        tag: read end of the tag pipe (non-blocking).
        on_bytes: called as ``on_bytes(stream, data)``.
        on_message: called with the JSON bytes.
        read_raw: reads the raw pipes until they are empty.
    """

    def __init__(
        self,
        ring: Ring,
        tag: int,
        on_bytes: Callable[[bytes, bytes], Any],
        on_message: Callable[[bytes], Any],
        read_raw: Callable[[], Any],
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
        """Take everything published; True if there was any. Raises Broken."""
        self._ring.words[ASLEEP] = 0
        head = self._ring.words[HEAD]
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
                head = self._ring.words[HEAD]
        return self._take(head) or worked

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
            self._read_raw()
        elif kind == MESSAGE:
            self._on_message(payload)
        elif kind == RESET:
            self._base, self._index = offset, 0
        else:
            raise Broken("an unknown record")

    def _take(self, head: int) -> bool:
        if head > SIZE:
            raise Broken("a position outside the ring")
        if head <= self._index:
            return False
        data = self._ring.data[self._index : head]
        self._index = head
        self._ring.words[TAIL] = self._base + head
        self._on_bytes(self._stream, data)
        return True

    def sleep(self) -> bool:
        """Ask to be woken by the next write; False if something came in between (then collect again)."""
        self._ring.words[ASLEEP] = 1
        if self._ring.words[HEAD] > self._index:
            self._ring.words[ASLEEP] = 0
            return False
        return True
