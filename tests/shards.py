"""The suite in several processes side by side, told as one: a pytest plugin with two parts.

    python -m tests
      shard 0: pytest, in namespaces of its own  -- takes groups of tests, writes every report -->  folder
      shard 1: the same                                                                             |
      teller:  pytest that runs nothing  <-- reads the reports, counts them, prints one summary ----'
      shard 2: what failed in another, once more, with nothing beside it

A group is the tests of one file, or all tests with one ``shard_group`` mark. Every shard collects everything;
who makes a group's file in the folder first runs the group, the slowest first (``shards.toml``). Tests marked
``alone`` need the machine for themselves: the first shard runs them when all others have ended.

Faults, signals and races are tested in real time on machines shared with others. So a group in which a test
failed, or whose shard died, is run once more, whole and in fresh processes, and the summary names what failed
at first (``RERUN``). What is broken fails twice. When many groups fail nothing is run again.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomllib

#: In a shard: its number; in a shard and in the teller: the folder they share, and how many shards there are.
NUMBER_VARIABLE = "DAYTONA_MAGICS_TEST_SHARD"
FOLDER_VARIABLE = "DAYTONA_MAGICS_TEST_SHARD_FOLDER"
COUNT_VARIABLE = "DAYTONA_MAGICS_TEST_SHARDS"
#: In the shard that runs groups once more: their names, as JSON. The teller writes them to this file before.
AGAIN_VARIABLE = "DAYTONA_MAGICS_TEST_AGAIN"
AGAIN = "again.json"
#: Seconds beyond its time limit after which a test that hangs ends its shard.
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
    from tests.teller import Teller

    number = os.environ.get(NUMBER_VARIABLE)
    part = Shard(Path(folder), int(number), count) if number else Teller(config, Path(folder), count)
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
        if again := os.environ.get(AGAIN_VARIABLE):
            everything = {**beside, **alone}
            self._run((name, everything[name]) for name in json.loads(again))
            return True
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

    def _run(self, claims: Iterable[tuple[str, list[pytest.Item]]]) -> None:
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

    That is for what hangs where its own time limit does not reach, as in C code or a fixture's end.
    """
    mark = item.get_closest_marker("timeout")
    limit = float(mark.args[0] if mark and mark.args else item.config.getini("timeout") or 120)
    seconds = limit + float(os.environ.get(SPARE_VARIABLE, "60"))
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
