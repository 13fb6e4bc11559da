"""Large files to and from the embedded engine, on a connection of their own.

The SDK's transfers work everywhere, and hand every 64 KiB through two HTTP libraries on the loop thread. The
embedded engine is on this machine: here a thread speaks to it directly. It asks for the same file routes, so
nothing of the protocol is ours but the headers that the engine's side
(:mod:`daytona_magics.engine.api.straight`) explains. The memory of a variable goes to the socket as it is,
and the socket fills the memory a variable will live in; a file that is sent never comes into this process.

One :class:`Transfer` is one file. It blocks; :func:`carried` runs it on a thread of its own and ends it when
the coroutine that waits is cancelled. When nothing moves for :data:`STALL` seconds it is given up.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import http.client
import json
import os
import select
import socket
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable
from urllib.parse import quote, urlsplit

from daytona_magics.engine import loopback

T = TypeVar("T")

#: Seconds without a byte after which a transfer is given up.
STALL = 60.0
#: Bytes that are read or written at once.
PIECE = 1 << 20
FROM, CHECKSUM, TAIL = "X-Daytona-Magics-From", "X-Daytona-Magics-Checksum", 4
PIPE = "X-Daytona-Magics-Pipe"
#: Largest answer that is no file, and largest head of one, bytes.
_ANSWER, _HEAD = 64 << 10, 64 << 10
_F_SETPIPE_SZ = 1031


class Broken(Exception):
    """The connection did not last; the message says how it ended, for people."""


class Refused(Exception):
    """The engine refused.

    Attributes:
        status: HTTP status.
        body: its JSON object.
    """

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("message") or f"HTTP {status}"))
        self.status, self.body = status, body


class Sink(Protocol):
    """Takes the bytes of a file."""

    def expect(self, count: int) -> None:
        """So many bytes come in all, or more; raises when these are too many."""

    def room(self) -> memoryview:
        """Where the next bytes go; at least one byte."""

    def took(self, count: int) -> None:
        """So many bytes of the room were filled."""


@runtime_checkable
class FileSink(Sink, Protocol):
    """Takes them from a pipe, too: then they need not pass through this process."""

    def pull(self, pipe: int, count: int) -> None:
        """Take so many bytes out of a pipe that has them."""


@dataclass(frozen=True)
class Address:
    """Where the files of a sandbox are, and what opens them.

    Attributes:
        authorization: the header with the bearer; kept out of ``repr``.
    """

    host: str
    port: int
    base: str
    authorization: str = field(repr=False)

    @classmethod
    def of(cls, sandbox: Any) -> Address | None:
        """The address for a sandbox of an engine on this machine; None for any other.

        The bearer is the one the SDK's own client of these routes sends.
        """
        split = urlsplit(str(getattr(sandbox, "toolbox_proxy_url", "")))
        if split.scheme != "http" or not loopback.is_loopback(split.hostname) or not hasattr(os, "sendfile"):
            return None
        api = getattr(getattr(sandbox.fs, "_api_client", None), "api_client", None)
        said = getattr(api, "default_headers", {}).get("Authorization")
        if not isinstance(said, str):
            return None
        return cls(
            split.hostname or "", split.port or 80, f"{split.path.rstrip('/')}/{sandbox.id}/files", said
        )


class Transfer:
    """One file on its way. Blocking; may be cancelled from another thread.

    Attributes:
        count: bytes that went so far.
    """

    def __init__(self, address: Address, path: str) -> None:
        self._address, self._path = address, path
        self._sock: socket.socket | None = None
        self._stream: _Stream
        self._cancelled = False
        self.count = 0

    def cancel(self) -> None:
        """End it now; whoever runs it gets Broken."""
        self._cancelled = True
        sock = self._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def send(self, size: int, pieces: Callable[[], Iterable[Any]] | BinaryIO) -> None:
        """Write a file of ``size`` bytes: the pieces, or a file of this machine from its beginning.

        Raises Refused, Broken; whatever the pieces raise; EOFError when they are fewer bytes.
        """
        try:
            self._talk(lambda: self._send(size, pieces, False))
        except Refused as refused:
            if refused.status != 412:
                raise
            self.count = 0
            self._talk(lambda: self._send(size, pieces, True))

    def receive(self, sink: Sink, piped: int = 0) -> int:
        """Read a file into a sink; returns its size. Raises Refused, Broken; whatever the sink raises.

        Args:
            piped: it may be a pipe, from which so many bytes come.
        """
        return self._talk(lambda: self._receive(sink, piped))

    def _talk(self, work: Callable[[], T]) -> T:
        try:
            address = self._address.host, self._address.port
            # The file keeps the connection open, too, and whoever holds an exception of ours keeps the file.
            with socket.create_connection(address, timeout=STALL) as sock, sock.makefile("rb") as file:
                self._sock, self._stream = sock, _Stream(file)
                if self._cancelled:
                    raise Broken("it was cancelled")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return work()
        except TimeoutError:
            raise Broken(f"nothing moved for {STALL:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_reason(error)) from None
        finally:
            self._sock = None

    def _ask(self, method: str, route: str, *more: str) -> None:
        assert self._sock is not None
        host, port = self._sock.getsockname()[:2]
        lines = (
            f"{method} {self._address.base}/{route}?path={quote(self._path, safe='')} HTTP/1.1",
            f"Host: {self._address.host}:{self._address.port}",
            f"Authorization: {self._address.authorization}",
            f"{FROM}: {host}:{port}",
            *more,
            "\r\n",
        )
        self._sock.sendall("\r\n".join(lines).encode("ascii"))

    def _send(self, size: int, pieces: Callable[[], Iterable[Any]] | BinaryIO, checked: bool) -> None:
        self._ask(
            "POST",
            "upload-v2",
            "Content-Type: application/octet-stream",
            f"Content-Length: {size + (TAIL if checked else 0)}",
            "Expect: 100-continue",
            *([f"{CHECKSUM}: crc32"] if checked else []),
        )
        self._begun()
        try:
            if callable(pieces):
                early = self._send_pieces(size, pieces(), checked)
            else:
                early = self._send_file(size, pieces, checked)
        except (BrokenPipeError, ConnectionResetError):
            # The answer may have come before the connection was closed.
            early = True
        answer = self._answer("POST")
        if early:
            raise Broken("the engine answered before it had everything")
        answer.read(_ANSWER)

    def _begun(self) -> None:
        """Wait for the word to begin. Raises Refused when another one comes."""
        line = self._stream.readline(_HEAD)
        if line.startswith(b"HTTP/1.1 100"):
            while self._stream.readline(_HEAD).strip():
                continue
            return
        self._stream.again(line)
        self._answer("POST")
        raise Broken("the engine answered before it had anything")

    def _send_pieces(self, size: int, pieces: Iterable[Any], checked: bool) -> bool:
        checksum = 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            if self.count + len(view) > size:
                raise EOFError
            for start in range(0, len(view), PIECE):
                part = view[start : start + PIECE]
                if checked:
                    checksum = zlib.crc32(part, checksum)
                if self._write(part):
                    return True
                self.count += len(part)
        if self.count != size:
            raise EOFError
        return checked and self._write(checksum.to_bytes(TAIL, "big"))

    def _write(self, data: Any) -> bool:
        """Send all of it; True when the engine has answered before."""
        assert self._sock is not None
        view = memoryview(data)
        while view:
            if self._answered():
                return True
            view = view[self._sock.send(view) :]
        return False

    def _send_file(self, size: int, file: BinaryIO, checked: bool) -> bool:
        if checked:
            file.seek(0)
            return self._send_pieces(size, iter(lambda: file.read(min(PIECE, size - self.count)), b""), True)
        assert self._sock is not None
        while self.count < size:
            if self._answered():
                return True
            try:
                most = min(PIECE, size - self.count)
                sent = os.sendfile(self._sock.fileno(), file.fileno(), self.count, most)
            except BlockingIOError:
                continue
            if not sent:
                raise EOFError
            self.count += sent
        return False

    def _answered(self) -> bool:
        """Wait until something can be sent; True when the engine has answered, or hung up, instead."""
        return bool(self._wait(select.POLLIN | select.POLLOUT) & ~select.POLLOUT)

    def _wait(self, events: int) -> int:
        """What there is of these events, as soon as there is some. Raises TimeoutError."""
        assert self._sock is not None
        poll = select.poll()
        poll.register(self._sock, events)
        found = poll.poll(STALL * 1000)
        if not found:
            raise TimeoutError
        return found[0][1]

    def _receive(self, sink: Sink, piped: int) -> int:
        assert self._sock is not None
        self._ask("GET", "download", *([f"{PIPE}: {piped}"] if piped else []))
        answer = self._answer("GET")
        checked = answer.headers.get(CHECKSUM) == "crc32"
        if answer.length is None or answer.length < (TAIL if checked else 0):
            raise Broken("the engine did not say how large it is")
        size, checksum = answer.length - (TAIL if checked else 0), 0
        sink.expect(size)
        if not checked and isinstance(sink, FileSink) and hasattr(os, "splice"):
            self._receive_file(sink, size)
        while self.count < size:
            room = sink.room()[: min(PIECE, size - self.count)]
            count = answer.readinto(room)
            if not count:
                raise Broken("the engine closed it")
            if checked:
                checksum = zlib.crc32(room[:count], checksum)
            sink.took(count)
            self.count += count
        if checked and answer.read(TAIL) != checksum.to_bytes(TAIL, "big"):
            raise Broken("the bytes were changed on their way")
        return size

    def _receive_file(self, sink: FileSink, size: int) -> None:
        """Have the kernel move what comes to the sink; returns early where it does not do that."""
        assert self._sock is not None
        room = sink.room()[:size]
        if len(room) < PIECE:
            return
        # What was read along with the head; or if nothing was, what comes next.
        first = self._stream.readinto1(room)
        sink.took(first)
        self.count += first
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with suppress(OSError):  # it is only smaller then
                fcntl.fcntl(writing, _F_SETPIPE_SZ, PIECE)
            while self.count < size:
                try:
                    count = os.splice(self._sock.fileno(), writing, min(PIECE, size - self.count))
                except BlockingIOError:
                    self._wait(select.POLLIN)
                    continue
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ENOSYS):
                        return
                    raise
                if not count:
                    raise Broken("the engine closed it")
                sink.pull(reading, count)
                self.count += count
        finally:
            os.close(reading)
            os.close(writing)

    def _answer(self, method: str) -> http.client.HTTPResponse:
        answer = http.client.HTTPResponse(self._stream, method=method)  # type: ignore[arg-type]
        answer.begin()
        if answer.status >= 300:
            try:
                body = json.loads(answer.read(_ANSWER))
            except ValueError:
                body = {}
            raise Refused(answer.status, body if isinstance(body, dict) else {})
        return answer


class _Stream:
    """What comes from a socket, as one file for all that reads it; a line may be put back."""

    def __init__(self, file: Any) -> None:
        self._file, self._line = file, b""

    def again(self, line: bytes) -> None:
        """Have a line be the next one once more."""
        self._line = line

    def readline(self, limit: int = -1) -> bytes:
        line, self._line = self._line, b""
        return line or bytes(self._file.readline(limit))

    def makefile(self, mode: str) -> _Stream:
        """As a socket has it, for :class:`http.client.HTTPResponse`."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the engine does not answer"
    if isinstance(error, ConnectionError):
        return "the engine closed it"
    return f"{type(error).__name__}: {error}"


async def carried(transfer: Transfer, work: Callable[[], T], told: Callable[[int], None]) -> T:
    """Run the work of a transfer on a thread of its own; cancelled, it ends the transfer first.

    Args:
        told: called now and then with the number of bytes that went.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (work(), None)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="daytona-magics-transfer", daemon=True).start()
    try:
        while not (await asyncio.wait([done], timeout=0.25))[0]:
            told(transfer.count)
    except asyncio.CancelledError:
        transfer.cancel()
        await asyncio.wait([done])
        done.exception()
        raise
    told(transfer.count)
    return done.result()
