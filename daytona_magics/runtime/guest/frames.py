"""Frames: how messages travel over a byte stream that may start, stop or be cut anywhere.

A pseudo-terminal gives bytes without boundaries, and what arrives first may be a shell's banner. So each
message is cut into frames a reader can find again from any position:

    magic 2 | type 1 | flags 1 | stream 4 | sequence 4 | length 4 | crc32 4 | payload

All integers are big-endian; the CRC covers everything before it (magic included) and the payload. A reader
that meets anything else drops one byte and looks for the magic again; a frame with a wrong CRC is not a
frame. A message longer than MAX_PAYLOAD is split; all its frames but the last carry FLAG_MORE.

``stream`` 0 carries control messages; every execution has a stream of its own on which ``sequence`` counts
frames from 1 without gaps, so that a reconnecting reader can name the last one it has.

Standard library only, Python >= 3.8: this module runs inside sandboxes and in the kernel alike.
"""

from __future__ import annotations

import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL = 1
MAGIC = b"\xd7M"
_HEAD = struct.Struct(">2sBBIII")
_CRC = struct.Struct(">I")
HEADER_SIZE = _HEAD.size + _CRC.size

#: Largest payload a writer makes: with its header one frame fits in a pty read of 4,000 bytes.
MAX_PAYLOAD = 4000 - HEADER_SIZE
#: Largest payload a reader believes; bounds what one forged header can make it wait for.
MAX_ACCEPTED = 65536

FLAG_MORE = 1

CONTROL = 0x01  # stream 0, JSON object
STDOUT = 0x10  # raw bytes
STDERR = 0x11  # raw bytes
#: JSON {"bytes", "frames"}: dropped from the spool, or, with "kept", passed over for a reader that skims; its
#: sequence is the last one's of these.
GAP = 0x12
MESSAGE = 0x20  # JSON object: display, result, error, notice, done


class Frame:
    """One decoded frame.

    Attributes: type, flags, stream, sequence (ints) and payload (bytes).
    """

    __slots__ = ("flags", "payload", "sequence", "stream", "type")

    def __init__(self, type: int, flags: int, stream: int, sequence: int, payload: bytes) -> None:
        self.type = type
        self.flags = flags
        self.stream = stream
        self.sequence = sequence
        self.payload = payload

    @property
    def size(self) -> int:
        """Bytes this frame takes on the wire."""
        return HEADER_SIZE + len(self.payload)

    def __repr__(self) -> str:
        return "Frame(type=%#x, flags=%d, stream=%d, sequence=%d, %d bytes)" % (
            self.type,
            self.flags,
            self.stream,
            self.sequence,
            len(self.payload),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


def encode(type: int, stream: int, sequence: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame as bytes.

    Raises ValueError if the payload is longer than MAX_ACCEPTED.

    In:  encode(STDOUT, 3, 1, b"hi")[:2]
    Out: b'\\xd7M'
    """
    if len(payload) > MAX_ACCEPTED:
        raise ValueError("a frame carries at most %d bytes, got %d" % (MAX_ACCEPTED, len(payload)))
    head = _HEAD.pack(MAGIC, type, flags, stream, sequence, len(payload))
    return head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def split(payload: bytes, limit: int = MAX_PAYLOAD) -> Iterator[tuple[int, bytes]]:
    """Cut a message's bytes into ``(flags, piece)`` pairs; an empty message is one empty piece.

    In:  list(split(b"abcde", 2))
    Out: [(1, b'ab'), (1, b'cd'), (0, b'e')]
    """
    last = max(0, (len(payload) - 1) // limit) * limit
    for start in range(0, last + 1, limit):
        yield (FLAG_MORE if start < last else 0), payload[start : start + limit]


class Decoder:
    """Turns chunks of bytes into frames, finding frame boundaries again after anything foreign.

    Attributes:
        noise: the bytes dropped so far that belonged to no frame, the last ``keep_noise`` of them.
        dropped: how many bytes were dropped in all.
    """

    def __init__(self, keep_noise: int = 8192) -> None:
        self._buffer = bytearray()
        self._keep_noise = keep_noise
        self.noise = bytearray()
        self.dropped = 0

    def _drop(self, count: int) -> None:
        self.noise += self._buffer[:count]
        del self._buffer[:count]
        del self.noise[: -self._keep_noise]
        self.dropped += count

    def feed(self, data: bytes) -> list[Frame]:
        """Take a chunk; return the list of frames completed by it, in order."""
        buffer = self._buffer
        buffer += data
        frames = []
        view_start = 0
        size = len(buffer)
        while size - view_start >= HEADER_SIZE:
            magic, type, flags, stream, sequence, length = _HEAD.unpack_from(buffer, view_start)
            if magic == MAGIC and length <= MAX_ACCEPTED:
                end = view_start + HEADER_SIZE + length
                if end > size:
                    break
                payload = bytes(buffer[view_start + HEADER_SIZE : end])
                (expected,) = _CRC.unpack_from(buffer, view_start + _HEAD.size)
                head = bytes(buffer[view_start : view_start + _HEAD.size])
                if zlib.crc32(payload, zlib.crc32(head)) == expected:
                    frames.append(Frame(type, flags, stream, sequence, payload))
                    view_start = end
                    continue
            if view_start:
                del buffer[:view_start]
                size -= view_start
                view_start = 0
            found = buffer.find(MAGIC, 1)
            # A trailing first magic byte may be the start of a frame cut in two.
            drop = found if found > 0 else size - (1 if buffer[-1:] == MAGIC[:1] else 0)
            self._drop(max(1, drop))
            size = len(buffer)
        if view_start:
            del buffer[:view_start]
        return frames
