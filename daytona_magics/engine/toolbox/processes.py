"""Running commands inside a sandbox, and reaping: part of the toolbox program.

Children are forked and exec'ed by hand because a terminal needs steps that no library offers, and because
pid 1 must reap every orphan: one loop collects all exits and hands them to whoever waits.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any

from . import wire
from .wire import DATA, END, Wire, WireError, ready

if TYPE_CHECKING:
    from .agent import Handler, Inside

#: Most bytes of output of one command.
MAX_OUTPUT = 32 << 20
_READ = 64 * 1024
#: Outputs of ended commands that background children still hold and that are read away for them.
_MAX_LEFTOVERS = 256


class Children:
    """All processes started by operations, and the reaping of everything else."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._leftovers: list[int] = []

    def watch(self) -> None:
        """Start reaping on the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                future = self._waiting.pop(pid, None)
                if future is not None and not future.done():
                    future.set_result(os.waitstatus_to_exitcode(status))

    async def start(
        self,
        argv: list[str],
        *,
        env: dict[str, str],
        cwd: str,
        stdio: tuple[int, ...],
        terminal: bool = False,
    ) -> "Child":
        """Fork and exec `argv` in a session of its own, with `stdio` as its descriptors 0, 1, 2 (and on).

        With `terminal`, descriptor 0 becomes its controlling terminal. Raises OSError when it cannot start.
        """
        error_read, error_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
            if pid == 0:
                _become(argv, env, cwd, stdio, terminal, error_write)
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting[pid] = future
            os.close(error_write)
            error_write = -1
            # Closed by a successful exec; else it says what failed.
            try:
                await ready(error_read)
            except asyncio.CancelledError:
                # Nobody else knows of it yet.
                os.kill(pid, signal.SIGKILL)
                raise
            said = os.read(error_read, 8)
        finally:
            os.close(error_read)
            if error_write >= 0:
                os.close(error_write)
        if said:
            number, step = struct.unpack("ii", said)
            raise OSError(number, os.strerror(number), cwd if step else argv[0])
        return Child(pid, future)

    def discard_output(self, fd: int) -> None:
        """Read `fd` away until its last writer closes: no background child shall die of SIGPIPE."""
        loop = asyncio.get_running_loop()

        def drop(oldest: int) -> None:
            self._leftovers.remove(oldest)
            loop.remove_reader(oldest)
            os.close(oldest)

        def read() -> None:
            try:
                if not os.read(fd, _READ):
                    drop(fd)
            except BlockingIOError:
                return

        if len(self._leftovers) >= _MAX_LEFTOVERS:
            drop(self._leftovers[0])
        self._leftovers.append(fd)
        loop.add_reader(fd, read)


class Child:
    """A started process: ``pid`` (also its group) and ``exited`` (its code, negative for a signal)."""

    def __init__(self, pid: int, exited: "asyncio.Future[int]") -> None:
        self.pid = pid
        self.exited = exited

    def kill(self) -> None:
        """SIGKILL the process group, unless the process has ended."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def readable_or_ended(self, fd: int) -> None:
        """Return when there is something to read from `fd`, or when the process has ended."""
        readable = asyncio.ensure_future(ready(fd))
        waiting: set[asyncio.Future[Any]] = {readable, self.exited}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The loop must forget the number before it is closed: whoever got it next would never be woken.
            readable.cancel()
            await asyncio.gather(readable, return_exceptions=True)


def _become(
    argv: list[str], env: dict[str, str], cwd: str, stdio: tuple[int, ...], terminal: bool, errors: int
) -> None:
    """In the fork: turn into `argv`, or write errno and the failed step to `errors`. Never returns."""
    step = 0
    try:
        os.setsid()
        if terminal:
            fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
        # Out of the way first: one may have the number that another one shall get.
        errors, *moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (errors, *stdio)]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
        for name in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        step = 1
        os.chdir(cwd)
        step = 0
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(errors, struct.pack("ii", error.errno or 0, step))
    finally:
        os._exit(127)


def exit_code(status: int) -> int:
    """A shell-like exit code: 128 + n after signal n."""
    return status if status >= 0 else 128 - status


def environment(inside: "Inside", request: dict[str, Any]) -> dict[str, str]:
    """The environment for one command."""
    return {**inside.env, **{str(name): str(value) for name, value in (request.get("env") or {}).items()}}


