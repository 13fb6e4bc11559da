"""Standard input of a program in a cell: a terminal that asks the person at the notebook.

Nothing is asked before a process of the cell really waits for input (see :mod:`waiting`), seen twice in a
row. What a program wrote to the terminal itself (``/dev/tty``) since its last line end is the question's
prompt; a terminal that does not echo asks for a password. Only fd 0 is a terminal: stdout and stderr are
pipes, so nothing pages or draws colours. Nobody there to answer: whoever reads gets the end of the input at
once, and who goes on reading finds the terminal hung up. Where no terminal can be opened (isolation below
L3), fd 0 is a pipe, and all else is the same.
"""

from __future__ import annotations

import os
import re
import time

from . import frames, waiting
from .loop import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .cell_worker import CellWorker
    from .loop import Loop, Timer

#: Seconds between two looks for somebody who waits: soon after output, seldom when nothing happens.
_SOON, _SELDOM = 0.03, 0.5
#: Seconds of silence after which ``forced`` takes a sleeping program for one that waits.
_SILENCE = 0.5
#: Seconds for which text without a line end may become the prompt of a question.
_HOLD = 0.3
#: The longest prompt, characters.
_MAX_PROMPT = 2000
#: What a terminal takes as one line, bytes.
_LINE = 4000
_SECRET = re.compile(r"pass(word|phrase|code)|secret|token|\bpin\b", re.IGNORECASE)
_END = b"\x04"
#: Ends of the input for a program that goes on reading, before its terminal is hung up.
_MOST_ENDS = 3


