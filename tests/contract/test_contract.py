"""The engine beside the platform's published API and the SDK: nothing is missing, nothing looks different.

One engine hears every public method of the SDK (:mod:`tests.contract.walk`) and every operation that no
method reaches; what it answered is held to the facts of the API and parsed by the SDK's models. It is the
engine's own choice of level here, and every other in ``test_columns.py``.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from daytona import Daytona
from daytona.common.errors import CODE_TO_ERROR

from daytona_magics.engine import server
from tests.contract import methods, walk
from tests.contract.check import problems, through_models, with_models
from tests.contract.facts import load
from tests.contract.raw import as_text, ask_the_rest, filled, raw
from tests.contract.reach import reached
from tests.contract.record import Exchange, recording, template
from tests.contract.walk import isolation
from tests.engine_process import IsolatedEngine, isolated_engine

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)

import tomllib

# The first of them waits for the whole walk.
pytestmark = pytest.mark.timeout(400)

#: The level at which the engine shall run; without it that is the engine's choice.
LEVEL = os.environ.get("CONTRACT_LEVEL", "")
COVERAGE = Path(__file__).parents[1] / "coverage"
DIFFERENCES = tomllib.loads(Path(__file__).with_name("differences.toml").read_text())["difference"]
CONTRACT = tomllib.loads((COVERAGE / "contract.toml").read_text())
DRIFT = tomllib.loads((COVERAGE / "drift.toml").read_text())["engine"]
FACTS = load()
AREAS = ("api", "toolbox")
SCHEMAS = {area: with_models(FACTS[area]["schemas"], area) for area in AREAS}

#: The only families that may be refused.
ALLOWED = {
    "images",
    "snapshots",
    "volumes",
    "secrets",
    "desktop",
    "language servers",
    "SSH",
    "GPU",
    "Windows",
    "Android",
    "spot",
    "KVM",
    "memory snapshots",
    "private registries",
    "warm pools",
    "object-storage push",
}


def wanted(area: str) -> set[str]:
    """Operations that must be served or refused: the toolbox's all, and what the SDK reaches."""
    return set(reached()[area]) | (set(FACTS["toolbox"]["operations"]) if area == "toolbox" else set())


def known(area: str) -> set[str]:
    """Operations with their templates, of the published API and of the SDK."""
    return set(FACTS[area]["operations"]) | set(reached()[area])


def refused(area: str) -> dict[str, tuple[int, str]]:
    """Refused operations with their statuses and sentences, as ``contract.toml`` lists them."""
    found = {}
    for entry in CONTRACT["refused"]:
        for name in entry.get(area, ()):
            # A name that ends with a slash is all operations below that path.
            matching = [o for o in known(area) if o == name or (name[-1] == "/" and f" {name}" in o)]
            found |= dict.fromkeys(matching or [name], (entry.get("status", 501), entry["reason"]))
    return found


@dataclass
class Walked:
    """A run of everything against one engine."""

    engine: IsolatedEngine
    outcomes: dict[str, dict[str, walk.Outcome]]
    heard: list[Exchange]

    def operations(self, area: str, *, succeeded: bool) -> set[str]:
        """Templates of the operations that were asked."""
        return {
            found
            for one in self.heard
            if one.area == area and (one.status < 400) == succeeded
            if (found := template(one.operation, known(area)))
        }


@pytest.fixture(scope="module")
def walked() -> Iterator[Walked]:
    walk.load_scenarios()
    env = {"DAYTONA_MAGICS_ISOLATION": LEVEL} if LEVEL else {}
    with isolated_engine(**env) as engine, recording() as heard:

        async def everything() -> dict[str, dict[str, walk.Outcome]]:
            outcomes = await walk.walk_both(engine)
            async with raw(engine) as client:
                await ask_the_rest(client)
                heard.extend(client.heard)
            return outcomes

        yield Walked(engine, asyncio.run(everything()), heard)


def test_every_public_method_of_the_sdk_has_its_effect_or_an_honest_refusal(walked: Walked) -> None:
    assert methods.unknown_classes() == set(), "a class of the SDK that nothing here knows"
    assert walk.failures(walked.outcomes) == []
    assert {name for found in walked.outcomes.values() for name in found} == set(methods.public_methods())
    made = walk.table(walked.outcomes)
    print(made)
    assert made == walk.TABLE.read_text(), "run python -m tests.contract.walk --write"


def test_what_a_program_finds_at_this_level(walked: Walked) -> None:
    """Nothing of the contract is different but this."""
    level = isolation(walked.engine)
    assert level == (LEVEL or level) and level in ("L3", "L2", "L1")
    client = Daytona(walked.engine.config())
    box = client.create()
    try:
        home = walked.engine.state / "sandboxes" / box.id / "home"
        values = {"{home}": str(home), "{name}": socket.gethostname()}
        found = {
            one["what"]: str(box.process.code_run(_filled(one["program"], values)).result).strip()
            for one in DIFFERENCES
        }
    finally:
        client.delete(box)
    assert found == {one["what"]: _filled(one["prints"][level], values) for one in DIFFERENCES}


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def test_every_operation_is_served_or_refused(walked: Walked) -> None:
    for area in AREAS:
        served = walked.operations(area, succeeded=True)
        listed = set(refused(area))
        assert listed <= known(area), f"not operations: {listed - known(area)}"
        assert wanted(area) - served - listed == set(), "neither served nor listed as a refusal"
        assert served & listed == set(), "listed as a refusal, but served"


