"""What the supervisor tells a Python worker: cells to run, and answers to questions the cell asked.

A message is a length and JSON. It may arrive while the cell that waits for it is interrupted, so bytes are
kept here from the moment they are read, and only whole messages are handed out.
"""

from __future__ import annotations

import json
import os
import select
import struct

from .ring import Uninterrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LENGTH = struct.Struct(">I")


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    body = json.dumps(message).encode("utf-8", "surrogatepass")
    return LENGTH.pack(len(body)) + body


class Commands:
    """The reading end, in the worker.

    Args:
        fd: the pipe, blocking.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._bytes = bytearray()

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message; None when none is whole within ``timeout`` seconds (None: wait for ever)."""
        while True:
            whole = self._whole()
            if whole is not None:
                return whole
            if not select.select([self.fd], [], [], timeout)[0]:
                return None
            with Uninterrupted():
                piece = os.read(self.fd, 1 << 16)
                self._bytes += piece
            if not piece:
                os._exit(0)  # the supervisor is gone

    def _whole(self) -> dict[str, Any] | None:
        data = self._bytes
        if len(data) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(data)[0]
        if len(data) < end:
            return None
        with Uninterrupted():
            body = bytes(data[LENGTH.size : end])
            del data[:end]
        found = json.loads(body.decode("utf-8", "surrogatepass"))
        assert isinstance(found, dict)
        return found