def work_dir(inside: "Inside", request: dict[str, Any]) -> str:
    """The folder for one command."""
    return inside.path({"path": request.get("cwd") or "."})


class _Run:
    """One running command: its input, its output, and what may end it early."""

    def __init__(self, connection: Wire, child: Child, stdin: int, output: int) -> None:
        self._connection = connection
        self.child = child
        self._stdin = stdin
        self._output = output
        self.sent = 0

    async def feed(self) -> None:
        """Pass D frames to the program's input; when the engine hangs up, kill the program.

        All that comes is taken at once (the engine bounds it), so that a program which does not read its
        input does not keep the end from being seen.
        """
        given: asyncio.Queue[bytes] = asyncio.Queue()
        writer = asyncio.ensure_future(self._write_all(given))
        try:
            # In the middle of a frame it is an end, too.
            with contextlib.suppress(WireError):
                while (frame := await self._connection.receive()) is not None:
                    wire.close_fds(frame.fds)
                    if frame.type == END or (frame.type == DATA and frame.payload):
                        given.put_nowait(frame.payload)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.close_input()
        self.child.kill()

    async def _write_all(self, given: "asyncio.Queue[bytes]") -> None:
        while data := await given.get():
            await self._write(data)
        self.close_input()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._stdin >= 0:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await ready(self._stdin, write=True)
            except BrokenPipeError:  # The program does not read its input; that is its business.
                self.close_input()

    def close_input(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    async def pump(self) -> None:
        """Send output until it ends, or until what was written before the program's exit is sent."""
        left: int | None = None
        while left is None or left > 0:
            try:
                data = os.read(self._output, _READ if left is None else min(_READ, left))
            except BlockingIOError:
                if left is not None:
                    return
                await self.child.readable_or_ended(self._output)
                if self.child.exited.done():
                    left = pending(self._output)
                continue
            if not data:
                return
            self.sent += len(data)
            if self.sent > MAX_OUTPUT:
                self.child.kill()
                return
            await self._connection.send(DATA, data)
            if left is not None:
                left -= len(data)
            elif self.child.exited.done():
                left = pending(self._output)


def pending(fd: int) -> int:
    """Bytes that can be read from `fd` now."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


async def _execute(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op execute: {shell | argv, cwd, env, timeout}, D frames of input → D frames, then {exit_code, pid}."""
    argv = [inside.shell] if request.get("shell") else [str(word) for word in request["argv"]]
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    output_read, output_write = os.pipe2(os.O_CLOEXEC)
    try:
        child = await inside.children.start(
            argv,
            env=environment(inside, request),
            cwd=work_dir(inside, request),
            stdio=(stdin_read, output_write, output_write),
        )
    except OSError as error:
        wire.close_fds((stdin_write, output_read))
        where = f"{error.filename}: " if error.filename is not None else ""
        await connection.send(DATA, f"{where}{error.strerror}".encode("utf-8", "surrogateescape"))
        await connection.send_json({"exit_code": -1})
        return
    finally:
        wire.close_fds((stdin_read, output_write))
    os.set_blocking(stdin_write, False)
    os.set_blocking(output_read, False)
    run = _Run(connection, child, stdin_write, output_read)
    await _supervise(inside, run, connection, request.get("timeout"), output_read)


async def _supervise(
    inside: "Inside", run: _Run, connection: Wire, timeout: float | None, output: int
) -> None:
    """Wait for the command's end, ending it on timeout, on too much output or when nobody listens."""
    from .agent import Refused

    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = not run.child.exited.done()
        run.child.kill()

    timer = asyncio.get_running_loop().call_later(timeout, expire) if timeout else None
    feeder = asyncio.ensure_future(run.feed())
    try:
        await run.pump()
        status = await asyncio.shield(run.child.exited)
    finally:
        if timer is not None:
            timer.cancel()
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        run.child.kill()
        inside.children.discard_output(output)
    if timed_out:
        raise Refused(408, "PROCESS_EXECUTION_TIMEOUT", f"the command was killed after {timeout:g} s")
    if run.sent > MAX_OUTPUT:
        message = (
            f"the command printed more than {MAX_OUTPUT >> 20} MiB and was killed; write to a file instead"
        )
        raise Refused(413, "OUTPUT_TOO_LARGE", message)
    await connection.send_json({"exit_code": exit_code(status), "pid": run.child.pid})


HANDLERS: "dict[str, Handler]" = {"execute": _execute}
