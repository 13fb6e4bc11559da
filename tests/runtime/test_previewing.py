"""What a server in a sandbox serves cannot stop or hold up the loop that looks at it."""

from __future__ import annotations

import time

import pytest

from daytona_magics.sandboxes import previewing
from daytona_magics.sandboxes.previewing import _Reader

FULL = '<title>One\n two</title><style>p {}</style><script src="a.js"></script><p>Some <b>text</b>.</p>'


def test_a_page_is_read() -> None:
    reader = _Reader()
    reader.read(FULL + "<img src=b.png><a href=c>more</a>" + " " * 9000 + "<p>behind</p>")
    assert (reader.title, reader.links) == ("One\n two", ["a.js", "b.png"])
    assert reader.text().split("\n") == ["Some", "text", ".", "more", "behind"]


@pytest.mark.parametrize(("within", "links"), [(60.0, ["a.js", "late.png"]), (0.0, ["a.js"])])
def test_a_page_that_takes_long_is_read_in_part(
    within: float, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previewing, "READ_WITHIN", within)
    reader = _Reader()
    markup = FULL.ljust(previewing.PIECE) + "<" * previewing.PIECE + "<img src=late.png>"
    # A second of this thread's time is over once something was found.
    monkeypatch.setattr(time, "thread_time", lambda: float(bool(reader.links)))
    reader.read(markup)
    assert reader.links == links and reader.text().startswith("Some")


def test_what_the_parser_gives_up_is_read_up_to_there() -> None:
    reader = _Reader()
    with pytest.raises(AssertionError):
        _Reader().feed("<![nothing that there is[")
    reader.read(FULL + " " * previewing.PIECE + "<![nothing that there is[")
    assert reader.title == "One\n two"
