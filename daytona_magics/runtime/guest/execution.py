"""One execution: its identity, its state, and the frames it has sent so far."""

from __future__ import annotations

import json
import time

from . import frames, variables
from .journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

QUEUED, RUNNING, DONE = "queued", "running", "done"


#: The kinds of context a cell may name; "fresh" is a Python that knows nothing of earlier cells.
LANGUAGES = ("python", "fresh", "bash", "node", "ts", "ruby", "R", "perl", "program")


class Request:
    """What a client asked to run; built by ``from_json``, which raises ValueError on anything malformed."""

    def __init__(
        self,
        id: str,
        context: str,
        language: str,
        code: str,
        name: str,
        cwd: str | None,
        env: dict[str, str],
        timeout: float,
        number: int = 0,
        job: bool = False,
        argv: list[str] | None = None,
        interpreter: list[str] | None = None,
        stdin: bool = False,
        variables: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.context = context
        self.language = language
        self.code = code
        self.name = name
        self.cwd = cwd
        self.env = env
        self.timeout = timeout
        self.number = number
        self.job = job
        self.argv = argv or []  # sys.argv[1:], $1 ...
        self.interpreter = interpreter or []  # of the language "program"
        self.variables = variables  # see variables.check
        self.stdin = stdin  # ask for input also when it cannot be seen that a program waits for it

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Request:
        """Check and convert the fields of an ``execute`` request."""
        defaults = {"id": "", "context": "main", "language": "python", "code": ""}
        text = {k: value.get(k, d) for k, d in defaults.items()}
        text["name"] = value.get("name") or "Cell"
        for key, one in text.items():
            if not isinstance(one, str):
                raise ValueError("%s must be a string" % key)
        if not 1 <= len(text["id"]) <= 64 or not text["id"].isalnum() or not text["id"].isascii():
            raise ValueError("id must be 1 to 64 letters and digits")
        if text["language"] not in LANGUAGES:
            raise ValueError("language must be one of %s" % ", ".join(LANGUAGES))
        if not 1 <= len(text["context"]) <= 128 or "\0" in text["context"]:
            raise ValueError("context must be 1 to 128 characters")
        cwd, env, timeout = value.get("cwd"), value.get("env") or {}, value.get("timeout") or 0
        if cwd is not None and not isinstance(cwd, str):
            raise ValueError("cwd must be a string or null")
        if not isinstance(env, dict) or not all(isinstance(v, str) and _env_name(k) for k, v in env.items()):
            raise ValueError("env must map names to strings")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout < 1e9:
            raise ValueError("timeout must be a number of seconds")
        number = value.get("number") or 0
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 31:
            raise ValueError("number must be the cell's number")
        job = value.get("job") is True
        words = {key: value.get(key) or [] for key in ("argv", "interpreter")}
        for key, one in words.items():
            if not isinstance(one, list) or not all(isinstance(w, str) and "\0" not in w for w in one):
                raise ValueError("%s must be a list of words" % key)
        if (text["language"] == "program") != bool(words["interpreter"]):
            raise ValueError("interpreter belongs to the language program")
        return cls(
            cwd=cwd or None,
            env=env,
            timeout=float(timeout),
            number=number,
            job=job,
            stdin=value.get("stdin") is True,
            variables=variables.check(value.get("variables")),
            argv=words["argv"],
            interpreter=words["interpreter"],
            **text,
        )


def _env_name(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier()


class Execution:
    """A request with its state and its output.

    Args:
        stream: number of its frames' stream.
        changed: called after every append, and when the state changes.
    """

    def __init__(
        self, request: Request, stream: int, journal: Journal, changed: Callable[[Execution], Any]
    ) -> None:
        self.request = request
        self.id = request.id
        self.stream = stream
        self.journal = journal
        self._changed = changed
        self.state = QUEUED
        self.queued_at = time.time()
        self.started_at: float | None = None
        self._started_clock = 0.0
        self.seconds = 0.0  # it ran, once it has ended
        self.printed = 0  # bytes of text
        self.end: dict[str, Any] = {}  # its last message
        self.interrupted = 0  # highest level asked for
        self.timed_out = False
        self.forgotten = False
        self.dropped = False  # its output made room for newer output
        self._disk_reported = False

    def describe(self) -> dict[str, Any]:
        """The entry of a ``status`` reply."""
        request = self.request
        return {
            "id": self.id,
            "context": request.context,
            "language": request.language,
            "name": request.name,
            "state": self.state,
            "stream": self.stream,
            "started": self.started_at,
            "sequence": self.journal.last,
            "number": request.number,
            "job": request.job,
            "queued": self.queued_at,
            "seconds": round(self.ran(), 3),
            "printed": self.printed,
            "kept": 0 if self.forgotten else self.journal.size,
            "lost": self.journal.dropped_bytes(0),
            "dropped": self.dropped,
            "status": self.end.get("status", ""),
            "exit_code": self.end.get("exit_code"),
        }

    def ran(self) -> float:
        """Seconds it has run."""
        if self.started_at is None or self.state == DONE:
            return self.seconds
        return time.monotonic() - self._started_clock

    def output(self, kind: int, data: bytes) -> None:
        """Append raw output; ``kind`` is frames.STDOUT or frames.STDERR."""
        limit = frames.MAX_PAYLOAD
        self.printed += len(data)
        for start in range(0, len(data), limit):
            piece = data[start : start + limit]
            self.journal.append((frames.encode(kind, self.stream, self.journal.last + 1, piece),), len(piece))
        if self.journal.disk_error and not self._disk_reported:
            self._disk_reported = True
            self.message(
                {
                    "msg": "notice",
                    "text": "the output spool cannot be written (%s): only the end of a long output is kept"
                    % self.journal.disk_error,
                }
            )
        self._changed(self)

    def message(self, value: dict[str, Any]) -> None:
        """Append one MESSAGE, split into frames if it is long."""
        self.raw_message(json.dumps(value).encode("utf-8", "surrogatepass"))

    def raw_message(self, body: bytes) -> None:
        """Append a MESSAGE that is JSON already."""
        first = self.journal.last + 1
        self.journal.append(
            (
                frames.encode(frames.MESSAGE, self.stream, first + n, piece, flags)
                for n, (flags, piece) in enumerate(frames.split(body))
            ),
            len(body),
        )
        self._changed(self)

    def start(self) -> None:
        """Mark as running."""
        self.state = RUNNING
        self.started_at = time.time()
        self._started_clock = time.monotonic()

    def finish(
        self,
        status: str,
        exit_code: int | None = None,
        signal: int | None = None,
        worker: str = "kept",
        text: str = "",
    ) -> None:
        """Send the last message. A time-out or an interrupt asked for explains how it ended.

        ``status`` is what happened by itself: ok, error, interrupted or died.
        """
        if self.timed_out and status != "ok":
            status = "timeout"
        elif self.interrupted and status == "died":
            status = "interrupted"
        self.seconds = self.ran()
        self.state = DONE
        self.end = {
            "msg": "done",
            "status": status,
            "exit_code": exit_code,
            "signal": signal,
            "seconds": round(self.seconds, 6),
            "worker": worker,
            "text": text,
            "limit": self.request.timeout if status == "timeout" else 0,
        }
        self.message(self.end)
