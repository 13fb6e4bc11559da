"""Questions about a context's names: handed to its worker between cells, answered at once while it is busy.

The worker answers in the order it is asked in, but it is not believed: every question has a number, and one
that is not answered in time is answered here, with nothing.
"""

from __future__ import annotations

import json

from .python_worker import PythonWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .context import Context
    from .loop import Loop

    Reply = Callable[[dict[str, Any]], Any]

#: Seconds until a question is given up; questions under way; characters of a cell that are looked at.
WITHIN, MOST, LONGEST = 0.5, 16, 200_000


class Lookups:
    """What is asked and not answered yet.

    Args:
        contexts: those of the supervisor, by name and language.
    """

    def __init__(self, loop: Loop, contexts: dict[tuple[str, str], Context]) -> None:
        self._loop = loop
        self._contexts = contexts
        self._waiting: dict[int, Reply] = {}
        self._number = 0

    def ask(self, request: dict[str, Any], reply: Reply) -> None:
        """Answer a request ``{"kind", "context", "code", "cursor", "detail"}``, at once or within ``WITHIN``.

        The reply's ``state`` is "ok", "busy" (a cell runs), "none" (no cell has run) or "late".

        Raises:
            ValueError: the request is malformed.
        """
        kind, code, cursor = request.get("kind"), request.get("code"), request.get("cursor")
        if kind not in ("complete", "inspect"):
            raise ValueError("kind must be complete or inspect")
        if not isinstance(code, str) or len(code) > LONGEST:
            raise ValueError("code must be a string of at most %d characters" % LONGEST)
        if isinstance(cursor, bool) or not isinstance(cursor, int) or not 0 <= cursor <= len(code):
            raise ValueError("cursor must be a place in code")
        context = self._contexts.get((str(request.get("context")), "python"))
        worker = context.worker if context is not None else None
        if context is None or not isinstance(worker, PythonWorker):
            reply({"state": "none"})
        elif context.current is not None or len(self._waiting) >= MOST:
            reply({"state": "busy"})
        else:
            self._number = number = self._number + 1
            self._waiting[number] = reply
            worker.look(
                {
                    "kind": kind,
                    "code": code,
                    "cursor": cursor,
                    "detail": request.get("detail") is True,
                    "number": number,
                },
                self._answered,
            )
            self._loop.later(WITHIN, lambda: self._end(number, {"state": "late"}))

    def _answered(self, body: bytes) -> None:
        try:
            answer = json.loads(body.decode("utf-8", "replace"))
            number = answer.pop("number")
        except (ValueError, AttributeError, KeyError):
            return
        if isinstance(number, int):
            self._end(number, dict(answer, state="ok"))

    def _end(self, number: int, answer: dict[str, Any]) -> None:
        reply = self._waiting.pop(number, None)
        if reply is not None:
            reply(answer)
