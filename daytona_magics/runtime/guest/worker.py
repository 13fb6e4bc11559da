"""A Python worker: reads cells from a pipe, runs them in ``__main__``, reports how each ended.

It is forked from the daemon and must look like an ordinary interactive Python to what runs in it: a real
``__main__`` module, ``sys.argv == [""]``, "" first in ``sys.path``, the default SIGINT handler.
"""

from __future__ import annotations
import __future__

# The C module under signal, whose functions make an enumeration's member of each number.
import _signal  # type: ignore[import-not-found]
import _thread
import ast
import builtins
import functools
import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
import types

from . import (
    completing,
    hooks,
    magics,
    offering,
    processes,
    rich,
    shell,
    streams,
    tracebacks,
    transform,
    variables,
)
from .asking import Asker
from .commands import Commands
from .history import History
from .ring import Uninterrupted
from .tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .ring import Writer

_PACKAGE = __package__ or ""
_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_FLAGS = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
_CO_COROUTINE = 0x80
_handle = _signal.signal
_TEXT = json.JSONEncoder(default=str).encode
#: Bytes of a value's message that waits for the end of its cell.
_SMALL = 2048
#: Processes are about to be started: from then on pauses between prints are worth a look at the raw pipes.
_STARTERS = frozenset(
    ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn")
)


