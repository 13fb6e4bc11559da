"""A program that runs for one cell, below a leader that keeps its terminal.

The cell's process must not lead the session that its keyboard's terminal belongs to: when such a leader ends,
the system hangs up the terminal and tells what is left of the session, so that no background job would
outlive its cell. So there are two processes. The *leader* owns session and terminal, ignores signals and
waits; the *program* is its child, in a process group of its own in the foreground. When the program has ended
the leader gives the terminal back without a word to anybody, and ends the same way.
"""

from __future__ import annotations

import os
import signal

from . import processes, workers
from .typist import at_a_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .execution import Execution
    from .keyboard import Keyboard
    from .loop import Loop

_DEAF = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
_JOBS = (signal.SIGTTIN, signal.SIGTTOU)
_REPORT, _TERMINAL = 250, 251


class Missing(Exception):
    """What a cell needs is not in this sandbox; the text says what, and how to get it."""


class CellWorker(workers.Worker):
    """One process running one cell.

    Args:
        late: where output goes that comes after the cell's end.

    Attributes:
        program: pid of the program, leader of its process group; ``pid`` is the leader's.
        failed: which command failed, as a sentence; "" when nothing is known.
        keyboard: its standard input.
    """

    def __init__(
        self,
        loop: Loop,
        mark: str,
        execution: Execution,
        sink: Callable[[int, bytes], Any],
        late: Callable[[int, bytes], Any],
    ) -> None:
        super().__init__(loop, mark, sink)
        self._late = late
        self.execution = execution
        self.failed = ""
        self.program = 0
        self.keyboard: Keyboard | None = None

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """The program's environment."""
        return {**at_a_terminal(), **more, processes.MARK: self.mark}

    def start(
        self,
        argv: list[str],
        environment: dict[str, str],
        directory: str,
        keyboard: Keyboard | None,
        body: int = -1,
    ) -> None:
        """Start the program.

        Args:
            argv: the program, found on the PATH of ``environment``, and its words.
            keyboard: its standard input; or ``body``, a descriptor, which is closed here.

        Raises:
            OSError: there can be no further process.
        """
        out, err = workers.make_pipe(), workers.make_pipe()
        report = os.pipe()
        keep = {out[1]: 1, err[1]: 2, report[1]: _REPORT}
        terminal = keyboard is not None and keyboard.is_terminal
        stdin = keyboard.child_end if keyboard is not None else body
        if stdin >= 0:
            keep[stdin] = 0

        def child() -> None:
            self.loop.close_in_child()
            processes.die_with_parent()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            workers.isolate_child(keep, directory)
            _lead(argv, environment, terminal)

        try:
            self.pid = workers.fork(child)
        finally:
            for fd in (out[1], err[1], report[1], body):
                if fd >= 0:
                    os.close(fd)
            if keyboard is not None:
                keyboard.started()
        told = os.read(report[0], 32)  # at once: nothing of the cell's has run yet
        os.close(report[0])
        self.program = int(told) if told.isdigit() else 0
        self.keyboard = keyboard
        self.watch_raw(out[0], err[0])
        if keyboard is not None:
            keyboard.attend(self)

    @property
    def group(self) -> int:
        return self.program or self.pid

    def answer(self, message: dict[str, Any]) -> None:
        if self.keyboard is not None:
            self.keyboard.answer(message)

    def raw_taken(self, number: int, total: int) -> None:
        if self.keyboard is not None:
            self.keyboard.stir()

    def terminate(self) -> None:
        """SIGTERM to the program."""
        for process in self.running():
            if process.pid == self.program:
                processes.send([process], signal.SIGTERM)

    def running(self) -> list[processes.Process]:
        """The program and what it has started."""
        return processes.started_by(self.pid, self.mark, 0)

    def given(self) -> dict[str, Any] | None:
        """The message with the variables it was asked for, after its end; None when it was asked for none.

        Raises:
            TransferError: it does not have them.
        """
        return None

    def leave(self) -> None:
        """The program is gone: read what is left; what it has started may still write."""
        if self.keyboard is not None:
            self.keyboard.close()
        self.read_raw()
        self.sink = self._late

    def close(self) -> None:
        if self.keyboard is not None:
            self.keyboard.close()
        super().close()


def _lead(argv: list[str], environment: dict[str, str], terminal: bool) -> None:
    """In the leader: start the program, wait for it, end like it. Never returns."""
    import fcntl
    import termios

    processes.set_name("cell-leader")
    for number in _JOBS:
        signal.signal(number, signal.SIG_IGN)
    if terminal:
        try:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.dup2(0, _TERMINAL, inheritable=False)
        except OSError:
            terminal = False  # it is still a keyboard, only /dev/tty is not
    program = os.fork()
    if program == 0:
        processes.die_with_parent()
        os.setpgid(0, 0)
        if terminal:
            os.tcsetpgrp(0, os.getpid())
        for number in _JOBS:
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(argv[0], argv, environment)
        except OSError as error:
            os.write(2, ("%s could not be started: %s\n" % (argv[0], error.strerror)).encode())
        os._exit(127)
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)
    try:
        os.setpgid(program, program)  # whoever of the two is first
    except OSError:
        program = abs(program)  # it has done so, and become the program, already
    os.write(_REPORT, b"%d" % program)
    for fd in (0, 1, 2, _REPORT):
        os.close(fd)
    _, status = os.waitpid(program, 0)
    if terminal:
        _give_back()
    if os.WIFSIGNALED(status):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def _give_back() -> None:
    """Leave the terminal; whoever is in its foreground is told by SIGHUP, so that must be the leader."""
    import fcntl
    import termios

    try:
        os.tcsetpgrp(_TERMINAL, os.getpid())
        fcntl.ioctl(_TERMINAL, termios.TIOCNOTTY)
    except OSError:
        return  # it was hung up from the other side
