"""One command of a session: its pipes, its log, its end. Part of the toolbox program."""

import asyncio
import errno
import fcntl
import os
import shutil
import struct
import termios
from typing import Any

from .spool import ERR, OUT, Spool

#: Most bytes of input that may wait for a command to read them.
MAX_INPUT = 1 << 20
#: Most bytes read at once.
READ = 64 * 1024


class Command:
    """One command of a session: ``id``, ``text``, ``exit_code`` (None while it runs or waits), ``spool``."""

    def __init__(self, id: str, text: str, folder: str, *, echo: bool) -> None:
        self.id = id
        self.text = text
        self.folder = folder
        self.echo = echo
        self.exit_code: int | None = None
        self.done = asyncio.Event()
        self.spool = Spool(folder)
        self._pipes: dict[int, int] = {}
        self._input = -1
        self._typed = bytearray()

    def open(self, *, with_input: bool) -> None:
        """Make the pipes the shell will open. Raises OSError."""
        for kind, name in ((OUT, "out"), (ERR, "err")):
            path = os.path.join(self.folder, name)
            os.mkfifo(path, 0o600)
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._pipes[fd] = kind
            asyncio.get_running_loop().add_reader(fd, self._read, fd)
        if with_input:
            path = os.path.join(self.folder, "in")
            os.mkfifo(path, 0o600)
            # Both directions, so that opening does not wait for the shell; nothing is read here.
            self._input = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _read(self, fd: int, size: int = READ) -> int:
        """Move what is in a pipe to the log; returns how much that was."""
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if data:
            self.spool.append(self._pipes[fd], data)
        else:
            self._close_pipe(fd)
        return len(data)

    def _close_pipe(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        del self._pipes[fd]
        os.close(fd)

    def finish(self, code: int) -> None:
        """The shell is done with it: what it wrote until now is logged before that is known."""
        if self.exit_code is not None:
            return
        for fd in list(self._pipes):
            # Not more than is there now: a background child may go on writing for ever.
            left = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
            while left > 0 and fd in self._pipes and (got := self._read(fd, min(left, READ))):
                left -= got
        self.exit_code = code
        self.close_input()
        self.done.set()
        self.spool.wake()

    def type(self, data: bytes) -> None:
        """Have the command read `data`. Raises OSError EAGAIN when it has not read earlier input for long."""
        if len(self._typed) + len(data) > MAX_INPUT:
            raise BlockingIOError(errno.EAGAIN, "the command does not read its input")
        if self.echo:
            self.spool.append(OUT, data)
        waiting = bool(self._typed)
        self._typed += data
        if not waiting:
            self._write()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._typed:
                del self._typed[: os.write(self._input, self._typed)]
            loop.remove_writer(self._input)
        except BlockingIOError:
            loop.add_writer(self._input, self._write)

    @property
    def takes_input(self) -> bool:
        return self._input >= 0

    def close_input(self) -> None:
        if self._input >= 0:
            asyncio.get_running_loop().remove_writer(self._input)
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        """Forget everything about it, its log too."""
        self.close_input()
        for fd in list(self._pipes):
            self._close_pipe(fd)
        self.spool.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def as_json(self) -> dict[str, Any]:
        code = {} if self.exit_code is None else {"exit_code": self.exit_code}
        return {"id": self.id, "command": self.text, **code}
