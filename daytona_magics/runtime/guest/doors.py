"""The daemon's door, through which each client gets a line: two descriptors, one per direction.

Beside the socket lies another one, to which ``attach`` hands its terminal: the daemon then reads and writes
the terminal itself, and no process stands between. With it comes one end of a pair of sockets that says
nothing; who closes it, or ends, tells the other that the line is over.

The usual door is a unix socket. Where those are refused (below isolation level L3 the system call filter does
it, because a socket's path may lead to the machine's own services) it is a named pipe: a client makes two
more, ``line-NAME.in`` and ``line-NAME.out``, opens them and writes NAME into the door; the daemon opens both
and takes the names away. Which of the two it is, is found by trying, by both sides in the same order.

A line over pipes behaves as one over a socket: the end of either side is an end of file for the other, and
whatever was written before is read first. All of it lies in the run folder, which only its user can enter.
"""

from __future__ import annotations

# The C module under socket, whose own import takes 8 ms.
import _socket
import os
import select
import stat
import sys
import time

from . import paths

_NAME_BYTES = 8
_LINE = "line-"
_INWARD, _OUTWARD = ".in", ".out"
#: Bytes of a descriptor's number in a message.
_INT = 4
_PIPE = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


class Line:
    """What a client is reached by.

    Attributes:
        read, write: non-blocking descriptors, never the same.
        end: a descriptor at whose end of file the line is over, and which is closed with it; -1 for none.
    """

    def __init__(self, read: int, write: int, end: int = -1) -> None:
        self.read = read
        self.write = write
        self.end = end


