"""Sandboxes on each rung: how fast they come, how much they take, what an idle engine costs.

An engine of its own for every rung, asked over HTTP on one kept connection, as a client on this machine does.
Memory is the sum over a sandbox's processes with shared pages divided among their users (PSS); CPU time is
the engine's own, while it has nothing to do.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

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
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Rung:
    """What was measured on one rung; times in seconds, memory in bytes, CPU as a share of one core."""

    name: str
    problem: str = ""
    create: list[float] | None = None
    first: list[float] | None = None
    crowds: dict[int, tuple[float, float, float]] | None = None


def measure(name: str, environment: dict[str, str], runs: int, crowds: tuple[int, ...]) -> Rung:
    """Measure one rung; one that cannot be had here says why."""
    with isolated_engine(**environment) as engine:
        engine.client_env()
        client = Client(engine)
        try:
            client.execute(_create(client), "true")
        except AssertionError as error:
            return Rung(name, problem=str(error)[:300])
        create, first = [], []
        for _ in range(runs):
            begin = time.perf_counter()
            sandbox = _create(client)
            create.append(time.perf_counter() - begin)
            code, said = client.execute(sandbox, "echo first")
            first.append(time.perf_counter() - begin)
            assert (code, said) == (0, "first\n"), said
            client.ask("DELETE", f"/api/sandbox/{sandbox}")
        time.sleep(1)
        return Rung(name, "", create, first, {count: _crowd(engine, client, count) for count in crowds})


def _create(client: Client) -> str:
    status, made = client.ask("POST", "/api/sandbox", {})
    assert status == 200, made.get("message")
    return str(made["id"])


def _crowd(engine: IsolatedEngine, client: Client, count: int) -> tuple[float, float, float]:
    """Seconds to create ``count`` sandboxes, bytes of each, and the idle engine's share of a core."""
    begin = time.perf_counter()
    made = [_create(client) for _ in range(count)]
    took = time.perf_counter() - begin
    # Whatever creation has left to do is not idling.
    time.sleep(3)
    each = _memory(engine.pid) / count
    before = _ticks(engine.pid)
    time.sleep(IDLE_SECONDS)
    idle = (_ticks(engine.pid) - before) / _TICKS / IDLE_SECONDS
    for sandbox in made:
        client.ask("DELETE", f"/api/sandbox/{sandbox}")
    time.sleep(2)
    return took, each, idle


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


def report(runs: int, crowds: tuple[int, ...] = CROWDS) -> str:
    """Measure every rung; returns a table in Markdown."""
    header = ["rung", "create p50 / p95", "create → first exec p50 / p95"]
    for count in crowds:
        header += [f"{count} created in", f"memory of each at {count}", f"idle engine at {count}"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, environment in RUNGS.items():
        lines.append(_row(measure(name, environment, runs, crowds), len(header)))
    return "\n".join(lines)


def _row(rung: Rung, columns: int) -> str:
    if rung.create is None or rung.first is None or rung.crowds is None:
        return f"| {rung.name} | not to be had here: {rung.problem} |" + " |" * (columns - 2)
    cells = [rung.name, _pair(rung.create), _pair(rung.first)]
    for took, each, idle in rung.crowds.values():
        cells += [f"{took:.1f} s", f"{each / (1 << 20):.1f} MiB", f"{idle:.2%} of a core"]
    return "| " + " | ".join(cells) + " |"


def _pair(seconds: list[float]) -> str:
    fine = statistics.quantiles(seconds, n=20)
    return f"{statistics.median(seconds) * 1000:.1f} / {fine[18] * 1000:.1f} ms"
