"""What Tab offers in a sandbox cell, and that asking runs nobody's code."""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import time
import types
from typing import Any

import pytest

from daytona_magics.runtime.guest import completing, following


class Effects:
    """Whatever of it is run is written down."""

    run: list[str] = []  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        self.plain = {"inner": [1, "text"]}

    @property
    def computed(self) -> str:
        self.run.append("property")
        return ""

    def method(self, first: int, *, second: int = 2) -> str:
        """A method's documentation."""
        self.run.append("method")
        return ""


class Dynamic:
    def __getattribute__(self, name: str) -> Any:
        Effects.run.append(name)
        return {}

    def __getitem__(self, key: object) -> Any:
        Effects.run.append("item")
        return {}


@pytest.fixture
def names() -> dict[str, Any]:
    Effects.run.clear()
    return {
        "value": 1,
        "_private": 2,
        "table": {"alpha": 1, "be ta": 2, "qu'ote": 3, 4: 5, ("t",): 6},
        "effects": Effects(),
        "dynamic": Dynamic(),
        "text": "abc",
        "os": os,
        "pair": collections.namedtuple("Pair", "left right")(1, {"deep": 2}),
    }


def offered(names: dict[str, Any], text: str, code: str | None = None) -> list[str]:
    start, matches = completing.completions(names, ["cd", "timeit", "%time"], code or text, len(text))
    assert all(match[0].startswith(text[start:]) for match in matches)
    return [match[0] for match in matches]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val", ["value"]),
        ("x = val", ["value"]),
        ("# note\nfor v in val", ["value"]),
        ("_pri", ["_private"]),
        ("text.upp", ["upper"]),
        ("'a b'.upp", ["upper"]),
        ("os.path.joi", ["join"]),
        ("print(os . path . joi", ["join"]),
        ("table['al", ["alpha"]),
        ('table["', ["alpha", "be ta", "qu'ote"]),
        ("table['", ["alpha", "be ta"]),
        ("table['alpha'].bit_l", ["bit_length"]),
        ("effects.plain['inner'][1].upp", ["upper"]),
        ("pair.right['de", ["deep"]),
        ("effects.meth", ["method"]),
        ("effects.method(fi", ["first="]),
        ("effects.method(1, se", ["second="]),
        ("import jso", ["json"]),
        ("import os, jso", ["json"]),
        ("from xml.et", ["etree"]),
        ("from os.path import joi", ["join"]),
        ("from os import (getcw", ["getcwd", "getcwdb"]),
        ("%ti", ["timeit"]),
        ("%%ti", ["time"]),
        ("later = 1\nlat", ["later"]),
        ("def helper(): pass\nhelp", ["helper"]),
        ("nonloc", ["nonlocal"]),
        ("# comment val", ["value"]),
    ],
)
def test_offers(names: dict[str, Any], text: str, expected: list[str]) -> None:
    assert offered(names, text)[: len(expected)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "effects.computed.",
        "dynamic.",
        "dynamic.x.",
        "dynamic['k'].",
        "effects.method().",
        "nothing.",
        "f().x.",
    ],
)
def test_asking_runs_nothing(names: dict[str, Any], text: str) -> None:
    offered(names, text)
    # dir() reads the class of an object whose attributes are computed, as it must to see it at all.
    assert set(Effects.run) <= {"__class__", "__dict__"}


def test_the_guard_is_what_keeps_it_from_running(names: dict[str, Any]) -> None:
    """The control: followed by eval, as many completers do, the same text runs the property."""
    eval("effects.computed", dict(names))
    assert Effects.run == ["property"]


def test_private_names_are_offered_only_when_asked_for(names: dict[str, Any]) -> None:
    assert "_private" not in offered(names, "x = ")
    assert not [name for name in offered(names, "text.") if name.startswith("_")]
    assert "__len__" in offered(names, "text.__")


def test_paths(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> None:
    (tmp_path / "data.csv").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / ".hidden").touch()
    (tmp_path / "ev\x1b[2Jil").touch()
    monkeypatch.chdir(tmp_path)
    assert offered(names, "open('d") == ["data.csv", "dir/"]
    assert offered(names, "open('") == ["data.csv", "dir/"]
    assert offered(names, f"!cat {tmp_path}/da") == [f"{tmp_path}/data.csv"]
    assert offered(names, "%cd di") == ["dir/"]
    assert offered(names, "open('.h") == [".hidden"]


def test_strings_and_calls_are_told_apart() -> None:
    assert following.open_string("f('a', \"b") == (8, '"')
    assert following.open_string("'''a\n'b' ") == (3, "'''")
    assert following.open_string("'a\nb") is None
    assert following.open_string("# don't\nx") is None
    assert following.open_string(r"'it\'s") == (1, "'")
    assert following.open_call("f(g(1), [2, ") == ""
    assert following.open_call("a.b(x=(1, 2), ") == "a.b"


def test_a_flood_of_names_is_cut(names: dict[str, Any]) -> None:
    many = types.SimpleNamespace(**{f"name{number}": 1 for number in range(20_000)})
    started = time.monotonic()
    assert len(offered({"many": many}, "many.")) == completing.MOST
    assert not offered({"x" * 1000: 1}, "xx")
    assert time.monotonic() - started < 30


def ask(names: dict[str, Any], text: str, kind: str = "complete") -> dict[str, Any]:
    query = {"kind": kind, "code": text, "cursor": len(text), "detail": False, "number": 7}
    found: dict[str, Any] = json.loads(completing.answer(names, object(), query))
    return found


class Endless:
    def __dir__(self) -> list[str]:
        while True:
            pass


class Sleeping:
    def __dir__(self) -> list[str]:
        time.sleep(1000)
        return []


class Raising:
    def __dir__(self) -> list[str]:
        raise SystemExit


@pytest.mark.parametrize("kind", [Endless, Sleeping, Raising])
def test_what_takes_too_long_is_ended(kind: type) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert ask({"x": kind()}, "x.") == {"number": 7}
    assert signal.getsignal(signal.SIGINT) is before
    assert ask({"x": 1}, "x.bit_l")["matches"] == [["bit_length", "function"]]


def test_no_interrupt_comes_after_an_answer_in_time() -> None:
    for _ in range(20):
        ask({"x": 1}, "x.")
    time.sleep(completing.WITHIN * 2)


def test_documentation_of_a_name_and_of_the_call_around_it(names: dict[str, Any]) -> None:
    for text in ("effects.method", "effects.method(1, ", "x = effects.method"):
        found = ask(names, text, "inspect")
        assert found["name"] == "effects.method" and "A method's documentation." in found["text"]
        assert "(first: " in found["text"]
    assert ask(names, "effects.computed", "inspect") == {"number": 7} and not Effects.run
    assert len(ask({"x": "y" * 10**6}, "x", "inspect")["text"]) <= completing.DOC


def test_jedi_helps_where_it_is_there(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jedi")
    monkeypatch.setattr(completing, "_jedi", [])
    text = "import json as module\nmodule.lo"
    assert ask(names, text)["matches"] == []
    until = time.monotonic() + 60
    while not completing._jedi and time.monotonic() < until:
        time.sleep(0.05)
    assert [match[0] for match in completing.completions(names, [], text, len(text))[1]] == ["load", "loads"]
    # It does not read properties, nor objects that answer by code of their own.
    for text in ("y = effects.computed\ny.", "y = dynamic.x\ny.", "dynamic.x."):
        completing.completions(names, [], text, len(text))
    assert not Effects.run
    assert sys.modules["jedi"]
