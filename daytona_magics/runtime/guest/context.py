"""A context: one cell at a time, its worker and time-outs; :mod:`.pressing` has the interrupts.

When an interrupted cell ends, what it left behind is ended before the cell is reported as done, so that
"interrupted" means: nothing of it runs any more.
"""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import zlib

from . import endings, jobs, limits, processes, tracebacks
from .bash_worker import BashWorker
from .cell_worker import CellWorker, Missing
from .execution import QUEUED, RUNNING
from .keyboard import Keyboard
from .languages import ProgramWorker
from .late import LateLog
from .pressing import Pressing
from .python_worker import PythonWorker
from .variables import TransferError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .execution import Execution
    from .loop import Timer
    from .supervisor import Supervisor
    from .workers import Worker

#: Seconds after a time-out at which level 2 and level 3 follow.
TIMEOUT_STEPS = (2.0, 4.0)
#: Bytes of output a stopped cell's reader may be behind; of more it is only told how much there is.
BACKLOG = 8 << 20
#: Languages whose worker is a Python process of ours; the others' is a program for one cell.
PERSISTENT = ("python", "fresh")
#: How many of its workers a context remembers, to end at a reset what they left behind.
WORKERS_KNOWN = 10_000


class Context(Pressing):
    """A queue of executions for one worker.

    Args:
        supervisor: whose it is.
        name, language: what it is known by.
        directory: where its first cell runs; the home when empty.

    Attributes:
        worker: the process, or None before the first cell and after a death.
        current: the execution that runs, or None.
        directory: where the next cell runs.
        over: the job it was for has ended.
        file: what its files' names begin with.
    """

    def __init__(self, supervisor: Supervisor, name: str, language: str, directory: str = "") -> None:
        self._supervisor = supervisor
        self._loop = supervisor.loop
        self.name = name
        self.language = language
        self.worker: Worker | None = None
        self.current: Execution | None = None
        self._queue: collections.deque[Execution] = collections.deque()
        self.over = False
        self.directory = directory or os.environ.get("HOME", "/")
        self._since = 0  # start tick of the current cell
        self._fresh = False
        self._ending = False
        self._timers: list[Timer] = []
        self._last_name, self._last = "", 0  # name and number of the newest cell that began
        self._news = ""  # told at the start of the next cell
        self._last_pid = 0
        self._doomed = False  # the worker was told to die and has not; the next cell waits for that
        self._last_mark = ""
        self._earlier: collections.deque[tuple[int, str]] = collections.deque(maxlen=WORKERS_KNOWN)
        self._asked = 0  # number of the question the worker waits with
        slug = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60]
        if slug != name:
            slug += "-%08x" % zlib.crc32(name.encode("utf-8", "replace"))
        self.file = os.path.join(supervisor.folder, "contexts", "%s.%s" % (slug, language))
        self._late_log = LateLog(self.file + ".log", name)

    def late_news(self) -> str:
        """A sentence about output that came after its cell had ended; "" when there is nothing new."""
        return self._late_log.news()

    def describe(self) -> dict[str, Any]:
        """The entry of a ``status`` reply."""
        return {
            "name": self.name,
            "language": self.language,
            "worker_pid": self.worker.pid if self.worker is not None else None,
            "busy": self.current.id if self.current is not None else None,
            "queued": [e.id for e in self._queue],
            "late_output": self._late_log.path,
            "directory": self.directory or "",
            "last": self._last,
        }

    # -- running -------------------------------------------------------------------------------------------

    def submit(self, execution: Execution) -> str | None:
        """Start it, or queue it; returns the id of the execution it waits behind."""
        ahead = self._queue[-1] if self._queue else self.current
        self._queue.append(execution)
        if ahead is not None:
            execution.message({"msg": "notice", "text": endings.waits(ahead.request.name, ahead.state)})
        self._next()
        return ahead.id if ahead is not None and execution.state == QUEUED else None

    def _next(self) -> None:
        if self.current is not None or not self._queue or self._doomed:
            return
        execution = self.current = self._queue.popleft()
        self._last_name, self._last = execution.request.name, execution.stream
        self._ending = False
        self._asked = 0
        self._since = processes.now_ticks()
        execution.start()
        failed = ""
        try:
            # First: it begins while the rest is told. What it prints is looked at in a later round.
            self._launch(execution)
        except Missing as error:
            failed = str(error)
        except OSError as error:
            failed = "the worker could not be started: %s" % endings.why(error)
        execution.message({"msg": "started"})
        for text in filter(None, (self._news, *self._supervisor.late_news(self.name))):
            execution.message({"msg": "notice", "text": text})
        self._news = ""
        if failed:
            self._complete("error", None, None, failed)
            return
        if execution.request.timeout:
            for level, delay in enumerate((0.0, *TIMEOUT_STEPS), 1):
                due = execution.request.timeout + delay
                self._timers.append(self._loop.later(due, lambda level=level: self._time_out(level)))  # type: ignore[misc]

    def _launch(self, execution: Execution) -> None:
        self._fresh = self.worker is None
        mark = "%d.%d" % (os.getpid(), execution.stream)
        if self.language not in PERSISTENT:
            self._adopt(self._cell_worker(mark, execution))
            return
        worker = self.worker
        if not isinstance(worker, PythonWorker):
            worker = PythonWorker(
                self._loop, mark, self.directory, self._sink, self._message, self._asks, self._python_done
            )
            self._adopt(worker)
        worker.run(execution)

    def _cell_worker(self, mark: str, execution: Execution) -> CellWorker:
        def keyboard() -> Keyboard:
            return Keyboard(self._loop, self._keyboard_asks, execution.request.name, execution.request.stdin)

        common = (execution, self._sink, self._late)
        if self.language == "bash":
            return BashWorker(self._loop, mark, self.file + ".state", *common, keyboard())
        return ProgramWorker(self._loop, mark, os.path.dirname(self.file), *common, keyboard)

    def _keyboard_asks(self, message: dict[str, Any]) -> None:
        self._asks(json.dumps(message).encode("utf-8", "surrogatepass"))

    def _adopt(self, worker: Worker) -> None:
        self.worker = worker
        self._earlier.append((worker.pid, worker.mark))
        self._last_pid, self._last_mark = worker.pid, worker.mark

    def _sink(self, kind: int, data: bytes) -> None:
        if self.current is not None:
            self.current.output(kind, data)
        else:
            self._late(kind, data)

    def _message(self, body: bytes) -> None:
        if self.current is not None:
            self.current.raw_message(body)
        else:
            self._late(0, b"[a message after the end of the cell: " + body[:200] + b"]\n")

    def _asks(self, body: bytes) -> None:
        """The worker asks for input; the question goes to whoever follows the cell."""
        if self.current is None:
            return  # the cell has ended, and the worker finds that out by itself
        try:
            message = json.loads(body.decode("utf-8", "replace"))
            number = message.get("number") if message.get("msg") == "input" else 0
        except (ValueError, AttributeError):
            return
        self._asked = number if isinstance(number, int) else 0
        if self._asked and self.current.request.job:
            self.answer(self.current, self._asked, {"error": jobs.NO_INPUT})
            return
        self.current.raw_message(body)

    def answer(self, execution: Execution, number: int, message: dict[str, Any]) -> bool:
        """Hand an answer to the worker; False when the cell does not wait for it (any more)."""
        worker = self.worker
        if execution is not self.current or not number or number != self._asked:
            return False
        if worker is None or self._ending:
            return False
        self._asked = 0
        worker.answer({**message, "answer": number})
        return True

    def _late(self, kind: int, data: bytes) -> None:
        self._late_log.add(data, self._last_name)

    # -- ends ----------------------------------------------------------------------------------------------

    def _python_done(self, report: dict[str, Any]) -> None:
        cwd, code = report.get("cwd"), report.get("exit_code")
        if isinstance(cwd, str) and self.language == "python":
            self.directory = cwd
        if self.current is not None and not self._ending:
            status = report.get("status")
            known = status if status in ("ok", "error", "interrupted") else "error"
            self._ended(known, code if isinstance(code, int) else None, None, "")

    def worker_ended(self, status: int) -> None:
        """The worker's process is gone."""
        worker, doomed = self.worker, self._doomed
        self.worker, self._doomed = None, False
        assert worker is not None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if number is None else None
        if isinstance(worker, CellWorker):
            worker.leave()
            if isinstance(worker, BashWorker) and worker.directory:
                self.directory = worker.directory
            if self.current is not None:
                self._cell_done(worker, code, number)
            return
        worker.close()
        if self.current is None and not doomed:
            self._news = "between two cells " + endings.death(code, number)
        elif self.current is not None and not self._ending:
            killed = number == signal.SIGKILL
            if killed and (self.current.interrupted or self.current.timed_out):
                # By us: how it ended says it all.
                text = ""
            else:
                text = endings.death(code, number, limits.reason(worker.pid) if killed else "")
            self._ended("died", code, number, text)
        self._next()

    def _cell_done(self, worker: CellWorker, code: int | None, number: int | None) -> None:
        execution = self.current
        assert execution is not None
        if execution.interrupted and (number is not None or code):
            status = "interrupted"
        elif number is not None:
            status = "died"
        else:
            status = "error" if code else "ok"
        killed = number == signal.SIGKILL and not (execution.interrupted or execution.timed_out)
        told = limits.reason(worker.program) if killed else ""
        if status == "error":
            told = "\n".join(filter(None, (worker.failed, limits.disk())))
        if status == "ok":
            try:
                given = worker.given()
            except TransferError as error:
                status, given = "error", tracebacks.render(error)
            if given is not None:
                execution.message(given)
        self._ended(status, code, number, told)

    def _ended(self, status: str, code: int | None, number: int | None, text: str) -> None:
        """The cell is over; an interrupted one is reported when nothing it started is left."""
        execution = self.current
        assert execution is not None
        self._ending = True
        self._cancel_timers()

        if not text and status in ("error", "died"):
            # Whatever it was that failed, it may be for this.
            text = limits.disk()

        def finish() -> None:
            self._complete(status, code, number, text)

        if execution.request.job or execution.interrupted or execution.timed_out:
            left = self._left_behind()
            if execution.request.job:
                jobs.ended(execution, left)
            self._end_processes(left, finish, over=True)
        else:
            finish()

    def _complete(self, status: str, code: int | None, number: int | None, text: str) -> None:
        execution = self.current
        assert execution is not None
        if self.worker is not None:
            self.worker.read_raw()
        if execution.interrupted or execution.timed_out:
            # Whoever stopped it does not want to watch the rest of a flood.
            execution.journal.skim_backlog(BACKLOG)
        fate = "kept" if self.language == "bash" else "none"
        if self.language == "python":
            fate = "killed" if self.worker is None else "new" if self._fresh else "kept"
        fate = "ended" if execution.request.job else fate
        execution.finish(status, code, number, fate, text)
        self.current = None
        self._supervisor.finished(execution)
        if self.language == "fresh" and self.worker is not None:
            # The next cell of this kind has a worker of its own.
            self._doomed = True
            self.worker.kill()
        self._next()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    # -- interrupts ----------------------------------------------------------------------------------------

    def interrupt(self, execution: Execution, level: int) -> dict[str, Any]:
        """Interrupt one execution of this context; returns what was done."""
        if execution.state == QUEUED:
            self._queue.remove(execution)
            execution.interrupted = level
            execution.finish("interrupted", text="it had not started")
            self._supervisor.finished(execution)
            return endings.did("it was waiting and will not run", "kept", 0)
        if execution.state != RUNNING or execution is not self.current or self.worker is None:
            return endings.did("it had ended already", "kept", 0)
        execution.interrupted = max(execution.interrupted, level)
        return self._press(level)

    def _time_out(self, level: int) -> None:
        if self.current is None or self.worker is None or self._ending:
            return
        self.current.timed_out = True
        self._press(level)

    def reset(self) -> None:
        """End the worker and everything it started; waiting cells are interrupted. Files are kept."""
        for execution in list(self._queue):
            self.interrupt(execution, 3)
        if self.language == "bash":
            for suffix in (".state", ".state.new", ".state.options", ".state.cwd"):
                if os.path.exists(self.file + suffix):
                    os.unlink(self.file + suffix)
        self.directory = os.environ.get("HOME", "/")
        worker = self.worker
        if worker is not None and self.current is not None:
            self.current.interrupted = 3
        alone = self._supervisor.busy_contexts() <= 1
        own = self._supervisor.worker_pids()
        # Also what earlier workers of this context left behind.
        found = processes.started_by(self._last_pid, self._last_mark, 0, own, alone, self._earlier)
        self._earlier.clear()
        if worker is not None:
            self._doomed = True
            worker.kill()
        processes.send(found, signal.SIGKILL)
