"""What a sandboxed cell left behind: its output when it was captured, its value, and how it ended."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from daytona_magics.errors import (
    CellFailed,
    CellTimeout,
    ExitCodeError,
    RemoteError,
    SandboxInterrupted,
    WorkerDied,
    printable,
)
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.runtime.events import Done, Error

#: What helps a cell that was stopped because of its time limit.
LONGER = "--timeout SECONDS gives a cell longer, --bg runs it beside the notebook."


@dataclass
class CellOutput:
    """The outcome of one cell, kept by ``--out VAR`` and returned by ``--no-raise``.

    Attributes:
        stdout: captured text; "" when the output was shown instead.
        stderr: captured text.
        result: the last expression's value, or None.
        displays: captured displays.
        error: the exception the cell ended with, or None. Its class is named after the remote one.
        exit_code: of a bash cell; None otherwise.
        seconds: run time inside the sandbox.
        cut: characters of stdout and stderr that were more than a capture keeps, and are not here.
        cut_displays: how many displays were more than a capture keeps.
    """

    stdout: str = ""
    stderr: str = ""
    result: RemoteValue | None = None
    displays: list[RemoteValue] = field(default_factory=list)
    error: BaseException | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    cut: int = 0
    cut_displays: int = 0

    @property
    def ok(self) -> bool:
        return self.error is None

    def __str__(self) -> str:
        return self.stdout

    def __repr__(self) -> str:
        parts = ["ok" if self.ok else f"{type(self.error).__name__}: {self.error}"]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        parts += [f"{len(text):,} characters of {name}" for name, text in self._texts() if text]
        if self.missing:
            parts.append(f"{self.missing} cut")
        if self.result is not None:
            text = repr(self.result)
            parts.append(f"result {text if len(text) <= 60 else text[:57] + '...'}")
        return f"<cell output: {', '.join(parts)}, {self.seconds:.2f} s>"

    @property
    def missing(self) -> str:
        """What was cut, in words; "" when everything is here."""
        parts = [f"{self.cut:,} characters"] if self.cut else []
        if self.cut_displays:
            parts.append(f"{self.cut_displays:,} display{'s' if self.cut_displays > 1 else ''}")
        return " and ".join(parts)

    def _texts(self) -> tuple[tuple[str, str], ...]:
        return ("stdout", self.stdout), ("stderr", self.stderr)

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self)[1:-1])}</code>"


def failure(done: Done, error: Error | None, *, timeout: float, told: str) -> BaseException | None:
    """The exception for the way a cell ended; None when it ended well and nobody interrupted it.

    Args:
        done: its last event.
        error: what the code raised in the sandbox, if anything.
        timeout: the limit it ran under, seconds; 0 where only the sandbox knows.
        told: what the interrupts did, "" when there was none.
    """
    lives = {
        "kept": "variables are alive",
        "killed": "its worker was ended: variables were lost, files kept",
        # Made for this very cell, and living on.
        "new": "variables are alive",
    }.get(done.worker, "")
    if done.status == "interrupted" or (told and done.status in ("ok", "error")):
        how = told or done.text or "the cell was interrupted"
        if told and done.status == "ok":
            how += ", which ended by itself"
        # What the cell's own KeyboardInterrupt says stands first.
        if error is not None and error.ename == "KeyboardInterrupt" and error.evalue:
            how = f"{error.evalue}; {how}"
        frames = list(error.traceback) if error is not None else []
        # The guest's own last line says "KeyboardInterrupt" and nothing else; ours says what was done.
        if frames and "KeyboardInterrupt" in frames[-1]:
            frames.pop()
        return SandboxInterrupted(f"{how.rstrip('.')}; {lives}" if lives else how, frames)
    if done.status == "timeout":
        return CellTimeout(
            f"the cell was stopped after its timeout of {timeout or done.limit:g} s{lives and '; '}{lives}",
            hint=done.text or LONGER,
        )
    if done.status == "died":
        # The guest's own words for it say no more than ours, unless it knows of a limit.
        why = "" if done.text.startswith("the worker process ") else done.text
        return WorkerDied.of(done.exit_code, done.signal, why)
    if done.status == "error":
        if error is not None:
            return RemoteError.of(
                error.ename, error.evalue, [*error.traceback, *map(printable, done.text.splitlines())]
            )
        if done.text and done.exit_code is None:
            # It did not come to the cell: its process could not be started.
            return CellFailed(done.text)
        return ExitCodeError(done.exit_code if done.exit_code is not None else 1, hint=done.text)
    return None
