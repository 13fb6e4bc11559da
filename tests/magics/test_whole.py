"""Whole-notebook mode: which cells go where, decided by their text, and nothing runs here by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from daytona_magics.magics import grammar, register, unregister, whole
from daytona_magics.magics.line_whole import carried
from daytona_magics.magics.parser import parse
from daytona_magics.magics.places import CARRIER, below_on, place, statements

PLACES = {
    "sandbox": [
        "x = 1",
        "!ls",
        "%cd /tmp\n!ls",
        "%pip install x",
        "%%bash\nls",
        "%%time\nx",
        "# note\nx = 1",
        "x = 7 %sandbox",
        "text = '''\n%sandbox ls\n'''",
        "text = '''\n%sandbox ls\n'''\n!ls",
        "f(1,\n%sandbox\n)",
        "%load_ext autoreload",
        "%sandboxes",
        "%%sandbox_\nx",
        "%localx 1",
        "name?",
        "await x",
        "1/0  # %%local",
        "x = 1\n# %%local",
        f"x = '%%{CARRIER}'",
    ],
    "here": ["%%local", "%%local\nx", "# a\n\n%%local\nx", "# %%local\nx", "#%%local\nx", "  %%local\nx"],
    "own": [
        "%sandbox ls",
        "%sandbox",
        "\n%sandbox ls\n# and\n%sandbox info\n",
        "x = %sandbox list",
        "a, b = %sandbox list",
        "%load_ext daytona_magics\n%sandbox off",
        "%reload_ext daytona_magics",
        "%local x = 1\n%sandbox ls",
        "%sandbox?",
        "?%sandbox",
        "%sandbox_git status",
        "%%sandbox\nx",
        "%%sandbox bash\nx",
        "%%sandbox_git\nx",
    ],
    "mixed": [
        "%sandbox ls\nx = 1",
        "x = 1\n%sandbox ls",
        "%sandbox off\n!rm x",
        "if x:\n    %sandbox ls",
        "%local x\nx",
        "!ls\nx = %sandbox list",
        "x = 1\n%%local",
    ],
    "nothing": ["", "\n\n", "# note", "# a\n\n   # b\n"],
}


@pytest.mark.parametrize(
    ("expected", "cell"), [(kind, cell) for kind, cells in PLACES.items() for cell in cells]
)
def test_places(expected: str, cell: str) -> None:
    assert place(cell.splitlines(keepends=True)) == expected


def test_lines_inside_strings_and_brackets_begin_no_statement() -> None:
    cell = "a = [\n%pwd\n]\n'''\n!x\n'''\n%pwd\nx = !ls\n"
    assert statements(cell.splitlines(keepends=True)) == ["a = [\n", "'''\n", "%pwd\n", "x = !ls\n"]


def test_what_stands_below_the_line_that_turns_it_on() -> None:
    assert below_on("%load_ext daytona_magics\n%sandbox on\nx = 1")
    assert not below_on("x = 1\n%sandbox on  # from here on\n\n# and now?\n%sandbox info")


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    made = InteractiveShell()
    register(made)
    yield made
    whole.of(made).stop()
    unregister(made)


@pytest.fixture
def sent(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Cells that went to the sandbox, as (line, body); there is none here."""
    found: list[tuple[str, str]] = []
    kind = shell.magics_manager.magics["cell"]
    monkeypatch.setitem(kind, CARRIER, lambda line, body: found.append((line, body)))
    return found


def test_a_mode_that_is_off_changes_nothing(shell: InteractiveShell, sent: list[Any]) -> None:
    assert shell.run_cell("ran = 1\n%pwd").success
    assert shell.user_ns["ran"] == 1 and not sent


@pytest.mark.parametrize("cell", PLACES["sandbox"])
def test_a_cell_goes_whole_or_not_at_all(shell: InteractiveShell, sent: list[Any], cell: str) -> None:
    whole.of(shell).start("bash -q", tagged=False, quiet=False)
    assert shell.run_cell(cell).success
    assert sent == [("bash -q", cell + "\n")]


@pytest.mark.parametrize("cell", PLACES["mixed"])
def test_a_mixed_cell_is_refused_in_one_sentence(shell: InteractiveShell, sent: list[Any], cell: str) -> None:
    whole.of(shell).start("", tagged=False, quiet=False)
    before = dict(shell.user_ns)
    error = shell.run_cell(cell).error_in_exec
    assert type(error).__name__ == "SandboxUsageError" and "put them into cells of their own" in str(error)
    assert not sent and "x" not in set(shell.user_ns) - set(before)


@pytest.mark.parametrize("cell", [cell for cells in PLACES.values() for cell in cells])
def test_the_transformer_is_pure_and_idempotent(shell: InteractiveShell, cell: str) -> None:
    mode, lines = whole.of(shell), cell.splitlines(keepends=True)
    mode.start("", tagged=False, quiet=True)
    once = mode(list(lines))
    assert mode(list(once)) == once and mode(list(lines)) == once
    assert lines == cell.splitlines(keepends=True)


