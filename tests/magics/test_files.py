"""Reading files of a sandbox that says one size and sends another: bounded memory, bounded disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from daytona import DaytonaError, DaytonaNotFoundError

from daytona_magics.errors import SandboxError, SandboxUnreachable
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.binding import Binding

PIECE = b"x" * 65536


class Files:
    """The file API of a sandbox; counts the pieces it was asked for."""

    def __init__(self, said: int, pieces: int, error: Exception | None = None) -> None:
        self.said, self.pieces, self.error = said, pieces, error
        self.sent, self.closed = 0, False

    async def get_file_info(self, path: str) -> Any:
        return SimpleNamespace(is_dir=False, size=self.said)

    async def download_file_stream(self, path: str, timeout: int) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while self.sent < self.pieces:
                    self.sent += 1
                    yield PIECE
                if self.error is not None:
                    raise self.error
            finally:
                self.closed = True

        return pieces()

    def binding(self) -> Binding:
        async def usable(tell: Any) -> Any:
            return SimpleNamespace(fs=self)

        return cast(Binding, SimpleNamespace(usable=usable))


TELL = SimpleNamespace(progress=lambda text: None, note=lambda text: None)


async def test_reading_stops_at_the_limit_whatever_size_was_said() -> None:
    endless = Files(said=10, pieces=1_000_000)
    with pytest.raises(SandboxError, match="more than the 1,048,576 that are shown"):
        await files.read(endless.binding(), TELL, "f", limit=1 << 20)
    assert endless.sent == 17 and endless.closed


async def test_a_file_said_to_be_too_large_is_not_asked_for() -> None:
    large = Files(said=2 << 20, pieces=1)
    with pytest.raises(SandboxError, match="2,097,152"):
        await files.read(large.binding(), TELL, "f", limit=1 << 20)
    assert large.sent == 0


async def test_a_file_as_long_as_the_limit_and_an_empty_one() -> None:
    exact = Files(said=len(PIECE), pieces=1)
    assert await files.read(exact.binding(), TELL, "f", limit=len(PIECE)) == PIECE
    empty = Files(0, 0, DaytonaError("Failed: No file data received for: f"))
    assert await files.read(empty.binding(), TELL, "f", limit=10) == b""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DaytonaNotFoundError("gone"), SandboxError, "there is no 'f'"),
        (DaytonaError("broken"), SandboxError, "broken"),
        (aiohttp.ClientPayloadError("cut"), SandboxUnreachable, "to its end"),
    ],
)
async def test_a_transfer_that_fails_leaves_nothing(
    error: Exception, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    for pieces in (0, 3):
        with pytest.raises(kind, match=words):
            await files.read(Files(9, pieces, error).binding(), TELL, "f", limit=1 << 20)
        with pytest.raises(kind, match=words):
            await files.download(Files(9, pieces, error).binding(), TELL, "f", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


async def test_a_download_is_written_piece_by_piece_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Files(said=3 * len(PIECE), pieces=3)
    assert await files.download(honest.binding(), TELL, "f", tmp_path / "f") == 3 * len(PIECE)
    assert (tmp_path / "f").read_bytes() == PIECE * 3

    monkeypatch.setattr(files, "GROWTH", 1 << 20)
    endless = Files(said=0, pieces=1_000_000)
    with pytest.raises(SandboxError, match="more than 1,048,576 came"):
        await files.download(endless.binding(), TELL, "g", tmp_path / "g")
    assert endless.sent == 17 and endless.closed
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
