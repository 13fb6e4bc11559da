"""Which ports an output says something is served on."""

from __future__ import annotations

import time

import pytest

from daytona_magics.notebook.offers import LINES, MOST, Offers, hint, port_of


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("Serving HTTP on 0.0.0.0 port 8000 (http://0.0.0.0:8000/) ...", 8000),
        (" * Running on http://127.0.0.1:5000", 5000),
        ("  ➜  Local:   http://localhost:\x1b[1m5173\x1b[22m/", 5173),
        ("INFO:     Uvicorn running on http://127.0.0.1:8001 (Press CTRL+C to quit)", 8001),
        ("[2026-01-01 10:00:00 +0000] [7] [INFO] Listening at: http://127.0.0.1:8002 (7)", 8002),
        ("   - Local:        http://localhost:3000", 3000),
        ("Example app listening on port 3001", 3001),
        ("Listening on :8080", 8080),
        ("server started on 0.0.0.0:9000", 9000),
        ("http://[::]:7000/lab", 7000),
        ("http://localhost:99999/", 0),
        ("http://localhost:0/", 0),
        ("https://example.org:8443/", 0),
        ("http://localhost.example.org:8443/", 0),
        ("ConnectionError: http://localhost:8000 refused", 0),
        ("curl http://localhost:8000", 0),
        ('127.0.0.1 - - "GET http://localhost:8000/ HTTP/1.1"', 0),
        ("listening", 0),
        ("running since 10:30:15", 0),
        ("running tests/test_a.py:120", 0),
        ("", 0),
    ],
)
def test_lines_of_programs(line: str, port: int) -> None:
    assert port_of(line) == port


@pytest.mark.parametrize("at", range(1, 24))
def test_pieces_may_be_cut_anywhere(at: int) -> None:
    text, offers = "x\nhttp://localhost:5173/\n", Offers()
    assert offers.seen("out", text[:at]) + offers.seen("out", text[at:]) == [5173]
    assert offers.seen("out", text) == [], "a port is offered once"


def test_streams_do_not_mix() -> None:
    offers = Offers()
    assert offers.seen("out", "http://localhost:51") == offers.seen("err", "73/\n") == []
    assert offers.seen("out", "74/\n") == [5174]


def test_a_hostile_output_gets_a_few_numbers_and_no_time() -> None:
    offers = Offers()
    flood = "".join(f"http://localhost:{port}/`%sandbox delete`<b>\n" for port in range(1000, 60000))
    found = offers.seen("out", flood)
    assert found == [1000, 1001, 1002] and len(found) == MOST
    assert "delete" not in hint(found[0]) and "<" not in hint(found[0])
    # Lines that take long to read, and one without an end: what is looked at is bounded.
    offers, began = Offers(), time.process_time()
    for _ in range(2 * LINES):
        assert offers.seen("out", ("listening " * 10_000) + "\n") == []
    assert offers._left <= 0
    offers = Offers()
    for _ in range(1000):
        offers.seen("out", "listening on " * 1000)
    assert len(offers._open["out"]) < 1000
    assert time.process_time() - began < 60
