"""Reading the engine's log: ``engine logs``, and the folder of what toolboxes and the zygote said on stderr.

The log is found with or without a running engine. Following survives rotation: a file that was renamed is
read to its end before the new one is opened. What people are shown has no control characters, since paths
and messages come from clients.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from daytona_magics.engine import address, places

LEVELS = ("debug", "info", "warning", "error", "critical")
#: Most bytes kept of what a toolbox or the zygote said, and how much is left when there was more.
MAX_STDERR, KEPT_STDERR = 1 << 20, 256 << 10
POLL_SECONDS = 0.2
_NAME = "engine.log"


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted: of ``level`` or above, about one of ``sandboxes`` (empty: all)."""

    level: str = "debug"
    sandboxes: tuple[str, ...] = ()

    def takes(self, entry: dict[str, Any]) -> bool:
        """Whether a line of the log is wanted."""
        level = entry.get("level", "")
        if level in LEVELS and LEVELS.index(level) < LEVELS.index(self.level):
            return False
        if not self.sandboxes or entry.get("sandbox") in self.sandboxes:
            return True
        text = f"{entry.get('message', '')} {entry.get('error', '')}"
        return any(name in text.replace("/", " ").replace(":", " ").split() for name in self.sandboxes)


def folder() -> Path:
    """The state folder of the running engine, else of the last one.

    Raises:
        EngineStartError: there has been none.
    """
    if (record := places.live_record()) is not None:
        return Path(record["state_dir"])
    # The fallback is shared by all whose own folder could not be used; who names a folder means that one.
    fallback = [] if os.environ.get("DAYTONA_MAGICS_HOME") else [places.fallback_state_dir()]
    for path in (places.state_dir(), *fallback):
        if (path / _NAME).exists():
            return path
    raise address.EngineStartError(
        f"no embedded engine has run here: {places.state_dir() / _NAME} does not exist"
    )


def files(state: Path) -> list[Path]:
    """The log's files, oldest first."""
    found = [(int(path.suffix[1:]), path) for path in state.glob(f"{_NAME}.*") if path.suffix[1:].isdigit()]
    return [path for _, path in sorted(found, reverse=True)] + [state / _NAME]


def names_of(wanted: str) -> tuple[str, ...]:
    """Id and name of a sandbox of which one is given; only what was given when nobody knows it."""
    record = places.live_record()
    status = places.call(record, "GET", "/api/engine/status") if record else None
    for one in (status or {}).get("sandboxes", ()):
        if wanted in (one["id"], one["name"]):
            return tuple(dict.fromkeys((one["id"], one["name"])))
    return (wanted,)


def entries(lines: Iterable[str], wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The wanted entries among lines; one that is no JSON (written when the disk was full) is left out."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and wanted.takes(entry):
            yield entry


def older(state: Path) -> Iterator[str]:
    """The lines of the files that are full, oldest first."""
    for path in files(state)[:-1]:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from file
        except FileNotFoundError:
            # Rotated away meanwhile.
            continue


class Tail:
    """The file that is being written. Use as a context manager."""

    def __init__(self, state: Path) -> None:
        self._path = state / _NAME
        self._file = self._path.open(encoding="utf-8", errors="replace")
        self._rest = ""

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> list[str]:
        """The whole lines that have been written since the last time, at first all that there are."""
        found = []
        while True:
            # Asked before reading: what has been renamed is written to no more.
            rotated = self._is_renamed()
            *whole, self._rest = (self._rest + self._file.read()).split("\n")
            found += whole
            if not rotated:
                return found
            self._file.close()
            self._file, self._rest = self._path.open(encoding="utf-8", errors="replace"), ""

    def _is_renamed(self) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False


def shown(entry: dict[str, Any]) -> str:
    """An entry as people read it; a traceback is indented below it.

    Example:
        >>> shown({"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": "GET /x 200"})
        '2026-01-01T00:00:00.000Z info     GET /x 200'
    """
    text = f"{entry.get('time', '')} {entry.get('level', ''):<8} {printable(str(entry.get('message', '')))}"
    if entry.get("request"):
        text += f" (request {printable(str(entry['request']))})"
    for line in str(entry.get("error", "")).splitlines():
        text += f"\n    {printable(line)}"
    return text


def printable(text: str) -> str:
    """``text`` with everything that a terminal would obey written as an escape.

    Example:
        >>> printable("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(wanted: Wanted, sandbox: str, count: int, *, follow_it: bool, as_json: bool) -> int:
    """The command: print the last ``count`` wanted lines (0: all), and then those that come."""
    state = folder()
    with Tail(state) as tail:
        found = entries(chain(older(state), tail.read()), wanted)
        for entry in deque(found, maxlen=count or None):
            _print(entry, as_json)
        if sandbox and not as_json and (said := stderr_of(state, wanted.sandboxes[0])):
            print("said by its toolbox on stderr:")
            for line in said.splitlines():
                print(f"    {printable(line)}")
        while follow_it:
            for entry in entries(tail.read(), wanted):
                _print(entry, as_json)
            time.sleep(POLL_SECONDS)
    return 0


def _print(entry: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(entry) if as_json else shown(entry), flush=True)


# -- what was said on stderr


def shorten(stderr: Path) -> None:
    """Keep the end of each file in ``stderr`` that has become too long.

    Whoever writes has opened it for appending, so what is said next comes behind what is left.
    """
    for path in stderr.glob("*.err"):
        if path.lstat().st_size > MAX_STDERR:
            with path.open("r+b") as file:
                file.seek(-KEPT_STDERR, os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.write(kept)
                file.truncate()


def stderr_of(state: Path, name: str, size: int = 16 << 10) -> str:
    """The last ``size`` bytes that the toolbox of a sandbox (or ``zygote``) said on stderr."""
    path = state / "stderr" / f"{name}.err"
    if "/" in name or not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace")
