"""Lines of a log before they are drawn: escapes, overwriting, cutting, storing, selecting."""

from __future__ import annotations

import random
import time
import weakref
from collections.abc import Iterator

import pytest

from daytona_magics.widgets import log_query, log_store, log_text
from daytona_magics.widgets.log_intake import Intake
from daytona_magics.widgets.log_query import BadPattern, Finder, Query, Selection, query
from daytona_magics.widgets.log_store import BLOCK, NOTE, STDERR, STDOUT, LogStore
from daytona_magics.widgets.log_view import View


@pytest.fixture
def store() -> Iterator[LogStore]:
    made = LogStore()
    yield made
    made.close()


def lines(store: LogStore) -> list[str]:
    return [row.line for row in store.rows(store.first, store.end)]


def selected(selection: Selection) -> list[str]:
    while selection.extend():
        pass
    return [row.line for _, row in selection.rows(selection.first, 10**6)]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("10%\r20%", "20%"),
        ("abcdef\rXY", "XYcdef"),
        ("abcdef\rXY\x1b[K", "XY"),
        ("abc\b\bX", "aXc"),
        ("abc\x1b[2GX", "aXc"),
        ("\x1b[31mred\x1b[0m\rgo", "go\x1b[31md\x1b[0m"),
        ("no end\r", "no end"),
    ],
)
def test_what_overwrites_itself_is_its_last_picture(store: LogStore, written: str, shown: str) -> None:
    intake = Intake(store, 0, STDOUT)
    for char in written:
        intake.feed(char)
    intake.feed("\n")
    assert lines(store) == [shown]


def test_progress_that_never_ends_its_line_is_one_line_and_small(store: LogStore) -> None:
    intake = Intake(store, 0, STDOUT)
    for step in range(20_000):
        intake.feed(f"\r{step:5d} {'#' * 40}")
    assert intake.open == f"19999 {'#' * 40}" and store.end == 0
    intake.end()
    assert lines(store) == [f"19999 {'#' * 40}"]


def test_colours_are_numbers_and_last_for_lines(store: LogStore) -> None:
    intake = Intake(store, 0, STDOUT)
    intake.feed("a\x1b[1;31mb\nc\n\x1b[0md\x1b[38;5;196me\x1b[38;2;1;2;3mf\x1b[48;5;232mg\n")
    first, second, third = (log_text.wire(line, []) for line in lines(store))
    assert first == ["ab", [[1, 2, 1, None, log_text.BOLD]], []]
    assert second == ["c", [[0, 1, 1, None, log_text.BOLD]], []]
    assert third[1] == [
        [1, 2, "#ff0000", None, 0],
        [2, 3, "#010203", None, 0],
        [3, 4, "#010203", "#080808", 0],
    ]


def test_what_reaches_further_than_text_goes_and_html_stays_text(store: LogStore) -> None:
    hostile = (
        "<img src=x onerror=alert(1)>\x1b]0;title\x07\x1b]52;c;c2VjcmV0\x07"
        "\x1b]8;;javascript:alert(2)\x07link\x1b]8;;\x07\x1b[2J\x1b[?1049h\x1b[6n\x1bP q\x1b\\\x00\x9b5n"
    )
    intake = Intake(store, 0, STDOUT)
    for at in range(0, len(hostile), 3):  # cut anywhere, also within a sequence
        intake.feed(hostile[at : at + 3])
    intake.feed("\x1b]8;;https://example.org\x1b\\safe\x1b]8;;\x1b\\\n")
    assert lines(store) == ["<img src=x onerror=alert(1)>linksafe"]
    assert log_text.markup(lines(store)[0]) == "&lt;img src=x onerror=alert(1)&gt;linksafe"


def test_a_page_counts_in_its_own_units() -> None:
    assert log_text.wire("\U0001f600\x1b[1mb", [(1, 2)]) == ["\U0001f600b", [[2, 3, None, None, 1]], [[2, 3]]]


def test_a_line_of_any_length_is_rows_that_go_on(store: LogStore) -> None:
    intake = Intake(store, 0, STDOUT)
    text = "é" * 3_000_000
    for at in range(0, len(text), 65536):
        intake.feed(text[at : at + 65536])
        assert len(intake.open.encode()) <= log_store.PIECE
    intake.feed("\nend\n")
    rows = store.rows(0, store.end)
    assert all(one.goes_on for one in rows[:-2]) and not rows[-1].goes_on and store.lines == 2
    assert max(len(one.data) for one in rows) <= log_store.PIECE
    assert "".join(one.line for one in rows[:-1]) == text


def test_the_oldest_lines_go_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "SEGMENT", 64 << 10)
    store = LogStore(limit=256 << 10)
    intake, found = Intake(store, 0, STDOUT), Selection(store, Query(match="7"))
    for number in range(20_000):
        intake.feed(f"line {number:06d}\n")
        if number % 500 == 0:
            found.extend()
    kept = lines(store)
    assert store.dropped_lines == store.first == 20_000 - len(kept) > 0
    assert store.dropped_bytes == store.dropped_lines * len("line 000000")
    assert kept[0] == f"line {store.first:06d}" and kept[-1] == "line 019999"
    assert selected(found) == [one for one in kept if "7" in one]
    store.close()


