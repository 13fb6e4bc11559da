"""Completion comes from the grammar, offers what may follow, and starts nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from daytona_magics.magics import completion, grammar
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
    assert texts("%sandbox st") == ["status", "start", "stop", "stat"]
    assert texts("%sandbox ") == [command.name for command in grammar.VERBS]
    assert texts("box = %sandbox cre") == ["create"]


def test_options_and_choices() -> None:
    assert texts("%%sandbox ") == [*LANGUAGES, *CELL_VERBS]
    assert texts("%%sandbox b") == ["bash"]
    assert texts("%%sandbox writefile --ap") == ["--append"]
    assert texts("%%sandbox --ti") == ["--timeout"]
    assert texts("%sandbox create --auto-") == ["--auto-stop", "--auto-delete"]
    assert texts("%sandbox create --language ty") == ["typescript"]
    assert texts("%sandbox help st") == ["status", "start", "stop", "stat"]
    assert texts("%sandbox list --state s") == ["started", "stopped"]
    assert "auto_stop=" in texts("%sandbox config auto")


def test_an_option_that_was_given_is_not_offered_again_unless_it_repeats() -> None:
    assert "--timeout" not in texts("%%sandbox --timeout 5 --")
    assert "--env" in texts("%%sandbox -e A=1 --")


def test_values_of_options_are_not_taken_for_arguments() -> None:
    assert texts("%%sandbox --timeout 5 ") == list(LANGUAGES)
    assert texts("%%sandbox bash ") == []


def test_git_verbs() -> None:
    assert texts("%sandbox_git st") == ["status"]
    assert texts("%%sandbox_git comm") == ["commit"]
    assert texts("found = %sandbox_git diff --sta") == ["--staged", "--stat"]
    assert texts("%sandbox_git help pu") == ["pull", "push"]
    assert texts("%sandbox_git remote a") == ["add"]


@pytest.mark.parametrize(
    "command",
    [*grammar.VERBS, *grammar.GIT_VERBS],
    ids=lambda command: f"{command.magic} {command.name}",
)
def test_every_option_of_every_verb_is_offered(command: grammar.Command) -> None:
    offered = texts(f"%{command.magic} {command.name} -")
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


class SlowEndpoint:
    """A bound sandbox whose endpoint answers when it is let."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.gate, self.asked = names, threading.Event(), 0
        self.client = self
        self.sandbox = SimpleNamespace(id="box", fs=self, get_user_home_dir=self._home)

    async def _home(self) -> str:
        return "/home/x"

    async def list_files(self, path: str) -> list[SimpleNamespace]:
        self.asked += 1
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        return [SimpleNamespace(name=name, is_dir=False) for name in self.names]


def test_an_answer_that_comes_late_is_offered_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from daytona_magics import sandboxes

    slow = SlowEndpoint(["late.txt", "two words", ".hidden", "ev\x1b[2Jil", "li\nne", "l" * 400])
    monkeypatch.setattr(sandboxes, "bound", lambda: slow)
    monkeypatch.setattr(completion, "_known", {})
    assert texts("%sandbox cat la") == [] and texts("%sandbox cat la") == []
    assert slow.asked == 1
    slow.gate.set()
    until = time.monotonic() + 60
    while texts("%sandbox cat la") != ["late.txt"] and time.monotonic() < until:
        time.sleep(0.01)
    slow.gate.clear()
    assert texts("%sandbox cat la") == ["late.txt"]
    assert texts("%sandbox cat ") == ["late.txt", "two\\ words"]
    slow.gate.set()


def test_a_folder_of_very_many_files_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from daytona_magics import sandboxes

    many = SlowEndpoint([f"n{number:06}" for number in range(20_000)])
    many.gate.set()
    monkeypatch.setattr(sandboxes, "bound", lambda: many)
    monkeypatch.setattr(completion, "_known", {})
    until = time.monotonic() + 60
    while len(texts("%sandbox cat ~/n")) != completion.MOST and time.monotonic() < until:
        time.sleep(0.01)
    assert len(texts("%sandbox cat ~/n")) == completion.MOST
    while texts("%sandbox cat ~/n01999") == [] and time.monotonic() < until:
        time.sleep(0.01)
    assert texts("%sandbox cat ~/n01999") == [f"~/n01999{digit}" for digit in range(10)]
