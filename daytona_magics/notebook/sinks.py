"""Where a cell's output goes: onto the page as it comes, or into what ``--out`` keeps."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod

from daytona_magics.errors import RemoteError
from daytona_magics.notebook.display import RemoteValue, safe_bundle, safe_transient
from daytona_magics.notebook.outcome import CellOutput
from daytona_magics.notebook.terminal import TerminalFilter
from daytona_magics.runtime import events

#: Seconds between two flushes of a chatty cell.
FLUSH_EVERY = 0.05
#: What one cell's ``--out`` keeps, bytes of memory; the rest is counted.
CAPTURE_LIMIT = 64 << 20


class Output(ABC):
    """Where a cell's output goes."""

    pending = False
    messages = 0

    def __init__(self) -> None:
        self._filters = {"stdout": TerminalFilter(), "stderr": TerminalFilter()}

    def stream(self, name: str, text: str) -> None:
        safe = self._filters[name].feed(text)
        if safe:
            self._write(name, safe)

    @abstractmethod
    def _write(self, name: str, text: str) -> None:
        """Take filtered text."""

    @abstractmethod
    def display(self, event: events.Display) -> None:
        """Take a mimebundle, not yet sanitised."""

    @abstractmethod
    def clear(self, wait: bool) -> None:
        """Forget or clear what there is."""

    def page(self, text: str) -> None:
        """Take a text for the pager."""
        self._write("stdout", text)

    def error(self, error: events.Error) -> None:
        """Take an error that is only to be shown; its texts are clean."""
        self._write("stderr", "\n".join([*error.traceback, ""]))

    def settle(self) -> None:  # noqa: B027 - nothing to do where output is only kept
        """Nothing more is waiting: show what there is."""

    def flush(self) -> None:  # noqa: B027 - as above
        """Everything said so far must be visible when this returns."""

    def outcome(self) -> CellOutput:
        return CellOutput()


class Shown(Output):
    """Printed and displayed as it comes: the first piece at once, a flood in pieces of 50 ms."""

    def __init__(self, owner: str, trust: bool) -> None:
        super().__init__()
        self._owner, self._trust = owner, trust
        self._waiting: list[str] = []
        self._name = "stdout"
        self._flushed = 0.0
        self.messages = 0  # sent to the page so far

    def _write(self, name: str, text: str) -> None:
        if name != self._name and self._waiting:
            self.flush()
        self._name = name
        self._waiting.append(text)
        self.pending = True
        if time.monotonic() - self._flushed >= FLUSH_EVERY * 4:
            self.flush()

    def settle(self) -> None:
        if self.pending and time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        text, self._waiting, self.pending = "".join(self._waiting), [], False
        stream = sys.stdout if self._name == "stdout" else sys.stderr
        stream.write(text)
        stream.flush()
        self.messages += 1
        self._flushed = time.monotonic()

    def display(self, event: events.Display) -> None:
        from IPython.display import publish_display_data

        self.flush()
        data, metadata = safe_bundle(event.data, event.metadata, trust=self._trust)
        if data:
            self.messages += 1
            transient = safe_transient(event.transient, self._owner)
            publish_display_data(data, metadata, transient=transient, update=event.update and bool(transient))

    def page(self, text: str) -> None:
        from IPython.core.page import page

        self.flush()
        page(text)

    def error(self, error: events.Error) -> None:
        from IPython import get_ipython

        self.flush()
        shown = RemoteError.of(error.ename, error.evalue, list(error.traceback))
        get_ipython().showtraceback((type(shown), shown, None))  # type: ignore[no-untyped-call,unused-ignore]

    def clear(self, wait: bool) -> None:
        from IPython.display import clear_output

        self.flush()
        self.messages += 1
        clear_output(wait)


class Captured(Output):
    """Kept for ``--out``, up to CAPTURE_LIMIT; from the first piece that is too much on, only counted."""

    def __init__(self, trust: bool) -> None:
        super().__init__()
        self._trust = trust
        self._forget()

    def _forget(self) -> None:
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._displays: list[RemoteValue] = []
        self._kept = self._cut = self._cut_displays = 0
        self._full = False

    def _fits(self, event: events.Event) -> bool:
        size = events.weight(event)
        self._full = self._full or self._kept + size > CAPTURE_LIMIT
        self._kept += 0 if self._full else size
        return not self._full

    def _write(self, name: str, text: str) -> None:
        if self._fits(events.Notice(text)):
            self._texts[name].append(text)
        else:
            self._cut += len(text)

    def display(self, event: events.Display) -> None:
        if self._fits(event):
            self._displays.append(RemoteValue(event.data, event.metadata, trust=self._trust))
        else:
            self._cut_displays += 1

    def clear(self, wait: bool) -> None:
        self._forget()

    def outcome(self) -> CellOutput:
        return CellOutput(
            "".join(self._texts["stdout"]),
            "".join(self._texts["stderr"]),
            displays=self._displays,
            cut=self._cut,
            cut_displays=self._cut_displays,
        )
