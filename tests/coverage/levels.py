"""Reads ``levels.toml``, and writes it as the table in ARCHITECTURE.md: ``python -m tests.coverage.levels``.

Rows of the table: what is open at some level, then what is refused at all of them. Rows hold several attacks
where these fare alike.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from tests.isolation import attacks

ROOT = Path(__file__).parents[2]
TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("levels.toml").read_text())
COLUMNS: dict[str, str] = TABLE["columns"]
USERS = ("root", "user")
MARKERS = ("<!-- levels -->", "<!-- /levels -->")


class Container(NamedTuple):
    """A kind of container, with the leaks that are expected of the engine's own choice in it."""

    profile: str
    unmasked: bool
    landlock_abi: int | None
    column: str
    also: tuple[str, ...]

    @property
    def name(self) -> str:
        extra = [word for word, holds in (("unmasked", self.unmasked), ("ABI 4", self.landlock_abi)) if holds]
        return " ".join([self.profile, *extra])


CONTAINERS = [
    Container(
        entry["profile"],
        entry.get("unmasked", False),
        entry.get("landlock_abi"),
        entry["is"],
        tuple(entry.get("also", ())),
    )
    for entry in TABLE["container"]
]


def places(entry: dict[str, Any]) -> set[tuple[str, str]]:
    """The (column, user) pairs of an entry."""
    found = set()
    for text in entry["at"]:
        column, _, user = text.partition("/")
        found |= {(column, each) for each in USERS if user in ("", each)}
    return found


def leaks(column: str, user: str) -> set[str]:
    """Names of the attacks that succeed in `column` for `user`."""
    return {name for entry in TABLE["open"] if (column, user) in places(entry) for name in entry["attacks"]}


def phrases(column: str, user: str) -> set[str]:
    """What the engine must tell of `column`."""
    return {entry["what"] for entry in TABLE["open"] if (column, user) in places(entry)}


def markdown() -> str:
    """The table, with the lines that explain it."""
    lines = [f"- {name}: {what}" for name, what in COLUMNS.items()]
    lines += ["", "| what is open | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for entry in TABLE["open"]:
        text = entry["what"] + "<br>" + _names(entry["attacks"])
        lines.append(f"| {text} | " + " | ".join(_cell(column, entry) for column in COLUMNS) + " |")
    lines += ["", "| what is refused everywhere | attacks |", "|---|---|"]
    leaking = {name for entry in TABLE["open"] for name in entry["attacks"]}
    for area, table in attacks.AREAS.items():
        lines.append(f"| {area} | {_names(a.name for a in table if a.name not in leaking)} |")
    lines += ["", "| container | engine's choice | also open there |", "|---|---|---|"]
    for container in CONTAINERS:
        lines.append(f"| {container.name} | {container.column} | {_names(container.also)} |")
    return "\n".join(lines)


def _names(names: Any) -> str:
    return "; ".join(names)


def _cell(column: str, entry: dict[str, Any]) -> str:
    users = [user for user in USERS if (column, user) in places(entry)]
    return {0: "safe", 1: f"open ({''.join(users)})", 2: "open"}[len(users)]


def published() -> str:
    """The table as it is in ARCHITECTURE.md. Raises ValueError if it has no place there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    start, end = text.index(MARKERS[0]) + len(MARKERS[0]), text.index(MARKERS[1])
    return text[start:end].strip()


if __name__ == "__main__":
    sys.stdout.write(markdown() + "\n")
