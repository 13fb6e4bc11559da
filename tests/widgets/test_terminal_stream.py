"""What waits for a page, is on its way, and is kept: every byte once, in order, within bounds."""

from __future__ import annotations

import random

from daytona_magics.widgets import terminal_stream as module
from daytona_magics.widgets.terminal_record import COLUMNS, LINES, Screens
from daytona_magics.widgets.terminal_stream import AHEAD, HISTORY, PIECE, WINDOW, Stream


def test_every_byte_is_sent_once_and_in_order() -> None:
    stream, picked = Stream(), random.Random(7)
    given, taken = bytearray(), bytearray()
    for _ in range(400):
        data = picked.randbytes(picked.choice((0, 1, 300, 40_000)))
        given += data
        stream.add(data)
        if stream.open and picked.random() < 0.7:
            at, piece = stream.take()
            assert at == len(taken) and 0 < len(piece) <= PIECE
            taken += piece
            stream.seen(stream.sent)
    while stream.open:
        taken += stream.take()[1]
        stream.seen(stream.sent)
    assert bytes(taken) == bytes(given) and stream.waiting == 0


def test_no_more_than_a_window_is_on_its_way() -> None:
    stream = Stream()
    stream.add(bytes(AHEAD))
    while stream.open:
        stream.take()
    assert WINDOW <= stream.sent < WINDOW + PIECE
    # A view cannot have shown what it was not sent, and takes nothing back.
    stream.seen(stream.sent * 5)
    assert stream.shown == stream.sent and stream.open
    stream.seen(3)
    assert stream.shown == stream.sent


def test_what_is_kept_is_bounded_and_says_what_is_missing() -> None:
    stream = Stream()
    line = b"x" * 99 + b"\n"
    for _ in range(3 * HISTORY // len(line)):
        stream.add(line)
        stream.take()
    missing, _, kept = stream.replay()
    assert missing + len(kept) == stream.sent and missing > HISTORY
    assert HISTORY - len(line) <= len(kept) <= HISTORY + PIECE
    # It begins with a whole line.
    assert kept.startswith(line)


def test_modes_that_were_set_in_what_is_gone_are_set_again() -> None:
    stream = Stream()
    for piece in (b"\x1b[?10", b"49h\x1b[?2004h", b"\x1b[?25;1000h", b"\x1b[?25l", b"\x1b[?7l"):
        stream.add(piece)
        stream.take()
    for _ in range(HISTORY // 1000 + 20):
        stream.add(b"y" * 1000)
        stream.take()
    missing, modes, kept = stream.replay()
    assert missing and b"\x1b" not in kept
    for mode in (b"?1049h", b"?2004h", b"?1000h", b"?25l", b"?7l"):
        assert b"\x1b[" + mode in modes, modes
    assert b"?25h" not in modes
    # While all of it is kept, nothing of ours is needed.
    fresh = Stream()
    fresh.add(b"\x1b[?1049hvim")
    fresh.take()
    assert fresh.replay() == (0, b"", b"\x1b[?1049hvim")


def test_what_is_thrown_away_after_an_interrupt_is_counted() -> None:
    stream = Stream()
    stream.add(b"a" * 1000 + b"\x1b[?2004h" + b"b" * 1000 + b"prompt$ ")
    gone = stream.drop(8)
    assert gone == 2008 and stream.waiting == 8
    stream.before(b"[mark]")
    assert stream.take() == (0, b"[mark]prompt$ ")
    assert stream.drop(100) == 0


def test_endless_modes_cost_nothing() -> None:
    found = module._modes(b"".join(b"\x1b[?%dh" % number for number in range(5000)))
    assert len(found) == 64 and b"4999" in found


def test_a_record_is_bounded_text() -> None:
    screens = Screens()
    screens.take(1, ["<img src=x onerror=alert(1)>", "\x1b[31mred", *["x" * 5000] * 500, 7, "", ""])
    screens.take(2, "no list")
    text, markup = screens.record("Terminal of sandbox <b>", [(1, "<i>"), (2, "empty")])
    assert len(text.splitlines()) == LINES - 3 + 2 and max(map(len, text.splitlines())) == COLUMNS
    assert (
        "<img" not in markup and "<i>" not in markup and "<b>" not in markup and "\x1b" not in markup + text
    )
    assert "empty" not in text
    screens.take(1, ["<img src=x onerror=alert(1)>", "\x1b[31mred"])
    assert "&lt;img src=x" in screens.record("t", [(1, "a")])[1]
