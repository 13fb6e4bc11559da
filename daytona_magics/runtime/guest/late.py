"""Output that belongs to no cell: a thread or a program printed it after its cell had ended.

It goes to a log of the context, with the time and the name of the last cell. The next cell says that there is
some, and ``%sandbox logs`` shows it.
"""

from __future__ import annotations

import os
import time

#: Bytes of the log at which it becomes ``.old`` and a new one begins.
LIMIT = 8 << 20


class LateLog:
    """The log of one context.

    Args:
        path: its file.
        name: of the context.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self._name = name
        self._untold = 0

    def add(self, data: bytes, cell: str) -> None:
        """Append what came after ``cell``."""
        self._untold += len(data)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.path, flags, 0o600)
            try:
                if os.fstat(fd).st_size > LIMIT:
                    os.replace(self.path, self.path + ".old")
                head = "--- %s, after %s ---\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), cell)
                os.write(fd, head.encode("utf-8", "replace") + data + (b"" if data[-1:] == b"\n" else b"\n"))
            finally:
                os.close(fd)
        except OSError as error:
            os.write(2, ("late output of %s lost: %s\n" % (self._name, error)).encode("utf-8", "replace"))

    def news(self) -> str:
        """A sentence about what came since the last call; "" when nothing did."""
        count, self._untold = self._untold, 0
        if not count:
            return ""
        size = "1 byte" if count == 1 else "{:,} bytes".format(count)
        return "%s of output came between two cells: `%%sandbox logs` shows it" % size
