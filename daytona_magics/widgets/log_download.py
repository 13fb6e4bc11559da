"""The whole of a log for the page to save, in pieces of a megabyte.

One source comes from where it is kept, byte for byte; several, or one of which only this machine knows, come
from what was written here: as it was shown, without colours, each line behind the name of its source.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxError
from daytona_magics.notebook.card import size
from daytona_magics.widgets import log_text
from daytona_magics.widgets.live import CallError
from daytona_magics.widgets.log_store import NOTE, LogStore
from daytona_magics.widgets.pieces import LIMIT, Pieces

if TYPE_CHECKING:
    from daytona_magics.widgets.log_sources import Source
    from daytona_magics.widgets.log_way import Way

#: Downloads at once; rows read at once.
MOST, ROWS = 4, 4096


def _too_much() -> CallError:
    return CallError(
        "refused", f"more than {size(LIMIT)} are more than a page can hold", "%sandbox logs ID --to FILE"
    )


class Downloads:
    """The downloads of one widget. On the loop thread.

    Args:
        store: what was written here.
        sources: those of the widget.
        way: to the sandbox.
    """

    def __init__(self, store: LogStore, sources: Callable[[], list[Source]], way: Way) -> None:
        self._store, self._sources, self._way = store, sources, way
        self._running: dict[str, Pieces] = {}

    async def begin(self, key: str, number: int | None) -> None:
        """Begin one.

        Args:
            key: names it.
            number: of the source; None for all of them.
        """
        if len(self._running) >= MOST:
            raise CallError("refused", "too many downloads at once")
        sources = self._sources()
        whole = None
        if number is None and len(sources) == 1:
            number = 0
        if number is not None and 0 <= number < len(sources):
            whole = sources[number].whole(self._way)
        self._running[key] = Pieces(whole if whole is not None else self._shown(number), _too_much)

    async def piece(self, key: str) -> bytes:
        """The next piece; empty at the end."""
        download = self._running.get(key)
        if download is None:
            raise CallError("refused", "this download has ended")
        try:
            data = await download.next()
        except (SandboxError, CallError):
            await self.abort(key)
            raise
        if not data:
            await self.abort(key)
        return data

    async def abort(self, key: str) -> None:
        """Nobody wants the rest. Idempotent."""
        if (download := self._running.pop(key, None)) is not None:
            await download.close()

    async def close(self) -> None:
        """End them all."""
        for key in list(self._running):
            await self.abort(key)

    async def _shown(self, number: int | None) -> AsyncGenerator[bytes, None]:
        store, names = self._store, [one.name for one in self._sources()]
        if store.dropped_lines:
            yield f"[{store.dropped_lines:,} lines were dropped here]\n".encode()
        at, end = store.first, store.end
        # Whose line the last row did not end.
        going: tuple[int, int] | None = None
        while at < end:
            rows = await asyncio.to_thread(store.rows, at, min(at + ROWS, end))
            out = []
            for row in rows:
                if number is not None and row.source != number:
                    continue
                if going not in (None, (row.source, row.kind)):
                    out.append("\n")
                    going = None
                if number is None and going is None:
                    when = datetime.datetime.fromtimestamp(row.time).isoformat(" ", "milliseconds")
                    out.append(f"{when if row.time else '-':23} {names[row.source]}: ")
                going = (row.source, row.kind) if row.goes_on else None
                text = log_text.text(row.line)
                out.append((f"[{text}]" if row.kind == NOTE else text) + ("" if row.goes_on else "\n"))
            yield "".join(out).encode("utf-8", "replace")
            at = min(at + ROWS, end)
