"""Waiting with a status line that counts, and can be interrupted cleanly.

In a notebook the line is one display that is updated in place and ends as one small grey sentence; in a
terminal it is one line rewritten with a carriage return; anywhere else only the sentences that must be seen
are printed. Nothing is shown for waits shorter than a second. What is said may quote a sandbox, so
control characters are replaced before it is shown.
"""

from __future__ import annotations

import asyncio
import html
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from daytona_magics.errors import SandboxInterrupted, printable
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.runtime.loop import loop_thread

T = TypeVar("T")

#: Seconds before the first sign that something takes time, between two counts, and granted to a cancel.
SHOW_AFTER, TICK, CANCEL_WITHIN = 1.0, 0.5, 2.0


def in_kernel() -> Any:
    """The running kernel's shell, or None in a terminal or a program."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if shell is not None and getattr(shell, "kernel", None) is not None else None


def note(text: str) -> None:
    """Show one sentence of ours: small and grey in a notebook, a plain line elsewhere."""
    text, shell = printable(text), in_kernel()
    if shell is None:
        print(text, flush=True)
    else:
        shell.display_pub.publish({"text/plain": text, "text/html": _line(text)})


def _line(text: str) -> str:
    shown = html.escape(text)
    parts = shown.split("`")
    if len(parts) % 2:
        shown = "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
    return (
        '<div style="color:var(--jp-ui-font-color2,GrayText);font-size:var(--jp-ui-font-size1,13px);'
        f'padding:2px 0 2px var(--jp-code-padding,5px)">{shown}</div>'
    )


class StatusLine:
    """One line that says what is being waited for, with the seconds.

    Args:
        quiet: show nothing at all.
    """

    _serial = 0

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._shown = ""
        self._id = ""

    @property
    def shown(self) -> bool:
        """Whether there is a line now."""
        return bool(self._shown)

    def show(self, text: str) -> None:
        """Show or replace the line."""
        text = printable(text, line=True)
        if self._quiet or text == self._shown:
            return
        shell = self._begun()
        if shell is not None:
            shell.display_pub.publish(
                {"text/plain": text, "text/html": _line(text)},
                transient={"display_id": self._id},
                update=bool(self._shown),
            )
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        self._shown = text

    def _begun(self) -> Any:
        """The kernel's shell, when there is one; most lines have nothing to say and never ask for it."""
        if not self._id:
            StatusLine._serial += 1
            self._id = f"daytona-magics-status-{time.time_ns()}-{StatusLine._serial}"
        return in_kernel()

    def close(self) -> None:
        """Take the line away; a notebook keeps an empty display, which takes no room."""
        if not self._shown:
            return
        shell = self._begun()
        if shell is not None:
            shell.display_pub.publish(
                {"text/plain": "", "text/html": ""}, transient={"display_id": self._id}, update=True
            )
        elif sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = ""

    def insist(self, text: str) -> None:
        """Like :meth:`become`, also when we were asked to be quiet: for what an output must not hide."""
        self._quiet = False
        self.become(text)

    def become(self, text: str) -> None:
        """Turn the line into a sentence that stays."""
        if self._quiet:
            return
        if self._shown and self._begun() is not None:
            self.show(text)
            self._shown = ""
            self._id += "-"
        else:
            self.close()
            note(text)


@dataclass(frozen=True)
class _Progress:
    text: str


@dataclass(frozen=True)
class _Note:
    text: str


@dataclass(frozen=True)
class _Ended:
    value: Any
    error: BaseException | None


class Teller:
    """The reporter handed to a binding: what it says goes through the queue to the main thread."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self._queue = queue

    def progress(self, text: str) -> None:
        self._queue.put(_Progress(text))

    def note(self, text: str) -> None:
        self._queue.put(_Note(text))


def wait(
    make: Callable[[Teller], Coroutine[Any, Any, T]],
    label: str,
    *,
    quiet: bool = False,
    cancelled: str = "cancelled; nothing was left half done",
) -> T:
    """Run a coroutine on the loop thread and wait for it, counting, until it ends or is interrupted.

    Args:
        make: called with a :class:`Teller`, returns the coroutine.
        label: what is being waited for, until the coroutine says something itself.
        quiet: no status line and no notes.
        cancelled: what an interrupt left behind, for the message.

    Raises:
        SandboxInterrupted: the first press; the coroutine was cancelled and had 2 s to clean up.
        Whatever the coroutine raises.
    """
    queue: SimpleQueue[Any] = SimpleQueue()
    task: list[asyncio.Task[T]] = []

    async def run() -> None:
        task.append(asyncio.ensure_future(make(Teller(queue))))
        try:
            queue.put(_Ended(await task[0], None))
        except BaseException as error:  # noqa: BLE001 - handed over to the waiting thread, every kind of it
            queue.put(_Ended(None, error))

    line, waited_for, start = StatusLine(quiet=quiet), label, time.monotonic()
    pressed: float | None = None
    with Presses(queue) as presses:
        loop_thread().submit(run())
        while True:
            try:
                item = queue.get(timeout=_pause(start, pressed))
            except Empty:
                if pressed is not None:
                    line.close()
                    raise SandboxInterrupted(
                        "stopped waiting; the clean-up goes on in the background"
                    ) from None
                line.show(f"{waited_for} … {time.monotonic() - start:.0f} s")
                continue
            if isinstance(item, _Progress):
                waited_for = item.text
                # Whoever tells often would never be shown again.
                if line.shown and pressed is None:
                    line.show(f"{waited_for} … {time.monotonic() - start:.0f} s")
            elif isinstance(item, _Note):
                line.become(item.text)
            elif isinstance(item, Press):
                pressed = pressed or time.monotonic()
                if task:
                    loop_thread().loop.call_soon_threadsafe(task[0].cancel)
            else:
                line.close()
                # Also a press that stands behind the end in the queue counts.
                return _outcome(item, presses.count > 0, cancelled)  # type: ignore[no-any-return]


def _pause(start: float, pressed: float | None) -> float:
    now = time.monotonic()
    if pressed is not None:
        return max(0.0, pressed + CANCEL_WITHIN - now)
    waited = now - start
    return SHOW_AFTER - waited if waited < SHOW_AFTER else TICK


def _outcome(ended: _Ended, pressed: bool, cancelled: str) -> Any:
    if ended.error is None:
        if pressed:
            raise SandboxInterrupted("it was already done when the interrupt arrived")
        return ended.value
    if isinstance(ended.error, asyncio.CancelledError):
        # What was cancelled may know better what it left behind.
        raise SandboxInterrupted(str(ended.error) or cancelled) from None
    raise ended.error
