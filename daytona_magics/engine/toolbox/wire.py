"""How the engine and the toolbox of a sandbox speak: frames and file descriptors over inherited sockets.

There is no path anywhere that could be opened, replaced or guessed. The toolbox inherits one
``SOCK_SEQPACKET`` control socket. For every operation the engine makes a fresh ``SOCK_STREAM`` pair and
sends the far end over the control socket; the operation's frames travel there and closing it ends it:

    length u32 | type u8 | payload          type J: JSON object, D: data, E: end of data

Both sides bound what they accept (``MAX_FRAME``), so a forged header costs its reader at most one
frame of memory. Standard library only: the zygote imports this module too.
"""

import array
import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

#: Version of the messages, said by both sides.
VERSION = 1
#: Largest payload of a frame, in bytes.
MAX_FRAME = 1 << 20
#: Size in which data is cut by senders; well below MAX_FRAME so that several operations share the loop. A
#: frame of it fits into the send buffer that the kernel gives (208 KiB): neither side waits in mid-frame.
CHUNK = 192 * 1024 - 64
#: Largest message on a SOCK_SEQPACKET socket (the kernel's default send buffer is 208 KiB).
MAX_PACKET = 160 * 1024
#: More descriptors than this in one message are dropped by the kernel.
MAX_FDS = 4

JSON, DATA, END = b"J", b"D", b"E"
_HEAD = struct.Struct(">Ic")
_SO_SNDBUFFORCE = 32
_FD_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class WireError(Exception):
    """The peer broke the protocol; nothing more can be read from it."""


class Frame(NamedTuple):
    """One frame: ``type`` is JSON, DATA or END; ``fds`` are descriptors that came with it (now ours)."""

    type: bytes
    payload: bytes
    fds: tuple[int, ...] = ()