class Keyboard:
    """One program's keyboard.

    Args:
        ask: sends a question's or its end's message.
        name: of the cell, for what is said when nobody answers.
        forced: also ask when it cannot be seen that a program waits.

    Attributes:
        child_end: descriptor that becomes the program's fd 0.
        is_terminal: whether it is one; else a pipe.
    """

    def __init__(
        self, loop: Loop, ask: Callable[[dict[str, Any]], Any], name: str, forced: bool = False
    ) -> None:
        self._loop, self._ask, self._name, self._forced = loop, ask, name, forced
        self._worker: CellWorker | None = None
        self._timer: Timer | None = None
        self._pause = _SOON
        self._stirred = time.monotonic()
        self._seen = 0  # looks in a row at which somebody waited
        self._unseen = 0
        self._question = 0  # number of the open one
        self._number = 0
        self._ends = 0  # how often whoever waited was told that nobody is there
        self._held, self._held_since = b"", 0.0
        self._echo = b""
        self._outgoing = b""
        try:
            self._end, self.child_end = os.openpty()
            self.is_terminal = True
            self._names = {os.ttyname(self.child_end), "/dev/tty"}
            self._set_up()
        except OSError:
            self.child_end, self._end = os.pipe()
            self.is_terminal = False
            self._names = {os.readlink("/proc/self/fd/%d" % self.child_end)}
        os.set_blocking(self._end, False)

    def _set_up(self) -> None:
        import fcntl
        import struct
        import termios

        mode = termios.tcgetattr(self.child_end)
        mode[1] &= ~termios.OPOST
        mode[3] &= ~termios.ECHOCTL
        termios.tcsetattr(self.child_end, termios.TCSANOW, mode)
        fcntl.ioctl(self.child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def started(self) -> None:
        """The program has its end."""
        os.close(self.child_end)
        self.child_end = -1

    def attend(self, worker: CellWorker) -> None:
        """Look after this program from now on."""
        self._worker = worker
        if self.is_terminal:
            self._loop.add(self._end, lambda events: self._readable())
        self._later(self._pause)

    # -- what the program writes to its terminal -----------------------------------------------------------

    def _readable(self) -> None:
        data = received(self._end)
        if data is None:
            return
        if not data:
            self.close()
            return
        if self._echo:
            # The front end shows what was typed.
            same = _alike(data, self._echo)
            data, self._echo = data[same:], self._echo[same:] if same == len(data) else b""
        whole, _, rest = (self._held + data).rpartition(b"\n")
        if whole or (self._held + data)[:1] == b"\n":
            self._show(whole + b"\n")
        self._held, self._held_since = rest, time.monotonic()
        if len(rest) > _MAX_PROMPT:
            self._release()
        self.stir()

    def _release(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._show(held)

    def _show(self, data: bytes) -> None:
        if self._worker is not None:
            self._worker.sink(frames.STDERR, data)

    # -- who waits -----------------------------------------------------------------------------------------

    def stir(self) -> None:
        """Something happens: look more often for a while."""
        self._stirred = time.monotonic()
        if self._pause > 4 * _SOON and self._end >= 0:
            self._pause = _SOON
            self._later(_SOON)

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._end < 0 or self._worker is None:
            return
        now = time.monotonic()
        if self._somebody_waits(now):
            self._seen, self._unseen = self._seen + 1, 0
            if self._seen >= 2 and not self._question and not self._outgoing:
                self._put()
                if self._end < 0:
                    return
            self._pause = _SOON if self._seen < 2 else min(_SELDOM, 2 * self._pause)
        else:
            self._seen, self._unseen = 0, self._unseen + 1
            if self._question and self._unseen >= 2:
                self._withdraw()
            if self._held and now - self._held_since > _HOLD:
                self._release()
            self._pause = 2 * _SOON if self._question else min(_SELDOM, 1.5 * self._pause)
        self._later(self._pause)

    def _somebody_waits(self, now: float) -> bool:
        worker = self._worker
        assert worker is not None
        found = [process for process in worker.running() if process.alive]
        if any(waiting.waits(process.shown, self._names) for process in found):
            return True
        silent = now - self._stirred > _SILENCE
        return self._forced and silent and bool(found) and all(process.state != "R" for process in found)

    def _put(self) -> None:
        if self._ends:
            # Nobody is there, as is known by now.
            self._ends += 1
            if self._ends > _MOST_ENDS:
                self.close()
            else:
                self._outgoing += _END
                self._send()
            return
        prompt, self._held = self._held.decode("utf-8", "replace"), b""
        self._number += 1
        self._question = self._number
        password = self._is_secret(prompt)
        self._ask({"msg": "input", "number": self._number, "prompt": prompt, "password": password})

    def _withdraw(self) -> None:
        number, self._question = self._question, 0
        self._ask({"msg": "input_over", "number": number})

    def _is_secret(self, prompt: str) -> bool:
        """Whether what is typed must not be shown: the terminal does not, or an editor of lines has it."""
        if not self.is_terminal:
            return bool(_SECRET.search(prompt))
        import termios

        try:
            flags = termios.tcgetattr(self._end)[3]
        except termios.error:
            return False
        if flags & termios.ECHO:
            return False
        return bool(flags & termios.ICANON or _SECRET.search(prompt))

    # -- answers -------------------------------------------------------------------------------------------

    def answer(self, message: dict[str, Any]) -> None:
        """Type the answer to the open question."""
        self._question, self._seen = 0, 0
        if self._end < 0:
            return
        if message.get("error"):
            self._show(("%s: %s\n" % (self._name, message["error"])).encode("utf-8", "replace"))
            self._ends = 1
        end = bool(message.get("end") or message.get("error"))
        if end and not self.is_terminal:
            self.close()
            return
        self._outgoing += _END if end else self._typed(str(message.get("text", "")))
        self._pause = _SOON
        self._send()
        if self._end >= 0:
            self._later(self._pause)

    def _typed(self, text: str) -> bytes:
        data = text.encode("utf-8", "replace")
        if not self.is_terminal:
            return data + b"\n"
        import termios

        mode = termios.tcgetattr(self._end)
        if not mode[3] & termios.ICANON:
            return data + (b"\n" if mode[0] & termios.ICRNL else b"\r")
        # The key for the end of the input passes on what was typed so far, so lines may be of any length.
        pieces = [data[at : at + _LINE] for at in range(0, len(data), _LINE)]
        if mode[3] & termios.ECHO:
            self._echo = data + b"\n"
        return _END.join(pieces) + b"\n"

    def _send(self) -> None:
        if self._end < 0:
            return
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._end, self._outgoing[:_LINE]) :]
        except BlockingIOError:
            self._loop.later(0.005, self._send)
        except OSError:
            self._outgoing = b""  # nobody has the other end any more

    def close(self) -> None:
        """Hang up: whoever reads gets the end of the input."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.child_end >= 0:
            self.started()
        if self._end < 0:
            return
        if self._question:
            self._withdraw()
        self._release()
        end, self._end = self._end, -1
        if self.is_terminal and self._worker is not None:
            self._loop.remove(end)
        os.close(end)


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
