"""Python processes of tests that are forked: to import the SDK and the engine takes a second and a half.

For each process that runs tests there is one that has imported them. It forks at every order:

    run, an engine -- arguments, environment, folder, descriptors 0 to 2 --> server -- fork --> keeper
                   <-- pid, at its end its status ----------------------------------- fork --> program

The program is what the arguments after ``python`` say, as if it had been started; nothing has run in it
before. An embedded engine that it starts is forked, too. What a running Python cannot take over, as variables
that are read when Python starts, is carried out by a start. Tests of the start itself start processes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
#: Variables that begin so are read when Python or the C library starts, and never again.
EARLY = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "MALLOC", "SSL_", "OPENSSL_")
#: But for this one, which can be changed.
BYTECODE = "PYTHONDONTWRITEBYTECODE"
#: What programs of tests import.
IMPORTS = (
    "daytona",
    "encodings.idna",
    "daytona_magics.engine.address",
    "daytona_magics.engine.cli",
    "daytona_magics.engine.daemon",
    "daytona_magics.engine.front",
    "daytona_magics.engine.front",
)
#: The SDK imports what these need when they are asked for.
LATE = (
    "AsyncDaytona",
    "CreateSandboxFromSnapshotParams",
    "Daytona",
    "DaytonaConfig",
    "DaytonaError",
    "ListSandboxesQuery",
)
#: A fork with this in its environment has its engine started, as users' processes have.
STARTS_ENGINES = "DAYTONA_MAGICS_TEST_STARTS_ENGINES"
#: How an engine is started.
ENGINE = ["-m", "daytona_magics.engine", "serve", "--detach"]
#: Seconds that a server may take to import everything.
IMPORTING = 60.0
_MOST = 1 << 20
#: Orders are given in threads, too.
_MAKING = threading.Lock()
#: In the server and its forks: its address, and that everything is imported here.
_here: Path | None = None


def early(env: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a process which runs already cannot take over."""
    return {name: value for name, value in env.items() if name.startswith(EARLY) and name != BYTECODE}


def search_path(env: Mapping[str, str]) -> str:
    """PYTHONPATH for a process that imports what is tested."""
    others = [part for part in env.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", str(ROOT))]
    return os.pathsep.join([str(ROOT), *others])


#: That part as a process gets it that nobody gave more.
USUAL = early({**os.environ, "PYTHONPATH": search_path(os.environ)})


# -- who orders


class Program:
    """A process that was ordered.

    Attributes:
        pid: its process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = int(self._heard())

    def _heard(self) -> bytes:
        said = self._connection.recv(64)
        assert said, "the process that forks has died"
        return said

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises TimeoutError."""
        self._connection.settimeout(timeout)
        with self._connection:
            return int(self._heard())

    def forget(self) -> Program:
        """Its end is not asked for."""
        self._connection.close()
        return self


class Server:
    """The process that forks, as those see it that order."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="dm-forks-"))
        self.address = folder / "socket"
        # It has this end, and ends when the other is closed, at the latest with this process.
        self.life, self._kept = os.pipe()
        atexit.register(_remove, folder, os.getpid())

    def begun(self) -> Server:
        """When there is such a process: wait until it serves."""
        os.close(self.life)
        until = time.monotonic() + IMPORTING
        while not self.address.exists():
            assert time.monotonic() < until, f"nobody serves {self.address}"
            time.sleep(0.01)
        return self


def _remove(folder: Path, owner: int) -> None:
    # Forks have inherited that they do this at their ends.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


#: By process and module: what was forked from one with servers has none of its own.
_servers: dict[tuple[int, str], Server] = {}


def server(module: str = "tests.forks") -> Server:
    """This process's server that is this module."""
    with _MAKING:
        return _server(os.getpid(), module)


def _server(pid: int, module: str) -> Server:
    if (made := _servers.get((pid, module))) is not None:
        return made
    made = Server()
    argv = ["-m", module, str(made.address)]
    env = {**{name: value for name, value in os.environ.items() if not early({name: ""})}, **USUAL}
    if module == "tests.forks":
        # A key that interrupts the tests is not for it.
        subprocess.Popen(
            [sys.executable, *argv], env=env, cwd=ROOT, stdin=made.life, stdout=2, start_new_session=True
        )
    else:
        parent = _server(pid, "tests.forks")
        order(parent.address, argv, env, ROOT, (made.life, 2, 2), session=True).forget()
    _servers[pid, module] = made.begun()
    return made


def order(
    address: str | Path,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str],
    files: Sequence[int | IO[Any]],
    session: bool = False,
) -> Program:
    """Have a process forked.

    Args:
        address: of the server.
        argv: what would follow ``python``.
        files: its descriptors 0 to 2.
        session: it leads a session of its own.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
    connection.connect(os.fspath(address))
    asked = {"argv": list(argv), "env": dict(env), "cwd": os.fspath(cwd), "session": session}
    handles = [file if isinstance(file, int) else file.fileno() for file in files]
    socket.send_fds(connection, [json.dumps(asked).encode()], handles)
    return Program(connection)


def run(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` does it with ``capture_output`` and ``text``, without input.

    Args:
        argv: what follows ``python``: ``-m MODULE`` or ``-c CODE``, and arguments.
        timeout: in seconds.

    Raises:
        subprocess.TimeoutExpired: it was killed, it took longer.
    """
    if early(env) != USUAL:
        return start(argv, env=env, cwd=cwd, timeout=timeout)
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    with contextlib.ExitStack() as ends, open(os.devnull) as nothing:
        read = [ends.enter_context(open(fd, "rb", buffering=0)) for fd in (out, err)]
        try:
            program = order(server().address, argv, env, cwd, (nothing, to_out, to_err))
        finally:
            os.close(to_out)
            os.close(to_err)
        # The server's own start does not count.
        until = time.monotonic() + timeout
        try:
            said = _read(read, until)
            status = program.wait(max(until - time.monotonic(), 0.01))
        except TimeoutError as error:
            os.kill(program.forget().pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(argv), timeout) from error
    return subprocess.CompletedProcess([sys.executable, *argv], status, *said)


