"""A small epoll loop: callbacks for descriptors, timers, child exits. No asyncio: it takes 60 ms to import.

Idle means blocked in ``epoll_wait`` without a timeout: no polling.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import sys
import time
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT


def received(fd: int, most: int = 65536) -> bytes | None:
    """What can be read from a descriptor now; b"" when nothing will come any more, None when nothing has."""
    try:
        return os.read(fd, most)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Timer:
    """A callback due at a time of the monotonic clock; ``cancel()`` may be called at any moment."""

    __slots__ = ("callback", "due", "order")

    def __init__(self, due: float, order: int, callback: Callable[[], Any]) -> None:
        self.due = due
        self.order = order
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """Forget the callback (idempotent)."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.order) < (other.due, other.order)


class Loop:
    """Descriptors, timers and reaped children of one thread.

    Attributes:
        on_child: called as ``on_child(pid, status)`` for every reaped child, status as of ``os.waitpid``.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[int], Any]] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], Any]] = []
        self._order = 0
        self._running = False
        self.on_child: Callable[[int, int], Any] = lambda pid, status: None
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self.add(self._wake_in, self._signalled)

    def watch_children(self) -> None:
        """Reap children from now on (installs the SIGCHLD handler; main thread only)."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)

    def close_in_child(self) -> None:
        """Drop everything of the loop in a forked child."""
        signal.set_wakeup_fd(-1)
        self._poll.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def add(self, fd: int, callback: Callable[[int], Any], events: int = IN) -> None:
        """Call ``callback(events)`` when the descriptor is ready."""
        self._callbacks[fd] = callback
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Change what a descriptor is watched for; 0 pauses it (errors and hang-ups are still told)."""
        self._poll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching a descriptor; unknown ones are ignored."""
        if self._callbacks.pop(fd, None) is not None:
            try:
                self._poll.unregister(fd)
            except (OSError, ValueError) as error:
                sys.stderr.write("unregister %d: %s\n" % (fd, error))

    def later(self, seconds: float, callback: Callable[[], Any]) -> Timer:
        """Call ``callback()`` after so many seconds."""
        self._order += 1
        timer = Timer(time.monotonic() + seconds, self._order, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def soon(self, callback: Callable[[], Any]) -> None:
        """Call ``callback()`` at the end of this round."""
        self._soon.append(callback)

    def stop(self) -> None:
        """Make ``run`` return after the current round."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``. An exception in one callback is logged and does not end the loop."""
        self._running = True
        while self._running:
            for fd, events in self._poll.poll(self._timeout()):
                # One of this round's callbacks may have removed another's descriptor.
                callback = self._callbacks.get(fd)
                if callback is not None:
                    self._guard(callback, events)
            self._run_timers()
            while self._soon:
                batch, self._soon = self._soon, []
                for one in batch:
                    self._guard(one)

    def _timeout(self) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].due - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                self._guard(callback)

    def _guard(self, callback: Callable[..., Any], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            traceback.print_exc()

    def _signalled(self, events: int) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._guard(self.on_child, pid, status)