class Session:
    """The state of one worker: its namespace, its output, the event loop for top-level ``await``."""

    def __init__(self, command: int, writer: Writer, mark: str) -> None:
        self._commands = Commands(command)
        self._writer = writer
        self.module = types.ModuleType("__main__")
        self.namespace: dict[str, Any] = self.module.__dict__
        self.history = History(self.namespace)
        self.tasks = Tasks()
        self.asker = Asker(self._question, self._commands)
        self.precision = ""  # a % format for floats
        self.number = 0  # of the running cell in its notebook
        self.display_error: Exception | None = None
        self.behind_error: list[dict[str, Any]] = []  # outputs that follow the display error
        self._early = False  # an interrupt came for the cell that is read next
        self._value = b""  # message with the cell's value, which its end follows at once
        self._filename = ""
        self._first_line = 1
        self._inside = False
        self._future = 0  # `from __future__` holds for later cells too
        self._pid = os.getpid()
        self._user_handler: Any = signal.default_int_handler
        self._prepare(mark)

    # -- becoming an ordinary interpreter ------------------------------------------------------------------

    def _prepare(self, mark: str) -> None:
        processes.set_name("python-cell")
        os.environ[processes.MARK] = mark
        os.environ.setdefault("HOME", "/")
        sys.modules["__main__"] = self.module
        self.namespace["__builtins__"] = builtins
        self.module.__spec__ = None
        sys.argv = [""]
        sys.path = [p for p in sys.path if p and not p.endswith(".pyz")]
        sys.path.insert(0, "")
        if _PACKAGE == "guest":
            # Ours is called `guest` only inside the zip; the user may have a module of that name.
            for name in [n for n in sys.modules if n == "guest" or n.startswith("guest.")]:
                del sys.modules[name]
        out = streams.Text(self._writer, b"1", 1, "<stdout>")
        err = streams.Text(self._writer, b"2", 2, "<stderr>")
        sys.stdout = sys.__stdout__ = out  # type: ignore[misc, assignment]
        sys.stderr = sys.__stderr__ = err  # type: ignore[misc, assignment]
        self.asker.install()
        sys.addaudithook(self._audit)
        rich.install(self)
        self._helper = magics.install(self)
        shell.install(self, self._helper)
        hooks.install(rich)
        sys.displayhook = rich.displayhook
        sys.unraisablehook = self._unraisable
        magics.refresh_site()
        importlib.invalidate_caches()
        gc.freeze()

    def _unraisable(self, unraisable: Any) -> None:
        """A KeyboardInterrupt that hit a destructor or a weak reference's callback is repeated, not lost."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt) or os.getpid() != self._pid:
            sys.__unraisablehook__(unraisable)
            return
        # By the supervisor: a thread here would run just when the destructor waits, and hit it again.
        try:
            self._writer.message(b"I")
        except KeyboardInterrupt:
            # Another one hit this very place, from where nothing gets out: it is told of instead.
            self._writer.message(b"I")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTERS:
            self._writer.be_careful(True)

    # -- talking to the supervisor -------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        """Send one MESSAGE of the running cell, in order with its output."""
        self._send_value()
        self._writer.message(_body(message))

    def send_last(self, message: dict[str, Any]) -> None:
        """Send the value of the cell: together with the cell's end, when only that is still to come."""
        body = _body(message)
        # Another thread may send as well, and before the end: then it goes at once.
        if len(body) <= _SMALL and os.getpid() == self._pid and not _thread._count():
            self._value = body
        else:
            self._writer.message(body)

    def _send_value(self) -> None:
        if self._value:
            with Uninterrupted():
                self._writer.message(self._value)
                self._value = b""

    def _question(self, message: dict[str, Any]) -> None:
        self._writer.message(b"Q" + json.dumps(message).encode("utf-8", "surrogatepass"))

    def remember(self, value: Any, number: int) -> None:
        """Keep the value of a cell's last expression."""
        self.history.value(value, number)

    def display_failed(self, error: Exception) -> None:
        """A display method raised: the cell fails with it at its end, what else there is is shown."""
        self.display_error = self.display_error or error

    def serve(self) -> None:
        """Run cells until the supervisor goes away."""
        _handle(signal.SIGINT, _ignore)
        while True:
            self.tasks.between_cells(self._commands.fd)
            job = self._commands.next()
            if job is not None and "look" in job:
                self._writer.message(b"L" + completing.answer(self.namespace, self._helper, job["look"]))
            if job is None or "code" not in job:
                self._early = False
                continue  # the answer to a question of a cell that has ended
            report = self._guarded(job)
            end = b"D" + json.dumps(report).encode("utf-8", "surrogatepass")
            value, self._value = self._value, b""
            self._writer.message(*filter(None, (value, end)))
            # The supervisor has told the next cell to run already: an interrupt now is for that one.
            _handle(signal.SIGINT, self._interrupted_early)
            try:
                offering.settle(self._commands.fd, report["status"] == "ok")
            finally:
                _handle(signal.SIGINT, _ignore)

    def _interrupted_early(self, number: int, frame: object) -> None:
        self._early = bool(select.select([self._commands.fd], [], [], 0)[0])

    def _guarded(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one job; SIGINT means KeyboardInterrupt inside the cell and nothing outside of it."""
        report: dict[str, Any] = {"status": "interrupted", "exit_code": None}
        try:
            try:
                _handle(signal.SIGINT, self._user_handler)
                early, self._early = self._early, False
                if early:
                    raise KeyboardInterrupt
                report = self._run_here(job)
            finally:
                handler = _handle(signal.SIGINT, _ignore)
                if handler is not _ignore:
                    self._user_handler = handler
        except KeyboardInterrupt:
            # It came in the few instructions around the cell.
            _handle(signal.SIGINT, _ignore)
        try:
            report["cwd"] = os.getcwd()
        except OSError:
            report["cwd"] = None
        return report

    def _run_here(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job; a process the cell forked, and that came back from the cell, ends here.

        Else there would be two workers reading the same commands.
        """
        code = 1
        try:
            report = self._run(job)
            code = 1 if report["exit_code"] is None else report["exit_code"]
            return report
        finally:
            if os.getpid() != self._pid:
                self._writer.flush()
                os._exit(code)

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
        self.number = job.get("number", 0)
        self.display_error, self.behind_error = None, []
        self._writer.be_careful(False)
        self.asker.cell_begins()
        restore: list[Any] = []
        status: tuple[str, int | None] = ("ok", 0)
        try:
            _apply(job["cwd"], job["env"], restore)
            carried = job.get("variables") or {}
            if carried.get("inputs"):
                self.namespace.update(variables.take_in(carried["inputs"]))
            if job.get("fresh"):
                sys.argv[:] = job["argv"] or [""]
                if sys.argv[0]:
                    # A file: its neighbours can be imported when it is one of the sandbox.
                    self.namespace["__file__"] = sys.argv[0]
                    sys.path[0] = os.path.dirname(os.path.expanduser(sys.argv[0]))
            self._execute(job["code"], job["name"])
            if job.get("fresh") or carried.get("outputs") or hooks.expected():
                self._send_value()  # what follows may take its time, or print
            if job.get("fresh"):
                _end_like_a_program(self._pid)
            if self.display_error is not None:
                raise self.display_error
            if os.getpid() == self._pid:
                hooks.cell_ended(rich)
                if carried.get("outputs"):
                    # What --fresh ran in ends with the cell.
                    piped = carried["piped"] and not job.get("fresh")
                    given = variables.give(self.namespace, carried["outputs"], carried["pickled"], piped)
                    self.send(given)
        except SystemExit as error:
            status = self._exited(error)
        except KeyboardInterrupt as error:
            self._report(error)
            status = ("interrupted", None)
        except BaseException as error:
            self._report(error)
            status = ("error", 1)
        finally:
            self.asker.cell_ended()
            for undo in restore:
                undo()
        return {"status": status[0], "exit_code": status[1]}

    def _report(self, error: BaseException) -> None:
        if os.getpid() != self._pid:
            traceback.print_exception(type(error), error, error.__traceback__)
            return
        if error.__traceback__ is not None and isinstance(error, Exception):
            sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        self.send(tracebacks.render(error))
        for message in self.behind_error:
            rich.emit(message)
        try:
            hooks.cell_ended(rich)
        except Exception as second:
            self.send({"msg": "notice", "text": "figures could not be shown: %r" % (second,)})

    def _exited(self, error: SystemExit) -> tuple[str, int | None]:
        code = error.code
        if os.getpid() != self._pid:
            return "ok", code if isinstance(code, int) else int(code is not None)
        if code is None or code == 0:
            self.send({"msg": "notice", "text": "the cell called exit(); the worker and its variables stay"})
            return "ok", 0
        self._report(error)
        return "error", code if isinstance(code, int) else 1

    # -- running one cell ----------------------------------------------------------------------------------

    def _execute(self, code: str, name: str) -> None:
        if not code:
            return  # it only carries variables
        if self._helper.reloader is not None:
            self._helper.reloader.look()
        if code[:1].isspace():
            code = transform.dedent(code)
        self._filename = tracebacks.register(name, code)
        self.history.cell(code, self.number)
        self._inside = self.tasks.wanted(code)
        magic = transform.cell_magic(code)
        if magic is None:
            self.run_text(code, line=1, last=True)
            return
        name, line, body = magic
        self._first_line = 1 + code.rstrip("\n").count("\n") - body.rstrip("\n").count("\n")
        rich.result(self._helper.cell(name, line, body), self.number)

    def run_text(self, code: str, line: int | None = None, last: bool = False) -> None:
        """Run statements of the running cell and show the value of the last one.

        Args:
            line: the number of its first line in the cell; by default a cell magic's body.
            last: nothing of the cell comes after it.
        """
        tree, value = self.parse(code, line)
        if tree.body:
            self.evaluate(self.compile(tree, "exec"))
        if value is not None:
            rich.result(self.evaluate(self.compile(value, "eval")), self.number, last)

    def parse(self, code: str, line: int | None = None) -> tuple[ast.Module, ast.Expression | None]:
        """Statements, and the last one apart if it is an expression that is not silenced."""
        line = self._first_line if line is None else line
        flags = ast.PyCF_ONLY_AST
        try:
            tree = self.compile(code, "exec", flags)
        except SyntaxError:
            changed = transform.transform(code)
            if changed == code:
                # Once more where it stands, for the line it names.
                if line == 1:
                    raise
                tree = self.compile("\n" * (line - 1) + code, "exec", flags)
            else:
                tree = self.compile(changed, "exec", flags)
        if line > 1:
            ast.increment_lineno(tree, line - 1)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not transform.silenced(code, tree.body[-1]):
            last = ast.Expression(tree.body.pop().value)
        return tree, last

    def compile(self, source: Any, mode: str, flags: int = 0) -> Any:
        """Compile as a part of the running cell."""
        code = compile(source, self._filename, mode, flags | _FLAGS | self._future, True)
        self._future |= getattr(code, "co_flags", 0) & _FUTURE
        return code

    def evaluate(self, code: types.CodeType) -> Any:
        """Run compiled code of the running cell; returns its value, awaited if it is a coroutine."""
        if code.co_flags & _CO_COROUTINE:
            return self.tasks.complete(eval(code, self.namespace))
        if self._inside and not self.tasks.running:
            return self.tasks.inside(lambda: eval(code, self.namespace))
        return eval(code, self.namespace)


def _body(message: dict[str, Any]) -> bytes:
    return b"M" + _TEXT(message).encode("utf-8", "surrogatepass")


def _ignore(number: int, frame: Any) -> None:
    """SIGINT handler between cells."""


def _end_like_a_program(pid: int) -> None:
    """Wait for threads and run what was left for the end, as Python does before it ends."""
    import atexit
    import threading

    own = threading.current_thread()
    if os.getpid() == pid:
        for thread in threading.enumerate():
            if thread is not own and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()


def _apply(cwd: str | None, env: dict[str, str], restore: list[Any]) -> None:
    """Set working directory and environment of one cell; appends what takes them back to ``restore``."""
    before = {name: os.environ.get(name) for name in env}

    def environment() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    restore.append(environment)
    os.environ.update(env)
    if cwd is not None:
        here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.chdir(os.path.expanduser(cwd))
        except OSError as error:
            os.close(here)
            said = "--cwd %s: there is no such folder, or it cannot be entered" % cwd
            raise type(error)(said) from None

        def directory() -> None:
            os.fchdir(here)
            os.close(here)

        restore.append(directory)


def main(command: int, writer: Writer, mark: str) -> None:
    """Body of the forked worker; never returns."""
    session = Session(command, writer, mark)
    while True:
        try:
            session.serve()
        except KeyboardInterrupt:
            continue
