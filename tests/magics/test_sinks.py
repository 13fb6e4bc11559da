"""Names and messages of a sandbox reach a terminal through cards, tables, notes and errors: as text only."""

from __future__ import annotations

import json
import re

import pytest

from daytona_magics.errors import (
    CellTimeout,
    RemoteError,
    SandboxError,
    SandboxInterrupted,
    SandboxUsageError,
    printable,
)
from daytona_magics.notebook.card import Card, Table
from daytona_magics.notebook.status import StatusLine, note

HOSTILE = "a\x1b]52;c;AA\x07\x9b2J\rb\x00\u202ec\ud800"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]")


def harmless(text: str) -> bool:
    """No control character but our own colours."""
    json.dumps(text, ensure_ascii=False).encode()
    return not ACTS.search(re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_printable_keeps_text() -> None:
    assert printable("é 😀\n\tx") == "é 😀\n\tx"
    assert printable("a\nb", line=True) == "a b"
    assert ACTS.search(HOSTILE) and harmless(printable(HOSTILE))


def test_cards_and_tables() -> None:
    card = Card(HOSTILE, [("name", HOSTILE + "\nforged  line")], HOSTILE, [HOSTILE])
    table = Table(("name", "state"), [(HOSTILE + "\nforged", HOSTILE)], [1], foot=HOSTILE)
    empty = Table(("name",), [], empty=HOSTILE)
    for shown in (card, table, empty):
        assert harmless(repr(shown)) and harmless(shown._repr_html_())
    assert len(repr(card).splitlines()) == 3 and len(repr(table).splitlines()) == 3


def test_notes_and_the_status_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note(HOSTILE)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    StatusLine().show(HOSTILE + "\nx")
    shown = capsys.readouterr()
    assert harmless(shown.out) and harmless(shown.err.replace("\r\x1b[K", "", 1))
    assert "a" in shown.out and "\n" not in shown.err


@pytest.mark.parametrize(
    "error",
    [
        SandboxError(HOSTILE, hint=HOSTILE),
        SandboxUsageError(HOSTILE, hint=HOSTILE),
        CellTimeout(HOSTILE, hint=HOSTILE),
        RemoteError.of("ValueError", HOSTILE),
        SandboxInterrupted(HOSTILE),
    ],
)
def test_errors(error: BaseException) -> None:
    drawn = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert harmless(drawn) and "a\ufffd]52" in drawn
    if isinstance(error, SandboxError | SandboxUsageError):
        assert harmless(str(error))
