"""Where a cursor is, and what is believed of a sandbox's answer about it."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from daytona_magics import sandboxes
from daytona_magics.errors import ProtocolError
from daytona_magics.magics import register, unregister, whole
from daytona_magics.magics.inside import Place, asked, place_of
from daytona_magics.notebook import inspection
from daytona_magics.runtime import looking


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    made = InteractiveShell()
    register(made)
    yield made
    whole.of(made).stop()
    unregister(made)


def found(shell: Any, marked: str) -> tuple[str, int, str] | None:
    """The place of ``|`` in a cell."""
    cursor = marked.index("|")
    place = place_of(shell, marked.replace("|", ""), cursor)
    return None if place is None else (place.code, place.cursor, place.language)


def test_bodies_of_sandbox_cells(shell: InteractiveShell) -> None:
    assert found(shell, "%%sandbox\nab|c") == ("abc", 2, "python")
    assert found(shell, "# note\n\n%%sandbox bash -q\nx\n|") == ("x\n", 2, "bash")
    assert found(shell, "# %%sandbox\nx|") == ("x", 1, "python")
    assert found(shell, "%%sandbox --interpreter 'ruby -'\nx|") == ("x", 1, "program")
    assert found(shell, "%%sandbox --fresh\nx|") == ("x", 1, "fresh")
    assert found(shell, "%%sandbox --nonsense\nx|") == ("x", 1, "")
    for here in (
        "%%sand|box\nx",
        "x|\n%%sandbox\ny",
        "ab|c",
        "%%bash\nx|",
        "%%sandbox_git\nx|",
        "x\n# %%sandbox\ny|",
    ):
        assert found(shell, here) is None, here


def test_cells_of_whole_notebook_mode(shell: InteractiveShell) -> None:
    whole.of(shell).start("bash --context lab", tagged=False, quiet=True)
    assert found(shell, "ab|c") == ("abc", 2, "bash")
    place = place_of(shell, "x", 1)
    assert place is not None and place.context == "lab"
    for here in ("%%local\nx|", "# %%local\nx|", "%sandbox ls|"):
        assert found(shell, here) is None, here
    whole.of(shell).stop()
    assert found(shell, "ab|c") is None


def test_names_of_this_machine_are_not_offered_in_a_sandbox_cell(shell: InteractiveShell) -> None:
    shell.user_ns["secret_of_this_machine"] = 1
    typed = "secret_of_th"
    with provisionalcompleter():
        for before, expected in (("", "secret_of_this_machine"), ("%%sandbox\n", typed)):
            found = shell.Completer.completions(before + typed, len(before + typed))
            assert {completion.text for completion in found} == {expected}


ATTACKS = {
    "line end": ["na\n%%local\nimport os", "x"],
    "escape": ["na\x1b]0;x\x07", "x"],
    "reordering": ["na\u202eme", "x"],
    "something else": ["__import__('os').system('x')", "x"],
    "endless": ["na" + "m" * 10**6, "x"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_match_only_goes_on_with_what_was_typed(attack: str) -> None:
    reply = {"start": 0, "matches": [ATTACKS[attack], ["name", "in\x1bstance"]]}
    assert looking.checked(reply, "na") == looking.Matches("na", [("name", "")])


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"start": 0},
        {"start": 0, "matches": {}},
        {"start": -1, "matches": []},
        {"start": 99, "matches": []},
        {"start": True, "matches": []},
        {"start": 0, "matches": [["a", 1]]},
        {"start": 0, "matches": ["ab"]},
        {"start": 0, "matches": [["a", "b"]] * (looking.MOST + 1)},
    ],
)
def test_other_answers_are_refused(reply: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        looking.checked(reply, "na")


def test_an_answer_cannot_reach_into_lines_above() -> None:
    with pytest.raises(ProtocolError):
        looking.checked({"start": 0, "matches": []}, "first\nna")


def test_known_names_are_offered_while_the_sandbox_is_busy() -> None:
    names = looking.Names()
    names.remember("box", looking.Matches("va", [("value", "instance"), ("vars", "class")]), "va")
    names.remember("box", looking.Matches("va", [("vanish", "function")]), "obj.va")
    assert names.recall("box", "x = va").found == [("value", "instance"), ("vars", "class")]
    assert names.recall("box", "obj.va").found == names.recall("other", "va").found == []
    flood = looking.Matches("", [(f"n{number}", "") for number in range(looking.REMEMBERED * 2)])
    names.remember("box", flood, "")
    assert len(names.recall("box", "n").found) <= looking.REMEMBERED


class OneKernel:
    def do_inspect(self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()) -> Any:
        return {"found": True, "data": {"text/plain": "here"}}


def test_the_cover_over_inspection_can_be_taken_off() -> None:
    kernel = OneKernel()
    asked = []

    def ask(code: str, cursor: int, detail: bool) -> str | None:
        asked.append((code, cursor, detail))
        return {"there": "doc\x1b]52;c;eA==\x07", "none": ""}.get(code)

    assert inspection.cover(kernel, ask) and inspection.cover(kernel, ask)
    there = kernel.do_inspect("there", 5, 1)
    assert there["data"] == {"text/plain": "doc"} and there["found"] and asked == [("there", 5, True)]
    assert kernel.do_inspect("none", 1)["found"] is False
    assert kernel.do_inspect("x", 1, omit_sections=())["data"] == {"text/plain": "here"}
    inspection.uncover(kernel)
    inspection.uncover(kernel)
    assert kernel.do_inspect("there", 5)["data"] == {"text/plain": "here"}
    assert not inspection.cover(object(), ask)


def test_a_sandbox_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = types.SimpleNamespace(closed=False)
    tie = types.SimpleNamespace(gone=False, channel=channel, context="main")
    monkeypatch.setattr(sandboxes, "bound", lambda: tie)
    cancelled: list[bool] = []

    async def never(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def broken(*_: Any) -> None:
        raise ProtocolError("no")

    started = time.monotonic()
    assert asked(Place("x", 1, "python"), never) is None
    assert time.monotonic() - started < 30
    assert asked(Place("x", 1, "python"), broken) is None
    until = time.monotonic() + 60
    while not cancelled and time.monotonic() < until:
        time.sleep(0.01)
    assert cancelled
    tie.gone = True
    assert asked(Place("x", 1, "python"), never) is None and len(cancelled) == 1
