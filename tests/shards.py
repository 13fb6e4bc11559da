"""The suite in several processes side by side, told as one: a pytest plugin with two parts.

    python -m tests
      shard 0: pytest, in namespaces of its own  -- takes groups of tests, writes every report -->  folder
      shard 1: the same                                                                             |
      teller:  pytest that runs nothing  <-- reads the reports, counts them, prints one summary ----'

A group is the tests of one file, or all tests with one ``shard_group`` mark. Every shard collects everything;
who makes a group's file in the folder first runs the group, the slowest first (``shards.toml``). Tests marked
``alone`` need the machine for themselves: the first shard runs them when all others have ended.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomllib

#: In a shard: its number; in a shard and in the teller: the folder they share, and how many shards there are.
NUMBER_VARIABLE = "DAYTONA_MAGICS_TEST_SHARD"
FOLDER_VARIABLE = "DAYTONA_MAGICS_TEST_SHARD_FOLDER"
COUNT_VARIABLE = "DAYTONA_MAGICS_TEST_SHARDS"
#: Seconds beyond its two time limits after which a test that hangs ends its shard.
SPARE_VARIABLE = "DAYTONA_MAGICS_TEST_SPARE"
#: A group that is not in ``shards.toml`` is taken for one that needs as many seconds.
USUAL_SECONDS = 5.0
#: Where a shard's last words go: when this is imported, pytest does not capture output yet.
_STDERR = os.dup(2)


def pytest_configure(config: pytest.Config) -> None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return
    count = int(os.environ[COUNT_VARIABLE])
    number = os.environ.get(NUMBER_VARIABLE)
    part = Teller(config, Path(folder), count) if number is None else Shard(Path(folder), int(number), count)
    config.pluginmanager.register(part, "the part in this process")


def group_of(item: pytest.Item) -> str:
    """The name of the group that a test belongs to."""
    mark = item.get_closest_marker("shard_group")
    name = str(mark.args[0]) if mark else item.nodeid.partition("::")[0]
    return f"{name} (alone)" if item.get_closest_marker("alone") else name


def grouped(items: list[pytest.Item]) -> tuple[dict[str, list[pytest.Item]], dict[str, list[pytest.Item]]]:
    """The groups for side by side, slowest first, and those that must be alone."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(group_of(item), []).append(item)
    known = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["seconds"]
    order = sorted(found, key=lambda name: -known.get(name, USUAL_SECONDS))
    beside = {name: found[name] for name in order if not name.endswith("(alone)")}
    return beside, {name: found[name] for name in order if name not in beside}


