"""What a running cell tells: the events a channel hands to its sink, in the order they happened.

An event is a small immutable record made from validated guest frames. Nothing in it was interpreted: text
is text, mimetype data is what the guest sent and still hostile (the notebook side sanitises it).
The last event of every execution is :class:`Done`; the channel's own news (:class:`Reconnecting`,
:class:`Reconnected`, :class:`Gap`) come between them where they happened.

A consumer that is slower than the sandbox takes part in flow control through one :class:`FlowWindow`:

    window = FlowWindow()
    future = loop_thread().submit(channel.execute(request, queue.put, window))
    event = queue.get(); ...show it...; window.consumed(event)

While more than ``window.limit`` bytes were handed out and not consumed, the channel acknowledges nothing,
the guest stops sending after 128 KiB, and the cell's output waits in its spool inside the sandbox.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DoneStatus = Literal["ok", "error", "interrupted", "timeout", "died", "running"]


@dataclass(frozen=True, slots=True)
class Stream:
    """Text written to stdout or stderr; pieces that arrived together come as one event (up to 64 KiB).

    ``size``: the bytes it was made of; over all of an execution's events they add up to what it printed.
    """

    name: Literal["stdout", "stderr"]
    text: str
    size: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Display:
    """``display(obj)`` in the sandbox, or with ``update`` the new content of an earlier display id.

    Attributes:
        data: mimetype to value, binary ones base64 as in Jupyter. Not sanitised.
        metadata: mimetype metadata.
        transient: ``{"display_id": ...}`` or empty.
        size: bytes of the message it came in.
    """

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    transient: Mapping[str, Any] = field(default_factory=dict)
    update: bool = False
    size: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The value of the cell's last expression, as a mimebundle. Not sanitised. ``size`` as of Display."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    size: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Error:
    """An exception ended the cell's body; ``traceback`` holds rendered ANSI lines, remote frames only.

    ``size`` as of Display. With ``passing`` it is only shown (``%tb``), and the cell goes on.
    """

    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()
    size: int = field(default=0, compare=False, repr=False)
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Clear:
    """``clear_output(wait)``."""

    wait: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """The cell asks the person at the notebook; it waits until ``Channel.answer`` tells it something.

    Attributes:
        number: names the question in its answer.
        prompt: what is asked. Not sanitised.
        password: the answer must not be shown.
    """

    number: int
    prompt: str = ""
    password: bool = False


@dataclass(frozen=True, slots=True)
class InputOver:
    """The question with this number, and any before it, is over: nobody waits for its answer any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Page:
    """A text for the notebook's pager (``name?``). Not sanitised."""

    text: str


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables asked for: a container, or the path of a file in the sandbox that holds one. Hostile.

    ``piped``: what is there is a pipe at first, from which so many bytes come. ``size`` as of Display.
    """

    data: bytes = b""
    path: str = ""
    piped: int = 0
    size: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence of the guest's own for the reader, e.g. behind which cell this one waits."""

    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """So many bytes of output in so many frames are missing here: the sandbox's spool could not keep them.

    With ``kept`` it has them: they were passed over because this reader skims.
    """

    bytes: int
    frames: int
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an execution; always the last event.

    Attributes:
        status: "ok", "error" (an exception, or a non-zero exit code), "interrupted", "timeout", "died";
            "running" when only what there was so far had been asked for. The guest never says that.
        exit_code: of a bash cell or an ended process; None otherwise.
        signal: number of the signal that ended the process, or None.
        seconds: run time inside the sandbox.
        worker: "kept", "new" (made for this cell; in both, variables live) or "killed".
        text: a sentence about how it ended; may be empty.
        limit: the timeout that ended it, seconds; else 0.
    """

    status: DoneStatus
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    worker: str = "kept"
    text: str = ""
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The way to the sandbox broke ``seconds`` ago; try number ``attempt`` follows. The cell runs on."""

    seconds: float
    attempt: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The way is back after ``seconds``; what was printed meanwhile follows, in order and once."""

    seconds: float


Event = (
    Stream
    | Display
    | Result
    | Error
    | Clear
    | Input
    | InputOver
    | Page
    | Variables
    | Notice
    | Gap
    | Done
    | Reconnecting
    | Reconnected
)


def weight(event: Event) -> int:
    """About how many bytes of memory an event holds; the unit in which a :class:`FlowWindow` counts.

    Text counts as the memory it takes, everything else as the message it came in.

    In:  weight(Stream("stdout", "hello")), weight(Display({"image/png": "..."}, size=50_000))
    Out: (182, 50256)
    """
    if isinstance(event, Stream | Notice | Page):
        return 128 + sys.getsizeof(event.text)
    if isinstance(event, Input):
        return 256 + sys.getsizeof(event.prompt)
    if isinstance(event, Display | Result | Error | Variables):
        return 256 + event.size
    return 256


def volume(event: Event) -> int:
    """Bytes of output an event stands for: what it carried, or what is missing.

    In:  volume(Stream("stdout", "hello", 5)), volume(Gap(500, 8))
    Out: (5, 500)
    """
    if isinstance(event, Stream | Display | Result | Error):
        return event.size
    return event.bytes if isinstance(event, Gap) else 0


class FlowWindow:
    """Back-pressure between a channel (loop thread) and whoever consumes its events (any thread).

    Args:
        limit: bytes handed out and not yet consumed at which the channel stops acknowledging; 1 MiB unless
            told otherwise. It resumes below half of that.
        largest: bytes of a display or result beyond which only its size is wanted (as an empty
            :class:`Display`), so that it never takes memory here; 0 for whatever a message may have.
    """

    def __init__(self, limit: int = 1 << 20, largest: int = 0) -> None:
        self.limit, self.largest = limit, largest
        self._lock = threading.Lock()
        self._outstanding = 0
        self._wake: Callable[[], None] | None = None

    @property
    def outstanding(self) -> int:
        """Bytes handed out and not consumed."""
        return self._outstanding

    def handed(self, event: Event) -> None:
        """The channel gave this event to the sink (called by the channel)."""
        with self._lock:
            self._outstanding += weight(event)

    def consumed(self, event: Event) -> None:
        """The consumer is done with this event; call once for each, from any thread."""
        with self._lock:
            self._outstanding = max(0, self._outstanding - weight(event))
            wake = self._wake if self._outstanding <= self.limit // 2 else None
            if wake is not None:
                self._wake = None
        if wake is not None:
            wake()

    def full(self, wake: Callable[[], None]) -> bool:
        """Whether the limit is reached; then ``wake`` is called once, from any thread, when there is room."""
        with self._lock:
            if self._outstanding < self.limit:
                return False
            self._wake = wake
            return True
