"""Interpreter contexts inside a sandbox: Python processes that keep their variables.

A context is one `interpreter_worker`, started when it is first used and again when it has died. It runs one
piece of code at a time; others wait their turn. Output is read from the worker's own stdout and stderr pipes,
so what child processes and C code print is there as well. When the client hangs up, the code goes on and its
output is thrown away, as on the platform; a timeout interrupts it, and kills the worker if that does not
help. Part of the toolbox program.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import pkgutil
import signal
import struct
import termios
import time
import uuid
from typing import TYPE_CHECKING, Any

from . import wire
from .processes import Child
from .spool import ERR, OUT
from .wire import DATA, END, Wire, ready

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: The context that is meant when none is named; it is not listed and cannot be deleted.
DEFAULT = "default"
MAX_CONTEXTS = 64
#: Most bytes of code of one execution, and of one answer of a worker.
MAX_CODE, MAX_ANSWER = 16 << 20, 4 << 20
#: Seconds interrupted code has to end before its worker is killed.
GRACE = 3.0

_READ = 64 * 1024
#: Read when this module is imported, in the zygote: from inside a sandbox the file cannot be seen.
_PROGRAM = (pkgutil.get_data(__package__, "interpreter_worker.py") or b"").decode("utf-8")


class Broken(Exception):
    """The worker ended, or answered nonsense; the message says which."""


class _Worker:
    """A running interpreter: its process and the four pipes to it."""

    def __init__(self, child: Child, requests: int, answers: int, out: int, err: int) -> None:
        self.child = child
        self.requests = requests
        self.answers = answers
        self.streams = {out: OUT, err: ERR}
        self._expected = ""

    async def send(self, request: dict[str, Any]) -> None:
        """Write one request. Raises OSError when the worker is gone."""
        self._expected = os.urandom(8).hex()
        view = memoryview(json.dumps({**request, "id": self._expected}).encode("ascii") + b"\n")
        while view:
            try:
                view = view[os.write(self.requests, view) :]
            except BlockingIOError:
                await ready(self.requests, write=True)

    async def answer(self) -> dict[str, Any]:
        """The answer to the last request. Raises Broken."""
        said = bytearray()
        while not said.endswith(b"\n"):
            await ready(self.answers)
            data = os.read(self.answers, _READ)
            said += data
            if not data or len(said) > MAX_ANSWER:
                self.child.kill()
                status = await self.child.exited
                how = f"signal {-status}" if status < 0 else f"exit code {status}"
                raise Broken(f"the interpreter ended with {how}; its variables are lost")
        try:
            answer = wire.parse_json(bytes(said))
            if answer.pop("id", None) != self._expected:
                raise wire.WireError("this answers something else")
        except wire.WireError as error:
            # The code can find the pipe; what it writes there must not be taken for a later answer.
            self.child.kill()
            await self.child.exited
            raise Broken("the interpreter's answer makes no sense; its variables are lost") from error
        return answer

    def close(self) -> None:
        self.child.kill()
        wire.close_fds((self.requests, self.answers, *self.streams))


class Context:
    """``id``, ``cwd``, ``created`` (seconds since 1970), ``worker`` (None until it is used)."""

    def __init__(self, id: str, cwd: str) -> None:
        self.id = id
        self.cwd = cwd
        self.created = time.time()
        self.turn = asyncio.Lock()
        self.worker: _Worker | None = None
        self.deleted = False

    async def living(self, inside: "Inside") -> _Worker:
        """Its worker, started now if there is none. Raises OSError."""
        if self.worker is not None and self.worker.child.exited.done():
            self.worker.close()
            self.worker = None
        if self.worker is None:
            self.worker = await _start(inside, self.cwd)
        return self.worker

    def close(self) -> None:
        self.deleted = True
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def as_json(self) -> dict[str, Any]:
        active = self.worker is not None and not self.worker.child.exited.done()
        return {"id": self.id, "cwd": self.cwd, "created": self.created, "active": active}


async def _start(inside: "Inside", cwd: str) -> _Worker:
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(4)]
    (request_read, requests), (answers, answer_write), (out, out_write), (err, err_write) = pipes
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    far = (null, out_write, err_write, request_read, answer_write)
    near = (requests, answers, out, err)
    try:
        child = await inside.children.start(
            ["python3", "-u", "-c", _PROGRAM], env=inside.env, cwd=cwd, stdio=far
        )
    except BaseException:
        wire.close_fds(near)
        raise
    finally:
        wire.close_fds(far)
    for fd in near:
        os.set_blocking(fd, False)
    return _Worker(child, *near)


def _context(inside: "Inside", name: str) -> Context:
    """The context of that id. Raises Refused 404."""
    from .agent import Refused

    found = inside.contexts.get(name)
    if found is None and name == DEFAULT:
        found = inside.contexts[DEFAULT] = Context(DEFAULT, inside.home)
    if found is None:
        raise Refused(404, "NOT_FOUND", f"there is no interpreter context {name!r}")
    return found


async def _create(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op context_create: {cwd} → {context}."""
    from .agent import Refused

    if len(inside.contexts) > MAX_CONTEXTS:
        raise Refused(400, "BAD_REQUEST", f"there are {MAX_CONTEXTS} interpreter contexts; delete one first")
    cwd = inside.path({"path": request.get("cwd") or "."})
    os.close(os.open(cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    context = Context(str(uuid.uuid4()), cwd)
    inside.contexts[context.id] = context
    await connection.send_json({"context": context.as_json()})


async def _list(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op context_list: {} → {contexts} without the default one."""
    contexts = [context.as_json() for context in inside.contexts.values() if context.id != DEFAULT]
    await connection.send_json({"contexts": contexts})


async def _delete(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op context_delete: {context} → {}."""
    from .agent import Refused

    name = str(request["context"])
    if name == DEFAULT:
        raise Refused(400, "BAD_REQUEST", "the default interpreter context cannot be deleted")
    context = _context(inside, name)
    del inside.contexts[name]
    context.close()
    await connection.send_json({})


async def _execute(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op context_execute: {context, envs, timeout} and D frames of code → D frames, then {outcome, ...}.

    A D frame is the stream (OUT or ERR) and the bytes. The outcome is ok, error (with name, value and
    traceback), timeout, or ended (with a message).
    """
    context = _context(inside, str(request["context"]))
    code = await _receive_code(connection)
    envs = {str(name): str(value) for name, value in (request.get("envs") or {}).items()}
    async with context.turn:
        if context.deleted:
            await connection.send_json({"outcome": "ended", "message": "the context was deleted"})
            return
        worker = await context.living(inside)
        with contextlib.suppress(BrokenPipeError):  # Died just now: the answer tells.
            await worker.send({"code": code, "envs": envs})
        outcome = await _follow(worker, connection, request.get("timeout"))
    await connection.send_json(outcome)


async def _receive_code(connection: Wire) -> str:
    from .agent import Refused

    code = bytearray()
    while (frame := await connection.receive()) is not None and frame.type == DATA:
        code += frame.payload
        if len(code) > MAX_CODE:
            raise Refused(413, "PAYLOAD_TOO_LARGE", f"the code is larger than {MAX_CODE >> 20} MiB")
    if frame is None or frame.type != END:
        raise wire.WireError("the code broke off")
    return code.decode("utf-8", "surrogateescape")


class _Output:
    """Passes a worker's output on, and throws it away from when nobody takes it any more.

    What was read is passed on whole even when the pump that read it is cancelled, and the two streams take
    turns on the connection.
    """

    def __init__(self, worker: _Worker, connection: Wire) -> None:
        self._streams = worker.streams
        self._connection = connection
        self._turn = asyncio.Lock()
        self._passing: set[asyncio.Future[int]] = set()
        self._taken = True

    async def pump(self, fd: int) -> None:
        """Pass on what comes from `fd`, until it ends or this is cancelled."""
        while True:
            await ready(fd)
            passing = asyncio.ensure_future(self._pass(fd, _READ))
            self._passing.add(passing)
            passing.add_done_callback(self._passing.discard)
            if not await asyncio.shield(passing):
                return

    async def rest(self) -> None:
        """Pass on what was written until now; no pump may be running."""
        await asyncio.gather(*self._passing)
        for fd in self._streams:
            left = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
            while left and (size := await self._pass(fd, min(left, _READ))):
                left -= size

    async def _pass(self, fd: int, most: int) -> int:
        """Read and send at most that many bytes that are there: how many, 0 at the end."""
        async with self._turn:
            data = os.read(fd, most)
            if data and self._taken:
                try:
                    await self._connection.send(DATA, bytes((self._streams[fd],)) + data)
                except OSError:
                    self._taken = False
            return len(data)


async def _follow(worker: _Worker, connection: Wire, timeout: float | None) -> dict[str, Any]:
    """Pass output on until the worker answers or the time is over; returns the outcome."""
    output = _Output(worker, connection)
    pumps = [asyncio.ensure_future(output.pump(fd)) for fd in worker.streams]
    answering = asyncio.ensure_future(worker.answer())
    timed_out = False
    try:
        await asyncio.wait((answering,), timeout=timeout or None)
        if not answering.done():
            timed_out = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.child.pid, signal.SIGINT)
            await asyncio.wait((answering,), timeout=GRACE)
            if not answering.done():
                worker.child.kill()
        try:
            error = await answering
        except Broken as broken:
            return {"outcome": "timeout"} if timed_out else {"outcome": "ended", "message": str(broken)}
    finally:
        for task in (*pumps, answering):
            task.cancel()
        await asyncio.gather(*pumps, answering, return_exceptions=True)
        await output.rest()
    if timed_out:
        return {"outcome": "timeout"}
    return {"outcome": "error", **error} if error else {"outcome": "ok"}


HANDLERS: "dict[str, Handler]" = {
    "context_create": _create,
    "context_list": _list,
    "context_delete": _delete,
    "context_execute": _execute,
}