class Shard:
    """Runs the groups it gets hold of."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self.folder, self.number, self.count = folder, number, count
        self._config: pytest.Config | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._config = session.config

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("not all tests can be collected")
        beside, alone = grouped(session.items)
        self._tell("groups", {name: len(items) for name, items in {**beside, **alone}.items()})
        self._run(self._claims(beside))
        self._tell("beside", round(time.time(), 1))
        if self.number == 0 and alone:
            self._wait_for_the_others()
            self._run(self._claims(alone))
        return True

    def _claims(self, groups: dict[str, list[pytest.Item]]) -> Iterator[tuple[str, list[pytest.Item]]]:
        """The groups that nobody else has taken, each taken when it is asked for."""
        for name, items in groups.items():
            try:
                (self.folder / f"taken-{name.replace('/', '|')}").touch(exist_ok=False)
            except FileExistsError:
                continue
            yield name, items

    def _run(self, claims: Iterator[tuple[str, list[pytest.Item]]]) -> None:
        for name, items in claims:
            self._tell("begin", name)
            # A group's fixtures end with it, those of the session too: what comes next is not known yet.
            for item, following in itertools.zip_longest(items, items[1:]):
                _end_what_hangs(item)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            faulthandler.cancel_dump_traceback_later()
            self._tell("end", name)

    def _wait_for_the_others(self) -> None:
        """Until each of them has run out of groups, or is dead."""
        others = [number for number in range(self.count) if number != self.number]
        while not all(self._is_through(number) for number in others):
            time.sleep(0.1)

    def _is_through(self, number: int) -> bool:
        said = self.folder / f"shard-{number}.jsonl"
        ended = (self.folder / f"ended-{number}").exists()
        return ended or (said.exists() and '\n{"beside"' in said.read_text())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell("report", self._serialized(report))

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector) -> None:
        # pytest itself switches the clock off here.
        if isinstance(node, pytest.Item):
            _end_what_hangs(node)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed or report.skipped:
            self._tell("collected", self._serialized(report))

    def _serialized(self, report: pytest.TestReport | pytest.CollectReport) -> Any:
        assert self._config is not None
        return self._config.hook.pytest_report_to_serializable(config=self._config, report=report)

    def _tell(self, kind: str, content: Any) -> None:
        with (self.folder / f"shard-{self.number}.jsonl").open("a") as file:
            file.write(json.dumps({kind: content}, default=str) + "\n")


def _end_what_hangs(item: pytest.Item) -> None:
    """End this shard, with the stacks of all threads in its log, when the test takes longer than it can.

    That is for what hangs where its own time limit does not reach: in a second try, or a fixture's end.
    """
    mark = item.get_closest_marker("timeout")
    limit = float(mark.args[0] if mark and mark.args else item.config.getini("timeout") or 120)
    seconds = 2 * limit + float(os.environ.get(SPARE_VARIABLE, "60"))
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)


class Teller:
    """Passes the shards' reports to this pytest as if its own tests had made them, group by group."""

    def __init__(self, config: pytest.Config, folder: Path, count: int) -> None:
        self.config, self.folder, self.count = config, folder, count
        self.problems: list[str] = []
        self._read = [0] * count
        self._open: list[list[Any]] = [[] for _ in range(count)]
        self._running = [""] * count
        self._groups: dict[str, int] = {}
        self._done: dict[str, tuple[int, float]] = {}
        self._begun = [0.0] * count

    def pytest_collection(self, session: pytest.Session) -> bool:
        self._session = session
        session.items = []
        return True

    def pytest_runtestloop(self) -> bool:
        ended: set[int] = set()
        while len(ended) < self.count:
            time.sleep(0.2)
            for number in range(self.count):
                # Looked for before reading: what was written before the end is read.
                over = (self.folder / f"ended-{number}").exists()
                self._follow(number)
                if over and number not in ended:
                    ended.add(number)
                    self._end(number, int((self.folder / f"ended-{number}").read_text()))
        left = sorted(set(self._groups) - set(self._done))
        if left or not self._groups:
            self.problems.append(f"groups that were not run to their end: {', '.join(left) or 'all'}")
        return True

    def _follow(self, number: int) -> None:
        """Read what a shard has said since."""
        path = self.folder / f"shard-{number}.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read[number])
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read[number] += len(line)
                for kind, content in json.loads(line).items():
                    self._hear(number, kind, content)

    def _hear(self, number: int, kind: str, content: Any) -> None:
        if kind == "groups":
            self._groups = content
            self._session.testscollected = sum(content.values())
        elif kind == "begin":
            self._running[number], self._begun[number] = content, time.monotonic()
        elif kind == "report":
            self._open[number].append(content)
        elif kind == "collected" and number == 0:  # All of them have collected the same.
            self.config.hook.pytest_collectreport(report=self._report(content))
        elif kind == "end":
            self._pass_on(number)
            self._done[content] = (number, time.monotonic() - self._begun[number])
            self._running[number] = ""

    def _pass_on(self, number: int) -> None:
        for content in self._open[number]:
            report = self._report(content)
            if report.when == "setup":
                self.config.hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            self.config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                self.config.hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
        self._open[number] = []

    def _report(self, content: Any) -> Any:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=content)
        if isinstance(report.longrepr, list):
            # Where a test was skipped, and why: JSON knows no tuples.
            report.longrepr = tuple(report.longrepr)
        return report

    def _end(self, number: int, status: int) -> None:
        self._pass_on(number)
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or self._running[number]:
            log = (self.folder / f"shard-{number}.log").read_text(errors="replace")[-8000:]
            group = self._running[number] or "no group"
            self.problems.append(f"shard {number} ended with {status} in {group}; its last words:\n{log}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.problems:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        tell = terminalreporter
        tell.section("groups")
        for name, (number, seconds) in sorted(self._done.items(), key=lambda one: -one[1][1])[:25]:
            tell.write_line(f"{seconds:7.1f}s in shard {number}: {name}")
        for number in range(self.count):
            mine = [seconds for by, seconds in self._done.values() if by == number]
            tell.write_line(f"shard {number}: {len(mine)} groups in {sum(mine):.0f} s")
        for problem in self.problems:
            tell.section("a shard failed", red=True)
            tell.write_line(problem)
