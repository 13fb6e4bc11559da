"""The three levels of an interrupt, done to the processes of a context's cell.

Level 1 is Ctrl-C: SIGINT to the cell's process group. Level 2 ends what the cell started, TERM then KILL, and
keeps the worker. Level 3 kills the worker too.
"""

from __future__ import annotations

import os
import signal
import time

from . import endings, processes
from .cell_worker import CellWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .loop import Loop
    from .processes import Process
    from .supervisor import Supervisor
    from .workers import Worker

#: Seconds between TERM and KILL.
GRACE = 0.2


def _group_of(process: Process) -> int:
    """Its process group; 0 when it is gone."""
    try:
        return os.getpgid(process.pid)
    except OSError:
        return 0


class Pressing:
    """The part of a context that ends what runs in it; :class:`.context.Context` sets the attributes."""

    language: str
    worker: Worker | None
    _supervisor: Supervisor
    _loop: Loop
    _last_pid: int
    _last_mark: str
    _since: int

    def _left_behind(self) -> list[Process]:
        """What the current cell started and still runs."""
        own = self._supervisor.worker_pids()
        alone = self._supervisor.busy_contexts() <= 1
        found = processes.started_by(self._last_pid, self._last_mark, self._since, own, alone)
        program = self.worker.program if isinstance(self.worker, CellWorker) else 0
        return [process for process in found if process.pid != program]

    def _end_processes(self, found: list[Process], then: Callable[[], Any], over: bool = False) -> None:
        """TERM, after 200 ms KILL; calls ``then`` as soon as all are gone.

        ``over``: the cell has ended, so whatever else there is by then goes too: one that is told to end may
        have started another one in its last moment.
        """
        if not found:
            then()
            return
        processes.send(found, signal.SIGTERM)
        processes.send(found, signal.SIGCONT)
        deadline = time.monotonic() + GRACE
        killed = False

        def look() -> None:
            nonlocal found, killed
            alive = [process for process in found if process.lives()]
            late = time.monotonic() >= deadline
            if alive and late and not killed:
                killed = True
                # Whoever was born meanwhile goes too.
                processes.send([*self._left_behind(), *alive], signal.SIGKILL)
            if over and not alive:
                found = alive = self._left_behind()
                processes.send(found, signal.SIGKILL if late else signal.SIGTERM)
                processes.send(found, signal.SIGCONT)
            if alive and time.monotonic() < deadline + 1.0:
                self._loop.later(0.005, look)
            else:
                then()

        self._loop.later(0.002, look)

    def _press(self, level: int) -> dict[str, Any]:
        worker = self.worker
        assert worker is not None
        if level >= 3:
            found = self._left_behind()
            # The worker first: a cell whose child dies must not go on, and then say that it ended well.
            worker.kill()
            processes.send(found, signal.SIGKILL)
            return endings.did(
                "killed the worker and %s" % endings.count(found), endings.fate(self.language), len(found)
            )
        if level == 2:
            found = self._left_behind()
            processes.send_group(worker.group, signal.SIGINT)
            if isinstance(worker, CellWorker):
                worker.terminate()
                self._loop.later(2 * GRACE, lambda: self._kill_bash(worker))
            self._end_processes(found, lambda: None)
            return endings.did(
                "ended %s that the cell had started" % endings.count(found), "kept", len(found)
            )
        processes.send_group(worker.group, signal.SIGINT)
        if isinstance(worker, CellWorker):
            self._press_again(worker, 8)
        return endings.did("sent Ctrl-C to the cell", "kept", 0)

    def _press_again(
        self, worker: Worker, times: int, before: frozenset[tuple[int, int]] = frozenset()
    ) -> None:
        """A command that bash was just starting can miss the SIGINT, and bash then waits for it: repeat.

        For the command alone, and only when it was seen twice: a second SIGINT would end bash at once,
        without the state that it saves at its end.
        """

        def look() -> None:
            if self.worker is worker and times:
                missed = {(p.pid, p.start): p for p in self._left_behind() if processes.missed_sigint(p)}
                again = [p for key, p in missed.items() if key in before and _group_of(p) == worker.group]
                processes.send(again, signal.SIGINT)
                self._press_again(worker, times - 1, frozenset(missed.keys() - before))

        self._loop.later(0.05, look)

    def _kill_bash(self, worker: Worker) -> None:
        if self.worker is worker:
            worker.kill()
