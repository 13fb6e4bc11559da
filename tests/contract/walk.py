"""Walks every public method of the SDK against an engine; a method passes by an effect that is asserted.

    python -m tests.contract.walk            # print the table
    python -m tests.contract.walk --write    # and write it to tests/coverage/methods.md

The methods are found by looking (:mod:`tests.contract.methods`). Scenarios name the methods they walk; one
that is not named, or named but not called, fails. A scenario is written once and runs with both clients:
``await w(method, …)`` calls either.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
import traceback
import urllib.request
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

from daytona_magics.engine.api.refusals import REFUSALS
from tests.contract.methods import FLAVOURS, named, public_methods
from tests.engine_process import IsolatedEngine, isolated_engine

TABLE = Path(__file__).parents[1] / "coverage" / "methods.md"
SENTENCES = {refusal.family: refusal.sentence for refusal in REFUSALS}

Scenario = Callable[["Walk"], Awaitable[None]]
_scenarios: list[tuple[tuple[str, ...], Scenario]] = []


def walks(*methods: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario for methods named ``Class.method``, without the ``Async`` of the class."""

    def register(scenario: Scenario) -> Scenario:
        _scenarios.append((methods, scenario))
        return scenario

    return register


@dataclass(frozen=True)
class Outcome:
    """What came of a method.

    Attributes:
        result: ``pass``, ``refused`` or ``FAILED``.
        why: the effect that was asserted, the family that is refused, or what went wrong.
    """

    result: str
    why: str


@dataclass
class Walk:
    """A scenario's view of the SDK in one flavour.

    Attributes:
        client: the ``Daytona`` or ``AsyncDaytona``.
        box: a started sandbox that all scenarios share; they leave it started.
        folder: a folder of this machine for files of the test.
        level: the engine's isolation level.
    """

    flavour: str
    engine: IsolatedEngine
    folder: Path
    level: str = ""
    client: Any = None
    box: Any = None
    called: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    async def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of either client and return what it returns."""
        owner, _, name = function.__qualname__.rpartition(".")
        self.called.add(f"{owner.removeprefix('Async')}.{name}")
        if self.flavour == "sync":
            result = await asyncio.to_thread(function, *args, **kwargs)
        else:
            result = function(*args, **kwargs)
        return await result if isawaitable(result) else result

    async def all(self, function: Any, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method that answers with an iterator, and read it to its end."""
        result = await self(function, *args, **kwargs)
        if hasattr(result, "__aiter__"):
            return [item async for item in result]
        return await asyncio.to_thread(list, result)

    def see(self, thing: Any, name: str) -> Any:
        """A property."""
        owner = next(kind for kind in type(thing).__mro__ if name in vars(kind))
        self.called.add(named(owner, name))
        return getattr(thing, name)

    async def sh(self, command: str, box: Any = None, code: int = 0) -> str:
        """What a shell command in a sandbox prints; it must end with ``code``."""
        run = (box or self.box).process.exec
        done = await self(run, f"{{ {command}\n}} 2>&1", timeout=60)
        assert done.exit_code == code, f"{command}: {done.exit_code} {done.result}"
        return str(done.result).removesuffix("\n")

    async def tmp(self) -> str:
        """Where a program is that was to run in /tmp: below L3 that is the machine's, so it has its own."""
        return "/tmp" if self.level == "L3" else await self.sh("echo ~/.tmp")

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Ask again until there is an answer that is true, and return it."""
        for _ in range(600):
            if found := await condition():
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"waited in vain until {what}")

    async def fails(self, words: str, function: Any, /, *args: Any, **kwargs: Any) -> Exception:
        """Call what must raise an error whose classes' names or text have ``words``, and return it."""
        try:
            await self(function, *args, **kwargs)
        except Exception as error:
            kinds = " ".join(kind.__name__ for kind in type(error).__mro__[:-3])
            said = f"{kinds}: {error}"
            assert words in said, f"expected {words!r}: {said}"
            return error
        raise AssertionError(f"{function.__qualname__} did not raise")

    async def refused(self, family: str, function: Any, /, *args: Any, **kwargs: Any) -> None:
        """Call what the engine refuses: status 501, its class, the whole sentence."""
        error = await self.fails(SENTENCES[family], function, *args, **kwargs)
        status = getattr(error, "status_code", None) or getattr(error, "status", None)
        # Services that do not translate errors raise the generated client's own class.
        assert type(error).__name__ in ("DaytonaError", "ServiceException"), type(error)
        assert status == 501, status
        assert type(error).__name__ != "DaytonaError" or error.code == "NOT_IMPLEMENTED"  # type: ignore[attr-defined]
        owner, _, name = function.__qualname__.rpartition(".")
        self.stands_for(f"{owner.removeprefix('Async')}.{name}", family)

    def stands_for(self, method: str, family: str) -> None:
        """A method is refused; where it is not called, because what comes before it is refused already."""
        self.called.add(method)
        self.outcomes[method] = Outcome("refused", family)