def test_every_route_of_the_engine_was_asked(walked: Walked) -> None:
    for area, prefix in (("api", "/api"), ("toolbox", "/toolbox/{sandbox}")):
        asked = {re.sub(r"\{\w+\}", "{}", o) for o in walked.operations(area, succeeded=True)}
        asked |= {re.sub(r"\{\w+\}", "{}", o) for o in refused(area)}
        routes = {
            f"{route.method} {re.sub(r'{[a-zA-Z]+}', '{}', route.path.removeprefix(prefix))}"
            for family in server._FAMILIES
            for route in family.routes
            if isinstance(route, web.RouteDef) and route.path.startswith(f"{prefix}/")
            if not route.path.startswith("/api/engine/")
        }
        assert routes - asked == set()


def test_refusals_are_of_the_allowed_families_and_as_listed(walked: Walked) -> None:
    assert {entry["family"] for entry in CONTRACT["refused"] + CONTRACT["parameter"]} <= ALLOWED

    async def check() -> None:
        async with raw(walked.engine) as client:
            for area in AREAS:
                for operation, answer in refused(area).items():
                    body = None if operation.startswith("GET") else {}
                    heard = await client.ask(area, filled(operation, client.sandbox), body)
                    assert (heard.status, heard.body["message"]) == answer, as_text(heard)
                    assert (heard.status == 501) == (heard.body["code"] == "NOT_IMPLEMENTED")
                    assert _wrong_error(heard) == [], as_text(heard)
            for entry in CONTRACT["parameter"]:
                asked = filled(entry.get("operation", "POST /sandbox"), client.sandbox)
                heard = await client.ask("api", asked, entry["asks"])
                assert heard.status in (400, 501), as_text(heard)
                assert heard.body["message"] == entry["reason"], as_text(heard)
                assert _wrong_error(heard) == [], as_text(heard)

    asyncio.run(check())


def _wrong_error(heard: Exchange) -> list[str]:
    """What is not as the platform's error is: its fields, and its source by which the SDK finds a class."""
    schemas = SCHEMAS["toolbox"]
    # The SDK knows more codes than the platform's list; and it takes any text.
    more = {code for _, code in CODE_TO_ERROR} | set(DRIFT["codes"])
    code = schemas["DaemonErrorCode"] + "".join(f"|{name}" for name in sorted(more))
    found = problems(heard.body, "ErrorResponse", schemas | {"DaemonErrorCode": code})
    if heard.body.get("statusCode") != heard.status:
        found.append("statusCode is not the status")
    if heard.body.get("source") not in ("DAYTONA_API", "DAYTONA_DAEMON", "DAYTONA_PROXY"):
        found.append("no source, so the SDK raises no class of its own")
    return found


def test_every_answer_is_as_described_and_parses(walked: Walked) -> None:
    found: dict[str, set[str]] = {"answers": set(), "statuses": set()}
    for one in walked.heard:
        operation = template(one.operation, known(one.area))
        assert operation, f"an operation that nobody knows: {as_text(one)}"
        if one.status >= 400:
            assert _wrong_error(one) == [], as_text(one)
            continue
        described = FACTS[one.area]["operations"].get(operation, {}).get("responses")
        if described is None:  # the SDK's alone: its own parsing has been the check
            continue
        if str(one.status) not in described:
            found["statuses"].add(f"{operation} {one.status}")
        kind = described.get(str(one.status), "")
        if one.status == 101:
            continue
        if kind and one.body is not ...:
            found["answers"] |= {f"{operation}: {p}" for p in problems(one.body, kind, SCHEMAS[one.area])}
            wrong = through_models(one.body, kind, one.area)
            assert wrong == [], f"{as_text(one)}: {wrong}"
        elif isinstance(kind, str) and not kind and one.body is not None:
            found["answers"].add(f"{operation}: a body where none is described")
    for name, entries in found.items():
        assert sorted(entries) == sorted(DRIFT[name]), f"{name}: {sorted(entries)}"


def test_errors_of_every_served_operation_are_the_platforms(walked: Walked) -> None:
    """No such sandbox, no key, and a body that is none."""

    async def check() -> None:
        async with raw(walked.engine) as client:
            own = client.sandbox
            for area in AREAS:
                for operation in sorted(walked.operations(area, succeeded=True)):
                    await _check_errors(client, area, operation)
                    client.sandbox = own

    asyncio.run(check())


async def _check_errors(client: Any, area: str, operation: str) -> None:
    asked = filled(operation, client.sandbox)
    unknown = await client.ask(area, asked, headers={"Authorization": "Bearer wrong"})
    assert unknown.status == 401 and _wrong_error(unknown) == [], as_text(unknown)
    fact = FACTS[area]["operations"].get(operation, {})
    if fact.get("request") and operation != "POST /sandbox":
        broken = await client.ask(area, asked, b"{", headers={"Content-Type": "application/json"})
        assert broken.status in (400, 404, 409) and _wrong_error(broken) == [], as_text(broken)
    if area == "toolbox" or "{sandboxId" in operation:
        client.sandbox = "nobody"
        body = None if operation.startswith("GET") else {}
        missing = await client.ask(area, filled(operation, "nobody"), body)
        # A parameter may be checked first.
        assert missing.status in (404, 400) and _wrong_error(missing) == [], as_text(missing)
