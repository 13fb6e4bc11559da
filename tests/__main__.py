"""Run the whole suite: ``python -m tests [--shards N] [pytest arguments]``.

As root the suite runs in a closed network (see ``tests/closed_network.py``): it must pass although nothing
can leave the machine but requests to the package index, and this command fails if anything else was asked
for. Without root it runs in the open, and says so; with ``CI`` set that is a failure.

Without arguments the suite runs in shards (see ``tests/shards.py``): root's each in a network, a process and
an IPC namespace of its own, its temporary files in memory; without root there is one. What failed there is
run once more. With pytest's arguments it is one pytest that shows all at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from tests import in_memory
from tests.closed_network import (
    FORWARDER_VARIABLE,
    LOG_VARIABLE,
    Forwarder,
    bring_loopback_up,
    index_hosts,
    start_relay,
)
from tests.shards import AGAIN, AGAIN_VARIABLE, COUNT_VARIABLE, FOLDER_VARIABLE, NUMBER_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
#: The one foreign host the suite asks for on purpose, to see it refused (``.invalid`` never resolves).
CONTROL_HOST = "nothing-leaves.invalid"

PYTEST = (sys.executable, "-m", "pytest", "-p", "tests.shards", "-rfEsxX", "--durations=40")
#: A shard waits for half of its time, so a few more of them than cores.
SHARDS = (os.cpu_count() or 1) + 2


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--inside"]:
        return inside(Path(arguments[1]), arguments[2:])
    shards, arguments = chosen(arguments)
    # So that what is started here is ended here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Processes are started by the hundred, and all of them import the same.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if shards:
        compile_everything()
    can_close = (
        os.geteuid() == 0 and subprocess.run([*namespaces(shards), "true"], check=False).returncode == 0
    )
    if not can_close:
        print("python -m tests: no right to make a network namespace; the suite runs in the open network.")
        if os.environ.get("CI"):
            print("python -m tests: that is not enough under CI.")
            return 1
        if shards:
            return in_shards(1, [*PYTEST, "-p", "no:cacheprovider", *arguments])
        return subprocess.run([*PYTEST, *arguments], check=False).returncode
    with tempfile.TemporaryDirectory(prefix="dm-net-") as folder:
        path, log = Path(folder, "forward.sock"), Path(folder, "forward.log")
        log.touch()
        os.environ[LOG_VARIABLE] = str(log)
        with Forwarder(path, log, index_hosts()):
            inner = [sys.executable, "-m", "tests", "--inside", str(path)]
            if shards:
                apart = [*namespaces(shards), *inner, "-p", "no:cacheprovider", *arguments]
                status = in_shards(shards, apart)
            else:
                status = subprocess.run([*namespaces(0), *inner, *arguments], check=False).returncode
        return report(log) or status


def compile_everything() -> None:
    """What is installed, on all processors: pip does it on one, and sandboxes' accounts cannot keep it.

    Files that are no Python of this version are left as they are; what is compiled already costs a look.
    """
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT / "daytona_magics")}
    subprocess.run([sys.executable, "-m", "compileall", "-qq", "-j", "0", *sorted(places)], check=False)


def chosen(arguments: list[str]) -> tuple[int, list[str]]:
    """How many shards (0: none), and what is left for pytest."""
    if arguments[:1] == ["--shards"]:
        return int(arguments[1]), arguments[2:]
    return (0 if arguments else SHARDS), arguments


def namespaces(shards: int) -> list[str]:
    """The command that closes the network, and keeps what is in a shard from the other shards."""
    own_processes = ["--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", "--net", *(own_processes if shards else [])]


def in_shards(count: int, command: list[str]) -> int:
    """Run them all, then what failed once more, and the one that tells of them; returns the latter's status.

    Args:
        count: how many side by side.
        command: what runs one; its number is in its environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="dm-"))
    # The uids of sandboxes pass through to their homes.
    folder.chmod(0o711)
    environment = {**os.environ, FOLDER_VARIABLE: str(folder), COUNT_VARIABLE: str(count)}
    environment.pop(NUMBER_VARIABLE, None)
    shards: list[subprocess.Popen[bytes]] = []

    def start(**more: str) -> None:
        number = len(shards)
        with (folder / f"shard-{number}.log").open("wb") as log:
            variables = {**environment, NUMBER_VARIABLE: str(number), **more}
            shards.append(
                subprocess.Popen(
                    command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            )
        ended = folder / f"ended-{number}"
        threading.Thread(target=note_the_end, args=(shards[-1], ended), daemon=True).start()

    for _ in range(count):
        start()
    teller = subprocess.Popen([*PYTEST, "-p", "no:cacheprovider"], env=environment)
    try:
        while (status := teller.poll()) is None:
            time.sleep(0.2)
            if len(shards) == count and (folder / AGAIN).exists():
                start(**{AGAIN_VARIABLE: (folder / AGAIN).read_text()})
        return status
    finally:
        for process in (*shards, teller):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def note_the_end(shard: subprocess.Popen[bytes], place: Path) -> None:
    status = shard.wait()
    unfinished = place.with_suffix(".new")
    unfinished.write_text(str(status))
    unfinished.rename(place)


def inside(path: Path, arguments: list[str]) -> int:
    bring_loopback_up()
    os.environ[FORWARDER_VARIABLE] = start_relay(path)
    if number := os.environ.get(NUMBER_VARIABLE):
        os.environ["TMPDIR"] = temporary(number)
    # A child process: the relay's threads must not be in the process whose forks and signals are tested.
    suite = subprocess.Popen([*PYTEST, *arguments])
    if os.getpid() != 1:
        return suite.wait()
    # The first process of a namespace gets the orphans of all others.
    while True:
        pid, status = os.wait()
        if pid == suite.pid:
            suite.returncode = os.waitstatus_to_exitcode(status)
            return suite.returncode


def temporary(number: str) -> str:
    """A folder for this shard's temporary files: thousands per engine, gone at its end, need no disk."""
    folder = Path(os.environ[FOLDER_VARIABLE], number)
    folder.mkdir()
    if in_memory.roomy():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(folder)], check=True)
    else:
        folder.chmod(0o1777)
    return str(folder)


def report(log: Path) -> int:
    """Say what went out; non-zero if anything but the package index was asked for."""
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    passed = sum(request["passed"] for request in requests)
    refused = {request["host"] for request in requests if not request["passed"]} - {CONTROL_HOST}
    print(f"closed network: {passed} requests to the package index, other hosts asked for: {sorted(refused)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