async def _run(w: Walk, methods: tuple[str, ...], scenario: Scenario) -> None:
    here = [m for m in methods if w.flavour in public_methods().get(m, ())]
    if not here:
        return
    said = " ".join((scenario.__doc__ or "").split()).rstrip(".")
    result = Outcome("pass", said)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            await asyncio.wait_for(scenario(w), 120)
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        line = next((f"{f.name}:{f.lineno}" for f in reversed(trace) if "contract" in f.filename), "")
        result = Outcome("FAILED", f"{line} {type(error).__name__}: {error}"[:400].replace("\n", " "))
    for method in here:
        if result.result == "FAILED":
            w.outcomes[method] = result
        elif method not in w.called:
            w.outcomes[method] = Outcome("FAILED", f"{scenario.__name__} did not call it")
        else:
            w.outcomes.setdefault(method, result)


def isolation(engine: IsolatedEngine) -> str:
    """The level of a running engine."""
    asked = urllib.request.Request(
        f"{engine.url}/api/health", headers={"Authorization": f"Bearer {engine.key}"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
        return str(json.load(answer)["isolation"])


async def walk(flavour: str, engine: IsolatedEngine, only: str = "") -> dict[str, Outcome]:
    """Run the scenarios (those whose name has ``only``) with one client: outcomes by ``Class.method``."""
    import daytona

    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        config = engine.config()
        w = Walk(flavour, engine, Path(folder), isolation(engine))
        w.client = daytona.Daytona(config) if flavour == "sync" else daytona.AsyncDaytona(config)
        w.box = await w(w.client.create)
        # What the walk itself needed is not yet walked.
        w.called.clear()
        for methods, scenario in _scenarios:
            if only in scenario.__name__:
                await _run(w, methods, scenario)
        await w(w.client.delete, w.box)
        if flavour == "async":
            await w.client.close()
    for method, flavours in public_methods().items():
        if flavour in flavours and not only:
            w.outcomes.setdefault(method, Outcome("FAILED", "unnamed: no scenario walks it"))
    return w.outcomes


def table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """The outcomes (by flavour) as a table in Markdown."""
    lines = [
        "# Methods of the SDK against the embedded engine",
        "",
        "Generated by `python -m tests.contract.walk --write`; do not edit.",
        "",
        "| method | sync | async | effect asserted, or what is refused |",
        "|---|---|---|---|",
    ]
    for method in sorted(set().union(*outcomes.values())):
        found = [outcomes[flavour].get(method) for flavour in FLAVOURS]
        results = [one.result if one else "–" for one in found]
        whys = "; ".join(dict.fromkeys(one.why for one in found if one))
        lines.append(f"| `{method}` | {' | '.join(results)} | {whys.replace('|', chr(92) + '|')} |")
    refused = {one.why for found in outcomes.values() for one in found.values() if one.result == "refused"}
    lines += ["", "What is refused, in the engine's words (status 501):", ""]
    lines += [f"- {family}: {SENTENCES[family]}" for family in sorted(refused, key=str.lower)]
    return "\n".join(lines) + "\n"


def failures(outcomes: dict[str, dict[str, Outcome]]) -> list[str]:
    """What failed, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for flavour, found in outcomes.items():
        for method, outcome in sorted(found.items()):
            if outcome.result == "FAILED":
                reasons.setdefault(f"{flavour}: {outcome.why}", []).append(method)
    return [f"{why} ({', '.join(methods)})" for why, methods in reasons.items()]


async def walk_both(engine: IsolatedEngine, only: str = "") -> dict[str, dict[str, Outcome]]:
    """Both flavours, side by side on one engine."""
    found = await asyncio.gather(*(walk(flavour, engine, only) for flavour in FLAVOURS))
    return dict(zip(FLAVOURS, found, strict=True))


def load_scenarios() -> None:
    """Import the modules that register scenarios."""
    for name in ("files", "git", "process", "refused", "sandbox", "states"):
        importlib.import_module(f"tests.contract.walk_{name}")


async def _main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    # A scenario registers with this module by its name, not as the program.
    program = importlib.import_module("tests.contract.walk")
    program.load_scenarios()
    with isolated_engine() as engine:
        outcomes = await program.walk_both(engine, *words)
    print(table(outcomes))
    bad = failures(outcomes)
    print("\n".join(bad), file=sys.stderr)
    if "--write" in sys.argv:
        TABLE.write_text(table(outcomes))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
