"""Sandboxes on each rung: how fast they come, how much they take, what an idle engine costs.

An engine of its own for every rung, asked over HTTP on one kept connection, as a client on this machine does.
Memory is the sum over a sandbox's processes with shared pages divided among their users (PSS); CPU time is
the engine's own, while it has nothing to do. A crowd grows to its first size, is measured, and grows on. What
fails or takes too long is told in its place, and the next rung is measured all the same.
"""

from __future__ import annotations

import http.client
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.engine.test_overload import Client
from tests.engine_process import IsolatedEngine, isolated_engine

RUNGS: dict[str, dict[str, str]] = {
    "L3": {"DAYTONA_MAGICS_ISOLATION": "L3", "DAYTONA_MAGICS_LAUNCHER": "ctypes"},
    "L3, outer bwrap": {"DAYTONA_MAGICS_ISOLATION": "L3", "DAYTONA_MAGICS_LAUNCHER": "outer-bwrap"},
    "L3, bwrap": {"DAYTONA_MAGICS_ISOLATION": "L3", "DAYTONA_MAGICS_LAUNCHER": "bwrap"},
    "L2": {"DAYTONA_MAGICS_ISOLATION": "L2"},
    "L1": {"DAYTONA_MAGICS_ISOLATION": "L1"},
}
CROWDS = (100, 300)
IDLE_SECONDS = 10.0
#: Longer than this no crowd of one rung may take to be made.
CROWD_SECONDS = 240.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Crowd:
    """So many sandboxes at once: seconds to make all, bytes of each, the idle engine's share of a core."""

    count: int
    seconds: float
    memory: float
    idle: float


@dataclass
class Rung:
    """What was measured on one rung, times in seconds; ``problem`` says what could not be."""

    name: str
    problem: str = ""
    create: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)


def measure(name: str, environment: dict[str, str], runs: int, crowds: tuple[int, ...]) -> Rung:
    """Measure one rung, as far as it can be had here."""
    rung = Rung(name)
    try:
        with isolated_engine(**environment) as engine:
            engine.client_env()
            client = Client(engine)
            # The first one waits for what an engine prepares once.
            assert client.execute(_create(client), "true")[0] == 0
            for _ in range(runs):
                _one(client, rung)
            time.sleep(1)
            _crowds(engine, client, rung, crowds)
    except (AssertionError, OSError, http.client.HTTPException) as error:
        rung.problem = (str(error) or type(error).__name__).splitlines()[0][:300]
    return rung


def _create(client: Client) -> str:
    status, made = client.ask("POST", "/api/sandbox", {})
    assert status == 200, made.get("message")
    return str(made["id"])


def _one(client: Client, rung: Rung) -> None:
    begin = time.perf_counter()
    sandbox = _create(client)
    rung.create.append(time.perf_counter() - begin)
    code, said = client.execute(sandbox, "echo first")
    rung.first.append(time.perf_counter() - begin)
    assert (code, said) == (0, "first\n"), said
    client.ask("DELETE", f"/api/sandbox/{sandbox}")


def _crowds(engine: IsolatedEngine, client: Client, rung: Rung, sizes: tuple[int, ...]) -> None:
    made, took = 0, 0.0
    for size in sizes:
        begin = time.perf_counter()
        while made < size:
            _create(client)
            made += 1
            so_far = took + time.perf_counter() - begin
            assert so_far < CROWD_SECONDS, f"only {made} of {size} sandboxes in {so_far:.0f} s"
        took += time.perf_counter() - begin
        # Whatever creation has left to do is not idling.
        time.sleep(3)
        memory, before = _memory(engine.pid) / made, _ticks(engine.pid)
        time.sleep(IDLE_SECONDS)
        idle = (_ticks(engine.pid) - before) / _TICKS / IDLE_SECONDS
        rung.crowds.append(Crowd(size, took, memory, idle))


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _memory(engine: int) -> int:
    """PSS of all processes below the engine."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    total = 0
    for pid in parents:
        above = pid
        while above in parents and above != engine:
            above = parents[above]
        if above == engine and pid != engine:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return total


def measured(runs: int, crowds: tuple[int, ...] = CROWDS) -> list[Rung]:
    """Measure every rung, one after another."""
    found = []
    for name, environment in RUNGS.items():
        print(f"measuring {name} …", file=sys.stderr)
        found.append(measure(name, environment, runs, crowds))
        # It takes minutes per rung, and what is known must not be lost with the rest.
        print(table(found[-1:], crowds).splitlines()[-1], file=sys.stderr)
    return found


def figures(found: list[Rung]) -> list[dict[str, Any]]:
    """All of it as numbers."""
    return [asdict(rung) for rung in found]


def table(found: list[Rung], crowds: tuple[int, ...] = CROWDS) -> str:
    """All of it in Markdown."""
    header = ["rung", "create p50 / p95", "create → first exec p50 / p95"]
    for count in crowds:
        header += [f"{count} created in", f"memory of each at {count}", f"idle engine at {count}"]
    header.append("what could not be measured")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for rung in found:
        cells = [rung.name, _pair(rung.create), _pair(rung.first)]
        for count in crowds:
            crowd = next((one for one in rung.crowds if one.count == count), None)
            cells += ["", "", ""] if crowd is None else _crowd_cells(crowd)
        lines.append("| " + " | ".join([*cells, rung.problem]) + " |")
    return "\n".join(lines)


def _crowd_cells(crowd: Crowd) -> list[str]:
    return [f"{crowd.seconds:.1f} s", f"{crowd.memory / (1 << 20):.1f} MiB", f"{crowd.idle:.2%} of a core"]


def _pair(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return ""
    fine = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{statistics.median(seconds) * 1000:.1f} / {fine[18] * 1000:.1f} ms"
