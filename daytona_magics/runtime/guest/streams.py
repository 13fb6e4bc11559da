"""``sys.stdout`` and ``sys.stderr`` of a worker."""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .ring import Writer


class Bytes(io.RawIOBase):
    """The binary side (``sys.stdout.buffer``)."""

    def __init__(self, writer: Writer, tag: bytes, fd: int, name: str) -> None:
        self._writer = writer
        self._tag = tag
        self._fd = fd
        self.name = name
        self.mode = "wb"

    def write(self, data: Any) -> int:
        """Write all of ``data``; returns its length in bytes."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        content = bytes(data)
        self._writer.write_bytes(self._tag, content)
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """Does nothing: a cell cannot close the notebook's output."""


class Text(io.TextIOBase):
    """The text side. ``write`` is an attribute of the instance: a flat function, see ring.Writer."""

    def __init__(self, writer: Writer, tag: bytes, fd: int, name: str) -> None:
        self._writer = writer
        self._buffer = Bytes(writer, tag, fd, name)
        self.name = name
        self.mode = "w"
        self.write = writer.make_text_write(tag)  # type: ignore[method-assign]

    @property
    def buffer(self) -> Bytes:
        """The binary stream under it."""
        return self._buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "UTF-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        return False

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def writable(self) -> bool:
        return True

    def reconfigure(self, **options: Any) -> None:
        """Accepted for compatibility: output is never held back, and always UTF-8."""

    def fileno(self) -> int:
        return self._buffer.fileno()

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing to do, except in a forked child: what is written is visible at once."""
        self._writer.flush()

    def close(self) -> None:
        """Does nothing: a cell cannot close the notebook's output."""
