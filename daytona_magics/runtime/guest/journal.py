"""The journal of one execution: every frame it sent, in order, to be read again from any sequence number.

Frames are kept in chunks of about 1 MiB. The one being filled is memory; full ones go to files. The first
``head`` bytes are kept, and the last ``tail``; what falls out between is counted and read back as one GAP
frame. A message split over several frames never crosses chunks: a gap always lies between whole messages.

Small outputs never touch the disk (``spill`` writes them out when many wait for their client). A full disk
does not stop a cell: its chunks then stay in memory, at most ``memory`` bytes of them.

A reader that has seen enough *skims*: it gets the messages, and of the text only how much of it there is, as
GAP frames marked ``kept``. The text stays here, for whoever reads the journal from its beginning.
"""

from __future__ import annotations

import json
import os
import struct
import weakref

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20
CHUNK = MIB
_LENGTH = struct.Struct(">I")
_LENGTH_AT = 12  # of the payload length in a frame's header
_TYPE_AT = 2
TEXT = (frames.STDOUT, frames.STDERR)


class Chunk:
    """Consecutive frames. ``data`` is None once they are in the file ``path``.

    Attributes: first, last (sequence numbers), size (bytes of frames), payload (bytes of output in them).
    """

    __slots__ = ("data", "first", "last", "path", "payload", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1
        self.size = 0
        self.payload = 0
        self.data: bytearray | None = bytearray()
        self.path = ""

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset``; raises OSError when the file was taken away."""
        if self.data is not None:
            return bytes(self.data[offset : offset + count])
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, count, offset)
        finally:
            os.close(fd)

    def drop(self) -> None:
        """Free the memory and the file."""
        self.data = None
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                self.path = ""


class Journal:
    """Append-only frames with a bounded head and tail.

    Args:
        folder: where chunk files go; made when the first one is written.
        head, tail: bytes kept of the beginning and of the end.
        memory: bytes of full chunks kept in memory when the disk refuses them.

    Attributes:
        last: sequence number of the last frame appended.
        disk_error: why the disk refused a chunk, or "".
    """

    def __init__(
        self,
        folder: str,
        head: int = 64 * MIB,
        tail: int = 192 * MIB,
        memory: int = 8 * MIB,
        chunk: int = CHUNK,
    ) -> None:
        self._folder = folder
        self._head, self._tail, self._memory, self._chunk_size = head, tail, memory, chunk
        self._head_full = False
        self._head_bytes = 0
        self.head_chunks: list[Chunk] = []
        self.tail_chunks: list[Chunk] = []
        self._tail_bytes = 0
        self._open = Chunk(1)
        self._dropped: list[tuple[int, int]] = []  # (last sequence, output bytes) of every dropped chunk
        self.last = 0
        self.disk_error = ""
        self.cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()  # of those who read it now

    @property
    def in_memory(self) -> int:
        """Bytes of frames held in memory."""
        return sum(
            len(c.data) for c in [*self.head_chunks, *self.tail_chunks, self._open] if c.data is not None
        )

    @property
    def size(self) -> int:
        """Bytes of frames kept, wherever they are."""
        return self._head_bytes + self._tail_bytes + self._open.size

    def append(self, encoded: Iterable[bytes], payload: int) -> None:
        """Append the frames of one whole message, whose content is ``payload`` bytes."""
        chunk = self._open
        assert chunk.data is not None
        for frame in encoded:
            chunk.data += frame
            chunk.last += 1
        chunk.size = len(chunk.data)
        chunk.payload += payload
        self.last = chunk.last
        if chunk.size >= self._chunk_size:
            self._close_chunk()

    def _close_chunk(self) -> None:
        chunk, self._open = self._open, Chunk(self.last + 1)
        self._store(chunk)
        if not self._head_full and self._head_bytes + chunk.size <= self._head:
            self.head_chunks.append(chunk)
            self._head_bytes += chunk.size
        else:
            self._head_full = True
            self.tail_chunks.append(chunk)
            self._tail_bytes += chunk.size
        while self._tail_bytes > self._tail and self.tail_chunks:
            self._drop_oldest(self.tail_chunks)
        if self.disk_error:
            self._bound_memory()

    def _store(self, chunk: Chunk) -> None:
        path = os.path.join(self._folder, "%d" % chunk.first)
        assert chunk.data is not None
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(chunk.data)
                while view:
                    view = view[os.write(fd, view) :]
                view.release()
            finally:
                os.close(fd)
        except OSError as error:
            self.disk_error = error.strerror or str(error)
            try:
                os.unlink(path)
            except OSError:
                return
            return
        chunk.path, chunk.data = path, None

    def _drop_oldest(self, chunks: list[Chunk]) -> None:
        chunk = chunks.pop(0)
        self._dropped.append((chunk.last, chunk.payload))
        self._tail_bytes -= chunk.size
        chunk.drop()

    def _bound_memory(self) -> None:
        held = [c for c in self.tail_chunks if c.data is not None]
        over = sum(c.size for c in held) - self._memory
        while over > 0 and self.tail_chunks:
            chunk = self.tail_chunks[0]
            over -= chunk.size if chunk.data is not None else 0
            self._drop_oldest(self.tail_chunks)
        held_head = [c for c in self.head_chunks if c.data is not None]
        if sum(c.size for c in held_head) > self._memory:
            # The head stops growing here; what follows belongs to the tail.
            self._head_full = True

    def skim_backlog(self, backlog: int) -> None:
        """Let readers that are more than ``backlog`` bytes behind skim the rest; nothing is dropped."""
        for cursor in self.cursors:
            if sum(c.size for c in self._chunks() if c.first > cursor.sequence + 1) > backlog:
                cursor.skim = True

    def tail(self, limit: int, chunks: int = 8) -> bytes:
        """The last ``limit`` bytes of text, both streams in their order, from the last ``chunks`` chunks."""
        parts: list[bytes] = []
        size = 0
        for chunk in list(self._chunks())[: -chunks - 1 : -1]:
            try:
                data = chunk.read(0, chunk.size)
            except OSError:
                break
            found = [f.payload for f in frames.Decoder().feed(data) if f.type in TEXT]
            parts[:0] = found
            size += sum(map(len, found))
            if size >= limit:
                break
        return b"".join(parts)[-limit:] if limit else b""

    def spill(self) -> None:
        """Move the open chunk to disk, to free memory of an execution that is over."""
        if self._open.size:
            self._close_chunk()

    def forget(self) -> None:
        """Delete everything; ``last`` stays."""
        for chunk in [*self.head_chunks, *self.tail_chunks, self._open]:
            chunk.drop()
        self._open = Chunk(self.last + 1)
        self.head_chunks, self.tail_chunks = [], []
        self._head_bytes = self._tail_bytes = 0
        if os.path.isdir(self._folder):
            try:
                os.rmdir(self._folder)
            except OSError as error:
                self.disk_error = error.strerror or str(error)

    def locate(self, sequence: int) -> tuple[Chunk | None, int]:
        """The chunk to read for the frame ``sequence``, and how many sequence numbers were dropped before it.

        ``(None, 0)`` means: not written yet.
        """
        for chunk in self._chunks():
            if sequence <= chunk.last:
                return chunk, max(0, chunk.first - sequence)
        return None, max(0, self.last + 1 - sequence)

    def dropped_bytes(self, after: int) -> int:
        """Bytes of output in the dropped chunks that end after the sequence number ``after``."""
        return sum(size for last, size in self._dropped if last > after)

    def _chunks(self) -> Iterable[Chunk]:
        yield from self.head_chunks
        yield from self.tail_chunks
        if self._open.size:
            yield self._open


class Cursor:
    """Reads a journal from one sequence number on, in packets of whole frames.

    Attributes: sequence, the last one handed out or passed over; skim, whether text is passed over.
    """

    READ_AHEAD = 65536

    def __init__(self, journal: Journal, stream: int, after: int) -> None:
        self.journal = journal
        self.stream = stream
        self.sequence = after
        self.skim = False
        self._passed = [0, 0]  # bytes and frames of text passed over and not told
        self._chunk: Chunk | None = None
        self._offset = 0
        self._buffer = b""
        self._at = 0
        journal.cursors.add(self)

    @property
    def pending(self) -> bool:
        """Whether there is a frame to hand out."""
        return self.sequence < self.journal.last or self._passed[1] > 0

    def take(self, room: int) -> bytes:
        """Whole frames, at most ``room`` bytes; b"" if the next one does not fit or there is none."""
        if not self.pending:
            return b""
        if self._passed[1]:
            return self._tell_passed(room)
        if self._chunk is None or self.sequence >= self._chunk.last:
            gap = self._enter()
            if gap:
                return gap
        out: list[bytes] = []
        while self._chunk is not None and self.sequence < self._chunk.last:
            frame = self._peek()
            if frame is None:
                break
            if self.skim and frame[_TYPE_AT] in TEXT:
                if out:
                    break
                self._passed[0] += len(frame) - frames.HEADER_SIZE
                self._passed[1] += 1
                self._at += len(frame)
                self.sequence += 1
                continue
            if self._passed[1] or len(frame) > room:
                break
            out.append(frame)
            room -= len(frame)
            self._at += len(frame)
            self.sequence += 1
        if self._passed[1]:
            return self._tell_passed(room)
        if not out and self._chunk is None and self.pending:
            return self._enter()
        return b"".join(out)

    def _tell_passed(self, room: int) -> bytes:
        """The GAP frame for what was passed over; b"" if it does not fit."""
        count, number = self._passed
        note = json.dumps({"bytes": count, "frames": number, "kept": True}).encode()
        frame = frames.encode(frames.GAP, self.stream, self.sequence, note)
        if len(frame) > room:
            return b""
        self._passed = [0, 0]
        return frame

    def _enter(self) -> bytes:
        """Go to the chunk that holds the next frame; the bytes of a GAP frame if some were dropped."""
        chunk, missing = self.journal.locate(self.sequence + 1)
        self._chunk, self._offset, self._buffer, self._at = chunk, 0, b"", 0
        if missing:
            note = json.dumps(
                {"bytes": self.journal.dropped_bytes(self.sequence), "frames": missing}
            ).encode()
            self.sequence += missing
            return frames.encode(frames.GAP, self.stream, self.sequence, note)
        if chunk is not None:
            skip = self.sequence + 1 - chunk.first
            for _ in range(skip):
                frame = self._peek()
                self._at += len(frame or b"")
        return b""

    def _peek(self) -> bytes | None:
        frame = self._cut()
        if frame is None:
            self._refill()
            frame = self._cut()
        return frame

    def _cut(self) -> bytes | None:
        head = self._buffer[self._at : self._at + frames.HEADER_SIZE]
        if len(head) < frames.HEADER_SIZE:
            return None
        end = self._at + frames.HEADER_SIZE + _LENGTH.unpack_from(head, _LENGTH_AT)[0]
        return self._buffer[self._at : end] if end <= len(self._buffer) else None

    def _refill(self) -> None:
        assert self._chunk is not None
        self._offset += self._at
        self._at = 0
        try:
            self._buffer = self._chunk.read(self._offset, self.READ_AHEAD)
        except OSError:
            # The chunk was dropped under us: the next look at the journal finds the gap.
            self._buffer, self._chunk = b"", None