def test_refusals_of_the_other_transformer_are_shown_and_not_sent(
    shell: InteractiveShell, sent: list[Any]
) -> None:
    whole.of(shell).start("", tagged=False, quiet=True)
    result = shell.run_cell("# %% sandbox\nx = 1")
    assert "nothing was run" in str(result.error_in_exec) and not sent
    # Only such a text itself: one that begins like it is a cell like any other.
    text = next(iter(whole.REFUSALS))
    shell.run_cell(text + "ran = True")
    assert len(sent) == 1 and "ran" not in shell.user_ns


def test_local_cells_are_ordinary_cells_of_this_kernel(shell: InteractiveShell, sent: list[Any]) -> None:
    whole.of(shell).start("", tagged=False, quiet=True)
    result = shell.run_cell("# note\n%%local\nx = 1\nx + 1")
    assert result.result == 2 and not sent
    error = shell.run_cell("%%local\n\n1/0").error_in_exec
    assert error.__traceback__.tb_next.tb_lineno == 3
    assert shell.run_cell("%%local\nimport asyncio\nawait asyncio.sleep(0, 5)").result == 5
    assert shell.run_cell("%local x + 1").result == 2
    assert shell.run_cell("%local y = x + 2\n%local z = y").success and shell.user_ns["z"] == 3
    assert shell.run_cell("%%local\n%%capture out\nprint(x)").success
    assert shell.user_ns["out"].stdout == "1\n" and not sent
    # These hand what they run to the transformers once more.
    assert shell.run_cell("%%local\n%time t = 4").success and shell.user_ns["t"] == 4
    assert shell.run_cell("%local %time t = 6").success and shell.user_ns["t"] == 6
    assert shell.run_cell("%%local\nget_ipython().run_cell('u = 7')").success and shell.user_ns["u"] == 7
    assert not sent and shell.run_cell("v = 8").success and len(sent) == 1
    assert type(shell.run_cell("%local 1/0").error_in_exec) is ZeroDivisionError
    assert "takes nothing behind it" in str(shell.run_cell("%%local bash\nls").error_in_exec)
    assert shell.run_cell("%%local").success and shell.run_cell("%%local  # here").success


def test_local_is_harmless_when_the_mode_is_off(shell: InteractiveShell) -> None:
    assert shell.run_cell("%%local\n41 + 1").result == 42
    assert shell.run_cell("%local 41 + 1").result == 42


def test_the_mode_is_not_lost_by_loading_again(shell: InteractiveShell, capsys: Any) -> None:
    whole.of(shell).start("", tagged=False, quiet=False)
    unregister(shell)
    assert "cells run on this machine until" in capsys.readouterr().out
    assert shell.run_cell("here = 1").success and shell.user_ns["here"] == 1
    register(shell)
    assert "every cell runs in the sandbox again" in capsys.readouterr().out
    shell.magics_manager.magics["cell"][CARRIER] = lambda line, body: None
    assert shell.run_cell("there = 1").success and "there" not in shell.user_ns


def test_options_come_back_as_they_were_typed() -> None:
    command = grammar.BY_NAME["on"]
    line = carried(parse(command, "bash --timeout 5m -e 'A=b c' -e D=1 --cwd '/a b' --tagged"))
    again = parse(grammar.CELL, line)
    assert (again.language, again.timeout, again.env, again.cwd) == ("bash", 300.0, ["A=b c", "D=1"], "/a b")
    assert carried(parse(command, "")) == ""


def tags(shell: Any, monkeypatch: pytest.MonkeyPatch, metadata: Any) -> None:
    monkeypatch.setattr(shell, "get_parent", lambda: {"metadata": metadata}, raising=False)


def test_tags_send_a_cell_and_unseen_tags_refuse_it(
    shell: InteractiveShell, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole.of(shell).start("", tagged=True, quiet=True)
    tags(shell, monkeypatch, {"cellId": "1", "tags": ["sandbox", "other"]})
    assert shell.run_cell("there = 1").success and len(sent) == 1
    for metadata in ({"cellId": "2"}, {"tags": []}, {"tags": ["sandboxes"]}):
        tags(shell, monkeypatch, metadata)
        assert shell.run_cell("here = 1\n%pwd").success and shell.user_ns.pop("here") == 1
    for metadata in ({}, None, {"tags": "sandbox"}, {"deletedCells": []}):
        tags(shell, monkeypatch, metadata)
        error = shell.run_cell("here = 1").error_in_exec
        assert "does not say which tags" in str(error) and "here" not in shell.user_ns
    assert shell.run_cell("%%local\nhere = 1").success and len(sent) == 1


def test_the_whole_help_as_markdown(shell: InteractiveShell) -> None:
    shown = repr(shell.run_cell("%sandbox help --markdown").result)
    assert shown.startswith("# daytona-magics\n") and "## %%sandbox\n" in shown
    assert all(f"## %sandbox {command.name}\n" in shown for command in grammar.VERBS)
    assert "leave out the verb" in str(shell.run_cell("%sandbox help --markdown on").error_in_exec)
