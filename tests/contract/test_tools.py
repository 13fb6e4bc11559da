"""What holds the engine to the contract finds what is wrong: the controls of the other tests here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract import methods, walk
from tests.contract.check import problems, through_models, with_models
from tests.contract.facts import as_json, facts, load
from tests.contract.reach import generated, reached
from tests.contract.record import exchange, template

FACTS = load()


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ({"a": "x"}, {"a!": "string", "b": "integer"}, []),
        ({"a": None}, {"a!": "string?"}, []),
        ({"b": None}, {"b": "integer"}, []),
        ({}, {"a!": "string"}, [".a: missing"]),
        ({"a": None}, {"a!": "string"}, [".a: missing"]),
        ({"a": 1}, {"a!": "string"}, [".a: 1 is no string"]),
        ({"a": True}, {"a": "number"}, [".a: True is no number"]),
        ({"a": 1}, {"a": "boolean"}, [".a: 1 is no boolean"]),
        ({"c": 1}, {"a": "string"}, [".c: not described"]),
        ([{"a": 1}], ["any"], []),
        ([1, "x"], "[integer]", ["[]: 'x' is no integer"]),
        ({"k": 1}, "{string}", ["[]: 1 is no string"]),
        ("c", "=a|b", [": 'c' is not among the values"]),
        (["c"], "[Word]", ["[]: 'c' is not among the values"]),
        ("x", {"a": "string"}, [": 'x' is no object"]),
    ],
)
def test_what_differs_from_its_description_is_found(value: Any, kind: Any, found: list[str]) -> None:
    assert problems(value, kind, {"Word": "=a|b"}) == found


def test_what_the_models_do_not_know_or_lose_is_found() -> None:
    right = {"name": "f", "isDir": False, "size": 1, "mode": "-", "permissions": "0644"}
    right |= {"owner": "daytona", "group": "daytona", "modTime": "now", "modifiedAt": "now"}
    described = with_models(FACTS["toolbox"]["schemas"], "toolbox")["FileInfo"]
    right = {name: right[name] for name in right if name in {field.rstrip("!") for field in described}}
    assert through_models([right], "[FileInfo]", "toolbox") == []
    for wrong in ({"size": "1"}, {"isDir": "no"}):
        assert through_models([right | wrong], "[FileInfo]", "toolbox")
    limits = {"cols": 1, "rows": 1}
    assert through_models(limits | {"cols": "1"}, "PtyResizeRequest", "toolbox")
    swallowed = through_models({"code": "NEW_ONE", "message": "m", "path": "/"}, "ErrorResponse", "toolbox")
    assert swallowed, "a value that the model's enumeration lacks is told"


def test_the_facts_are_the_sdks_too() -> None:
    """Where both know an operation they mean the same; what only the SDK has is in ``drift.toml``."""
    for area, operations in reached().items():
        assert len(operations) > 50
        for operation in operations:
            assert all(client in where for where, client in _both(operations[operation])), operation
        described = {template(o, set(FACTS[area]["operations"])) for o in operations}
        assert len(described - {None}) > 0.9 * len(operations)
    assert "POST /sandbox" in reached()["api"] and "POST /process/execute" in reached()["toolbox"]
    # Not everything that is generated is reached.
    assert set(generated("daytona_api_client").values()) - set(reached()["api"])


def _both(modules: frozenset[str]) -> list[tuple[str, str]]:
    """Each flavour's modules as one text, with the flavour that must be in it."""
    text = " ".join(sorted(modules))
    return [(text, "_sync/"), (text, "_async/")]


def test_a_new_method_and_a_new_class_of_the_sdk_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    from daytona._sync.git import Git
    from daytona.common import volume

    assert methods.unknown_classes() == set() and "Git.rebase" not in methods.public_methods()
    monkeypatch.setattr(Git, "rebase", lambda self: None, raising=False)
    assert methods.public_methods()["Git.rebase"] == {"sync"}
    novelty = type("Novelty", (), {"ask": lambda self: None, "__module__": volume.__name__})
    monkeypatch.setattr(volume, "Novelty", novelty, raising=False)
    assert methods.unknown_classes() == {"Novelty"}


async def test_a_scenario_that_does_not_call_or_does_not_hold_fails(tmp_path: Path) -> None:
    w: Any = walk.Walk("sync", None, tmp_path)  # type: ignore[arg-type]

    async def idle(_: walk.Walk) -> None:
        """nothing"""

    async def wrong(_: walk.Walk) -> None:
        """nothing"""
        raise AssertionError("no effect")

    await walk._run(w, ("Git.add",), idle)
    await walk._run(w, ("Git.pull",), wrong)
    await walk._run(w, ("Daytona.close",), idle)  # only the other flavour has it
    assert w.outcomes["Git.add"] == walk.Outcome("FAILED", "idle did not call it")
    assert w.outcomes["Git.pull"].result == "FAILED" and "no effect" in w.outcomes["Git.pull"].why
    assert "Daytona.close" not in w.outcomes
    assert len(walk.failures({"sync": w.outcomes})) == 2


def test_exchanges_are_told_apart() -> None:
    known = {"GET /a/{x}", "GET /a/b", "POST /a/{x}"}
    assert template("GET /a/b", known) == "GET /a/b"
    assert template("GET /a/c", known) == "GET /a/{x}"
    assert template("DELETE /a/c", known) is None
    heard = exchange("GET", "http://x/toolbox/id/files?path=a", 200, "application/json", b"[1]")
    assert (heard.area, heard.operation, heard.body) == ("toolbox", "GET /files", [1])
    assert exchange("GET", "http://x/api/sandbox", 200, "text/plain", b"x").body is ...


def test_facts_of_a_document() -> None:
    document = {
        "paths": {
            "/a/{x}": {
                "get": {
                    "parameters": [{"name": "q", "in": "query", "required": True}],
                    "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/c/s/A"}}}}},
                }
            },
            "/other": {"get": {"responses": {}}},
        },
        "components": {
            "schemas": {
                "A": {
                    "required": ["n"],
                    "properties": {
                        "n": {"type": "string", "nullable": True},
                        "l": {"type": "array", "items": {"$ref": "#/c/s/B"}},
                        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
                    },
                },
                "B": {"enum": ["x", "y"]},
                "Unused": {"type": "string"},
            }
        },
    }
    import re

    made = facts(document, re.compile("/a/"))
    assert made == {
        "operations": {"GET /a/{x}": {"query": ["q!"], "responses": {"200": "A"}}},
        "schemas": {"A": {"n!": "string?", "l": "[B]", "m": "{integer}"}, "B": "=x|y"},
    }
    assert json.loads(as_json({"api": made})) == {"api": made}