def start(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """The same by a start."""
    return subprocess.run(
        [sys.executable, *argv],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _read(files: Sequence[IO[bytes]], until: float) -> list[str]:
    """What comes from each up to its end. Raises TimeoutError."""
    said = {file: bytearray() for file in files}
    with selectors.DefaultSelector() as waiting:
        for file in files:
            waiting.register(file, selectors.EVENT_READ)
        while waiting.get_map():
            found = waiting.select(max(until - time.monotonic(), 0))
            if not found:
                raise TimeoutError
            for key, _ in found:
                if data := os.read(key.fd, 65536):
                    said[key.fileobj] += data  # type: ignore[index]
                else:
                    waiting.unregister(key.fileobj)
    return [data.decode() for data in said.values()]


# -- who forks


class _Starts:
    """What a fork has for ``subprocess`` where it looks for an engine: engines are forked."""

    DEVNULL, PIPE, TimeoutExpired = subprocess.DEVNULL, subprocess.PIPE, subprocess.TimeoutExpired

    @staticmethod
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        env, timeout = options["env"], options["timeout"]
        if command[1:] != ENGINE or _here is None or early(env) != USUAL or os.environ.get(STARTS_ENGINES):
            return subprocess.run(command, **options)
        until = time.monotonic() + timeout
        err, to_err = os.pipe()
        with open(err, "rb", buffering=0) as file, open(os.devnull, "r+b") as nothing:
            try:
                files = (nothing, nothing, to_err)
                program = order(_here, ENGINE, env, options["cwd"], files, session=True)
            finally:
                os.close(to_err)
            try:
                said = _read([file], until)[0].encode()
                status = program.wait(max(until - time.monotonic(), 0.01))
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(command, timeout) from error
        return subprocess.CompletedProcess(command, status, None, said)


def serve(address: str) -> None:
    """Carry out orders until nobody can give any; returns in a fork, where the program has run."""
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unfinished = f"{address}.new"
    listener.bind(unfinished)
    listener.listen(64)
    os.rename(unfinished, address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, 0], [], [])[0]:
        connection, _ = listener.accept()
        message, files, _, _ = socket.recv_fds(connection, _MOST, 3)
        if os.fork() == 0:
            listener.close()
            return _keep(connection, json.loads(message), files)
        connection.close()
        for file in files:
            os.close(file)
    os._exit(0)


def _keep(connection: socket.socket, asked: dict[str, Any], files: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        return _become(asked, files)
    for file in (0, *files):
        os.close(file)
    # Whoever ordered may have ended.
    with contextlib.suppress(OSError):
        connection.send(b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.send(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> None:
    """Be the program to its end, which may be an exception."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if asked["session"]:
        os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.dont_write_bytecode = bool(os.environ.get(BYTECODE))
    tempfile.tempdir = None
    kind, what, *words = asked["argv"]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        if what == "ipykernel_launcher":
            # It ends with its parent, which it reads from the environment when it is imported only.
            words.append(f"--IPKernelApp.parent_handle={os.getppid()}")
        sys.argv = [what, *words]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, "")
    sys.argv = [kind, *words]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


def divide() -> bool:
    """In a fork that orders nothing from its own server, as it has become somebody else: have another one.

    Returns:
        True in the process that goes on; False in another one, where a program has run and nothing is left.
    """
    global _here
    if _here is None:
        return True
    made = Server()
    _here = made.address
    if os.fork() == 0:
        os.setsid()
        os.dup2(made.life, 0)
        os.close(made.life)
        os.close(made._kept)
        serve(str(_here))
        return False
    _servers[os.getpid(), "tests.forks"] = made.begun()
    return True


def main(address: str) -> None:
    """Import what programs need, and be the server of this address."""
    global _here
    # The folder this was started in is none of a program's.
    sys.path.pop(0)
    for module in IMPORTS:
        importlib.import_module(module)
    for name in LATE:
        getattr(sys.modules["daytona"], name)
    # The engines that forks start are forked, too.
    sys.modules["daytona_magics.engine.address"].subprocess = _Starts  # type: ignore[attr-defined]
    _here = Path(address)
    serve(address)


if __name__ == "__main__":
    from tests import forks

    forks.main(sys.argv[1])
