"""Listings: pages of a real guest, and what a hostile one answers."""

from __future__ import annotations

from typing import Any

import pytest

from daytona_magics.errors import ProtocolError, SandboxError
from daytona_magics.runtime import listing
from daytona_magics.runtime.channel import Channel

from .conftest import Cells

ENTRY = {"name": "a", "kind": "file", "size": 1, "modified": 2, "mode": 0o644, "target": ""}
PAGE = {"path": "/home", "total": 1, "hidden": 0, "more": False, "entries": [ENTRY]}


async def test_pages_of_a_large_folder(cells: Cells, channel: Channel) -> None:
    code = "import os\nos.makedirs('many')\nfor i in range(3000): open('many/f%04d' % i, 'w').close()\n"
    await cells.run(code + "open(b'many/\\xff', 'w').close(); os.mkdir('many/zzz')")
    first = await listing.page(channel, "many", limit=3)
    assert (first.total, [entry.name for entry in first.entries]) == (3002, ["zzz", "f0000", "f0001"])
    last = await listing.page(channel, first.path, offset=3000, limit=1000)
    assert [(entry.name, entry.whole) for entry in last.entries] == [("f2999", True), ("\ufffd", False)]
    assert last.entries[0].permissions in ("rw-r--r--", "rw-rw-r--")
    assert (await listing.page(channel, "many", match="f000")).total == 10
    with pytest.raises(SandboxError, match="nothing: No such file"):
        await listing.page(channel, "nothing")


@pytest.mark.parametrize(
    "change",
    [
        {"entries": None},
        {"entries": [ENTRY] * 3},
        {"entries": [ENTRY | {"name": "../x"}]},
        {"entries": [ENTRY | {"name": ".."}]},
        {"entries": [ENTRY | {"name": "x" * 2000}]},
        {"entries": [ENTRY | {"kind": "door"}]},
        {"entries": [ENTRY | {"size": -1}]},
        {"entries": [ENTRY | {"size": True}]},
        {"entries": ["a"]},
        {"total": "many"},
        {"path": 3},
    ],
)
def test_what_our_guest_does_not_say_is_refused(change: dict[str, Any]) -> None:
    assert listing.decoded(PAGE, 2).entries[0].name == "a"
    with pytest.raises(ProtocolError):
        listing.decoded(PAGE | change, 2)
