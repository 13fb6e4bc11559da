"""Completion comes from the grammar, offers what may follow, and starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from daytona_magics.magics import grammar
from daytona_magics.magics.completion import candidates
from daytona_magics.magics.grammar.cell import CELL_VERBS, LANGUAGES


def texts(line: str) -> list[str]:
    found = candidates(line)
    assert found is not None
    return [text for text, _ in found[1]]


def test_other_lines_are_left_alone() -> None:
    for line in ("print(", "%sandboxes x", "sandbox st", "# %sandbox", "%%bash --", "%sandbox"):
        assert candidates(line) is None


def test_verbs() -> None:
    assert texts("%sandbox st") == ["start", "stop", "stat"]
    assert texts("%sandbox ") == [command.name for command in grammar.VERBS]
    assert texts("box = %sandbox cre") == ["create"]


def test_options_and_choices() -> None:
    assert texts("%%sandbox ") == [*LANGUAGES, *CELL_VERBS]
    assert texts("%%sandbox b") == ["bash"]
    assert texts("%%sandbox writefile --ap") == ["--append"]
    assert texts("%%sandbox --ti") == ["--timeout"]
    assert texts("%sandbox create --auto-") == ["--auto-stop", "--auto-delete"]
    assert texts("%sandbox create --language ty") == ["typescript"]
    assert texts("%sandbox help st") == ["start", "stop", "stat"]
    assert texts("%sandbox list --state s") == ["started", "stopped"]
    assert "auto_stop=" in texts("%sandbox config auto")


def test_an_option_that_was_given_is_not_offered_again_unless_it_repeats() -> None:
    assert "--timeout" not in texts("%%sandbox --timeout 5 --")
    assert "--env" in texts("%%sandbox -e A=1 --")


def test_values_of_options_are_not_taken_for_arguments() -> None:
    assert texts("%%sandbox --timeout 5 ") == list(LANGUAGES)
    assert texts("%%sandbox bash ") == []


@pytest.mark.parametrize("command", grammar.VERBS, ids=lambda command: command.name)
def test_every_option_of_every_verb_is_offered(command: grammar.Command) -> None:
    offered = texts(f"%sandbox {command.name} -")
    assert {flag for option in command.options for flag in option.flags} | {"--help"} == set(offered)


def test_host_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DM_TEST_VARIABLE", "x")
    assert texts("%%sandbox -e DM_TEST_VAR") == ["DM_TEST_VARIABLE"]


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data one.csv").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert texts("%sandbox upload d") == ["data\\ one.csv", "dir/"]
    assert texts(f"%sandbox upload {tmp_path}/di") == [f"{tmp_path}/dir/"]
    assert texts("%sandbox upload .h") == [".hidden"]


def test_remote_values_start_nothing() -> None:
    from daytona_magics import sandboxes

    assert texts("%sandbox use ") == []
    assert texts("%sandbox cat /") == []
    assert sandboxes.bound() is None or sandboxes.bound().client is None
