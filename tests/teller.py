"""The pytest that runs nothing: it hears what the shards report, has what failed run once more, and sums up.

Reports of a group are passed on when the group has ended, as if its tests had been run here. Those of a group
with a failure are kept back until its second run; then the failures of the first are passed on as ``rerun``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.shards import AGAIN

#: When more groups fail, something is broken, and a second look costs only time.
AT_MOST_AGAIN = 10


class Teller:
    """Passes the shards' reports to this pytest as if its own tests had made them, group by group.

    Args:
        config: this pytest's.
        folder: what it shares with the shards.
        count: how many of them run side by side.
    """

    def __init__(self, config: pytest.Config, folder: Path, count: int) -> None:
        self.config, self.folder, self.count = config, folder, count
        self.problems: list[str] = []
        #: What a shard that died said, by the group that it died in.
        self.deaths: dict[str, str] = {}
        #: Reports of groups that failed and may be run once more.
        self._kept: dict[str, list[Any]] = {}
        self._read: dict[int, int] = {}
        self._open: dict[int, list[Any]] = {}
        self._running: dict[int, tuple[str, float]] = {}
        self._groups: dict[str, int] = {}
        self._done: dict[str, tuple[int, float]] = {}

    def pytest_collection(self, session: pytest.Session) -> bool:
        self._session = session
        session.items = []
        return True

    def pytest_runtestloop(self) -> bool:
        self._hear_out(range(self.count))
        again = [*self._kept, *(name for name in self._groups if name not in {*self._done, *self._kept})]
        if 0 < len(again) <= AT_MOST_AGAIN:
            unfinished = self.folder / f"{AGAIN}.new"
            unfinished.write_text(json.dumps(again))
            unfinished.rename(self.folder / AGAIN)
            self._hear_out([self.count])
        for name in list(self._kept):
            self._pass_on(self._kept.pop(name))
        left = sorted(set(self._groups) - set(self._done))
        if left or not self._groups:
            self.problems.append(f"groups that were not run to their end: {', '.join(left) or 'all'}")
        return True

    def _hear_out(self, numbers: Any) -> None:
        """Follow these shards until all of them have ended."""
        left = set(numbers)
        while left:
            time.sleep(0.2)
            for number in sorted(left):
                # Looked for before reading: what was written before the end is read.
                over = (self.folder / f"ended-{number}").exists()
                self._follow(number)
                if over:
                    left.remove(number)
                    self._end(number, int((self.folder / f"ended-{number}").read_text()))

    def _follow(self, number: int) -> None:
        """Read what a shard has said since."""
        path = self.folder / f"shard-{number}.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read.get(number, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read[number] = self._read.get(number, 0) + len(line)
                for kind, content in json.loads(line).items():
                    self._hear(number, kind, content)

    def _hear(self, number: int, kind: str, content: Any) -> None:
        if kind == "groups":
            self._groups = content
            self._session.testscollected = sum(content.values())
        elif kind == "begin":
            self._running[number] = content, time.monotonic()
            self._open[number] = []
        elif kind == "report":
            self._open[number].append(self._report(content))
        elif kind == "collected" and number == 0:  # All of them have collected the same.
            self.config.hook.pytest_collectreport(report=self._report(content))
        elif kind == "end":
            _, begun = self._running.pop(number)
            self._done[content] = number, time.monotonic() - begun
            self._group(number, content, self._open.pop(number))

    def _group(self, number: int, name: str, reports: list[Any]) -> None:
        """What a group reported, all or until its shard died: pass it on, or keep it for the second run."""
        if number == self.count:
            for report in self._kept.pop(name, []):
                if report.failed:
                    report.outcome = "rerun"
                    self.config.hook.pytest_runtest_logreport(report=report)
        elif name not in self._done or any(report.failed for report in reports):
            self._kept[name] = reports
            return
        self._pass_on(reports)

    def _pass_on(self, reports: list[Any]) -> None:
        for report in reports:
            if report.when == "setup":
                self.config.hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            self.config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                self.config.hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    def _report(self, content: Any) -> Any:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=content)
        if isinstance(report.longrepr, list):
            # Where a test was skipped, and why: JSON knows no tuples.
            report.longrepr = tuple(report.longrepr)
        return report

    def _end(self, number: int, status: int) -> None:
        name, _ = self._running.pop(number, ("", 0.0))
        if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not name:
            return
        log = (self.folder / f"shard-{number}.log").read_text(errors="replace")[-8000:]
        said = f"shard {number} ended with {status} in {name or 'no group'}; its last words:\n{log}"
        if not name:
            self.problems.append(said)
            return
        self.deaths[name] = said
        self._group(number, name, self._open.pop(number))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.problems:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        if report.outcome == "rerun":
            return "rerun", "R", ("RERUN", {"yellow": True})
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        tell = terminalreporter
        for report in tell.getreports("rerun"):
            tell.section(f"RERUN {report.nodeid}", yellow=True)
            report.toterminal(tell._tw)
        for said in self.deaths.values():
            tell.section("a shard died", red=True)
            tell.write_line(said)
        tell.section("groups")
        for name, (number, seconds) in sorted(self._done.items(), key=lambda one: -one[1][1])[:80]:
            tell.write_line(f"{seconds:7.1f}s in shard {number}: {name}")
        for number in range(self.count + 1):
            mine = [seconds for by, seconds in self._done.values() if by == number]
            tell.write_line(f"shard {number}: {len(mine)} groups in {sum(mine):.0f} s")
        for report in tell.getreports("rerun"):
            tell.write_line(f"RERUN {report.nodeid}")
        for problem in self.problems:
            tell.section("a shard failed", red=True)
            tell.write_line(problem)
