"""The long run: ``python -m tests.fuzz [--minutes 60] [--seed 1] [--rate 20]``.

Requests to every route of a real engine until the time is over; what goes wrong is printed, with the request
that shows it, and not again. Exit code 1 when anything did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.engine_process import isolated_engine, wait_until
from tests.fuzz.requests import requests
from tests.fuzz.surface import Operation, operations
from tests.fuzz.target import Target, Wrong

NAMES = ("default", "main", "box", "missing", "a/b", "3000", "22222")
#: Requests between two lines of the report.
_PART = 500


def run(
    target: Target, routes: list[Operation], number: int, examples: int, pause: float = 0.0
) -> dict[tuple[str, int, str], str]:
    """Send ``examples`` requests made from seed ``number``; what was wrong, by its kind."""
    wrong: dict[tuple[str, int, str], str] = {}

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(request=requests(routes, target.sandbox, NAMES))
    def one(request: Any) -> None:
        try:
            target.send(request)
        except Wrong as error:
            wrong.setdefault(error.kind, str(error))
        time.sleep(pause)

    seed(number)(one)()
    return wrong


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=20.0, help="most requests per second")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, isolated_engine() as engine:
        target, routes = Target(engine), operations(Path(scratch))
        begun, number, wrong = time.monotonic(), asked.seed, set()
        first = (target.descriptors(), target.memory())
        while time.monotonic() - begun < asked.minutes * 60:
            for kind, line in run(target, routes, number, _PART, 1 / asked.rate).items():
                if kind not in wrong:
                    print(f"WRONG (seed {number}) {line}", flush=True)
                wrong.add(kind)
            target.prepare()
            number += 1
            seconds = time.monotonic() - begun
            print(
                f"{seconds:.0f} s, {target.count} requests, {len(wrong)} wrong, "
                f"{target.descriptors()} descriptors, {target.memory()} MiB",
                flush=True,
            )
        target.clear()
        wait_until(lambda: target.descriptors() <= first[0], "descriptors are closed", 30)
        last = (target.descriptors(), target.memory())
        print(f"descriptors and MiB: {first} before, {last} after")
        for line in dict.fromkeys(target.unexpected()):
            wrong.add(("log", 0, line))
            print(f"LOGGED {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
