"""Variables of a worker: put into its namespace before a cell, taken out after it.

What a cell asks for comes with it: ``inputs``, a container (see :mod:`.packing`) as base64 text or the path
of a file that was uploaded for it, and ``outputs``, pairs of a name in the sandbox and one at the notebook.
What it gives goes back as one message, in which a small container stands itself, and a large one as the path
of a file in a private folder, to be fetched by the file API. Where the notebook can read a pipe, and says so
by ``piped``, what is there is a pipe at first (see :mod:`.offering`).
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
import time

# Some of them add what they know to the codecs.
from . import arrays, arrow, dataframes, offering, packing, paths, unpacking  # noqa: F401

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

#: Bytes of a container that goes in a message rather than in a file.
SMALL = 64 << 10
#: A file of variables that nobody fetched within so many seconds is removed.
OLD = 24 * 3600.0


class TransferError(Exception):
    """Variables could not be carried."""

    def _render_traceback_(self) -> list[str]:
        # No line of the cell has to do with it.
        return ["\x1b[31mTransferError\x1b[0m: %s" % self]


#: The private folder for containers; what a cell does to $HOME changes nothing.
FOLDER = os.path.join(paths.run_folder(), "variables")


def check(value: Any) -> dict[str, Any] | None:
    """The ``variables`` member of a request. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("variables must be an object")
    inputs, outputs = value.get("inputs"), value.get("outputs") or []
    if inputs is not None and not (
        isinstance(inputs, dict) and any(isinstance(inputs.get(key), str) for key in ("path", "data"))
    ):
        raise ValueError("inputs must be data or a path")
    if not isinstance(outputs, list) or not all(_pair(pair) for pair in outputs):
        raise ValueError("outputs must be pairs of names")
    said = {name: value.get(name) is True for name in ("pickled", "piped")}
    return {"inputs": inputs, "outputs": outputs, **said}


def _pair(value: Any) -> bool:
    good = isinstance(value, list) and len(value) == 2
    return good and all(isinstance(name, str) and name.isidentifier() for name in value)


def take_in(wanted: dict[str, Any]) -> dict[str, Any]:
    """The variables a cell brings. Raises TransferError."""
    reader = unpacking.Unpacker("the sandbox")
    try:
        if "path" in wanted:
            path = wanted["path"]
            try:
                with open(path, "rb", 0) as file:
                    _read(reader, file)
            finally:
                if os.path.dirname(path) == FOLDER:
                    os.unlink(path)
        else:
            reader.take(base64.b64decode(wanted["data"]))
        return reader.values()
    except packing.CannotCarry as error:
        raise TransferError("-i: %s" % error) from None
    except (packing.Malformed, OSError, binascii.Error, MemoryError) as error:
        why = str(error) or type(error).__name__
        raise TransferError("-i: the variables did not arrive whole: %s" % why) from None


def _read(reader: unpacking.Unpacker, file: Any) -> None:
    """Read a container into the memory its values will live in."""
    while True:
        room = reader.room()
        if room is None:
            piece = file.read(unpacking.ROOM)
            if not piece:
                return
            reader.take(piece)
        else:
            count = file.readinto(room[: packing.GROUP])
            if not count:
                return
            reader.filled(count)


def give(
    namespace: dict[str, Any], outputs: list[list[str]], pickled: bool, piped: bool = False
) -> dict[str, Any]:
    """The message with the variables asked for. Raises TransferError.

    Args:
        piped: what is large may be offered, and is handed over by :func:`.offering.settle`.
    """
    values = {}
    for source, target in outputs:
        if source not in namespace:
            raise TransferError("-o %s: %s" % (source, unknown(source, namespace)))
        values[target] = namespace[source]
    return message(values, pickled, piped)


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence about a name that is not there."""
    names = [one for one in known if isinstance(one, str) and not one.startswith("_")]
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return "there is no variable %s in the sandbox%s" % (name, "; did you mean %s?" % near[0] if near else "")


def message(values: dict[str, Any], pickled: bool = False, piped: bool = False) -> dict[str, Any]:
    """The message that carries values; its arguments are those of :func:`give`. Raises TransferError."""
    try:
        package = packing.pack(values, pickled)
        if package.size <= SMALL:
            return {"msg": "variables", "data": base64.b64encode(package.bytes()).decode("ascii")}
        path = _place()
        if piped and offering.offer(package, path, _write):
            return {"msg": "variables", "path": path, "piped": package.size}
        _write(package, path)
        return {"msg": "variables", "path": path}
    except packing.CannotCarry as error:
        hint = "" if pickled or "cannot be carried safely" not in str(error) else _HINT
        raise TransferError("-o: %s%s" % (error, hint)) from None
    except (OSError, MemoryError) as error:
        raise TransferError("-o: %s" % (str(error) or "the sandbox's memory is used up")) from None


_HINT = (
    "; write it to a file, take the parts you need, or add --unsafe-pickle: "
    "a pickle can run any code on the notebook's machine when it is read"
)


def _place() -> str:
    """A path in the private folder where nothing is."""
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    _remove_old()
    return os.path.join(FOLDER, os.urandom(16).hex())


def _write(package: packing.Package, path: str) -> None:
    try:
        with open(path, "xb", opener=_private) as file:
            for piece in package.pieces():
                file.write(piece)
    except BaseException:
        if os.path.lexists(path):
            os.unlink(path)
        raise


def _remove_old() -> None:
    for name in os.listdir(FOLDER):
        path = os.path.join(FOLDER, name)
        try:
            if os.stat(path).st_mtime < time.time() - OLD:
                os.unlink(path)
        except OSError:
            continue  # whoever had it has removed it


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
