"""Sessions inside a sandbox: long-lived shells that run one command after another.

A session is one shell that reads commands from its standard input, so the folder, variables and functions a
command leaves behind are there for the next. A command is a script file that the shell sources with its
standard output and error on two named pipes of its own and, for an asynchronous command, a third as its
input:

    { . script ; } <in >out 2>err ; echo ID STATUS

The echo goes to the shell's own output, which says to us that a command is done. So pieces of output come as
they are written, whether or not a line is complete; background children of a command keep writing into that
command's log; and ``exit`` ends the session, as it would end a terminal. Part of the toolbox program.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import struct
import termios
import uuid
from typing import TYPE_CHECKING, Any

from . import wire
from .processes import Child, exit_code
from .session_command import MAX_INPUT, READ, Command
from .spool import ERR, Spool
from .wire import DATA, END, Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Most sessions at once, and most commands one session remembers.
MAX_SESSIONS, MAX_COMMANDS = 64, 1000
#: Where scripts, pipes and logs are, below the home.
FOLDER = ".daytona/sessions"
_CONTROL = re.compile(rb"([0-9a-f-]{36}) (\d{1,3})\Z")


class Session:
    """One shell and its commands, oldest first."""

    def __init__(self, id: str, folder: str) -> None:
        self.id = id
        self.folder = folder
        self.commands: dict[str, Command] = {}
        self.ended = asyncio.Event()
        self._child: Child | None = None
        self._orders = -1
        self._control = -1
        self._said = bytearray()
        self._unwritten = bytearray()

    async def start(self, inside: "Inside") -> None:
        """Start the shell. Raises OSError."""
        os.makedirs(self.folder, 0o700)
        orders_read, self._orders = os.pipe2(os.O_CLOEXEC)
        self._control, control_write = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._child = await inside.children.start(
                [inside.shell], env=inside.env, cwd=inside.home, stdio=(orders_read, control_write, null)
            )
        except OSError:
            wire.close_fds((self._orders, self._control))
            self._orders = self._control = -1
            raise
        finally:
            wire.close_fds((orders_read, control_write, null))
        os.set_blocking(self._orders, False)
        os.set_blocking(self._control, False)
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        self._child.exited.add_done_callback(self._shell_ended)

    def run(self, text: str, *, with_input: bool, echo: bool) -> Command:
        """Queue a command; the shell takes it when the ones before are done. Raises OSError."""
        number = str(uuid.uuid4())
        folder = os.path.join(self.folder, number)
        os.mkdir(folder, 0o700)
        command = Command(number, text, folder, echo=echo)
        try:
            script = os.path.join(folder, "script")
            fd = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode("utf-8", "surrogateescape") + b"\n")
            command.open(with_input=with_input)
        except OSError:
            command.close()
            raise
        self.commands[number] = command
        self._forget_old()
        source = "in" if with_input else None
        line = (
            f"{{ . {_quoted(script)} ; }}"
            f" <{_quoted(os.path.join(folder, source)) if source else '/dev/null'}"
            f" >{_quoted(os.path.join(folder, 'out'))} 2>{_quoted(os.path.join(folder, 'err'))}"
            f" ; echo {number} $?\n"
        )
        waiting = bool(self._unwritten)
        self._unwritten += line.encode("utf-8", "surrogateescape")
        if not waiting:
            self._write()
        return command

    def _forget_old(self) -> None:
        for command in list(self.commands.values()):
            if len(self.commands) <= MAX_COMMANDS:
                return
            if command.done.is_set():
                del self.commands[command.id]
                command.close()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._orders, self._unwritten)]
            loop.remove_writer(self._orders)
        except BlockingIOError:
            loop.add_writer(self._orders, self._write)
        except BrokenPipeError:  # The shell is gone; its end says so.
            self._unwritten.clear()
            loop.remove_writer(self._orders)

    def _hear(self) -> None:
        """Lines of the shell: a command is done. Others were printed by the user past our redirection."""
        try:
            data = os.read(self._control, READ)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            return
        self._said += data
        *lines, rest = self._said.split(b"\n")
        self._said = bytearray(rest[-4096:])
        for line in lines:
            match = _CONTROL.search(line)
            command = self.commands.get(match[1].decode()) if match else None
            if command is not None and match is not None:
                command.finish(int(match[2]))

    def _shell_ended(self, exited: "asyncio.Future[int]") -> None:
        self._hear_all()
        code = exit_code(exited.result())
        unfinished = [command for command in self.commands.values() if not command.done.is_set()]
        for place, command in enumerate(unfinished):
            if place:
                command.spool.append(ERR, b"the session ended before this command ran\n")
            command.finish(code)
        self.ended.set()

    def _hear_all(self) -> None:
        with contextlib.suppress(OSError):
            while struct.unpack("i", fcntl.ioctl(self._control, termios.FIONREAD, bytes(4)))[0]:
                self._hear()

    async def close(self) -> None:
        """End the shell and what it started in its group, and delete all logs."""
        if self._child is not None:
            self._child.kill()
            await self._child.exited
            # Its callback, which finishes the commands, is run by the loop after this task was woken.
            await self.ended.wait()
        loop = asyncio.get_running_loop()
        for fd in (self._orders, self._control):
            if fd >= 0:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
                os.close(fd)
        self._orders = self._control = -1
        for command in self.commands.values():
            command.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"


class Sessions:
    """All sessions of a sandbox by their ids."""

    def __init__(self) -> None:
        self.by_id: dict[str, Session] = {}
        self._count = 0

    def folder(self, home: str) -> str:
        """A fresh folder for a session; what an earlier run of the sandbox left there is removed."""
        base = os.path.join(home, FOLDER)
        if not self._count:
            shutil.rmtree(base, ignore_errors=True)
        self._count += 1
        return os.path.join(base, str(self._count))

    def session(self, request: dict[str, Any]) -> Session:
        """The session named in a request. Raises Refused 404."""
        from .agent import Refused

        found = self.by_id.get(str(request["session"]))
        if found is None:
            raise Refused(404, "PROCESS_NOT_FOUND", f"there is no session {request['session']!r}")
        return found

    def command(self, request: dict[str, Any]) -> Command:
        """The command named in a request. Raises Refused 404."""
        from .agent import Refused

        found = self.session(request).commands.get(str(request["command"]))
        if found is None:
            raise Refused(
                404, "PROCESS_NOT_FOUND", f"there is no command {request['command']!r} in the session"
            )
        return found


async def _create(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_create: {session} → {}."""
    from .agent import Refused

    sessions, name = inside.sessions, str(request["session"])
    if name in sessions.by_id:
        raise Refused(409, "CONFLICT", f"a session {name!r} already exists")
    if len(sessions.by_id) >= MAX_SESSIONS:
        raise Refused(400, "BAD_REQUEST", f"there are {MAX_SESSIONS} sessions; delete one first")
    session = sessions.by_id[name] = Session(name, sessions.folder(inside.home))
    try:
        await session.start(inside)
    except OSError:
        del sessions.by_id[name]
        raise
    await connection.send_json({})


