"""The toolbox program: pid 1 of a sandbox, serving the engine and reaping orphans.

One thread, one asyncio loop. Each operation arrives as a socket over the control socket and runs as a task of
its own, so a long command never delays a file listing. When the control socket hangs up, the engine has let
go of the sandbox and the program ends, and with pid 1 the kernel ends everything else inside.

What an operation may touch is decided by the kernel alone: this program has the rights of the sandbox's user
and nothing more, so it checks no paths.
"""

import asyncio
import errno
import os
import re
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from . import wire
from .interpreter import Context
from .processes import Children
from .sessions import Sessions
from .wire import Wire, WireError

VERSION = "0.1.0"


class Refused(Exception):
    """An operation fails with this answer: HTTP `status`, Daytona `code`, `message`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = {"error": {"status": status, "code": code, "message": message}}


class Inside:
    """What operations know of the sandbox: ``home``, ``env`` for its processes, ``shell``, ``children``.

    ``began`` is when this program did, ``swept`` the folders where no upload from before then is left.

    Programs written for the cloud name ``/home/daytona`` and ``/tmp`` in requests. Below L3 a sandbox has
    neither: such paths then mean its home and its TMPDIR. Only requests are read this way; what runs in the
    sandbox sees the paths as they are, and so do answers.
    """

    def __init__(self, home: str, env: dict[str, str]) -> None:
        self.home = home
        self.env = {"HOME": home, **env}
        stands_for = {"/home/daytona": home, "/tmp": self.env.get("TMPDIR") or home}
        self._places = {name: place for name, place in stands_for.items() if not _can_list(name)}
        self.shell = find_shell(self.env)
        self.env.setdefault("SHELL", self.shell)
        if _is_hidden("/etc/gitconfig"):
            # git refuses all work when it may not read the machine's configuration.
            self.env.setdefault("GIT_CONFIG_NOSYSTEM", "1")
        self.began = time.time()
        self.swept: set[str] = set()
        self.children = Children()
        self.sessions = Sessions()
        self.contexts: dict[str, Context] = {}

    def path(self, request: dict[str, Any], key: str = "path") -> str:
        """The path in `request`, made absolute from the home and without ``.`` and ``..``."""
        path = os.path.normpath(os.path.join(self.home, str(request[key])))
        # Two leading slashes are kept by normpath and mean the same here.
        path = "/" + path.lstrip("/")
        if path == self.home or path.startswith(self.home + "/"):
            return path  # The home itself may lie in the machine's /tmp.
        for name, place in self._places.items():
            if path == name or path.startswith(name + "/"):
                return place + path[len(name) :]
        return path


def _can_list(folder: str) -> bool:
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def _is_hidden(path: str) -> bool:
    """Whether there is a file `path` that the sandbox may not read."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def find_shell(env: dict[str, str]) -> str:
    """The sandbox's shell: the first of zsh, bash, $SHELL and sh that exists."""
    for name in ("zsh", "bash", env.get("SHELL"), "sh"):
        found = name and shutil.which(name, path=env.get("PATH"))
        if found:
            return found
    return "/bin/sh"


Handler = Callable[[Inside, Wire, dict[str, Any]], Awaitable[None]]
_handlers: dict[str, Handler] = {}


def warm() -> None:
    """Import what operations need; called once in the zygote, so that a sandbox imports nothing."""
    from . import (
        connections,
        environment,
        files,
        git,
        handing,
        interpreter,
        ports,
        processes,
        searching,
        sessions,
        terminals,
    )

    _handlers.update(connections.HANDLERS)
    _handlers.update(environment.HANDLERS)
    _handlers.update(files.HANDLERS)
    _handlers.update(git.HANDLERS)
    _handlers.update(handing.HANDLERS)
    _handlers.update(interpreter.HANDLERS)
    _handlers.update(ports.HANDLERS)
    _handlers.update(processes.HANDLERS)
    _handlers.update(searching.HANDLERS)
    _handlers.update(sessions.HANDLERS)
    _handlers.update(terminals.HANDLERS)
    # A first loop imports the parts of asyncio that are loaded on use.
    asyncio.run(asyncio.sleep(0))
    "".encode("idna")
    re.compile("")


