"""What is shown of one cell in several sandboxes: a section for each, a live view, a terminal's lines.

A section keeps the events of its sandbox in the order they came, up to its part of what one cell may keep
(the rest is counted, and said), and hands them to the same sink that shows an ordinary cell.
"""

from __future__ import annotations

import html
import time
from collections import deque

from daytona_magics.errors import SandboxInterrupted, printable
from daytona_magics.notebook import sinks
from daytona_magics.notebook.card import SOFT, escape, state_sign
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.notebook.outcome import CellOutput, failure
from daytona_magics.notebook.results import Heading, show, summary
from daytona_magics.notebook.status import in_kernel, note
from daytona_magics.notebook.terminal import clean
from daytona_magics.runtime import events

#: Seconds before the live view appears, and between two of its updates.
VIEW_AFTER, VIEW_EVERY = 0.4, 0.2
#: Rows of the live view, and characters of what a sandbox printed last in one.
MOST_ROWS, MOST_SAID = 32, 120
#: Characters of output that stay in a result after they were shown.
KEPT_TEXT = 1 << 20


class Section:
    """One sandbox's part of the cell.

    Attributes:
        ended: the cell has ended there, or nobody waits for it any more.
        released: its section was shown.
        over: number of its last question that is not asked any more.
        outcome: filled in when it has ended.
    """

    def __init__(self, name: str, owner: str, of: int, *, capture: bool, trust: bool, timeout: float) -> None:
        self.name, self.window, self.outcome = name, events.FlowWindow(), CellOutput()
        self.ended = self.released = False
        self.over = 0
        self.tail: deque[str] = deque([""], maxlen=1)
        self._owner, self._capture, self._trust, self._timeout = owner, capture, trust, timeout
        self._captured = sinks.Captured(trust)
        self._events: list[events.Event] = []
        self._room = max(1 << 20, sinks.CAPTURE_LIMIT // of)
        self._full, self._cut = False, 0
        self._error: events.Error | None = None
        self._value: RemoteValue | None = None
        self._began, self._seconds = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return self._seconds if self.ended else time.monotonic() - self._began

    @property
    def said(self) -> str:
        """The last line it printed, with what a carriage return put over it, or how it ended."""
        if self.ended:
            error = self.outcome.error
            return "" if error is None else summary(error)
        return printable(clean(self.tail[-1]), line=True).strip()

    def take(self, event: events.Event) -> None:
        """Take what came from the sandbox."""
        if isinstance(event, events.Error) and not event.passing:
            lines = tuple(clean(line) for line in event.traceback)
            self._error = events.Error(event.ename, clean(event.evalue), lines)
            return
        if isinstance(event, events.Result):
            self._value = RemoteValue(event.data, event.metadata, trust=self._trust)
            return
        if isinstance(event, events.Stream):
            self._remember(event.text)
        if isinstance(event, events.Reconnecting):
            self.tail.append(f"connection lost, trying again … {event.seconds:.0f} s (the cell runs on)")
            return
        if isinstance(event, events.InputOver):
            return
        if isinstance(event, events.Gap):
            self._cut += event.bytes
            return
        if isinstance(event, events.Stream):
            self._captured.stream(event.name, event.text)
        elif isinstance(event, events.Display):
            self._captured.display(event)
        elif isinstance(event, events.Clear):
            self._captured.clear(event.wait)
            self._events.clear()
        self._keep(event)

    def _remember(self, text: str) -> None:
        line = text[-4096:].rstrip("\n").rpartition("\n")[2]
        visible = line.rstrip("\r").rpartition("\r")[2]
        if visible.strip():
            self.tail.append(visible[:1000])

    def _keep(self, event: events.Event) -> None:
        size = events.weight(event)
        if self._full or size > self._room:
            # From the first piece that is too much on, only counted: what is kept has no holes.
            self._full = True
            self._cut += size
            return
        self._room -= size
        self._events.append(event)

    def end(self, done: events.Done, told: str = "") -> None:
        """The cell has ended there; ``told`` says what interrupts did, if there were any."""
        self._finish(failure(done, self._error, timeout=self._timeout, told=told), done)

    def fail(self, error: BaseException) -> None:
        """It will not be heard of any more."""
        self._finish(error, events.Done("error", seconds=self.seconds))

    def _finish(self, error: BaseException | None, done: events.Done) -> None:
        self._seconds, self.ended = done.seconds or self.seconds, True
        outcome = self._captured.outcome()
        if not self._capture:
            outcome.stdout, outcome.stderr = outcome.stdout[:KEPT_TEXT], outcome.stderr[:KEPT_TEXT]
        outcome.error, outcome.seconds, outcome.exit_code = error, self._seconds, done.exit_code
        outcome.result, self.outcome = self._value, outcome

    def show(self) -> None:
        """Show everything under its heading; the error itself is the cell's to raise."""
        show(self.heading())
        output = sinks.Shown(self._owner, self._trust)
        for event in self._events:
            if isinstance(event, events.Stream):
                output.stream(event.name, event.text)
            elif isinstance(event, events.Display):
                output.display(event)
            elif isinstance(event, events.Page):
                output.page(clean(event.text))
            elif isinstance(event, events.Error):
                output.error(cleaned(event))
            elif isinstance(event, events.Notice):
                output.flush()
                note(clean(event.text))
        output.flush()
        self._events.clear()
        if self._cut:
            note(f"{self.name}: {self._cut:,} bytes of output are missing here; --out would keep no more")
        if self._value is not None:
            show(self._value)

    def heading(self) -> Heading:
        """Its name, how it ended, and after how many seconds."""
        error = self.outcome.error
        how = "ok" if error is None else "interrupted" if isinstance(error, SandboxInterrupted) else self.said
        return Heading(self.name, f"{how}, {self._seconds:.2f} s", ok=error is None)


def cleaned(error: events.Error) -> events.Error:
    """The same error with texts that are safe to show."""
    return events.Error(
        error.ename, clean(error.evalue), tuple(clean(line) for line in error.traceback), passing=True
    )


def _sign(state: str) -> str:
    """The sign of a state as HTML; that it still runs is one as well, as wide as the others."""
    return state_sign(state) if state else '<span style="display:inline-block;width:1.2em">…</span>'


class View:
    """The live view: one row for each sandbox, updated in place a few times a second, gone at the end."""

    def __init__(self, sections: list[Section], *, quiet: bool) -> None:
        self._sections, self._shell = sections, None if quiet else in_kernel()
        self._id = f"daytona-magics-several-{time.time_ns()}"
        self._due = time.monotonic() + VIEW_AFTER
        self._shown = False
        self._last = ""

    @property
    def patience(self) -> float | None:
        """Seconds until it wants to be refreshed; None when there is none."""
        return None if self._shell is None else max(0.0, self._due - time.monotonic())

    def refresh(self, *, now: bool = False) -> None:
        """Show how everybody is doing, when it is time."""
        if self._shell is None or (not now and time.monotonic() < self._due):
            return
        self._due = time.monotonic() + VIEW_EVERY
        text = self._text()
        if text != self._last:
            self._last = text
            self._publish(text, self._html())

    def close(self) -> None:
        """Take it away."""
        if self._shown:
            self._publish("", "")
        self._shell = None

    def _publish(self, text: str, markup: str) -> None:
        assert self._shell is not None
        self._shell.display_pub.publish(
            {"text/plain": text, "text/html": markup},
            transient={"display_id": self._id},
            update=self._shown,
        )
        self._shown = True

    def _rows(self) -> list[tuple[str, str, str, str]]:
        # Those that still run are what is looked at.
        first = sorted(self._sections, key=lambda section: section.ended)[:MOST_ROWS]
        rows = []
        for section in self._sections:
            if section in first:
                state = "" if not section.ended else "ok" if section.outcome.ok else "failed"
                said = section.said
                said = said if len(said) <= MOST_SAID else said[: MOST_SAID - 1] + "…"
                rows.append((section.name, state, f"{section.seconds:.0f} s", said))
        return rows

    def _sum(self) -> str:
        ended = [section for section in self._sections if section.ended]
        failed = sum(not section.outcome.ok for section in ended)
        return (
            f"{len(ended)} of {len(self._sections)} ended"
            + (f", {failed} failed" if failed else "")
            + (f"; {MOST_ROWS} shown" if len(self._sections) > MOST_ROWS else "")
        )

    def _text(self) -> str:
        signs = {"": "…", "ok": "✓", "failed": "✗"}
        rows = [
            (printable(name, line=True), signs[state], took, said) for name, state, took, said in self._rows()
        ]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}  {sign} {took:>5}  {said}".rstrip() for name, sign, took, said in rows]
        return "\n".join([*lines, self._sum()])

    def _html(self) -> str:
        cell = "text-align:left;padding:1px 12px 1px 0;vertical-align:top"
        rows = "".join(
            f'<tr style="background:none"><td style="{cell}"><strong>{html.escape(printable(name))}</strong>'
            f'</td><td style="{cell};white-space:nowrap">{_sign(state)} {took}</td>'
            f'<td style="{cell};font-family:var(--jp-code-font-family,monospace);{SOFT}">'
            f"{escape(said)}</td></tr>"
            for name, state, took, said in self._rows()
        )
        return (
            f'<table style="border:none;margin:2px 0"><tbody>{rows}</tbody></table>'
            f'<div style="{SOFT}">{html.escape(self._sum())}</div>'
        )


class Terminal:
    """Where there is no page: each line as it is complete, with its sandbox's name before it."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}

    def take(self, section: Section, event: events.Event) -> None:
        """Print what came."""
        if isinstance(event, events.Stream):
            text = self._open.get(section.name, "") + event.text
            *lines, rest = text.split("\n")
            self._open[section.name] = rest[-65536:]
            for line in lines:
                self._print(section, line)
        elif isinstance(event, events.Display):
            self._print(section, str(RemoteValue(event.data, event.metadata)))
        elif isinstance(event, events.Notice | events.Page):
            self._print(section, event.text)

    def end(self, section: Section) -> None:
        """Print what is left, its value, and how it ended."""
        rest = self._open.pop(section.name, "")
        if rest.strip():
            self._print(section, rest)
        if section.outcome.result is not None:
            for line in repr(section.outcome.result).splitlines():
                self._print(section, line)
        print(section.heading(), flush=True)

    def _print(self, section: Section, text: str) -> None:
        # What a carriage return wrote over is not seen in a terminal either.
        visible = text.rstrip("\r").rpartition("\r")[2]
        for line in clean(visible).split("\n"):
            print(f"{printable(section.name, line=True)} │ {line}", flush=True)
