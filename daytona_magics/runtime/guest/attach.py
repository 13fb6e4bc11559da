"""``attach``: gives this terminal to the daemon, or relays bytes between the two where it cannot be given.

It runs under the platform's pseudo-terminal. The terminal is made raw before anything is sent, so nothing is
echoed or translated. It ends when either side closes; losing it loses nothing, the daemon lives on.
"""

from __future__ import annotations

import os
import select
import sys
import time

from . import doors, paths

#: A pty read on the other side is at most 4,095 bytes: a larger write would only be cut up there.
CHUNK = 4000
#: Bytes held for a side that does not take them before reading from the other one pauses.
BACKLOG = 65536
#: Seconds for which ``attach-soon`` waits for a daemon that is being started beside it.
SOON = 5.0


def make_raw(fd: int) -> None:
    """Put a terminal into raw mode; anything else is left as it is."""
    if not os.isatty(fd):
        return
    import termios

    mode = termios.tcgetattr(fd)
    mode[0] &= ~(
        termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON | termios.IXOFF
    )
    mode[0] &= ~(termios.IGNBRK | termios.PARMRK | termios.INLCR | termios.IGNCR)
    mode[1] &= ~termios.OPOST
    mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[6][termios.VMIN] = 1
    mode[6][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, mode)


class Relay:
    """One direction: reads ``source`` while its backlog is small, writes ``target`` when it takes bytes."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.backlog = bytearray()
        self.ended = False

    def fill(self) -> None:
        """Read once; end of file or a dead terminal ends this direction."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.backlog += data
            self.drain()
        else:
            self.ended = True

    def drain(self) -> None:
        """Write what the target takes now."""
        try:
            while self.backlog:
                del self.backlog[: os.write(self.target, self.backlog[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self.ended = True
            self.backlog.clear()


def relay(line: tuple[int, int], stdin: int, stdout: int) -> None:
    """Copy both ways until either side ends; ``line`` is what is read from and what is written to."""
    inward, outward = Relay(stdin, line[1]), Relay(line[0], stdout)
    while not (inward.ended or (outward.ended and not outward.backlog)):
        poll = select.poll()
        wanted: dict[int, int] = {}
        for one in (inward, outward):
            if not one.ended and len(one.backlog) < BACKLOG:
                wanted[one.source] = wanted.get(one.source, 0) | select.POLLIN
            if one.backlog:
                wanted[one.target] = wanted.get(one.target, 0) | select.POLLOUT
        for fd, events in wanted.items():
            poll.register(fd, events)
        for fd, events in poll.poll():
            for one in (inward, outward):
                if fd == one.source and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    one.fill()
                if fd == one.target and events & (select.POLLOUT | select.POLLERR):
                    one.drain()


def _wait(held: int) -> None:
    """Return when the daemon is done with the terminal, or nobody is at its other end."""
    poll = select.poll()
    poll.register(held, select.POLLIN)
    poll.register(0, 0)
    poll.poll()


def _attached() -> None:
    """Attach and return when it is over. Raises OSError when there is no daemon."""
    folder = paths.run_folder()
    held = _given(folder)
    if held < 0:
        line = doors.connect(folder)
        # The daemon may have opened its door just between the two.
        held = _given(folder)
        if held < 0:
            for fd in (0, 1):
                os.set_blocking(fd, False)
            relay(line, 0, 1)
            return
        for fd in line:
            os.close(fd)
    _wait(held)


def _given(folder: str) -> int:
    """Give the terminal away; -1 when this is none or nobody takes it, else what ends with it."""
    if not os.isatty(0):
        return -1
    try:
        return doors.hand_over(folder, 0)
    except OSError:
        return -1


def main(patience: float = 0.0) -> int:
    """Attach this terminal; exit code 0 when a side closed, 1 when there is no daemon in ``patience`` s."""
    make_raw(0)
    deadline = time.monotonic() + patience
    while True:
        try:
            _attached()
            return 0
        except OSError as error:
            if time.monotonic() >= deadline:
                sys.stderr.write("no guest is running here: %s\r\n" % error)
                return 1
            time.sleep(0.002)
