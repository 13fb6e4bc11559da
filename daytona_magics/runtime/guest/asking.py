"""``input()``, ``getpass`` and whatever asks through them (pdb): the person at the notebook answers.

The question travels as a message of the running cell, in order with what was printed before it; the answer
comes back through the worker's command pipe. One question at a time; a second thread waits its turn. A
question that its cell does not live to see answered fails, and between cells nobody can ask.
"""

from __future__ import annotations

import builtins
import getpass
import io
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .commands import Commands

#: Seconds between two looks of a thread that waits for an answer: has its cell ended?
_LOOK = 0.1
NO_CELL = "input() works only while a cell is running"
IN_CHILD = "input() works only in the cell's own process, not in one it started"


class StdinNotImplementedError(NotImplementedError):
    """A cell asked for keyboard input, and there is nobody to answer."""


class Asker:
    """Sends questions and waits for their answers.

    Args:
        send: sends a question's message; raises OSError in a forked child.
        commands: where answers come in.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], commands: Commands) -> None:
        self._send = send
        self._commands = commands
        self._number = 0
        self._lock = threading.Lock()
        self._cell = 0  # number of the running cell, 0 between cells
        self._cells = 0

    def install(self) -> None:
        """Let ``input``, ``getpass`` and ``sys.stdin`` ask here."""

        def ask(prompt: object = "", /) -> str:
            """Ask the person at the notebook for a line of text; returns it without its line end."""
            return self.ask(str(prompt), False)

        def ask_password(prompt: str = "", stream: Any = None, **_: Any) -> str:
            """Ask for a password; it is not shown."""
            return self.ask(str(prompt), True)

        ask.__name__ = ask.__qualname__ = "input"
        builtins.input = ask
        getpass.getpass = ask_password
        sys.stdin = sys.__stdin__ = Keyboard(self)  # type: ignore[misc, assignment]

    def cell_begins(self) -> None:
        """From now on questions belong to this cell."""
        self._cells += 1
        self._cell = self._cells

    def cell_ended(self) -> None:
        """Questions still waiting fail; returns when nobody reads the command pipe any more."""
        self._cell = 0
        with self._lock:
            return

    def _answer(self) -> dict[str, Any] | None:
        """What came in within a moment. An interrupt says so in the kernel's words."""
        try:
            return self._commands.next(_LOOK)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted by user") from None

    def ask(self, prompt: str, password: bool, over: Callable[[], bool] = lambda: False) -> str:
        """Ask, and wait for the answer.

        Args:
            over: whether nobody waits for it any more; the question is then taken back.

        Raises:
            StdinNotImplementedError: there is no keyboard, no running cell, nobody waits, or this is another
                process.
            EOFError: the input was ended.
        """
        cell = self._cell
        if not cell:
            raise StdinNotImplementedError(NO_CELL)
        with self._lock:
            if cell != self._cell:
                raise StdinNotImplementedError(NO_CELL)
            self._number += 1
            number = self._number
            try:
                self._send({"msg": "input", "number": number, "prompt": prompt, "password": password})
            except OSError:
                raise StdinNotImplementedError(IN_CHILD) from None
            while True:
                answer = self._answer()
                if answer is not None and answer.get("answer") == number:
                    break
                if cell != self._cell:
                    raise StdinNotImplementedError(NO_CELL)
                if over():
                    self._send({"msg": "input_over", "number": number})
                    raise StdinNotImplementedError("nobody waits for an answer any more")
        if answer.get("end"):
            raise EOFError
        if answer.get("error"):
            raise StdinNotImplementedError(answer["error"])
        return str(answer.get("text", ""))


class Keyboard(io.TextIOBase):
    """``sys.stdin``: a line is asked for. Its descriptor is /dev/null, for children."""

    name = "<stdin>"
    mode = "r"
    encoding = "utf-8"

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        """One line, with its line end; "" at the end of the input."""
        try:
            return self._asker.ask("", False) + "\n"
        except EOFError:
            return ""

    def read(self, size: int | None = -1, /) -> str:
        """Everything up to the end of the input, which a notebook cannot type: asks until there is one."""
        return "".join(iter(self.readline, ""))

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """Does nothing (``exit()`` calls it)."""
