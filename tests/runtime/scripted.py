"""A guest played by the test: the socket under a Link, whose other end is plain Python."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from daytona_magics.runtime.guest import frames
from daytona_magics.runtime.transport import PtyError

HELLO = {"op": "hello", "protocol": 1, "version": "0.1.0", "python": "3.11.2", "boot": "boot-1", "pid": 7}


class ScriptedSocket:
    """Stands in for a PtySocket: what the link sends is decoded into ``requests``; the test sends frames.

    Args:
        boot: boot id in its hello; no hello when empty.
    """

    def __init__(self, boot: str = "boot-1") -> None:
        self.session = "scripted"
        self.ended = False
        self.requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.acknowledged = 0
        self.pings = 0
        self.answer_pings = True
        self.closed = False
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._decoder = frames.Decoder()
        self._parts = bytearray()
        self._sequence = 0
        if boot:
            self.control({**HELLO, "boot": boot})

    # what the link calls

    def send(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._parts += frame.payload
            if frame.flags & frames.FLAG_MORE:
                continue
            message = json.loads(self._parts)
            self._parts.clear()
            if message["op"] == "ack":
                self.acknowledged = message["bytes"]
            elif message["op"] == "ping":
                self.pings += 1
                if self.answer_pings:
                    self.reply(message)
            else:
                self.requests.put_nowait(message)

    async def receive(self) -> bytes:
        data = None if self.closed else await self._incoming.get()
        if data is None:
            raise PtyError("connection closed (lost)")
        return data

    async def close(self) -> None:
        self.closed = True

    abort = close

    # what the test calls

    def raw(self, data: bytes) -> None:
        self._incoming.put_nowait(data)

    def control(self, message: dict[str, Any]) -> None:
        for flags, piece in frames.split(json.dumps(message).encode()):
            self._sequence += 1
            self.raw(frames.encode(frames.CONTROL, 0, self._sequence, piece, flags))

    def reply(self, request: dict[str, Any], **fields: Any) -> None:
        self.control({"op": "reply", "req": request["req"], "ok": True, **fields})

    def refuse(self, request: dict[str, Any], code: str) -> None:
        answer = {"op": "reply", "req": request["req"], "ok": False, "error": code, "message": code}
        self.control(answer)

    def message(self, stream: int, sequence: int, **message: Any) -> None:
        self.raw(frames.encode(frames.MESSAGE, stream, sequence, json.dumps(message).encode()))

    def out(self, stream: int, sequence: int, data: bytes) -> None:
        self.raw(frames.encode(frames.STDOUT, stream, sequence, data))

    def done(self, stream: int, sequence: int) -> None:
        self.message(stream, sequence, msg="done", status="ok", seconds=0.1, worker="kept")

    def drop(self) -> None:
        """The connection ends."""
        self._incoming.put_nowait(None)

    async def asked(self, op: str) -> dict[str, Any]:
        """The next request; it must be ``op``."""
        request = await asyncio.wait_for(self.requests.get(), 5)
        assert request["op"] == op, request
        return request
