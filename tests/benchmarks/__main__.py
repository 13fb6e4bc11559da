"""Side-by-side benchmarks: ``python -m tests.benchmarks [--runs N] [--lines N] [--json] [--rungs]``.

The figures of cells are taken in real kernels through jupyter_client, those of the engine's contract through
the SDK, ours and the peer's alternating in one run, and reported as medians with their ratio: machines are
noisy, so a ratio says more than a time. Nothing here asserts. The engine, its state and the kernels' files
live in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.benchmarks import contract, rungs

MS = 1000.0
LOAD = "get_ipython().run_line_magic('load_ext', 'daytona_magics')"
MARKER = "first-output"
FIRST = f"%%sandbox\nprint('{MARKER}')"
#: Seconds after which an engine has a sandbox ready for the next notebook, also on a slow machine.
SETTLE = 3.5
WARM = "import daytona, aiohttp"  # the SDK is imported in the background; creation is timed without it


@dataclass
class Row:
    """One line of the table: what was measured, ours, the peer's, and what the budget says.

    ``figures`` holds the same as numbers, for ``--json``.
    """

    what: str
    ours: str
    peer: str
    ratio: str
    budget: str
    figures: dict[str, Any] = field(default_factory=dict)


class Kernel:
    """A real kernel with its own files; ``run`` returns seconds and what was printed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment, stderr=subprocess.DEVNULL)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(
        self, code: str, *, interrupt_after: float | None = None, timeout: float = 300
    ) -> tuple[float, str]:
        """Seconds from sending to idle, and the text of streams and results.

        Leaves ``marker_seen`` (seconds from sending until MARKER was printed) and ``interrupted`` (the
        moment the interrupt was sent) behind.
        """
        started = time.perf_counter()
        request = self.client.execute(code)
        self.marker_seen = self.interrupted = 0.0
        parts: list[str] = []
        while True:
            if interrupt_after is not None and not self.interrupted:
                with contextlib.suppress(Exception):
                    message = self.client.get_iopub_msg(timeout=interrupt_after)
                    if message["parent_header"].get("msg_id") == request:
                        continue
                self.interrupted = time.perf_counter()
                self.manager.interrupt_kernel()
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                parts.append(content["text"])
                if MARKER in content["text"] and not self.marker_seen:
                    self.marker_seen = time.perf_counter() - started
            elif kind in ("execute_result", "display_data"):
                parts.append(content["data"].get("text/plain", ""))
            elif kind == "error" and interrupt_after is None:
                raise RuntimeError("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return time.perf_counter() - started, "".join(parts)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def kernel(environment: dict[str, str], *setup: str) -> Iterator[Kernel]:
    made = Kernel(environment)
    try:
        for code in setup:
            made.run(code)
        yield made
    finally:
        made.close()


def median_ms(values: list[float]) -> float:
    return statistics.median(values) * MS


def compare(what: str, ours: list[float], peer: list[float], peer_name: str, budget: str) -> Row:
    a, b = median_ms(ours), median_ms(peer)
    figures = {"unit": "ms", "ours_p50": a, "plain_p50": b, "ratio": a / b, "samples": len(ours)}
    return Row(what, f"{a:.2f} ms", f"{b:.2f} ms ({peer_name})", f"{a / b:.2f}", budget, figures)


def alone(what: str, ours: list[float], budget: str) -> Row:
    """A row without a peer."""
    median = median_ms(ours)
    figures = {"unit": "ms", "ours_p50": median, "samples": len(ours)}
    return Row(what, f"{median:.0f} ms", "", "", budget, figures)


def bench_load(environment: dict[str, str], runs: int) -> list[Row]:
    code = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    ours, peer = [], []
    for _ in range(runs):
        with kernel(environment) as fresh:
            ours.append(float(fresh.run(code.format(LOAD))[1]))
        with kernel(environment) as fresh:
            peer.append(float(fresh.run(code.format("import ipyparallel"))[1]))
    return [compare("%load_ext daytona_magics", ours, peer, "import ipyparallel", "< 60 ms")]


def bench_trivial(environment: dict[str, str], runs: int) -> list[Row]:
    cluster = (
        "import ipyparallel; cluster = ipyparallel.Cluster(n=1, log_level=40); "
        "client = cluster.start_and_connect_sync(activate=True)"
    )
    cells = {
        "sandbox": "%%sandbox\n40+2",
        "local cell": "40+2",
        "%%bash": "%%bash\necho 42",
        "%%px --block": "%%px --block\n40+2",
        "sandbox bash": "%%sandbox bash\necho 42",
    }
    seconds: dict[str, list[float]] = {name: [] for name in cells}
    with (
        kernel(environment, LOAD, cells["sandbox"], cells["sandbox bash"]) as ours,
        kernel(environment, cluster) as px,
    ):
        for _ in range(5):
            px.run(cells["%%px --block"])
        for _ in range(runs):
            for name, cell in cells.items():
                seconds[name].append((px if name.startswith("%%px") else ours).run(cell)[0])
        px.run("cluster.stop_cluster_sync()")
        ours.run("%sandbox delete")
    sandbox = seconds["sandbox"]
    return [
        compare("trivial cell", sandbox, seconds["local cell"], "local cell", "≤ local + 2 ms"),
        compare("trivial cell", sandbox, seconds["%%px --block"], "%%px --block", "≤ 1"),
        compare("trivial bash cell", seconds["sandbox bash"], seconds["%%bash"], "%%bash", ""),
    ]


def bench_create(environment: dict[str, str], runs: int) -> list[Row]:
    warm, again, cold = [], [], []
    with kernel(environment, LOAD, WARM, "%%sandbox\n1") as ours:
        for _ in range(runs):
            time.sleep(SETTLE)
            ours.run("%sandbox delete")
            ours.run(FIRST)
            warm.append(ours.marker_seen)
            ours.run("%sandbox delete")
            ours.run(FIRST)
            again.append(ours.marker_seen)
        for _ in range(max(3, runs // 3)):
            ours.run("%sandbox delete")
            stop_engine(environment)
            ours.run(FIRST)
            cold.append(ours.marker_seen)
        ours.run("%sandbox delete")
    return [
        alone("create → first output, warm engine", warm, "< 90 ms"),
        alone("the same, at once after another", again, ""),
        alone("create → first output, cold engine", cold, "< 1,500 ms"),
    ]


def bench_lines(environment: dict[str, str], lines: int, runs: int) -> list[Row]:
    body = f"for i in range({lines}): print(i)"
    expected = "".join(f"{i}\n" for i in range(lines))
    memory = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    ours, peer, growth = [], [], 0.0
    for _ in range(runs):
        with kernel(environment, LOAD, "%%sandbox\n1") as one:
            before = int(one.run(memory)[1])
            seconds, text = one.run("%%sandbox\n" + body)
            assert text == expected, "lines were lost, doubled or reordered"
            growth = max(growth, (int(one.run(memory)[1]) - before) / 1024)
            ours.append(seconds)
            one.run("%sandbox delete")
        with kernel(environment) as other:
            peer.append(other.run(body)[0])
    row = compare(f"{lines:,} printed lines", ours, peer, "local cell", "≤ 0.5")
    return [row, Row("  kernel memory growth", f"{growth:.0f} MiB", "", "", "< 50 MB")]


def bench_interrupt(environment: dict[str, str], runs: int) -> list[Row]:
    ours, peer = [], []
    with kernel(environment, LOAD, "%%sandbox\n1") as both:
        for _ in range(runs):
            for cell, seconds in (("%%sandbox\nwhile True: pass", ours), ("while True: pass", peer)):
                both.run(cell, interrupt_after=0.3)
                interrupted = both.interrupted
                both.run("%%sandbox\n1" if cell.startswith("%%") else "1")
                seconds.append(time.perf_counter() - interrupted)
        both.run("%sandbox delete")
    return [compare("interrupt → next cell done", ours, peer, "local cell", "< 100 ms")]


def bench_contract(runs: int) -> list[Row]:
    rows = []
    for pair in contract.measure(runs):
        found = pair.figures()

        def shown(side: str, found: dict[str, Any] = found) -> str:
            text = f"{found[f'{side}_p50']:.2f} {found['unit']}"
            # The slowest of few speeds says nothing; the slowest answers do.
            return text + (f", p95 {found[f'{side}_p95']:.2f}" if found["unit"] == "ms" else "")

        plain = f"{shown('plain')} ({pair.plain_name})"
        rows.append(Row(pair.what, shown("ours"), plain, f"{pair.ratio:.2f}", "", found))
    return rows


def stop_engine(environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "daytona_magics.engine", "stop"],
        env=environment,
        check=True,
        capture_output=True,
    )


def table(rows: list[Row]) -> str:
    lines = ["| what | ours | peer | ratio | budget |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.ours} | {row.peer} | {row.ratio} | {row.budget} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Side-by-side benchmarks."
    )
    parser.add_argument("--runs", type=int, default=30, help="repetitions of the short ones (default 30)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="printed lines (default 1,000,000)")
    parser.add_argument(
        "--only", default="", help="comma-separated: load,trivial,create,lines,interrupt,contract"
    )
    parser.add_argument("--json", action="store_true", help="figures for programs instead of a table")
    parser.add_argument("--rungs", action="store_true", help="only sandboxes on each isolation level")
    options = parser.parse_args()
    if options.rungs:
        found = rungs.measured(options.runs)
        print(json.dumps(rungs.figures(found), indent=1) if options.json else rungs.table(found))
        return
    folder = Path(tempfile.mkdtemp(prefix="dm-bench-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYTONA_")}
    for variable, name in (
        ("XDG_RUNTIME_DIR", "run"),
        ("DAYTONA_MAGICS_HOME", "state"),
        ("IPYTHONDIR", "ipython"),
        ("JUPYTER_RUNTIME_DIR", "jupyter"),
    ):
        (folder / name).mkdir(mode=0o700)
        environment[variable] = str(folder / name)
    folder.chmod(0o755)
    benches: dict[str, Callable[[], list[Row]]] = {
        "load": lambda: bench_load(environment, max(3, options.runs // 6)),
        "trivial": lambda: bench_trivial(environment, options.runs),
        "create": lambda: bench_create(environment, max(3, options.runs // 3)),
        "lines": lambda: bench_lines(environment, options.lines, 3),
        "interrupt": lambda: bench_interrupt(environment, max(3, options.runs // 3)),
        "contract": lambda: bench_contract(options.runs),
    }
    wanted = [name for name in options.only.split(",") if name] or list(benches)
    try:
        rows: list[Row] = []
        for name in wanted:
            print(f"measuring {name} …", file=sys.stderr)
            rows += benches[name]()
        print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else table(rows))
    finally:
        stop_engine(environment)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
