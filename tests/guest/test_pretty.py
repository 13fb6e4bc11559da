"""Values as text: the same as IPython's own printer writes, for very many values."""

from __future__ import annotations

import collections
import os
import random
import re
import types
from typing import Any

from IPython.lib.pretty import pretty as in_a_notebook

from daytona_magics.runtime.guest.pretty import pretty

VALUES: list[Any] = [
    list(range(40)),
    list(range(2000)),
    {n: n for n in range(1500)},
    {f"key {n}": "x" * 20 for n in range(12)},
    {"a": [{"b": {"c": [1, 2, {"d": None}]}}], "e": ("x" * 50, "y" * 50)},
    set(range(100)),
    frozenset([2, 1]),
    [[], {}, (), set(), frozenset()],
    (1,),
    collections.Counter("abracadabra" * 3),
    collections.defaultdict(list, {"a": ["x" * 50], "b": ["y" * 50]}),
    collections.deque(range(40), maxlen=50),
    collections.OrderedDict([("a", "x" * 50), ("b", "y" * 50)]),
    collections.UserList([1]),
    types.SimpleNamespace(a=1, b="x" * 50, c=["y" * 50]),
    types.MappingProxyType({"a": 1}),
    re.compile("a+", re.I),
    ValueError("x", 3),
    [len, int, ValueError, print, "x".join, os.environ.__class__],
    range(4),
    slice(1, 2),
    lambda x: 1,
]


def _some(depth: int, dice: random.Random) -> Any:
    kind = dice.random()
    if not depth or kind < 0.3:
        return dice.choice([1, "abc" * dice.randint(0, 12), None, 2.5, b"xy", True])
    several = [_some(depth - 1, dice) for _ in range(dice.randint(0, 6))]
    if kind < 0.5:
        return several
    if kind < 0.7:
        return tuple(several)
    if kind < 0.9:
        return {dice.choice("abcdefgh") * dice.randint(1, 20): one for one in several}
    return collections.deque(several)


def test_values_are_written_as_in_a_notebook() -> None:
    dice = random.Random(5)
    for value in [*VALUES, *(_some(5, dice) for _ in range(500))]:
        assert pretty(value) == in_a_notebook(value)


def test_what_contains_itself_ends() -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    assert pretty(inner) == "[1, [...]]"


def test_own_methods_draw_through_the_printer() -> None:
    class Own:
        def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
            with printer.group(1, "<", ">"):
                printer.text("own")
                printer.breakable()
                printer.pretty([1, 2])

    assert pretty([Own()]) == in_a_notebook([Own()]) == "[<own [1, 2]>]"
