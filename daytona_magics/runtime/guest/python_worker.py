"""The supervisor's side of a Python worker: forked from the daemon, alive from cell to cell."""

from __future__ import annotations

import json
import os
import signal

from . import commands, frames, processes, ring, worker, workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .execution import Execution
    from .loop import Loop, Timer

_KINDS = {b"1": frames.STDOUT, b"2": frames.STDERR}
#: Descriptors in the worker: far from the low numbers that programs close or expect.
COMMAND_FD, TAG_FD = 250, 251


class PythonWorker(workers.Worker):
    """One Python process.

    Args:
        directory: where its first cell runs.
        on_message: called with the JSON bytes of a display, result, error ... message.
        on_question: called with the JSON bytes of a message that asks for input.
        on_done: called with the worker's own report of a cell's end.
    """

    def __init__(
        self,
        loop: Loop,
        mark: str,
        directory: str,
        sink: Callable[[int, bytes], Any],
        on_message: Callable[[bytes], Any],
        on_question: Callable[[bytes], Any],
        on_done: Callable[[dict[str, Any]], Any],
    ) -> None:
        super().__init__(loop, mark, sink)
        self._on_message = on_message
        self._on_question = on_question
        self._on_done = on_done
        self._on_look: Callable[[bytes], Any] = lambda body: None
        self._poll_timer: Timer | None = None
        self._last_look = False
        self._run = 0  # stream of the cell it runs
        self._outgoing = b""
        shared = ring.Ring()
        out, err, tag, command = (workers.make_pipe() for _ in range(4))
        keep = {out[1]: 1, err[1]: 2, command[0]: COMMAND_FD, tag[1]: TAG_FD}

        def child() -> None:
            loop.close_in_child()
            processes.die_with_parent()
            workers.isolate_child(keep, directory)
            os.set_blocking(COMMAND_FD, True)
            worker.main(COMMAND_FD, ring.Writer(shared, TAG_FD, (1, 2)), mark)

        self.pid = workers.fork(child)
        for fd in (out[1], err[1], tag[1], command[0]):
            os.close(fd)
        self._command, self._tag, self._shared = command[1], tag[0], shared
        os.set_blocking(self._command, False)
        self._reader = ring.Reader(shared, self._tag, self._bytes, self._message, self.read_raw)
        self.watch_raw(out[0], err[0])
        loop.add(self._tag, lambda events: self.collect())

    def run(self, execution: Execution) -> None:
        """Send a cell to the worker."""
        request = execution.request
        self._run = execution.stream
        self._tell(
            {
                "code": request.code,
                "name": request.name,
                "cwd": request.cwd,
                "env": request.env,
                "number": request.number,
                "argv": request.argv,
                "variables": request.variables,
                "fresh": request.language == "fresh",
            }
        )
        request.variables = None

    def look(self, query: dict[str, Any], then: Callable[[bytes], Any]) -> None:
        """Ask about names, between cells; ``then`` is called with the answer's JSON."""
        self._on_look = then
        self._tell({"look": query})

    def answer(self, message: dict[str, Any]) -> None:
        """Hand over the answer to a question."""
        self._tell(message)

    def _tell(self, message: dict[str, Any]) -> None:
        self._outgoing += commands.encode(message)
        self._send()

    def _send(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._command, self._outgoing[:65536]) :]
        except BlockingIOError:
            self.loop.later(0.001, self._send)
        except OSError:
            self._outgoing = b""  # it died: its exit is on the way

    def _bytes(self, stream: bytes, data: bytes) -> None:
        self.sink(_KINDS[stream], data)

    def _message(self, body: bytes) -> None:
        if body[:1] == b"I":
            run = self._run
            # Not in step with whatever the worker does.
            delay = 0.001 + os.urandom(1)[0] / 25000
            self.loop.later(delay, lambda: self._interrupt_again(run))
        elif body[:1] == b"D":
            self._run = 0
            self._on_done(json.loads(body[1:].decode("utf-8", "replace")))
        elif body[:1] == b"L":
            self._on_look(body[1:])
        elif body[:1] == b"Q":
            self._on_question(body[1:])
        else:
            self._on_message(body[1:])

    def _interrupt_again(self, run: int) -> None:
        """Repeat an interrupt that hit code which cannot raise, if that cell still runs."""
        if run and run == self._run:
            processes.send_child(self.pid, signal.SIGINT)

    def before_raw(self) -> None:
        self.collect()

    def raw_taken(self, number: int, total: int) -> None:
        self._shared.words[ring.RAW + number] = total

    def collect(self) -> None:
        """Pass on everything printed; look again in 5 ms if there was any, else sleep until woken."""
        if self._tag < 0:
            return
        try:
            worked = self._reader.collect()
        except (ring.Broken, ValueError) as error:
            self.sink(frames.STDERR, ("\nthe worker's output channel broke: %s\n" % error).encode())
            self.kill()
            self._stop()
            return
        if self._reader.ended:
            self._stop()
        elif worked:
            self._last_look = False
            if self._poll_timer is None:
                self._poll_timer = self.loop.later(workers.COALESCE, self._poll)
        else:
            self._reader.sleep()
            if not self._last_look and self._poll_timer is None:
                self._last_look = True
                self._poll_timer = self.loop.later(workers.COALESCE, self._poll)

    def _poll(self) -> None:
        self._poll_timer = None
        self.collect()

    def _stop(self) -> None:
        if self._tag >= 0:
            self.loop.remove(self._tag)
            os.close(self._tag)
            self._tag = -1

    def close(self) -> None:
        self.collect()
        self._stop()
        self._run = 0  # an interrupt that is still to be repeated would hit another process
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        super().close()
        if self._command >= 0:
            os.close(self._command)
            self._command = -1
            self._outgoing = b""
            self._shared.close()
