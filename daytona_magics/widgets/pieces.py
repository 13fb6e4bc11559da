"""A stream of bytes of any sizes as pieces of one size, which a page asks for one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

#: Bytes of a piece, and of all that a page can hold.
PIECE, LIMIT = 1 << 20, 512 << 20


class Pieces:
    """The pieces of a source.

    Args:
        source: what is read, no faster than pieces are asked for.
        too_much: makes the error for more than LIMIT bytes.
    """

    def __init__(self, source: AsyncGenerator[bytes, None], too_much: Callable[[], Exception]) -> None:
        self._source, self._too_much = source, too_much
        self._left, self._taken = bytearray(), 0

    async def next(self) -> bytes:
        """The next piece; empty at the end."""
        while len(self._left) < PIECE:
            try:
                self._left += await anext(self._source)
            except StopAsyncIteration:
                break
        piece = bytes(self._left[:PIECE])
        del self._left[: len(piece)]
        self._taken += len(piece)
        if self._taken > LIMIT:
            await self.close()
            raise self._too_much()
        return piece

    async def close(self) -> None:
        """Nobody wants the rest. Idempotent."""
        await self._source.aclose()
