"""What a command of a session printed: kept on disk, bounded, readable from any point while it grows.

Two files of at most half the limit each hold the records; when the newer one is full the older one is
dropped, so that the last part of a long log is always there, whole records at a time. A record is a kind
(stdout or stderr), a length and the bytes. A reader has a position of its own and reads at its own pace:
nothing is queued in memory for it, and it is told how much was dropped before it came by. Part of the
toolbox program.
"""

import asyncio
import os
import struct
from collections.abc import Coroutine
from typing import Any, NamedTuple

OUT, ERR = 1, 2
#: Most bytes kept of one command's output.
LIMIT = 64 << 20

_HEAD = struct.Struct(">BI")


class Record(NamedTuple):
    """One piece of output: ``kind`` is OUT or ERR."""

    kind: int
    data: bytes


class _Part(NamedTuple):
    fd: int
    path: str
    start: int


class Spool:
    """The log in `folder` (which exists and is empty). Offsets count bytes of the whole log from 0.

    Attributes: ``end``, the offset after the last record; ``start``, the offset of the first one still kept;
    ``lost``, bytes of output that could not be written (the disk is full).
    """

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self._folder = folder
        self._half = limit // 2
        self._parts: list[_Part] = []
        self._changed = asyncio.Event()
        self.end = 0
        self.lost = 0

    @property
    def start(self) -> int:
        return self._parts[0].start if self._parts else self.end

    def append(self, kind: int, data: bytes) -> None:
        """Add one record; what the disk does not take is counted in ``lost``."""
        record = _HEAD.pack(kind, len(data)) + data
        try:
            if not self._parts or self.end - self._parts[-1].start + len(record) > self._half:
                self._next_part()
            part = self._parts[-1]
            place = self.end - part.start
            view = memoryview(record)
            while view:
                written = os.pwrite(part.fd, view, place)
                view, place = view[written:], place + written
            self.end += len(record)
        except OSError:
            # Half a record beyond ``end`` is overwritten by the next one.
            self.lost += len(data)
        self.wake()

    def _next_part(self) -> None:
        path = os.path.join(self._folder, f"log.{self.end}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._parts.append(_Part(fd, path, self.end))
        if len(self._parts) > 2:
            self._drop(self._parts.pop(0))

    @staticmethod
    def _drop(part: _Part) -> None:
        os.close(part.fd)
        try:
            os.unlink(part.path)
        except FileNotFoundError:  # The user tidied up; the space is free either way.
            return

    def read(self, offset: int, most: int = 256 * 1024) -> tuple[list[Record], int, int]:
        """Records from `offset` on, about `most` bytes of them.

        Returns (records, the offset after them, how many bytes before them were dropped).
        Raises OSError when the files cannot be read or are not what was written.
        """
        dropped = max(0, self.start - offset)
        offset = max(offset, self.start)
        part = next((part for part in reversed(self._parts) if part.start <= offset), None)
        if part is None or offset >= self.end:
            return [], offset, dropped
        last = next((other.start for other in self._parts if other.start > part.start), self.end)
        # One record may be larger than what was asked for.
        data = os.pread(part.fd, min(last - offset, max(most, _HEAD.size)), offset - part.start)
        if len(data) >= _HEAD.size:
            need = _HEAD.size + _HEAD.unpack_from(data)[1]
            if need > len(data):
                data = os.pread(part.fd, min(need, last - offset), offset - part.start)
        records, place = [], 0
        while place + _HEAD.size <= len(data):
            kind, length = _HEAD.unpack_from(data, place)
            if place + _HEAD.size + length > len(data):
                break
            records.append(Record(kind, data[place + _HEAD.size : place + _HEAD.size + length]))
            place += _HEAD.size + length
        if not records:
            raise OSError(0, "the log of the command was changed by somebody else")
        return records, offset + place, dropped

    def wake(self) -> None:
        """Have everybody look again who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def changed(self) -> Coroutine[Any, Any, bool]:
        """To be awaited: the next `append` or `wake` after this call, however late a task of it is begun."""
        return self._changed.wait()

    def close(self) -> None:
        """Delete the log."""
        while self._parts:
            self._drop(self._parts.pop())
        self.wake()
