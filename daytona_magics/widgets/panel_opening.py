"""What the panel opens beside itself: other widgets of the same sandbox, and the doctor's report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from daytona_magics import widgets
from daytona_magics.engine import doctor as reports
from daytona_magics.errors import printable
from daytona_magics.sandboxes.endpoint import choose
from daytona_magics.widgets.live import CallError

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Widgets that can be opened, in the order of their buttons.
OPENED = ("FileTree", "LogStream", "Terminal", "Preview")


def there() -> list[str]:
    """Which of them this version has."""
    return [name for name in OPENED if name in widgets.__all__]


def make(kind: str, binding: Binding, of: Any, run: dict[str, Any] | None = None) -> Any:
    """A widget of the binding's sandbox.

    Args:
        of: the port of a Preview.
        run: the execution of a LogStream, as the panel shows it; None for what it begins with.
    """
    made: Any = getattr(importlib.import_module("daytona_magics.widgets"), kind)
    if kind == "Preview":
        if isinstance(of, bool) or not isinstance(of, int) or not 0 < of < 65536:
            raise CallError("refused", "a preview is of a port from 1 to 65535")
        return made(of, binding=binding)
    if kind == "LogStream" and run is not None:
        from daytona_magics.widgets.log_sources import JobSource

        ended = run["state"] not in ("queued", "running")
        return made(JobSource(run["id"], run["name"], ended=ended), binding=binding)
    return made(binding=binding)


def doctor(binding: Binding) -> str:
    """The doctor's report on the embedded engine as text, or that it is not used. Blocks a moment."""
    choice = choose(binding.config)
    if choice.kind != "embedded":
        return f"Cells run on {printable(choice.url)}, because: {printable(choice.reason)}"
    report = reports.collect(start=False)
    return printable(reports.text(reports.sections(report), 96))
