"""Following a file of the sandbox: its guest reads the pieces, and they are checked here."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxError
from daytona_magics.runtime import decode
from daytona_magics.runtime.guest.peeking import MAX_PIECE

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel

_FILE = re.compile(r"\d{1,20}:\d{1,20}\Z")


@dataclass(frozen=True)
class Piece:
    """What came since the last look.

    Attributes:
        file: which file it is, for the next look.
        offset: the byte at which ``data`` begins.
        size: of the file, bytes.
        data: at most 512 KiB; what is there beyond them comes with the next look.
        news: "", "rotated" (another file has the name now) or "cut" (it was cut off and begins anew).
    """

    file: str
    offset: int
    size: int
    data: bytes
    news: str = ""


async def piece(channel: Channel, path: str, file: str = "", offset: int = 0) -> Piece:
    """The next piece of a file.

    Args:
        channel: the channel to the sandbox's guest.
        path: the file; ``~`` is the home.
        file: what the last piece said; "" at the first.
        offset: where to go on; negative at the first look: so many bytes from the end.

    Raises:
        SandboxError: it cannot be read; the message says why.
        SandboxUnreachable: the line broke.
        ProtocolError: the answer is not what our guest sends.
    """
    try:
        reply = await channel.ask("peek", path=path, file=file, offset=offset)
    except SandboxError as error:
        if type(error) is SandboxError:
            raise SandboxError(str(error).removeprefix("the sandbox refused 'peek': ")) from None
        raise
    name, news = decode.text(reply, "file", limit=64), decode.text(reply, "news", "", 16)
    if not _FILE.match(name) or news not in ("", "rotated", "cut"):
        decode.refuse("a piece of a file says nothing about its file")
    try:
        data = base64.b64decode(decode.text(reply, "data", limit=MAX_PIECE * 2), validate=True)
    except (binascii.Error, ValueError):
        decode.refuse("a piece of a file is not base64")
    if len(data) > MAX_PIECE:
        decode.refuse("a piece of a file is larger than was asked for")
    return Piece(name, decode.integer(reply, "offset"), decode.integer(reply, "size"), data, news)
