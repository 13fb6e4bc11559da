"""Every exception of the package, in one file; each draws itself.

IPython asks an exception for ``_render_traceback_`` before it formats one of its own. All errors here
answer with a few lines a reader can act on: what was wrong, what was expected, the command that helps.
What a sandbox sent (names, messages) is part of some of them, so control characters are replaced as they are
drawn, before the colours of our own are added. They remain real exceptions, so Run All stops, queued cells
are aborted and papermill exits non-zero.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

RED, DIM, RESET = "\x1b[0;31m", "\x1b[2m", "\x1b[0m"

#: What acts on a terminal, reorders text, or cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, line: bool = False) -> str:
    """Text that shows itself and does nothing else: control characters become replacement characters.

    Args:
        text: anything; its ``str`` is taken.
        line: replace line ends and tabs as well, by spaces.

    In:  printable("a\\x1b[2Jb")
    Out: 'a\N{REPLACEMENT CHARACTER}[2Jb'
    """
    shown = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
    return re.sub(r"[\t\n]", " ", shown) if line else shown


class SandboxError(Exception):
    """Base of all errors raised by daytona_magics; draws as ``Name: message``, without host frames.

    Args:
        message: one clear sentence.
        hint: what to type or change next, shown on a line of its own; empty for none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        lines = [f"{RED}{type(self).__name__}{RESET}: {self}"]
        if self.hint:
            lines.append(f"{DIM}{printable(self.hint)}{RESET}")
        return lines


class SandboxUsageError(UsageError):  # type: ignore[misc]
    """A magic was typed wrongly. A ``UsageError`` that still fails the cell under nbclient and papermill."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return printable(super().__str__())

    _render_traceback_ = SandboxError._render_traceback_


class EndpointError(SandboxError):
    """The endpoint (cloud, self-hosted or embedded engine) cannot be reached, or refuses our key."""


class IsolationUnavailable(SandboxError):
    """The embedded engine cannot reach the isolation level that was asked for on this machine."""


class SandboxGone(SandboxError):
    """The bound sandbox no longer exists, or is in a state it cannot be started from."""


class SandboxUnreachable(SandboxError):
    """The way to the sandbox broke and did not come back in time; the cell's fate there is unknown."""


class ProtocolError(SandboxError):
    """What came back from a sandbox is not what our guest would send: refused, never interpreted."""


class GitError(SandboxError):
    """git in the sandbox could not do what was asked; what was there is as git leaves it.

    Attributes:
        code: the platform's word for why, such as ``"GIT_PUSH_REJECTED"``; "" when there is none.
    """

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class CellFailed(SandboxError):
    """Base of everything that means: the cell reached its sandbox, ran there, and failed there."""


