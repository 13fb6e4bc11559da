"""One file to or from a sandbox: straight through to an engine on this machine, by the SDK to anywhere else.

Either way it is streamed: from a file, or from the memory of a variable, and into one, in bounded memory; the
file appears under its name whole or not at all; and a transfer in which nothing moves any more is given up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.runtime import straight
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.meter import Meter

T = TypeVar("T")

#: What is sent: a function that makes the pieces, or a file of this machine.
Source = Callable[[], Iterable[Any]] | BinaryIO

#: Most bytes of what the SDK is given at once: so much must go within :data:`straight.STALL` seconds.
SLICE = 128 << 10
#: Seconds within which the platform says that it has all of a file.
ANSWER = 300.0


class NoPipe(Exception):
    """What was to be read is a pipe, and this engine only reads files."""


class Changed(Exception):
    """What was sent became shorter, or longer, while it was read."""


class _Patience:
    """Ends what its task waits for inside when that takes too long; raises Broken then. A context manager."""

    def __init__(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = 0.0
        self._over = False

    def begin(self, seconds: float) -> None:
        """From now on it may take so many seconds."""
        self.end()
        self._seconds = seconds
        self._timer = self._loop.call_later(seconds, self._give_up)

    def end(self) -> None:
        """It may take any time."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> _Patience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if not self._over or not isinstance(error, asyncio.CancelledError):
            return
        if sys.version_info >= (3, 11) and self._task is not None and self._task.uncancel():
            # Somebody else has cancelled it, too.
            return
        raise straight.Broken(f"nothing moved for {self._seconds:g} s") from None


async def asked(path: str, call: Awaitable[T]) -> T:
    """Await a call of the SDK about a path; its exceptions come out as ours."""
    try:
        return await call
    except sdk.error_class() as error:
        raise _failure(error, path) from None


def _failure(error: BaseException, path: str) -> BaseException:
    if sdk.not_found(error):
        return SandboxError(f"there is no {path!r} in the sandbox", hint="%sandbox ls")
    return sdk.translate(error, path)


def _refusal(refused: straight.Refused, path: str) -> BaseException:
    from daytona.common.errors import create_daytona_error

    code, source = refused.body.get("code"), refused.body.get("source")
    known = [one if isinstance(one, str) else None for one in (code, source)]
    return _failure(create_daytona_error(str(refused), refused.status, None, known[0], known[1]), path)


async def send(sandbox: Any, source: Source, size: int, where: str, shown: str, meter: Meter) -> None:
    """Write a file of the sandbox; it appears whole or not at all.

    Args:
        size: of all of the source, bytes.
        shown: what to call it in messages.
        meter: told of every piece.

    Raises:
        Changed: the source is of another size by now.
        SandboxError: the sandbox refuses it, or the way broke.
    """
    address = straight.Address.of(sandbox)
    if address is None:
        await put_stream(sandbox, _told(source, size, meter), where, shown)
        return
    transfer = straight.Transfer(address, where)
    try:
        await straight.carried(transfer, lambda: transfer.send(size, source), meter.reach)
    except EOFError:
        raise Changed from None
    except straight.Refused as refused:
        raise _refusal(refused, shown) from None
    except straight.Broken as broken:
        raise SandboxUnreachable(f"{shown!r} could not be sent to its end ({broken})") from None


async def _told(source: Source, size: int, meter: Meter) -> AsyncIterator[Any]:
    """The pieces of a source for the SDK."""
    if callable(source):
        made = iter(source())
    else:
        # What is added to a file meanwhile does not go along.
        made = iter(lambda: source.read(min(straight.PIECE, size - meter.count)), b"")
    while (piece := await asyncio.to_thread(next, made, None)) is not None:
        meter.add(len(piece))
        yield piece
    if meter.count != size:
        raise Changed


async def put_stream(sandbox: Any, pieces: AsyncIterator[Any], where: str, shown: str | None = None) -> None:
    """Write a file of the sandbox from pieces as they come; it appears whole or not at all.

    Args:
        shown: what to call it in messages, if not ``where``.
    """
    import httpx

    try:
        with _Patience() as patience:
            patience.begin(straight.STALL)
            async with aclosing(_sliced(pieces, patience)) as slices:
                await asked(shown or where, sandbox.fs.upload_file_stream(slices, where, timeout=0))
    except (httpx.HTTPError, straight.Broken) as error:
        raise SandboxUnreachable(
            f"{shown or where!r} could not be sent to its end ({_reason(error)})"
        ) from None


async def _sliced(pieces: AsyncIterator[Any], patience: _Patience) -> AsyncGenerator[memoryview, None]:
    """The pieces, cut small; there is no limit to the time that making one takes."""
    patience.end()
    async for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), SLICE):
            patience.begin(straight.STALL)
            yield view[start : start + SLICE]
        patience.end()
    patience.begin(ANSWER)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, straight.Broken) else type(error).__name__


async def receive(
    sandbox: Any, where: str, shown: str, sink: straight.Sink, meter: Meter, piped: int = 0
) -> int:
    """Read a file of the sandbox into a sink; returns its size in bytes.

    Args:
        piped: there may be a pipe in its place, from which so many bytes come; where :func:`can_pipe`.

    Raises:
        NoPipe: there is, and an engine of an earlier version does not read it; nothing was read of it.
        SandboxError: there is none, the sandbox refuses it, or the way broke; whatever the sink raises.
    """
    address = straight.Address.of(sandbox)
    if address is None:
        return await _collected(content(sandbox, shown, where), sink, meter)
    transfer = straight.Transfer(address, where)
    try:
        return await straight.carried(transfer, lambda: transfer.receive(sink, piped), meter.reach)
    except straight.Refused as refused:
        if piped and refused.status == 400:
            raise NoPipe from None
        raise _refusal(refused, shown) from None
    except straight.Broken as broken:
        raise SandboxUnreachable(f"{shown!r} could not be read to its end ({broken})") from None


def can_pipe(sandbox: Any) -> bool:
    """Whether a pipe of this sandbox can be read, other than by a program in it."""
    return straight.Address.of(sandbox) is not None


async def _collected(content: AsyncGenerator[bytes, None], sink: straight.Sink, meter: Meter) -> int:
    async with aclosing(content) as pieces:
        waiting = bytearray()
        async for piece in pieces:
            meter.add(len(piece))
            sink.expect(meter.count)
            waiting += piece
            if len(waiting) >= straight.PIECE:
                await asyncio.to_thread(_fill, sink, waiting)
                waiting = bytearray()
        await asyncio.to_thread(_fill, sink, waiting)
    return meter.count


def _fill(sink: straight.Sink, piece: bytearray) -> None:
    view = memoryview(piece)
    while view:
        room = sink.room()
        count = min(len(room), len(view))
        room[:count] = view[:count]
        sink.took(count)
        view = view[count:]


async def content(sandbox: Any, path: str, where: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a file as they come. Whoever stops in the middle closes it, which ends the transfer."""
    import aiohttp

    some = False
    try:
        async with aclosing(await sandbox.fs.download_file_stream(where, timeout=0)) as pieces:
            while True:
                with _Patience() as patience:
                    patience.begin(straight.STALL)
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                some = True
                yield piece
    except sdk.error_class() as error:
        # The SDK calls an empty file one it has received nothing for.
        if sdk.not_found(error) or some or "No file data received" not in str(error):
            raise _failure(error, path) from None
    except (aiohttp.ClientError, asyncio.TimeoutError, straight.Broken) as error:
        raise SandboxUnreachable(f"{path!r} could not be read to its end ({_reason(error)})") from None
