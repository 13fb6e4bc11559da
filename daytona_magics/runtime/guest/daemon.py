"""``daemon``: start the supervisor once per sandbox, detached, and answer with one JSON line."""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
import time

from . import VERSION, doors, frames, paths, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds the starter waits for the daemon's answer.
PATIENCE = 10.0


def main() -> int:
    """Start or find the daemon; prints its answer, returns the exit code."""
    try:
        if sys.version_info < (3, 8):
            raise OSError("the guest needs Python 3.8 or newer, this is %s" % sys.version.split()[0])
        folder = paths.run_folder(create=True)
        hello, started = _start(folder)
    except (OSError, ValueError) as error:
        sys.stdout.write(json.dumps({"ok": False, "error": str(error)}) + "\n")
        return 1
    answer = {"ok": True, "started": started}
    answer.update((k, hello[k]) for k in ("protocol", "version", "python", "boot", "pid"))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


def _start(folder: str) -> tuple[dict[str, Any], bool]:
    lock = os.open(os.path.join(folder, paths.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _ask(folder), False
        return _launch(folder, lock), True
    finally:
        os.close(lock)


def _ask(folder: str) -> dict[str, Any]:
    """The hello of the daemon that holds the lock; it may be a moment away from listening."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            line = doors.connect(folder, PATIENCE)
            try:
                return _hello(line[0], deadline)
            finally:
                for fd in line:
                    os.close(fd)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _hello(line: int, deadline: float) -> dict[str, Any]:
    decoder = frames.Decoder()
    while True:
        if not select.select([line], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError("the daemon does not answer")
        data = os.read(line, 4096)
        if not data:
            raise OSError("the daemon closed the connection")
        for frame in decoder.feed(data):
            hello = json.loads(frame.payload.decode("utf-8"))
            if isinstance(hello, dict) and hello.get("op") == "hello":
                return hello


def _launch(folder: str, lock: int) -> dict[str, Any]:
    """Fork the daemon off; returns its hello once it listens. It inherits the lock."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            _detach(folder, lock, write)
            code = 0
        except BaseException:
            # In the daemon this goes to its file of errors.
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise OSError("the daemon did not start; see %s" % os.path.join(folder, paths.ERRORS))
    hello = json.loads(answer.decode("utf-8"))
    if "failed" in hello:
        raise OSError(hello["failed"])
    return dict(hello)


def _detach(folder: str, lock: int, report: int) -> None:
    """In the first child: a session of its own, then the daemon as an orphan with no descriptors of ours."""
    os.setsid()
    if os.fork():
        return
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(os.path.join(folder, paths.ERRORS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in enumerate((null, null, errors)):
        os.dup2(source, target)
    for fd in range(3, max(lock, report, null, errors) + 1):
        if fd not in (lock, report):
            try:
                os.close(fd)
            except OSError:
                continue
    try:
        door = doors.listen(folder)
    except OSError as error:
        os.write(report, json.dumps({"failed": "the guest cannot listen: %s" % error}).encode())
        os._exit(1)
    hello = {
        "op": "hello",
        "protocol": frames.PROTOCOL,
        "version": VERSION,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "boot": os.urandom(8).hex(),
        "pid": os.getpid(),
    }
    os.write(report, json.dumps(hello).encode())
    os.close(report)
    # Answered: who connects now waits at the door while the rest is imported (30 ms).
    _serve(folder, door, hello)
    os._exit(0)


def _serve(folder: str, door: doors.SocketDoor | doors.PipeDoor, hello: dict[str, Any]) -> None:
    from . import multi
    from .loop import Loop
    from .server import Server

    # All is imported; a user's program has only the usual finders.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "path_of_guest")]
    # What an earlier daemon left: its executions are unknown to this one.
    executions = os.path.join(folder, "executions")
    if os.path.lexists(executions):
        import shutil

        shutil.rmtree(executions, ignore_errors=True)
    os.makedirs(executions, mode=0o700, exist_ok=True)
    home = paths.home()
    os.chdir(home)
    if multi.needed():
        _without_shared_memory(home, os.path.join(os.path.dirname(folder), "shm"))
    processes.become_subreaper()
    processes.set_name("daytona-guest")
    loop = Loop()
    loop.watch_children()
    head = _limit("DAYTONA_MAGICS_SPOOL_HEAD", 64 << 20)
    tail = _limit("DAYTONA_MAGICS_SPOOL_TAIL", 192 << 20)
    Server(loop, door, folder, hello, head, tail)
    loop.run()


def _without_shared_memory(home: str, folder: str) -> None:
    import shutil

    from . import multi

    # What an earlier daemon's programs left.
    shutil.rmtree(folder, ignore_errors=True)
    try:
        multi.install(folder)
        multi.spread(home, folder)
    except OSError as error:
        sys.stderr.write("multiprocessing will not work: %s\n" % error)


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
