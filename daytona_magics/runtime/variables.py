"""Variables of the sandbox at the notebook: the container's reader of this side, which trusts nothing.

The format and both codecs are the guest's (:mod:`~daytona_magics.runtime.guest.packing` and its neighbours),
so that they cannot drift apart. On this side a container comes from a sandbox: its header is looked over
before it is parsed, what it announces must fit into the memory that is free, only names that were asked for
are taken, and a pickle is refused unless the person asked for one.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from daytona_magics.errors import ProtocolError, SandboxError
from daytona_magics.runtime import decode
from daytona_magics.runtime.guest import packing, unpacking
from daytona_magics.runtime.guest.packing import CannotCarry, Package
from daytona_magics.runtime.guest.variables import SMALL

__all__ = ["SMALL", "CannotCarry", "Package", "Reader", "free_memory", "pack"]

#: Most marks (commas, brackets) in a header: it is parsed to about 70 bytes for each.
MAX_MARKS = 4_000_000
#: The part of the memory that is free which variables from a sandbox may take.
SHARE = 0.8


def pack(values: dict[str, Any]) -> Package:
    """Pack variables of this kernel.

    Raises:
        CannotCarry: one cannot be carried exactly and safely; the message names it and its type.
    """
    return packing.pack(values)


def free_memory() -> int | None:
    """Bytes of memory that can be taken without swapping; None where the system does not say.

    In:  free_memory() > 0
    Out: True
    """
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pages = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(getattr(os, "sysconf_names", ()))
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else None
    return None


class Reader:
    """Reads a container from a sandbox, piece by piece.

    Args:
        names: the names that were asked for; others are refused.
        pickled: the person asked for pickles.

    In:  reader = Reader(["x"]); reader.take(pack({"x": (1, 2)}).bytes()); reader.values()
    Out: {'x': (1, 2)}
    """

    def __init__(self, names: Collection[str], pickled: bool = False) -> None:
        free = free_memory()
        room = None if free is None else int(free * SHARE)
        self._names = names
        self._beside = memoryview(bytearray(unpacking.ROOM))
        self._direct: memoryview | None = None
        self._unpacker = unpacking.Unpacker("this kernel", pickled, room, _look_over, names)

    def take(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: they are not what our guest sends.
            SandboxError: the values do not fit into memory, or need a package this kernel does not have.
        """
        with _Refusing():
            self._unpacker.take(piece)

    def expect(self, count: int) -> None:
        """So many bytes come in all; what the container itself announces is what counts."""

    def room(self) -> memoryview:
        """Where the next bytes go: into the memory of a large value, or beside it."""
        self._direct = self._unpacker.room()
        return self._beside if self._direct is None else self._direct

    def took(self, count: int) -> None:
        """So many bytes of the room were filled; raises as :meth:`take` does."""
        if self._direct is None:
            self.take(self._beside[:count])
        else:
            with _Refusing():
                self._unpacker.filled(count)

    def values(self) -> dict[str, Any]:
        """The variables, once all bytes were taken; raises as :meth:`take` does."""
        with _Refusing():
            found = self._unpacker.values()
        missing = [name for name in self._names if name not in found]
        if missing:
            decode.refuse(f"no variable {missing[0]}")
        return found


class _Refusing:
    """Turns what the reader raises into the errors of this side."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, packing.CannotCarry):
            raise SandboxError(f"-o: {error}") from None
        if isinstance(error, packing.Malformed):
            raise ProtocolError(
                f"the sandbox sent variables that cannot be read: {error}",
                hint="%sandbox restart starts the sandbox's side afresh.",
            ) from None
        if isinstance(error, MemoryError):
            raise SandboxError("-o: the kernel's memory does not suffice for the variables") from None


def _look_over(head: bytes) -> None:
    if decode.too_much(head, MAX_MARKS):
        raise packing.Malformed("a header with more values than are parsed")