def test_all_logs_together_have_a_bound_and_the_largest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "SEGMENT", 64 << 10)
    monkeypatch.setattr(log_store, "TOGETHER", 1 << 20)
    monkeypatch.setattr(log_store, "_stores", weakref.WeakSet())
    stores, told = [LogStore(limit=1 << 20) for _ in range(4)], []
    stores[0].on_drop = lambda: told.append("dropped")

    def size(store: LogStore) -> int:
        return sum(one.size for one in store._segments)

    alone = []
    for store in stores:
        intake = Intake(store, 0, STDOUT)
        for number in range(20_000):
            intake.feed(f"line {number:06d}\n")
        alone.append(size(store))
    sizes = [size(store) for store in stores]
    assert sum(sizes) <= 1 << 20 and min(sizes) > 150_000, sizes
    assert alone[0] > 400_000 > sizes[0], "the first had all it needed, and made room for the others"
    first = stores[0]
    assert told and first.dropped_why == "the logs of this kernel keep 1.0 MiB together"
    kept = lines(first)
    assert kept[-1] == "line 019999" and first.dropped_lines == first.first == 20_000 - len(kept) > 0
    news = View(first, Query()).news({})
    assert news is not None and news["dropped"] == [
        first.dropped_lines,
        first.dropped_bytes,
        first.dropped_why,
    ]
    # One that is being read gives nothing; another one does.
    before = first.first
    with first._lock:
        for number in range(20_000):
            intake.feed(f"more {number:06d}\n")
    assert first.first == before and sum(map(size, stores)) <= 1 << 20
    for store in stores:
        store.close()


def test_what_is_selected_while_it_grows_is_what_is_selected_at_once(store: LogStore) -> None:
    dice = random.Random(7)
    out, err = Intake(store, 0, STDOUT), Intake(store, 1, STDERR)
    queries = [
        Query(match="7"),
        Query(match="T\\w+ [12]", as_regex=True),
        Query(match="line", kinds=(STDERR,)),
        Query(hidden=(0,)),
        Query(match="É", case=False),
    ]
    growing = [Selection(store, one) for one in queries]
    everything = []
    for number in range(1500):
        which, kind = dice.choice(((out, "out"), (err, "err")))
        text = f"{kind} l\x1b[1mine\x1b[0m {number}" if number % 5 == 0 else f"{kind} line {number} é"
        which.feed(text + "\n")
        everything.append((which is err, log_text.text(text)))
        if dice.random() < 0.1:
            for one in growing:
                one.extend(dice.randrange(1, 4))
    for one, wanted in zip(growing, queries, strict=True):
        finder = wanted.filter()
        expected = [
            text
            for is_err, text in everything
            if (STDERR if is_err else STDOUT) in wanted.kinds
            and int(is_err) not in wanted.hidden
            and (finder is None or finder.places(text))
        ]
        assert [log_text.text(line) for line in selected(one)] == expected, wanted
        assert one.end == len(expected) and one.behind == 0
        if expected:
            number = one.number(len(expected) // 2)
            assert number is not None and one.place(number) == len(expected) // 2


def test_notes_are_never_filtered_away(store: LogStore) -> None:
    Intake(store, 0, STDOUT).feed("a\nb\n" * 200)
    store.append(0, NOTE, [(b"something is missing", False)])
    assert selected(Selection(store, Query(match="nothing has this"))) == ["something is missing"]
    assert selected(Selection(store, Query(find="missing"), inside=True)) == []


def test_a_pattern_that_is_none_and_one_that_takes_for_ever(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadPattern, match="is no regular expression"):
        Finder("(", True, False)
    with pytest.raises(BadPattern, match="at most 1000 characters"):
        query({"match": "x" * 1001})
    monkeypatch.setattr(log_query, "PATIENCE", 0.3)
    Intake(store, 0, STDOUT).feed(("ab" * 60 + "!\n") * 300)
    hostile = Selection(store, Query(match=r"(a|b|ab)*c", as_regex=True))
    began = time.monotonic()
    shown = selected(hostile)
    # Nothing that could not be looked at is hidden, and nobody waits: one line alone could take for years.
    assert time.monotonic() - began < 30 and (len(shown) == hostile.slow or shown == [])


def test_finding_goes_round(store: LogStore) -> None:
    Intake(store, 0, STDOUT).feed("".join(f"line {number}\n" for number in range(300)))
    view = View(store, Query(match="1", find="line 1"))
    while view.behind:
        view.glance()
    said = view.news({}, always=True)
    assert said is not None and said["found"] == 111
    first = view.find(0, 1)
    assert first["nth"] == 2 and view.find(0, -1)["nth"] == first["count"]
    last = view.find(10**6, 1)
    assert last["nth"] == 1 and last["place"] == 0


def test_a_view_is_told_little_whatever_comes(store: LogStore) -> None:
    view, intake = View(store, Query()), Intake(store, 0, STDOUT)
    intake.feed("x" * 100 + "\n")
    assert view.news({}) is not None and view.news({}) is None
    # Not before the page has drawn the first.
    assert not view.ready() and view.following
    intake.feed(("y" * 1000 + "\n") * 100_000)
    view.heard(1)
    said = view.news({})
    assert said is not None and said["end"] == 100_001
    assert 0 < len(said["rows"]) <= 200 and sum(len(row[4]) for row in said["rows"]) <= 70_000
    assert said["rows"][-1][0] == 100_000
    answer = view.rows(5, 10**6)
    assert len(answer["rows"]) <= 400 and answer["rows"][0][0] == 5


def test_clearing_begins_anew(store: LogStore) -> None:
    intake = Intake(store, 0, STDOUT)
    intake.feed("a\n" * (BLOCK + 3))
    store.clear()
    view = View(store, Query(match="b"))
    intake.feed("b\n")
    view.glance()
    assert lines(store) == ["b"] and store.lines == 1 and store.dropped_lines == 0
    said = view.news({}, always=True)
    assert said is not None and said["end"] - said["first"] == 1