def close_fds(fds: Sequence[int]) -> None:
    """Close each descriptor; one that is closed already is no error."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def pack_json(message: dict[str, Any]) -> bytes:
    """A JSON object as ASCII bytes; lone surrogates (undecodable file names) survive the trip."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def parse_json(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`.

    Raises WireError for anything that is not one JSON object.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError("a message is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("a message is not a JSON object")
    return message


def recv_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Read up to `size` bytes and the descriptors that came along (close-on-exec).

    Returns ``(b"", [])`` at the end of the stream. Raises BlockingIOError when nothing is there.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        close_fds(fds)
        raise WireError("a message or its descriptors were cut off")
    return data, list(fds)


def send_fds(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """Send `data` with `fds` attached; returns how many bytes went. Raises BlockingIOError when full."""
    return _send_pieces(sock, [memoryview(data)], fds)


def _send_pieces(sock: socket.socket, pieces: Sequence[memoryview], fds: Sequence[int]) -> int:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg(pieces, ancillary, socket.MSG_NOSIGNAL)


def widen(*sockets: socket.socket) -> None:
    """Have a whole frame fit between two processes, so that neither wakes the other for a part of one."""
    for sock in sockets:
        try:
            # Above the machine's limit, which not everybody may pass.
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * MAX_FRAME)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_FRAME)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _too_late(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(asyncio.TimeoutError())


async def ready(fd: int, *, write: bool = False, within: float | None = None) -> None:
    """Return when `fd` can be read (or written) without blocking. One waiter per direction.

    Raises asyncio.TimeoutError after `within` seconds (None: it may take any time).
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _wake, future)
    timer = None if within is None else loop.call_later(within, _too_late, future)
    try:
        await future
    finally:
        remove(fd)
        if timer is not None:
            timer.cancel()


async def send_packet(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one JSON object (and descriptors) as one packet on a non-blocking SOCK_SEQPACKET socket.

    Raises ValueError if it is larger than MAX_PACKET and OSError when the peer is gone.
    """
    data = pack_json(message)
    if len(data) > MAX_PACKET:
        raise ValueError(f"a message of {len(data)} bytes is larger than {MAX_PACKET}")
    while True:
        try:
            send_fds(sock, data, fds)
            return
        except BlockingIOError:
            await ready(sock.fileno(), write=True)


async def recv_packet(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet on a non-blocking SOCK_SEQPACKET socket, or None when the peer is gone.

    Raises WireError for a packet that is not a JSON object (its descriptors are closed).
    """
    while True:
        try:
            data, fds = recv_fds(sock, MAX_PACKET)
        except BlockingIOError:
            await ready(sock.fileno())
            continue
        except OSError:
            return None
        if not data:
            return None
        try:
            return parse_json(data), fds
        except WireError:
            close_fds(fds)
            raise


class Wire:
    """Frames over one SOCK_STREAM socket, for one operation. Owns the socket.

    One task may send while another receives; two may not do the same at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []

    async def send(self, kind: bytes, payload: bytes | memoryview = b"", fds: Sequence[int] = ()) -> None:
        """Send one frame. Raises OSError (a broken pipe) when the peer has closed."""
        if len(payload) > MAX_FRAME:
            raise ValueError(f"a frame of {len(payload)} bytes is larger than {MAX_FRAME}")
        # Not joined: a large payload would be copied for the sake of five bytes.
        pieces = [memoryview(_HEAD.pack(len(payload), kind)), memoryview(payload)]
        while pieces:
            try:
                sent = _send_pieces(self._sock, pieces, fds)
            except BlockingIOError:
                await ready(self._sock.fileno(), write=True)
                continue
            fds = ()
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if pieces:
                pieces[0] = pieces[0][sent:]

    async def send_json(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a J frame."""
        await self.send(JSON, pack_json(message), fds)

    async def send_head(self, size: int) -> None:
        """Send the head of a D frame; its `size` bytes go to the socket itself (`fileno`) right after it."""
        head = memoryview(_HEAD.pack(size, DATA))
        while head:
            try:
                head = head[_send_pieces(self._sock, [head], ()) :]
            except BlockingIOError:
                await ready(self._sock.fileno(), write=True)

    def fileno(self) -> int:
        """The socket's descriptor, for whoever moves the bytes of a D frame past this object."""
        return self._sock.fileno()

    async def receive_head(self, within: float | None = None) -> tuple[bytes, int] | None:
        """The type of the next frame and the size of its payload, which is then the caller's to read.

        First `buffered` has some of it, perhaps all, the rest is in the socket. None when the peer closed
        between frames; raises WireError as `receive` does, and asyncio.TimeoutError when nothing comes for
        `within` seconds.
        """
        if not await self._fill(_HEAD.size, ahead=False, within=within):
            return None
        length, kind = self._head()
        del self._buffer[: _HEAD.size]
        return kind, length

    def buffered(self, most: int) -> bytes:
        """Up to `most` bytes that were read already."""
        found = bytes(self._buffer[:most])
        del self._buffer[:most]
        return found

    async def payload(self, size: int) -> bytes:
        """All `size` bytes of the payload whose head was received. Raises WireError when they do not come."""
        if not await self._fill(size, ahead=False):
            raise WireError("the stream ended in the middle of a frame")
        return self.buffered(size)

    def _head(self) -> tuple[int, bytes]:
        """Size and type of the frame whose head is buffered. Raises WireError."""
        length, kind = _HEAD.unpack_from(self._buffer)
        if length > MAX_FRAME:
            raise WireError(f"a frame claims {length} bytes")
        if kind not in (JSON, DATA, END):
            raise WireError(f"a frame has the unknown type {kind!r}")
        return length, kind

    async def _fill(self, size: int, ahead: bool = True, within: float | None = None) -> bool:
        """Have at least `size` bytes buffered, and more if they are there and `ahead` is true.

        False if the stream ended cleanly before the first.
        """
        while len(self._buffer) < size:
            missing = size - len(self._buffer)
            data = await self._read(max(65536, missing) if ahead else missing, within)
            if not data:
                if self._buffer:
                    raise WireError("the stream ended in the middle of a frame")
                return False
            self._buffer += data
        return True

    async def _read(self, most: int, within: float | None = None) -> bytes:
        """What comes next, up to `most` bytes; empty at the end. Keeps descriptors that came along."""
        while True:
            try:
                data, fds = recv_fds(self._sock, most)
            except BlockingIOError:
                await ready(self._sock.fileno(), within=within)
                continue
            except ConnectionError:
                data, fds = b"", []
            self._fds += fds
            if len(self._fds) > MAX_FDS:
                raise WireError("more descriptors than any message has")
            return data

    async def receive(self) -> Frame | None:
        """The next frame, or None when the peer closed between frames.

        Raises WireError for an oversized or unknown frame and for a stream cut in the middle of one.
        """
        if not await self._fill(_HEAD.size):
            return None
        length, kind = self._head()
        payload = await self._take(_HEAD.size + length)
        fds, self._fds = tuple(self._fds), []
        return Frame(kind, payload, fds)

    async def _take(self, size: int) -> bytes:
        """The payload of the frame of `size` bytes that has begun; what has not come yet is copied once."""
        if size <= len(self._buffer):
            payload = bytes(memoryview(self._buffer)[_HEAD.size : size])
            del self._buffer[:size]
            return payload
        pieces: list[bytes | bytearray] = [self._buffer]
        missing = size - len(self._buffer)
        self._buffer = bytearray()
        try:
            while missing:
                data = await self._read(missing)
                if not data:
                    raise WireError("the stream ended in the middle of a frame")
                pieces.append(data)
                missing -= len(data)
        except asyncio.CancelledError:
            # Whoever stopped waiting may come again.
            self._buffer = bytearray().join(pieces)
            raise
        pieces[0] = pieces[0][_HEAD.size :]
        return b"".join(pieces)

    async def receive_json(self) -> dict[str, Any] | None:
        """The next frame, which must be a J frame without descriptors, parsed; None at the end."""
        frame = await self.receive()
        if frame is None:
            return None
        if frame.fds or frame.type != JSON:
            close_fds(frame.fds)
            raise WireError("a message was expected and something else came")
        return parse_json(frame.payload)

    def close(self) -> None:
        """Close the socket and any descriptor nobody took. Idempotent."""
        close_fds(self._fds)
        self._fds = []
        self._sock.close()
