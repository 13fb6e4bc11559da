"""Executions and contexts: what runs where, what waits, and how it is ended.

A context is a named place where cells of one language run one after the other. Executions are known by their
id for the life of the daemon: an id that was seen is never run a second time.
"""

from __future__ import annotations

import collections
import os

from . import jobs
from .context import Context
from .execution import DONE, Execution
from .journal import Journal
from .lookups import Lookups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .execution import Request
    from .loop import Loop

KEEP_IDS = 10000
#: How many executions that have ended one ``status`` describes, the newest.
STATUS_LIMIT = 2000
#: Bytes of finished executions' output kept in memory before they are written to disk.
MEMORY = 32 << 20
#: Bytes of finished executions' output kept at all, for clients that never say ``forget``.
SPOOL = 1 << 30


class Supervisor:
    """All contexts and executions of a sandbox.

    Args:
        folder: the run folder.
        changed: called with an execution whenever there is something new to send.
        head, tail: limits of each execution's journal, bytes.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        changed: Callable[[Execution], Any],
        head: int = 64 << 20,
        tail: int = 192 << 20,
    ) -> None:
        self.loop = loop
        self.folder = folder
        self._changed = changed
        self._limits = (head, tail)
        self.executions: collections.OrderedDict[str, Execution] = collections.OrderedDict()
        self.contexts: dict[tuple[str, str], Context] = {}
        self.lookups = Lookups(loop, self.contexts)
        self._streams = 0
        self._finished: collections.deque[Execution] = collections.deque()  # and not forgotten
        self._memory = 0  # bytes of theirs in memory
        self._spooled = 0  # and in all
        loop.on_child = self._child_ended

    def execute(self, request: Request) -> tuple[Execution, bool, str | None]:
        """Queue or start; returns the execution, whether it was known, and the id it waits behind."""
        known = self.executions.get(request.id)
        if known is not None:
            return known, True, None
        self._streams += 1
        journal = Journal(os.path.join(self.folder, "executions", request.id), *self._limits)
        execution = Execution(request, self._streams, journal, self._changed)
        self.executions[request.id] = execution
        self._trim()
        return execution, False, self._context(request).submit(execution)

    def _context(self, request: Request) -> Context:
        key = jobs.key(request)
        if key not in self.contexts:
            parent = self.contexts.get((request.context, request.language)) if request.job else None
            made = Context(self, *key, directory="" if parent is None else parent.directory)
            jobs.begin(made, parent)
            self.contexts[key] = made
        return self.contexts[key]

    def context_of(self, execution: Execution) -> Context | None:
        """The context an execution belongs to; None for a job that has ended."""
        return self.contexts.get(jobs.key(execution.request))

    def late_news(self, name: str) -> list[str]:
        """What came between two cells in the contexts of this name, whatever their language."""
        return [c.late_news() for c in self.contexts.values() if c.name == name]

    def worker_pids(self) -> list[int]:
        """Processes that are workers, not something a cell started."""
        return [c.worker.pid for c in self.contexts.values() if c.worker is not None]

    def busy_contexts(self) -> int:
        """How many contexts are running a cell."""
        return sum(1 for c in self.contexts.values() if c.current is not None)

    def finished(self, execution: Execution) -> None:
        """An execution sent its last message: from now on its output may move to disk, later be dropped."""
        self._finished.append(execution)
        self._memory += execution.journal.in_memory
        self._spooled += execution.journal.size
        if self._memory > MEMORY:
            for one in self._finished:
                one.journal.spill()
            # A disk that refuses leaves something; it is counted again from here.
            self._memory = sum(one.journal.in_memory for one in self._finished)
        while self._spooled > SPOOL and self._finished:
            self.forget(self._finished[0], dropped=True)
        context = self.context_of(execution)
        if execution.request.job and context is not None:
            jobs.retire(self, context)

    def forget(self, execution: Execution, dropped: bool = False) -> bool:
        """Drop the output of a finished execution; its id stays known. False while it runs.

        ``dropped``: nobody asked for it, it makes room.
        """
        if execution.state != DONE:
            return False
        execution.dropped = dropped
        if execution.forgotten:
            return True
        self._finished.remove(execution)
        self._memory = max(0, self._memory - execution.journal.in_memory)
        self._spooled -= execution.journal.size
        execution.journal.forget()
        execution.forgotten = True
        execution.request.code = ""
        return True

    def _trim(self) -> None:
        while len(self.executions) > KEEP_IDS:
            oldest = next((e for e in self.executions.values() if e.state == DONE), None)
            if oldest is None:
                return
            self.forget(oldest)
            del self.executions[oldest.id]

    def reset(self, names: list[str] | None) -> int:
        """End the workers of these contexts (all by default); returns how many contexts were reset."""
        chosen = [c for c in self.contexts.values() if names is None or c.name in names]
        for context in chosen:
            context.reset()
        return len(chosen)

    def status(self) -> dict[str, Any]:
        """Contexts, and the newest of the executions that nobody asked to forget."""
        known = [e for e in self.executions.values() if not e.forgotten or e.dropped]
        alive = [e for e in known if e.state != DONE]
        ended = [e for e in known if e.state == DONE][-STATUS_LIMIT:]
        return {
            "contexts": [c.describe() for c in self.contexts.values()],
            "executions": [e.describe() for e in sorted([*ended, *alive], key=lambda e: e.stream)],
        }

    def shutdown(self) -> None:
        """Kill every worker."""
        for context in self.contexts.values():
            context.reset()

    def _child_ended(self, pid: int, status: int) -> None:
        for context in self.contexts.values():
            if context.worker is not None and context.worker.pid == pid:
                context.worker_ended(status)
                if context.over:
                    jobs.retire(self, context)
                return
