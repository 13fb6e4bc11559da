"""Kernels end in every way there is; what they leave is found again, by its owner or by ``%sandbox reap``.

``DAYTONA_LEAK_KERNELS`` sets how many kernels live and die in the big test (default 50).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine import address
from daytona_magics.sandboxes import labels
from tests.kernel_client import environment, stop_engine
from tests.nursery import Nursery, Small

KERNELS = int(os.environ.get("DAYTONA_LEAK_KERNELS", "50"))
#: Kernels alive at the same time.
AT_ONCE = 6
#: Kernels that are still alive when everything is reaped.
SURVIVORS = 3

MAKE = "%%sandbox -q\nmark = {mark!r}"
CHECK = "%%sandbox -q\nassert mark == {mark!r}"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One user."""
    made = Path(tempfile.mkdtemp(prefix="dm-"))
    yield made
    stop_engine(environment(made))
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def nursery(home: Path) -> Iterator[Nursery]:
    with Nursery(home) as made:
        yield made


def ask(home: Path, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine with an SDK client of the user's engine."""
    env = environment(home)
    names = ("XDG_RUNTIME_DIR", "DAYTONA_MAGICS_HOME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: env[name] for name in names})
    try:
        engine = address.ensure()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value

    async def run() -> Any:
        from daytona import AsyncDaytona, DaytonaConfig

        async with AsyncDaytona(DaytonaConfig(api_key=engine.api_key, api_url=engine.api_url)) as client:
            return await work(client)

    return asyncio.run(run())


def boxes(home: Path) -> dict[str, Any]:
    """All sandboxes by name."""

    async def look(client: Any) -> dict[str, Any]:
        gone = ("destroyed", "destroying")
        return {box.name: box async for box in client.list() if box.state.value not in gone}

    found: dict[str, Any] = ask(home, look)
    return found


def create(home: Path, name: str, tags: dict[str, str]) -> None:
    """A sandbox of somebody else: its labels say so."""

    async def make(client: Any) -> None:
        from daytona import CreateSandboxFromSnapshotParams

        await client.create(CreateSandboxFromSnapshotParams(name=name, labels=tags))

    ask(home, make)


def tags_of(nursery: Nursery) -> dict[str, str]:
    """The labels this machine's kernels give, with those of a kernel that is dead."""
    name = f"model-{os.urandom(3).hex()}"
    kernel = nursery.kernel(name, [f"%sandbox create -q --name {name}"])
    kernel.wait_for("done 0 ok")
    kernel.end()
    found = dict(boxes(nursery.home)[name].labels)
    return {key: value for key, value in found.items() if key.startswith(("daytona-magics/", "created-by"))}


def strangers(home: Path, ours: dict[str, str]) -> dict[str, dict[str, str]]:
    """Sandboxes in the same organisation that are none of this machine's business, each by one label."""
    made = {
        "another-host": {**ours, labels.HOST: "0" * 12},
        "another-place": {**ours, labels.PLACE: "0" * 12},
        "no-place": {key: value for key, value in ours.items() if key != labels.PLACE},
        "another-maker": {**ours, labels.CREATED_BY: "somebody"},
        "no-labels": {},
    }
    for name, tags in made.items():
        create(home, name, tags)
    return made


def reap(nursery: Nursery, *options: str) -> str:
    kernel = nursery.kernel("reaper", [f"found = %sandbox reap {' '.join(options)}\nprint(found)"])
    kernel.wait_for("done 0 ok")
    kernel.end(signal.SIGTERM)
    return kernel.out


class Life:
    """One kernel's life, chosen by chance: what it runs, how it is disturbed, how it ends."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self.nursery, self.chance = nursery, random.Random(f"leak {number}")
        self.name, self.mark = f"kernel-{number}", f"mark {number}"
        self.survives = number < SURVIVORS

    def start(self, *cells: str) -> Small:
        return self.nursery.kernel(self.name, list(cells))

    def live(self) -> str:
        """Live to the end; returns the way it went."""
        if self.survives:
            kernel = self.start(MAKE.format(mark=self.mark))
            kernel.wait_for("done 0 ok")
            return "survived"
        ways = (self.killed_creating, self.interrupted_creating, self.killed, self.shut_down)
        way = self.chance.choice((*ways, self.restarted, self.killed_with_several))
        way()
        return way.__name__

    def killed_creating(self) -> None:
        kernel = self.start(MAKE.format(mark=self.mark))
        kernel.wait_for("begin 0")
        time.sleep(self.chance.uniform(0, 0.8))
        kernel.end()

    def interrupted_creating(self) -> None:
        kernel = self.start(MAKE.format(mark=self.mark))
        kernel.wait_for("begin 0")
        time.sleep(self.chance.uniform(0, 0.8))
        kernel.tell(signal.SIGINT)
        kernel.wait_for("idle")
        kernel.end(self.chance.choice((signal.SIGKILL, signal.SIGTERM)))

    def killed(self) -> None:
        kernel = self.start(MAKE.format(mark=self.mark))
        kernel.wait_for("done 0 ok")
        kernel.end()

    def shut_down(self) -> None:
        kernel = self.start(MAKE.format(mark=self.mark))
        kernel.wait_for("done 0 ok")
        kernel.end(signal.SIGTERM)

    def restarted(self) -> None:
        kernel = self.start(MAKE.format(mark=self.mark))
        kernel.wait_for("done 0 ok")
        kernel.end(self.chance.choice((signal.SIGKILL, signal.SIGUSR1)))
        again = self.start(CHECK.format(mark=self.mark))
        # Nothing of a restarted kernel was reaped meanwhile, whatever else ended.
        again.wait_for("done 0 ok")
        again.end(self.chance.choice((signal.SIGKILL, signal.SIGTERM)))

    def killed_with_several(self) -> None:
        kernel = self.start(f"made = %sandbox create -q -n 2 --name {self.name}-{{i}}")
        kernel.wait_for("begin 0")
        time.sleep(self.chance.uniform(0, 1.2))
        kernel.end()


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_nothing_is_orphaned_once_it_was_reaped_and_nobody_elses_is_touched(
    nursery: Nursery, home: Path
) -> None:
    others = strangers(home, tags_of(nursery))
    before = boxes(home)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ways = Counter(pool.map(lambda number: Life(nursery, number).live(), range(KERNELS)))
    left = boxes(home)
    mine = {name: box for name, box in left.items() if name not in others}
    running = [name for name, box in mine.items() if box.state.value == "started"]
    # The positive control: there was something to reap.
    assert len(running) > SURVIVORS, (ways, running)
    assert all(box.auto_delete_interval >= 0 and box.auto_stop_interval > 0 for box in mine.values())

    reap(nursery)
    after = boxes(home)
    started = {name for name, box in after.items() if box.state.value == "started"} - set(others)
    assert len(started) == SURVIVORS, (ways, started)
    assert set(after) == set(left)

    reap(nursery, "--delete")
    rest = boxes(home)
    assert set(rest) - set(others) == started, ways
    for name in others:
        same = ("labels", "state", "updated_at", "last_activity_at", "created_at")
        assert [getattr(rest[name], word) for word in same] == [getattr(before[name], word) for word in same]
    # The survivors have noticed nothing.
    for number in range(SURVIVORS):
        again = nursery.kernel(f"kernel-{number}", [])
        again.end()


def test_each_label_by_itself_keeps_a_sandbox_from_being_reaped(nursery: Nursery, home: Path) -> None:
    ours = tags_of(nursery)
    others = list(strangers(home, ours)) if "no-labels" not in boxes(home) else list(boxes(home))
    # The positive control: with all of this machine's labels, and a dead kernel's, it is reaped.
    create(home, "left-behind", {**ours, labels.KERNEL: "d" * 16})
    said = reap(nursery, "--dry-run")
    assert "left-behind" in said and not any(name in said for name in others if name.startswith("another"))
    said = reap(nursery)
    assert "left-behind" in said and boxes(home)["left-behind"].state.value == "stopped"
    assert all(
        boxes(home)[name].state.value == "started" for name in ("another-host", "another-place", "no-labels")
    )


def test_two_kernels_of_one_notebook_and_a_third_that_reaps(nursery: Nursery, home: Path) -> None:
    first = nursery.kernel("one", ["%sandbox create -q --name of-one", "%%sandbox -q\nx = 1"])
    first.wait_for("done 1 ok")
    second = nursery.kernel("two", ["%%sandbox -q -s of-one\nx = 2", "%%sandbox -q -s of-one\nassert x == 2"])
    # It has variables of its own there, though it is not its sandbox.
    assert second.wait_for("done 1") == "done 1 ok"
    second.end()
    reap(nursery)
    assert boxes(home)["of-one"].state.value == "started"
    first.end()
    again = nursery.kernel("one", ["%%sandbox -q\nassert x == 1"])
    assert again.wait_for("done 0") == "done 0 ok"
    again.end()
    said = reap(nursery)
    assert boxes(home)["of-one"].state.value == "stopped", said


def test_those_beside_stop_with_their_kernel_and_not_with_its_restart(nursery: Nursery, home: Path) -> None:
    cells = ["made = %sandbox create -q -n 2 --name beside-{i}", "%%sandbox -q -s beside-*\n1"]
    kernel = nursery.kernel("with-two", cells)
    kernel.wait_for("done 1 ok")
    kernel.end(signal.SIGUSR1)
    again = nursery.kernel("with-two", ["%%sandbox -q -s beside-1,beside-2\n1"])
    again.wait_for("done 0 ok")
    assert {boxes(home)[f"beside-{i}"].state.value for i in (1, 2)} == {"started"}
    again.end(signal.SIGTERM)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = {boxes(home)[f"beside-{i}"].state.value for i in (1, 2)}
        if found == {"stopped"}:
            break
        time.sleep(0.2)
    assert found == {"stopped"}


def test_a_restarted_kernel_holds_its_lock_though_its_first_process_ends_late(
    nursery: Nursery, home: Path
) -> None:
    first = nursery.kernel("late", ["%sandbox create -q --name of-late"])
    first.wait_for("done 0 ok")
    second = nursery.kernel("late", ["%%sandbox -q\n1"])
    second.wait_for("done 0 ok")
    first.end()
    reap(nursery)
    assert boxes(home)["of-late"].state.value == "started"
    second.end()


def test_what_cannot_be_used_goes_without_a_word(nursery: Nursery, home: Path) -> None:
    """A creation that failed half way stays as an error; a kernel that comes by later removes it."""
    ours = {**tags_of(nursery), labels.KERNEL: "e" * 16}
    create(home, "broken", ours)
    create(home, "broken-there", {**ours, labels.HOST: "0" * 12})
    code = (
        "import asyncio\n"
        "from daytona_magics import sandboxes\n"
        "from daytona_magics.runtime.loop import loop_thread\n"
        "from daytona_magics.sandboxes import reaping\n"
        "reaping.half_made = lambda box: box.name.startswith('broken')\n"
        "from daytona_magics.sandboxes.report import Silent\n"
        "binding = sandboxes.current()\n"
        "loop_thread().run(binding.connect(Silent()))\n"
        "assert loop_thread().run(reaping.sweep(binding, 0.5)) == 1"
    )
    kernel = nursery.kernel("sweeper", [code])
    assert kernel.wait_for("done 0") == "done 0 ok", kernel.out
    kernel.end()
    assert "broken" not in boxes(home) and "broken-there" in boxes(home)