class RemoteError(CellFailed):
    """The cell's code raised in the sandbox. Use :meth:`of` to get a class named after the remote one.

    Attributes:
        ename: name of the remote class, e.g. ``"ZeroDivisionError"``.
        evalue: ``str()`` of the remote exception.
        traceback: rendered lines, remote frames only, already ANSI-coloured by the guest.
    """

    ename: str = "RemoteError"

    def __init__(self, evalue: str, traceback: list[str] | None = None) -> None:
        super().__init__(evalue)
        self.evalue = evalue
        self.traceback = traceback or []

    @classmethod
    def of(cls, ename: str, evalue: str, traceback: list[str] | None = None) -> RemoteError:
        """Make an error whose class carries the remote name, as Jupyter reports ``type(e).__name__``.

        In:  RemoteError.of("ZeroDivisionError", "division by zero")
        Out: ZeroDivisionError('division by zero')   # a RemoteError
        """
        name = ename if ename.isidentifier() else "RemoteError"
        made: type[RemoteError] = type(name, (cls,), {"ename": name, "__module__": cls.__module__})
        return made(evalue, traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteError.of, (self.ename, self.evalue, self.traceback)

    def _render_traceback_(self) -> list[str]:
        return self.traceback or [f"{RED}{self.ename}{RESET}: {printable(self.evalue)}"]


class ExitCodeError(CellFailed):
    """A bash cell, or a program, ended with a non-zero exit code.

    Attributes:
        exit_code: the shell's exit code, 0–255.
    """

    def __init__(self, exit_code: int, *, what: str = "cell", hint: str = "") -> None:
        super().__init__(f"the {what} ended with exit code {exit_code}", hint=hint)
        self.exit_code = exit_code


class CellTimeout(CellFailed):
    """The cell ran longer than ``--timeout`` and was stopped in its sandbox."""


class WorkerDied(CellFailed):
    """The process running the cell ended (segfault, ``os._exit``, out of memory).

    Attributes:
        exit_code: its exit code, or None when a signal ended it.
        signal: the signal's number, or None.
    """

    def __init__(
        self, message: str, *, exit_code: int | None = None, signal_number: int | None = None
    ) -> None:
        super().__init__(
            message, hint="Variables were lost, files are kept. The next cell starts a fresh worker."
        )
        self.exit_code = exit_code
        self.signal = signal_number

    @classmethod
    def of(cls, exit_code: int | None, signal_number: int | None, why: str = "") -> WorkerDied:
        """In: WorkerDied.of(None, 11) Out: WorkerDied('the cell's process was ended by SIGSEGV')

        Args:
            why: the limit of the sandbox that ended it, where that is known.
        """
        if why:
            return cls(why, exit_code=exit_code, signal_number=signal_number)
        if signal_number is not None:
            try:
                name = signal.Signals(signal_number).name
            except ValueError:
                name = f"signal {signal_number}"
            more = " (out of memory?)" if name == "SIGKILL" else ""
            return cls(f"the cell's process was ended by {name}{more}", signal_number=signal_number)
        return cls(f"the cell's process ended itself with exit code {exit_code}", exit_code=exit_code)


class SeveralFailed(CellFailed):
    """A cell that ran in several sandboxes failed in some of them; draws the first error whole.

    Attributes:
        errors: sandbox name to exception, in the order the sandboxes were named.
        results: everything the cell left behind, by sandbox name.
    """

    def __init__(self, errors: Mapping[str, BaseException], of: int, results: Any = None) -> None:
        super().__init__(
            f"the cell failed in {len(errors)} of {of} sandboxes: {', '.join(errors)}",
            hint="--out VAR keeps every sandbox's output and error.",
        )
        self.errors, self.results, self._of = dict(errors), results, of

    def __reduce__(self) -> tuple[Any, ...]:
        return SeveralFailed, (self.errors, self._of)

    def _render_traceback_(self) -> list[str]:
        (first, error), *others = self.errors.items()
        render = getattr(error, "_render_traceback_", None)
        lines = render() if render is not None else [f"{type(error).__name__}: {printable(error)}"]
        shown = [f"{DIM}in sandbox{RESET} {printable(first, line=True)}", *lines]
        for name, other in others:
            said = printable(f"{type(other).__name__}: {other}", line=True)
            shown.append(f"{DIM}in sandbox{RESET} {printable(name, line=True)}: {said}")
        return [*shown, *super()._render_traceback_()]


class SandboxInterrupted(KeyboardInterrupt):
    """The cell was interrupted; raised once the remote side has been told, so Run All stops.

    Args:
        message: what was done there and whether variables are alive.
        traceback: where the cell was, as lines rendered by the guest; remote frames only.
    """

    def __init__(self, message: str = "interrupted", traceback: list[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.traceback = traceback or []

    def _render_traceback_(self) -> list[str]:
        return [*self.traceback, f"{RED}KeyboardInterrupt{RESET}: {printable(self.message)}"]


# Jupyter reports ``type(e).__name__`` as the error's name; front ends and tools know this one.
SandboxInterrupted.__name__ = "KeyboardInterrupt"
