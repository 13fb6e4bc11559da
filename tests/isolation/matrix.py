"""Runs all attacks at one level, as this process's user: ``python -m tests.isolation.matrix COLUMN``.

A column is a level and the way it is made. The last line printed is JSON: what the launcher found, and for
each attack its verdict (LEAK, SAFE or BROKEN) with a detail. Two sandboxes are started. The attacks run in
the one, in a single Python with a fork per attack; the other is the neighbour that some attacks are after.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.isolation import attacks, host
from tests.isolation.conftest import Level

#: Column -> what the launcher is asked for. "auto" is the launcher's own choice.
COLUMNS: dict[str, dict[str, Any]] = {
    "L3": {"isolation": "L3", "launcher": "ctypes"},
    "outer-bwrap": {"isolation": "L3", "launcher": "outer-bwrap"},
    "bwrap": {"isolation": "L3", "launcher": "bwrap"},
    "L2": {"isolation": "L2"},
    "L1": {"isolation": "L1"},
    "L1-abi4": {"isolation": "L1" if os.geteuid() == 0 else "L0.5", "landlock_abi": 4},
    "L1-abi2": {"isolation": "L1" if os.geteuid() == 0 else "L0.5", "landlock_abi": 2},
    "L0": {"isolation": "L0"},
    "auto": {},
}

#: The neighbour: a process with a secret, a key, a file in /tmp, services; as far as its level lets it.
_NEIGHBOUR = r"""
import contextlib, os, socket, sys, threading
home = os.environ["HOME"]
secret, marker, port, ready = sys.argv[1:]
def serve(family, address):
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(address)
    server.listen()
    while True:
        with server.accept()[0] as connection:
            connection.sendall(b"hello from the neighbour")
with contextlib.suppress(OSError):
    open("/tmp/dm-" + marker, "w").write(secret)
for family, address in ((socket.AF_INET, ("127.0.0.1", int(port))), (socket.AF_UNIX, home + "/socket")):
    threading.Thread(target=serve, args=(family, address), daemon=True).start()
open(home + "/key", "w").write(secret)
open(home + "/" + ready, "w").close()
sys.stdin.read()
threading.Event().wait()
"""


def run(column: str, secret: str) -> dict[str, Any]:
    """Run every attack at `column`. Raises LaunchError when the column cannot be had here."""
    begun = time.monotonic()
    with host.shown_packages() as shown:
        return {**_run(column, secret, shown), "seconds": round(time.monotonic() - begun, 1)}


def _run(column: str, secret: str, shown: str) -> dict[str, Any]:
    level = Level(**COLUMNS[column])
    try:
        with host.Host(secret, level.folder) as victim, _neighbour(level) as other:
            victim.facts |= {"other": other, "shown": shown}
            verdicts = _attack(level, victim)
        launcher = level.launcher
        return {
            "column": column,
            "uid": os.geteuid(),
            "level": launcher.level,
            "launcher": launcher.launcher,
            "landlock_abi": launcher.landlock_abi,
            "reason": launcher.reason,
            "open": launcher.open,
            "attempts": [tuple(attempt) for attempt in map(_fields, launcher.attempts)],
            "refused": {
                name: why for name in attacks.KERNEL_REFUSES if (why := attacks.kernel_refuses(name))
            },
            "verdicts": verdicts,
        }
    finally:
        level.close()


def _fields(attempt: Any) -> tuple[str, str, str]:
    return attempt.level, attempt.launcher, attempt.problem


@contextlib.contextmanager
def _neighbour(level: Level) -> Iterator[dict[str, Any]]:
    """A second sandbox with something to lose; what an attacker may know of it."""
    box = level.spawn()
    home = level.folder / f"home{level.count}"
    marker, secret = "neighbour-" + os.urandom(6).hex(), "secret-" + os.urandom(8).hex()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = box.ports[0] if box.ports else server.getsockname()[1]
    argv = [_python(level, box), "-I", "-S", "-c", _NEIGHBOUR, secret, marker, str(port), "ready"]
    task = level.start(box.toolbox.run_program(argv, env={"NEIGHBOUR_SECRET": secret}))
    try:
        deadline = time.monotonic() + 20
        while not (home / "ready").exists():
            if task.done() or time.monotonic() > deadline:
                raise RuntimeError(f"the neighbour did not start: {task.result(5).output!r}")
            time.sleep(0.01)
        yield {
            "home": str(home),
            "tmp_file": f"/tmp/dm-{marker}",
            "pid": _pid_of(marker),
            "marker": marker,
            "secret": secret,
            "port": port,
        }
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"/tmp/dm-{marker}")
        task.cancel()
        level.run(box.kill())


def _python(level: Level, box: Any) -> str:
    """A Python that this sandbox may run: below L3 its uid may not be able to walk to ours."""
    result = level.run(box.toolbox.run_program([sys.executable, "-c", ""]))
    return sys.executable if result.exit_code == 0 else "/usr/bin/python3"


def _pid_of(marker: str) -> int:
    """The host's number of the process with `marker` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"\0{marker}\0".encode() in path.read_bytes():
                return int(path.parent.name)
    raise RuntimeError(f"no process with {marker}")


def _attack(level: Level, victim: host.Host) -> dict[str, tuple[str, str]]:
    """The verdict on every attack."""
    box = level.spawn()
    victim.serve_elsewhere(box.ports[0] if box.ports else 0)
    wanting = [attack for attack in attacks.TABLE if "facts['pid']" in attack.code.replace('"', "'")]
    with victim.processes(len(wanting)) as processes:
        pids = {attack.name: process.pid for attack, process in zip(wanting, processes, strict=True)}
        order = {
            "facts": victim.facts,
            "attacks": [
                (attack.name, attack.code, {"pid": pids[attack.name]} if attack.name in pids else {})
                for attack in attacks.TABLE
            ],
        }
        program = Path(__file__).with_name("inside.py").read_text()
        argv = [_python(level, box), "-I", "-c", program]
        result = level.run(
            box.toolbox.run_program(argv, stdin=json.dumps(order).encode(), timeout=120), timeout=130
        )
        dead = {attack.name for attack, process in zip(wanting, processes, strict=True) if process.poll()}
    output = result.output.decode("utf-8", "replace")
    found: dict[str, tuple[str, str]] = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            name, verdict, detail = json.loads(line)
            found[name] = (verdict, detail)
    for attack in attacks.TABLE:
        if attack.name not in found:
            found[attack.name] = ("BROKEN", f"nothing was said; the end of all output is {output[-300:]!r}")
        elif attack.name in dead:
            found[attack.name] = ("LEAK", "the process is dead")
    if victim.planted():
        found["write into the host's home"] = ("LEAK", "a file is there")
    return found


def main(argv: list[str]) -> int:
    secret = os.environ["DM_TEST_SECRET"]
    try:
        print(json.dumps(run(argv[0], secret)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
