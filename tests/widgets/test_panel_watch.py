"""The panel's watch goes on whatever a sandbox answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from daytona_magics.widgets.panel_watch import Watcher


async def test_an_answer_that_nobody_foresaw_is_said_and_ends_nothing() -> None:
    shown: dict[str, dict[str, Any]] = {}
    box = SimpleNamespace(id="sb", name="sb", state="started")
    watcher = Watcher(
        SimpleNamespace(sandbox=box),  # type: ignore[arg-type]
        None,
        lambda part, value: shown.update({part: value}),
    )

    async def nonsense() -> int:
        return int(float("nan"))

    watcher._ask_ports = nonsense  # type: ignore[method-assign]
    assert await watcher._ask("ports") == 1
    assert watcher._problem["code"] == "failed" and "NaN" in watcher._problem["text"]
