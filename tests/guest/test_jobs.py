"""What the guest keeps of jobs and cells that have ended, and what makes room."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.runtime.guest import frames, jobs, supervisor
from daytona_magics.runtime.guest.execution import Execution, Request
from daytona_magics.runtime.guest.journal import Journal
from daytona_magics.runtime.guest.supervisor import Supervisor


def made(folder: Path) -> Supervisor:
    loop: Any = SimpleNamespace(on_child=None)
    return Supervisor(loop, str(folder), lambda execution: None)


def ended(keeper: Supervisor, name: str, size: int) -> Execution:
    """An execution that printed so much and has ended."""
    request = Request.from_json({"id": name, "job": True})
    journal = Journal(str(Path(keeper.folder) / name))
    execution = Execution(request, len(keeper.executions) + 1, journal, lambda execution: None)
    keeper.executions[name] = execution
    execution.start()
    execution.output(frames.STDOUT, b"x" * size)
    execution.finish("ok")
    keeper.finished(execution)
    return execution


def known(keeper: Supervisor) -> dict[str, tuple[bool, bool]]:
    """Of each execution in a status: whether its output is kept, and whether it made room."""
    return {e["id"]: (e["kept"] > 0, e["dropped"]) for e in keeper.status()["executions"]}


def test_the_oldest_output_makes_room_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SPOOL", 100_000)
    keeper = made(tmp_path)
    for name in ("one", "two", "three"):
        ended(keeper, name, 45_000)
    assert known(keeper) == {"one": (False, True), "two": (True, False), "three": (True, False)}
    one = keeper.executions["one"]
    assert jobs.describe(one, 100)["tail"] == "" and jobs.describe(one, 100)["printed"] == 45_000
    assert keeper.forget(one) and keeper.forget(keeper.executions["two"])
    assert known(keeper) == {"three": (True, False)}, "what somebody asked to forget is not listed"


def test_many_small_outputs_leave_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MEMORY", 50_000)
    keeper = made(tmp_path)
    for number in range(20):
        ended(keeper, f"job{number}", 10_000)
    in_memory = sum(e.journal.in_memory for e in keeper.executions.values())
    assert in_memory <= 60_000 and all(kept for kept, _ in known(keeper).values())
    assert jobs.describe(keeper.executions["job0"], 20_000)["tail_bytes"] == 10_000


def test_a_status_has_a_bound_and_names_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STATUS_LIMIT", 5)
    keeper = made(tmp_path)
    request = Request.from_json({"id": "running"})
    keeper.executions["running"] = Execution(request, 1, Journal(str(tmp_path / "r")), lambda execution: None)
    for number in range(10):
        ended(keeper, f"job{number}", 10)
    assert list(known(keeper)) == ["running", *(f"job{number}" for number in range(5, 10))]


@pytest.mark.parametrize("job", [1, "yes", None])
def test_only_true_makes_a_job(job: object) -> None:
    assert Request.from_json({"id": "a", "job": job}).job is False
    assert jobs.key(Request.from_json({"id": "a", "job": True})) == ("main job a", "python")
