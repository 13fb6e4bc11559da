"""Run the whole suite: ``python -m tests [pytest arguments]``.

As root the suite runs in a closed network (see ``tests/closed_network.py``): it must pass although nothing
can leave the machine but requests to the package index, and this command fails if anything else was asked
for. Without root it runs in the open, and says so; with ``CI`` set that is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.closed_network import (
    FORWARDER_VARIABLE,
    LOG_VARIABLE,
    Forwarder,
    bring_loopback_up,
    index_hosts,
    start_relay,
)

#: The one foreign host the suite asks for on purpose, to see it refused (``.invalid`` never resolves).
CONTROL_HOST = "nothing-leaves.invalid"

#: Faults, signals and races are tested in real time on machines shared with others: what fails is tried once
#: more, alone, and named in the summary ("rerun"). What is broken fails twice.
SECOND_TRY = ("--reruns", "1", "--reruns-delay", "1", "-rfExR", "--durations=40")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--inside"]:
        return inside(Path(arguments[1]), arguments[2:])
    can_close = (
        os.geteuid() == 0 and subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0
    )
    if not can_close:
        print("python -m tests: no right to make a network namespace; the suite runs in the open network.")
        if os.environ.get("CI"):
            print("python -m tests: that is not enough under CI.")
            return 1
        return run_pytest(arguments)
    with tempfile.TemporaryDirectory(prefix="dm-net-") as folder:
        path, log = Path(folder, "forward.sock"), Path(folder, "forward.log")
        log.touch()
        os.environ[LOG_VARIABLE] = str(log)
        with Forwarder(path, log, index_hosts()):
            command = ["unshare", "--net", sys.executable, "-m", "tests", "--inside", str(path), *arguments]
            status = subprocess.run(command, check=False).returncode
        return status or report(log)


def inside(path: Path, arguments: list[str]) -> int:
    bring_loopback_up()
    os.environ[FORWARDER_VARIABLE] = start_relay(path)
    return run_pytest(arguments)


def run_pytest(arguments: list[str]) -> int:
    # A child process: the relay's threads must not be in the process whose forks and signals are tested.
    command = [sys.executable, "-m", "pytest", *SECOND_TRY, *arguments]
    return subprocess.run(command, check=False).returncode


def report(log: Path) -> int:
    """Say what went out; non-zero if anything but the package index was asked for."""
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    passed = sum(request["passed"] for request in requests)
    refused = {request["host"] for request in requests if not request["passed"]} - {CONTROL_HOST}
    print(f"closed network: {passed} requests to the package index, other hosts asked for: {sorted(refused)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