def run(control: socket.socket, home: str, env: dict[str, str]) -> NoReturn:
    """Serve `control` until it hangs up, then end the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # As pid 1 the kernel shields us from signals without a handler, and children start with defaults.
        signal.signal(number, signal.SIG_DFL)
    try:
        asyncio.run(_serve(control, home, env))
    except BaseException:  # noqa: BLE001 - the last chance to say why; the file is the engine's
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


async def _serve(control: socket.socket, home: str, env: dict[str, str]) -> None:
    control.setblocking(False)
    inside = Inside(home, env)
    inside.children.watch()
    greeting = {"ready": True, "v": wire.VERSION, "version": VERSION, "shell": inside.shell}
    await wire.send_packet(control, {**greeting, "home": inside.home, "work_dir": inside.home})
    running: set[asyncio.Task[None]] = set()
    while (packet := await wire.recv_packet(control)) is not None:
        for fd in packet[1]:
            task = asyncio.ensure_future(_operate(inside, Wire(socket.socket(fileno=fd))))
            running.add(task)
            task.add_done_callback(running.discard)


async def _operate(inside: Inside, connection: Wire) -> None:
    """Run one operation and answer its failure."""
    try:
        request = await connection.receive_json()
        if request is not None:
            handler = _handlers.get(str(request.get("op")))
            if handler is None or request.get("v") != wire.VERSION:
                raise Refused(
                    501, "INTERNAL_SERVER_ERROR", f"the toolbox does not know {request.get('op')!r}"
                )
            await handler(inside, connection, request)
    except Refused as refused:
        await _answer(connection, refused.answer)
    except OSError as error:
        await _answer(connection, from_errno(error).answer)
    except (WireError, KeyError, TypeError, ValueError) as error:
        message = f"the request makes no sense: {type(error).__name__}: {error}"
        await _answer(connection, Refused(400, "BAD_REQUEST", message).answer)
    except Exception as error:  # noqa: BLE001 - one operation's failure must not end the sandbox
        traceback.print_exc()
        await _answer(
            connection, Refused(500, "INTERNAL_SERVER_ERROR", f"the toolbox failed: {error}").answer
        )
    finally:
        connection.close()


async def _answer(connection: Wire, message: dict[str, Any]) -> None:
    try:
        await asyncio.wait_for(connection.send_json(message), 60)
    except (OSError, asyncio.TimeoutError) as error:
        print(f"an answer could not be delivered: {error}", file=sys.stderr)


_BY_ERRNO = {
    errno.ENOENT: (404, "FILE_NOT_FOUND", "no such file or folder"),
    errno.EACCES: (403, "FILE_ACCESS_DENIED", "permission denied"),
    errno.EPERM: (403, "FILE_ACCESS_DENIED", "operation not permitted"),
    errno.EROFS: (403, "FILE_ACCESS_DENIED", "this part of the sandbox is read-only"),
    errno.EBUSY: (403, "FILE_ACCESS_DENIED", "this is a mount point of the sandbox"),
    errno.ENOTDIR: (400, "INVALID_FILE_PATH", "not a folder"),
    errno.EISDIR: (400, "INVALID_FILE_PATH", "this is a folder"),
    errno.EEXIST: (400, "INVALID_FILE_PATH", "something is in the way"),
    errno.ELOOP: (400, "INVALID_FILE_PATH", "too many symbolic links"),
    errno.ENAMETOOLONG: (400, "INVALID_FILE_PATH", "the name is too long"),
    errno.ENXIO: (400, "INVALID_FILE_PATH", "not a regular file"),
    errno.ENOTEMPTY: (400, "INVALID_FILE_PATH", "the folder is not empty"),
    errno.EINVAL: (400, "INVALID_FILE_PATH", "the path is not valid here"),
    errno.ENOSPC: (507, "DISK_FULL", "no space is left on the sandbox's disk"),
    errno.EDQUOT: (507, "DISK_FULL", "the disk quota is used up"),
    errno.EFBIG: (507, "DISK_FULL", "the file is larger than the sandbox allows"),
    errno.EMFILE: (503, "INTERNAL_SERVER_ERROR", "too many files are open in the sandbox"),
    errno.ENFILE: (503, "INTERNAL_SERVER_ERROR", "too many files are open on the machine"),
    errno.EAGAIN: (503, "INTERNAL_SERVER_ERROR", "the sandbox is at its limit of processes"),
}


def from_errno(error: OSError) -> Refused:
    """The answer for an operating system error."""
    known = error.errno in _BY_ERRNO
    status, code, text = _BY_ERRNO.get(
        error.errno or 0, (500, "FILE_READ_FAILED", error.strerror or str(error))
    )
    if not known and isinstance(error, ConnectionError):
        text = "the connection was lost"
    name = f"{error.filename}: " if error.filename is not None else ""
    return Refused(status, code, f"{name}{text}")
