"""The keyboard of ``!cmd`` in a Python cell: the person at the notebook answers what the command reads.

The command's standard input is the end of a terminal that this process holds. A thread looks now and then
whether the command, or something below it, sleeps in a system call that waits for it (:mod:`.waiting`), asks
as ``input()`` does (:mod:`.asking`), and types the answer. Where there is nobody to answer, that is said, and
the command gets the end of its input. Without terminals (below isolation level L3) commands keep /dev/null.
"""

from __future__ import annotations

import os
import sys
import threading

from . import processes, waiting
from .asking import StdinNotImplementedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from .asking import Asker

#: Seconds until the first look, between looks at somebody who may wait, and between others at the most.
_FIRST, _AGAIN, _SELDOM = 0.05, 0.03, 0.5
#: Processes that are looked at; characters typed at once, which a terminal takes.
_MOST, _LINE = 100, 1000
_END = b"\x04"


def at_a_terminal() -> dict[str, str]:
    """The environment of a program whose keyboard is a terminal.

    Package tools and git would take that for a screen: questions of packages' own and full-screen editors are
    off unless the environment says otherwise.
    """
    return {"DEBIAN_FRONTEND": "noninteractive", "TERM": "dumb", **os.environ}


class Typist:
    """Context manager around one command.

    Args:
        asker: asks.

    Attributes:
        stdin: the command's standard input; None when there is no terminal to be had.
    """

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._echo = b""
        self.stdin: int | None = None
        self._ours = -1
        try:
            self._end, self.stdin = os.openpty()
        except OSError:
            return
        self._ours = self.stdin
        os.set_blocking(self._end, False)
        self._name = os.ttyname(self.stdin)

    def __enter__(self) -> Typist:
        return self

    def attend(self, pid: int) -> None:
        """The command runs: look after it."""
        if self.stdin is not None:
            self._thread = threading.Thread(target=self._look_after, args=(pid,), daemon=True)
            self._thread.start()
            self._let_go()

    def _let_go(self) -> None:
        """Close the command's end. An interrupt may come at any line: it is never closed a second time."""
        stdin, self._ours = self._ours, -1
        if stdin >= 0:
            os.close(stdin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        # One whose start was interrupted ends without touching anything, and cannot be joined.
        if self._thread is not None and self._thread.is_alive():
            # A question that is open is withdrawn, which its thread does within a moment.
            self._thread.join()
        self._let_go()
        if self.stdin is not None:
            self._drain()
            os.close(self._end)

    # -- on the thread -------------------------------------------------------------------------------------

    def _look_after(self, pid: int) -> None:
        pause, seen = _FIRST, 0
        while not self._over.wait(pause):
            self._drain()
            if not self._somebody_waits():
                seen, pause = 0, min(_SELDOM, 1.5 * pause)
            elif seen:
                # Twice in a row: it does not just pass by.
                self._ask()
                seen, pause = 0, _AGAIN
            else:
                seen, pause = 1, _AGAIN

    def _somebody_waits(self) -> bool:
        todo = processes.children(processes.own_number())
        for shown in todo:
            if waiting.waits(shown, (self._name, "/dev/tty")):
                return True
            if len(todo) < _MOST:
                todo += processes.children(shown)
        return False

    def _ask(self) -> None:
        import termios

        try:
            secret = not termios.tcgetattr(self._end)[3] & termios.ECHO
            text = self._asker.ask("", secret, self._over.is_set)
        except EOFError:
            self._type(_END)
        except StdinNotImplementedError as error:
            if not self._over.is_set():
                sys.stderr.write("%s\n" % error)
            self._type(_END)
        except OSError:
            return  # the terminal is gone
        else:
            data = text.encode("utf-8", "replace")
            self._echo = b"" if secret else data + b"\r\n"
            # The key for the end of the input passes on what was typed so far: lines may be of any length.
            self._type(_END.join(data[at : at + _LINE] for at in range(0, len(data), _LINE)) + b"\n")

    def _type(self, data: bytes) -> None:
        while data and not self._over.is_set():
            try:
                data = data[os.write(self._end, data[:_LINE]) :]
            except BlockingIOError:
                self._over.wait(0.005)
            except OSError:
                return

    def _drain(self) -> None:
        """Show what was written to the terminal, but for the echo of what was typed."""
        try:
            data = os.read(self._end, 65536)
        except OSError:
            return
        while data and self._echo.startswith(data[:1]):
            data, self._echo = data[1:], self._echo[1:]
        self._echo = b""
        if data:
            sys.stderr.write(data.decode("utf-8", "replace"))
