"""The engine's side of sessions: asks the toolbox and checks what it answers."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from . import wire
from .answers import integer, protocol_errors, text
from .client import Toolbox
from .operation import ANSWER_TIMEOUT, Operation
from .spool import ERR, OUT
from .wire import DATA, END, JSON, WireError

#: Most sessions and commands of one listing that are believed.
MAX_LISTED = 100_000
#: Most bytes of one listing.
MAX_LISTING = 32 << 20


@dataclass(frozen=True)
class CommandInfo:
    """A command of a session; ``exit_code`` is None until it has ended."""

    id: str
    command: str
    exit_code: int | None


@dataclass
class SessionInfo:
    """A session and its commands, oldest first."""

    id: str
    commands: list[CommandInfo] = field(default_factory=list)


@dataclass
class Log:
    """Pieces of a command's output as they come; ``missing`` says at the end what could not be kept.

    Iterate: each piece is (OUT or ERR, bytes).
    """

    operation: Operation
    follow: bool = False
    missing: str = ""

    async def __aiter__(self) -> AsyncGenerator[tuple[int, bytes], None]:
        with self.operation, protocol_errors():
            while True:
                # Following a silent command waits as long as it is silent.
                frame = await self.operation.frame(None if self.follow else ANSWER_TIMEOUT)
                wire.close_fds(frame.fds)
                if frame.type == DATA and len(frame.payload) > 1 and frame.payload[0] in (OUT, ERR):
                    yield frame.payload[0], frame.payload[1:]
                elif frame.type == JSON:
                    end = wire.parse_json(frame.payload)
                    self.missing = _missing(
                        integer(end, "dropped", 0, 1 << 62), integer(end, "lost", 0, 1 << 62)
                    )
                    return
                else:
                    raise WireError("a piece of a log is not one")


def _missing(dropped: int, lost: int) -> str:
    parts = []
    if dropped:
        parts.append(
            f"about {dropped:,} bytes at the beginning were dropped, a log keeps the last 32 to 64 MiB"
        )
    if lost:
        parts.append(f"{lost:,} bytes could not be written, the sandbox's disk is full")
    return "; ".join(parts)


async def create(toolbox: Toolbox, session: str) -> None:
    """Start a shell. Raises ToolboxError 409 CONFLICT when the name is taken."""
    await _ask(toolbox, "session_create", session=session)


async def delete(toolbox: Toolbox, session: str) -> None:
    """Kill the shell and what it started in its group. Raises ToolboxError 404."""
    await _ask(toolbox, "session_delete", session=session)


async def listing(toolbox: Toolbox, session: str | None = None) -> list[SessionInfo]:
    """All sessions, or only the one of that name. Raises ToolboxError 404."""
    found: list[SessionInfo] = []
    count = size = 0
    with await toolbox.begin("session_list", session=session) as operation, protocol_errors():
        while True:
            frame = await operation.frame()
            wire.close_fds(frame.fds)
            if frame.type == END:
                if session is not None and len(found) != 1:
                    raise WireError("another session than the wanted one was described")
                return found
            message = wire.parse_json(frame.payload)
            count, size = count + 1, size + len(frame.payload)
            if count > MAX_LISTED or size > MAX_LISTING:
                raise WireError("there are more sessions and commands than any sandbox has")
            if "session" in message:
                found.append(SessionInfo(text(message, "session", 1 << 16)))
            elif found:
                found[-1].commands.append(_command(message.get("command")))
            else:
                raise WireError("a command belongs to no session")


def _command(entry: Any) -> CommandInfo:
    if not isinstance(entry, dict):
        raise WireError("a command's description is missing")
    code = integer(entry, "exit_code", 0, 255) if "exit_code" in entry else None
    return CommandInfo(text(entry, "id", 64), text(entry, "command", wire.MAX_FRAME), code)


async def execute(
    toolbox: Toolbox, session: str, command: str, *, wait: bool, echo: bool
) -> tuple[str, int | None]:
    """Run `command` in the session's shell: its id, and with `wait` its exit code.

    Without `wait` it gets an input to write to, and with `echo` what is written there is part of its log.
    Raises ToolboxError 404 PROCESS_NOT_FOUND, 410 SESSION_ENDED.
    """
    operation = await toolbox.begin("session_execute", session=session, text=command, wait=wait, echo=echo)
    with operation, protocol_errors():
        number = text(await operation.answer(), "id", 64)
        return number, integer(await operation.answer(None), "exit_code", 0, 255) if wait else None


async def send_input(toolbox: Toolbox, session: str, command: str, data: str) -> None:
    """Write `data` to a command's input. Raises ToolboxError 410 COMMAND_ALREADY_COMPLETED, 404, 400."""
    await _ask(toolbox, "session_input", session=session, command=command, data=data)


async def log(toolbox: Toolbox, session: str, command: str, *, follow: bool) -> Log:
    """The log of a command so far, or with `follow` until the command ends. Raises ToolboxError 404."""
    return Log(await toolbox.begin("session_log", session=session, command=command, follow=follow), follow)


async def _ask(toolbox: Toolbox, op: str, **arguments: Any) -> None:
    with await toolbox.begin(op, **arguments) as operation, protocol_errors():
        await operation.answer()