class SocketDoor:
    """Listens on a unix socket; raises OSError where there are none.

    A socket's path may be 107 bytes at most, a home can be longer: so it is bound by its bare name.
    """

    def __init__(self, folder: str) -> None:
        # Refused here, it leaves nothing behind.
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._terminals = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.chdir(folder)
            # Terminals first: who finds the door finds them too.
            for one, name in ((self._terminals, paths.TERMINALS), (self._socket, paths.SOCKET)):
                one.bind(name)
                os.chmod(name, 0o600)
            self._socket.listen(16)
        except OSError:
            self._socket.close()
            self._terminals.close()
            raise
        finally:
            os.fchdir(here)
            os.close(here)
        self._socket.setblocking(False)
        self._terminals.setblocking(False)
        self.fds = (self._socket.fileno(), self._terminals.fileno())

    def accept(self) -> list[Line]:
        """New lines."""
        found = [self._connected(), self._handed()]
        return [line for line in found if line is not None]

    def _connected(self) -> Line | None:
        try:
            fd, _ = self._socket._accept()  # type: ignore[attr-defined]
        except OSError:
            return None
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        return Line(fd, os.dup(fd))

    def _handed(self) -> Line | None:
        """A terminal that was handed in, or None if there is none or something else was."""
        try:
            room = _socket.CMSG_SPACE(2 * _INT)
            _, extra, flags, _ = self._terminals.recvmsg(1, room, _socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        given: list[int] = []
        for level, kind, data in extra:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                places = range(0, len(data) - _INT + 1, _INT)
                given += [int.from_bytes(data[at : at + _INT], sys.byteorder) for at in places]
        two = len(given) == 2 and not flags & _socket.MSG_CTRUNC
        if not two or not os.isatty(given[0]) or not stat.S_ISSOCK(os.fstat(given[1]).st_mode):
            _close(*given)
            return None
        for fd in given:
            os.set_blocking(fd, False)
        return Line(given[0], os.dup(given[0]), given[1])


class PipeDoor:
    """Listens on a named pipe."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._heard = b""
        path = os.path.join(folder, paths.DOOR)
        os.mkfifo(path, 0o600)
        # Also a writer itself: else it would be at its end whenever no client is there.
        self._door = os.open(path, os.O_RDWR | _PIPE)
        self.fds = (self._door,)

    def accept(self) -> list[Line]:
        """New lines."""
        try:
            self._heard += os.read(self._door, 4096)
        except BlockingIOError:
            return []
        *names, self._heard = self._heard.split(b"\n")
        # Whatever is longer than a name is none.
        self._heard = self._heard[-2 * _NAME_BYTES :]
        found = (self._open(name.decode("ascii", "replace")) for name in names)
        return [line for line in found if line is not None]

    def _open(self, name: str) -> Line | None:
        """The line a client made, or None if it has gone again or is none."""
        if len(name) != 2 * _NAME_BYTES or set(name) - set("0123456789abcdef"):
            return None
        inward, outward = _line_paths(self._folder, name)
        read = write = -1
        try:
            read = _open_pipe(inward, os.O_RDONLY)
            # Refused when nobody reads: the client is gone.
            write = _open_pipe(outward, os.O_WRONLY)
            return Line(read, write)
        except OSError:
            _close(read, write)
            return None
        finally:
            _unlink(inward, outward)


def listen(folder: str) -> SocketDoor | PipeDoor:
    """Open the door in the run folder, after removing what an earlier daemon left. Raises OSError."""
    for name in os.listdir(folder):
        if name in (paths.SOCKET, paths.DOOR, paths.TERMINALS) or name.startswith(_LINE):
            os.unlink(os.path.join(folder, name))
    try:
        return SocketDoor(folder)
    except OSError:
        return PipeDoor(folder)


def connect(folder: str, patience: float = 10.0) -> tuple[int, int]:
    """A line to the daemon: non-blocking descriptors (to read, to write). Raises OSError when none listens.

    Args:
        patience: seconds until a daemon that listens must have opened a line of pipes.
    """
    try:
        return _through_socket(folder)
    except OSError:
        return _through_door(folder, patience)


def _through_socket(folder: str) -> tuple[int, int]:
    sock = _connected(folder, paths.SOCKET, _socket.SOCK_STREAM)
    fd = sock.detach()
    os.set_blocking(fd, False)
    return fd, os.dup(fd)


def _connected(folder: str, name: str, kind: int) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, kind)
    here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        sock.connect(name)
    except OSError:
        sock.close()
        raise
    finally:
        os.fchdir(here)
        os.close(here)
    return sock


def hand_over(folder: str, terminal: int) -> int:
    """Give a terminal to the daemon, which from now on reads and writes it.

    Returns:
        a descriptor that ends when the daemon is done with the terminal.

    Raises:
        OSError: no daemon takes terminals.
    """
    sock = _connected(folder, paths.TERMINALS, _socket.SOCK_DGRAM)
    ours, theirs = _socket.socketpair()
    try:
        rights = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in (terminal, theirs.fileno()))
        sock.sendmsg((b"t",), ((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights),))
        return ours.detach()
    finally:
        for one in (sock, ours, theirs):
            one.close()


def _through_door(folder: str, patience: float) -> tuple[int, int]:
    # Refused when no daemon reads it.
    door = _open_pipe(os.path.join(folder, paths.DOOR), os.O_WRONLY)
    name = os.urandom(_NAME_BYTES).hex()
    inward, outward = _line_paths(folder, name)
    read = write = -1
    try:
        os.mkfifo(inward, 0o600)
        os.mkfifo(outward, 0o600)
        read = _open_pipe(outward, os.O_RDONLY)
        # To write only is refused as long as nobody reads. That the daemon ends shows at the other pipe.
        write = _open_pipe(inward, os.O_RDWR)
        os.write(door, name.encode() + b"\n")
        _await(read, door, patience)
        return read, write
    except BaseException:
        _close(read, write)
        raise
    finally:
        os.close(door)
        _unlink(inward, outward)


def _await(read: int, door: int, patience: float) -> None:
    """Return when the daemon has opened the line: before its first word the pipe seems to be at its end."""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(door, 0)
    deadline = time.monotonic() + patience
    while True:
        ready = [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
        if read in ready:
            return
        if door in ready:
            raise ConnectionRefusedError("the guest has just ended")
        if time.monotonic() >= deadline:
            raise TimeoutError("the guest does not answer")


def _line_paths(folder: str, name: str) -> tuple[str, str]:
    stem = os.path.join(folder, _LINE + name)
    return stem + _INWARD, stem + _OUTWARD


def _open_pipe(path: str, mode: int) -> int:
    """Open a named pipe without waiting; raises OSError, also when something else is in its place."""
    fd = os.open(path, mode | _PIPE)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError("%s is no named pipe" % path)
    return fd


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


def _unlink(*names: str) -> None:
    for path in names:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
