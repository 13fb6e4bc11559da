"""The engine's side of interpreter contexts: asks the toolbox and checks what it answers."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import wire
from .answers import check_env, protocol_errors, text
from .client import Toolbox
from .operation import ANSWER_TIMEOUT, Operation
from .spool import ERR, OUT
from .wire import DATA, JSON, WireError

MAX_LISTED = 10_000


@dataclass(frozen=True)
class ContextInfo:
    """An interpreter context; ``created`` in seconds since 1970, ``active`` while its interpreter runs."""

    id: str
    cwd: str
    created: float
    active: bool


@dataclass(frozen=True)
class Failure:
    """What the code raised."""

    name: str
    value: str
    traceback: str


@dataclass
class Run:
    """A running piece of code. Iterate: each piece is (OUT or ERR, bytes); afterwards the rest is set.

    ``outcome`` is ok, error, timeout or ended; ``failure`` for an error, ``message`` when the interpreter
    ended.
    """

    operation: Operation
    deadline: float | None
    outcome: str = ""
    failure: Failure | None = None
    message: str = ""

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        with self.operation, protocol_errors():
            while True:
                frame = await self.operation.frame(self.deadline)
                wire.close_fds(frame.fds)
                if frame.type == DATA and len(frame.payload) > 1 and frame.payload[0] in (OUT, ERR):
                    yield frame.payload[0], frame.payload[1:]
                elif frame.type == JSON:
                    self._end(wire.parse_json(frame.payload))
                    return
                else:
                    raise WireError("a piece of output is not one")

    def _end(self, answer: dict[str, Any]) -> None:
        outcome = answer.get("outcome")
        if outcome not in ("ok", "error", "timeout", "ended"):
            raise WireError("the code ended in no known way")
        self.outcome = outcome
        if outcome == "error":
            limit = wire.MAX_FRAME
            self.failure = Failure(
                text(answer, "name", limit), text(answer, "value", limit), text(answer, "traceback", limit)
            )
        elif outcome == "ended":
            self.message = text(answer, "message", 1000)


async def create(toolbox: Toolbox, cwd: str | None) -> ContextInfo:
    """Make a context that works in folder `cwd` (None: the home). Raises ToolboxError 404, 400."""
    with await toolbox.begin("context_create", cwd=cwd) as operation, protocol_errors():
        return _context((await operation.answer()).get("context"))


async def listing(toolbox: Toolbox) -> list[ContextInfo]:
    """All contexts but the default one."""
    with await toolbox.begin("context_list") as operation, protocol_errors():
        contexts = (await operation.answer()).get("contexts")
        if not isinstance(contexts, list) or len(contexts) > MAX_LISTED:
            raise WireError("the contexts are not a list")
        return [_context(entry) for entry in contexts]


async def delete(toolbox: Toolbox, context: str) -> None:
    """End a context's interpreter and forget it. Raises ToolboxError 404; 400 for the default one."""
    with await toolbox.begin("context_delete", context=context) as operation, protocol_errors():
        await operation.answer()


async def execute(
    toolbox: Toolbox, code: str, *, context: str, envs: Mapping[str, str], timeout: float | None
) -> Run:
    """Run `code`; after `timeout` seconds (None: no limit) it is interrupted. Raises ToolboxError 404."""
    operation = await toolbox.begin("context_execute", context=context, envs=check_env(envs), timeout=timeout)
    try:
        with protocol_errors():
            await operation.send_bytes(code.encode("utf-8", "surrogateescape"))
    except BaseException:
        operation.wire.close()
        raise
    # Silence is as long as the code wants, and others may be before it; a toolbox that does not keep the
    # time of the one that runs has to be waited for as well.
    return Run(operation, None if timeout is None else timeout * 2 + ANSWER_TIMEOUT)


def _context(entry: Any) -> ContextInfo:
    if not isinstance(entry, dict) or type(entry.get("active")) is not bool:
        raise WireError("a context's description is incomplete")
    created = entry.get("created")
    if not isinstance(created, float) or not 0 <= created < 1 << 40:
        raise WireError("a context was created at no time")
    return ContextInfo(text(entry, "id", 64), text(entry, "cwd", 16 << 10), created, entry["active"])