async def _list(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_list: {session?} → per session {session}, per command {command}; then the end."""
    named = request.get("session") is not None
    found = [inside.sessions.session(request)] if named else list(inside.sessions.by_id.values())
    for session in found:
        await connection.send_json({"session": session.id})
        for command in list(session.commands.values()):
            await connection.send_json({"command": command.as_json()})
    await connection.send(END)


async def _delete(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_delete: {session} → {}."""
    session = inside.sessions.session(request)
    del inside.sessions.by_id[session.id]
    await session.close()
    await connection.send_json({})


async def _execute(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_execute: {session, text, wait, echo} → {id}, and with wait {exit_code} at its end."""
    from .agent import Refused

    session = inside.sessions.session(request)
    if session.ended.is_set():
        raise Refused(
            410, "SESSION_ENDED", f"the shell of session {session.id!r} has ended; create another session"
        )
    wait = bool(request["wait"])
    command = session.run(str(request["text"]), with_input=not wait, echo=bool(request["echo"]))
    await connection.send_json({"id": command.id})
    if not wait:
        return
    done = asyncio.ensure_future(command.done.wait())
    gone = asyncio.ensure_future(connection.receive())
    waiting: set[asyncio.Future[Any]] = {done, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    # Nobody waits any more, but the command goes on, as in any shell.
    if command.exit_code is not None:
        await connection.send_json({"exit_code": command.exit_code})


async def _input(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_input: {session, command, data} → {}."""
    from .agent import Refused

    command = inside.sessions.command(request)
    if command.done.is_set():
        raise Refused(410, "COMMAND_ALREADY_COMPLETED", "the command has ended and reads no input")
    if not command.takes_input:
        raise Refused(400, "BAD_REQUEST", "only a command that was started asynchronously reads input")
    try:
        command.type(str(request["data"]).encode("utf-8", "surrogateescape"))
    except BlockingIOError as error:
        raise Refused(409, "CONFLICT", f"{error.strerror}; {MAX_INPUT >> 20} MiB are waiting") from error
    await connection.send_json({})


async def _log(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op session_log: {session, command, follow} → D frames (kind, then bytes), then {lost, dropped}.

    With follow it goes on until the command has ended, or the engine hangs up.
    """
    command = inside.sessions.command(request)
    offset, dropped = 0, 0
    gone = asyncio.ensure_future(connection.receive())
    try:
        while True:
            ended = command.done.is_set()
            offset, missed = await _send_records(connection, command.spool, offset)
            dropped += missed
            # Only output that came before the look above is sure to have been sent.
            if not request.get("follow") or (ended and offset >= command.spool.end):
                break
            changed = asyncio.ensure_future(command.spool.changed())
            waiting: set[asyncio.Future[Any]] = {changed, gone}
            try:
                if offset >= command.spool.end and ended == command.done.is_set():
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                await asyncio.gather(changed, return_exceptions=True)
            if gone.done():
                return
        await connection.send_json({"lost": command.spool.lost, "dropped": dropped})
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _send_records(connection: Wire, spool: Spool, offset: int) -> tuple[int, int]:
    """Send what there is from `offset` to the present end: (the offset after it, bytes that were dropped)."""
    end, dropped = spool.end, 0
    while offset < end:
        records, offset, missed = spool.read(offset)
        dropped += missed
        for record in records:
            await connection.send(DATA, bytes((record.kind,)) + record.data)
    return offset, dropped


HANDLERS: "dict[str, Handler]" = {
    "session_create": _create,
    "session_list": _list,
    "session_delete": _delete,
    "session_execute": _execute,
    "session_input": _input,
    "session_log": _log,
}
